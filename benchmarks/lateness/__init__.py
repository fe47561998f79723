# SPDX-License-Identifier: MIT
"""The parts of latency.py: numbered footage, contenders, the process that runs one, the report."""
