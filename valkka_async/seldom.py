# SPDX-License-Identifier: MIT
"""Log messages that others can cause as often as they like."""

from __future__ import annotations

import math
import time


class Seldom:
    """True so many times a minute at most."""

    def __init__(self, times: int = 1) -> None:
        self._times = times
        self._begun = -math.inf
        self._count = 0

    def __call__(self, now: float | None = None) -> bool:
        """`now`: seconds of any clock that is never set; by itself CLOCK_MONOTONIC."""
        if now is None:
            now = time.monotonic()
        if now - self._begun >= 60.0:
            self._begun, self._count = now, 0
        self._count += 1
        return self._count <= self._times
