# SPDX-License-Identifier: MIT
"""Timeouts as they may be given."""

from __future__ import annotations

import time

_FOR_EVER = 1e9  # seconds; what is longer does not fit into the kernel's and the interpreter's clocks


def deadline_in(seconds: float | None) -> float | None:
    """When that time will be over (CLOCK_MONOTONIC, seconds); None: never. Less than 0 is over at once.

    Raises ValueError for NaN, which is reached at no time, TypeError for no number.
    """
    if seconds is None:
        return None
    deadline = time.monotonic() + seconds
    if deadline != deadline:
        raise ValueError("a timeout is a number of seconds or None, not NaN")
    return deadline if seconds < _FOR_EVER else None
