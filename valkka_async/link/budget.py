# SPDX-License-Identifier: MIT
"""How much may go to one host: all that there is, key frames alone, smaller streams, or less than these."""

from __future__ import annotations

import threading

from valkka_async.link.status import Level

_BURST = 1.0  # s of the rate that may be sent at once
_SETTLED = 2.0  # s on a level after which what does not fit is too much for it
_CALM = 5.0  # s without anything left out before more is sent again,
_CALMEST = 80.0  # which grow up to this where more has turned out to be too much


class Budget:
    """Bytes per second, for all streams to a host together; None: no limit. From any thread.

    `level` falls by one when the rate does not reach: from all frames to key frames alone, and from these to
    the cameras' smaller streams, of which each frame is sent that fits. It rises by one when nothing had to
    be left out for some seconds and half of the rate is unused; where that did not last, the next attempt
    comes later.

    Raw frames get what access units and metadata have left of the rate, and change nothing for these.
    """

    def __init__(self, rate: float | None) -> None:
        self.level = Level.ALL
        self._rate = rate
        self._lock = threading.Lock()
        self._left = 0.0 if rate is None else rate * _BURST
        self._over = 0.0  # for raw frames: what the others did not use
        self._at: float | None = None
        self._short = -1e9  # when it last did not reach
        self._since = -1e9  # on this level
        self._rose = -1e9
        self._calm = _CALM

    def admit(self, size: int, key: bool, now: float, *, smaller: bool = False) -> bool:
        """May so many bytes be sent now? `smaller`: of a smaller stream."""
        if self._rate is None:
            return True
        with self._lock:
            full = self._refill(self._rate, now)
            if self.level is not Level.ALL and now - self._short > self._calm and self._left > full / 2:
                self._go(Level(self.level - 1), now)
            if self.level is not Level.ALL and not key and not smaller:
                return False
            # A key frame larger than a burst goes when there is a whole burst to give.
            if size > self._left and self._left < full:
                self._short = now
                if self.level is Level.ALL or (self.level is Level.KEYS and now - self._since > _SETTLED):
                    self._go(Level(self.level + 1), now)
                return False
            self._left -= size
            return True

    def admit_raw(self, size: int, now: float) -> bool:
        """May a raw frame of so many bytes be sent now? Not while less than all is sent of the cameras."""
        if self._rate is None:
            return True
        with self._lock:
            full = self._refill(self._rate, now)
            # One that is larger than a burst goes when there is a whole burst, and the next ones wait for it.
            if self.level is not Level.ALL or self._over < min(size, full):
                return False
            self._over -= size
            return True

    def _refill(self, rate: float, now: float) -> float:
        """Give what has come since the last time. Returns how much there may be."""
        full = rate * _BURST
        if self._at is not None:
            left = self._left + (now - self._at) * rate
            self._left = min(full, left)
            self._over = min(full, self._over + left - self._left)
        self._at = now
        return full

    def _go(self, level: Level, now: float) -> None:
        if level < self.level:
            self._rose = now
        elif now - self._rose < 2 * self._calm:  # more was too much, and soon
            self._calm = min(_CALMEST, 2 * self._calm)
        else:
            self._calm = _CALM
        self.level, self._since = level, now
