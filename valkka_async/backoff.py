# SPDX-License-Identifier: MIT
"""How long to wait before trying again: exponential back-off with full jitter.

Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: a delay drawn from 0 to
min(last, first * growth^n) spreads a herd of clients best, here fifty cameras behind one switch that was
restarted.
"""

from __future__ import annotations

import random

_SHORTEST = 0.1  # s: a peer that refuses at once must not be asked in a loop


class Backoff:
    """Delays in seconds, which grow ``growth`` times with each failure from ``first`` to ``last``, and from
    ``first`` again after ``stable`` seconds of success. None is under ``shortest``."""

    def __init__(
        self,
        first: float = 0.5,
        last: float = 30.0,
        stable: float = 60.0,
        *,
        shortest: float = _SHORTEST,
        growth: float = 2.0,
    ) -> None:
        self._growth = growth
        self._shortest = shortest
        self._first = first
        self._last = last
        self._stable = stable
        self._failures = 0

    @property
    def bound(self) -> float:
        """The longest delay that next() can give now."""
        return max(self._shortest, min(self._last, self._first * self._growth ** min(self._failures, 60)))

    def next(self) -> float:
        """Seconds to wait after another failure."""
        bound = self.bound
        self._failures += 1
        return random.uniform(self._shortest, bound)

    def lived(self, seconds: float) -> None:
        """It worked for so long before this failure."""
        if seconds >= self._stable:
            self._failures = 0
