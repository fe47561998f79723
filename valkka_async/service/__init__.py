# SPDX-License-Identifier: MIT
"""The service: cameras from a config file, and what looks after them, shows them and counts them."""
