# SPDX-License-Identifier: MIT
"""How far another host's clock is from ours, as measured over the link, and how wrong that may be."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

_SAMPLES = 8
_DRIFT = 100e-6  # seconds per second, by which two clocks may move apart


class Difference(NamedTuple):
    """``offset_ns``: what that clock shows less what ours does. ``error_ns``: it is right within this."""

    offset_ns: int
    error_ns: int


class _Sample(NamedTuple):
    at_ns: int
    offset_ns: int
    error_ns: int

    def error_at(self, now_ns: int) -> int:
        return self.error_ns + int(abs(now_ns - self.at_ns) * _DRIFT)


class PeerClock:
    """A question leaves at t0 and its answer comes at t3 by our clock; theirs shows t1 in between. So that
    lies between t0 and t3, and the middle is wrong by half the way at most. The quickest answer is the best
    one.
    """

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)

    def take(self, asked_ns: int, theirs_ns: int, answered_ns: int) -> None:
        """An answer. One that contradicts all before means that a clock was set, and they are forgotten."""
        if answered_ns < asked_ns:  # ours was set meanwhile
            self._samples.clear()
            return
        error = (answered_ns - asked_ns + 1) // 2
        new = _Sample(answered_ns, theirs_ns - (asked_ns + answered_ns) // 2, error)
        best = self.difference(answered_ns)
        if best is not None and abs(best.offset_ns - new.offset_ns) > best.error_ns + new.error_ns:
            self._samples.clear()
        self._samples.append(new)

    def difference(self, now_ns: int) -> Difference | None:
        """As far as is known; None: not yet."""
        if not self._samples:
            return None
        best = min(self._samples, key=lambda sample: sample.error_at(now_ns))
        return Difference(best.offset_ns, best.error_at(now_ns))
