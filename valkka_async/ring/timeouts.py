# SPDX-License-Identifier: MIT
"""What a number of seconds may be, and what it means."""

from __future__ import annotations

import math

# Longer than that is for ever: clocks, timers and system calls end somewhere beyond.
_FOR_EVER_SECONDS = 1e9
# A single wait of a system call; what is longer waits again.
LONGEST_WAIT_SECONDS = 3600.0
# With a timeout of 0 nobody waits for a server that is not there; one that is there needs time to answer.
ANSWER_SECONDS = 1.0


def check_timeout(seconds: float | None, what: str = "timeout") -> float | None:
    """Seconds from 0; None: for ever, as are infinity and what is beyond all clocks.

    Raises ValueError for NaN and negative numbers, TypeError.
    """
    if seconds is None:
        return None
    if isinstance(seconds, str | bytes):
        raise TypeError(f"{what} is a number of seconds or None, not {seconds!r}")
    try:
        value = float(seconds)
    except OverflowError:  # an int
        value = math.inf if seconds > 0 else -math.inf
    if not value >= 0:
        raise ValueError(f"{what} is a number of seconds from 0, or None to wait for ever, not {seconds!r}")
    return value if value < _FOR_EVER_SECONDS else None
