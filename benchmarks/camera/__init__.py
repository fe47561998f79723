# SPDX-License-Identifier: MIT
"""The parts of cameras.py: footage, contenders, the process that runs one, the report."""
