# SPDX-License-Identifier: MIT
"""Rings of other hosts, over Zenoh."""
