# SPDX-License-Identifier: MIT
"""How much may go to one host: all that there is, key frames alone, or nothing for a while."""

from __future__ import annotations

import threading

_BURST = 1.0  # s of the rate that may be sent at once
_CALM = 5.0  # s without anything left out before all is sent again


class Budget:
    """Bytes per second, for all streams to a host together; None: no limit. From any thread.

    When the rate does not reach, key frames alone are sent, and each of these when it fits. Streams go back
    to all frames when nothing had to be left out for some seconds and half of the rate is unused.
    """

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._left = 0.0 if rate is None else rate * _BURST
        self._at: float | None = None
        self._short = -1e9  # when it last did not reach
        self.keys_only = False

    def admit(self, size: int, key: bool, now: float) -> bool:
        """May so many bytes be sent now?"""
        if self._rate is None:
            return True
        with self._lock:
            if self._at is not None:
                self._left = min(self._rate * _BURST, self._left + (now - self._at) * self._rate)
            self._at = now
            if self.keys_only and now - self._short > _CALM and self._left > self._rate * _BURST / 2:
                self.keys_only = False
            if self.keys_only and not key:
                return False
            # A key frame larger than a burst goes when there is a whole burst to give.
            if size > self._left and self._left < self._rate * _BURST:
                self.keys_only = True
                self._short = now
                return False
            self._left -= size
            return True
