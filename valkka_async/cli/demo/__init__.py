# SPDX-License-Identifier: MIT
"""`valkka-async demo`: synthetic cameras that are read like real ones, the page, and a table."""
