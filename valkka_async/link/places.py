# SPDX-License-Identifier: MIT
"""Places for rings whose servers have not answered yet. One that hangs may hold its place for ever while
there are others; each costs descriptors, of which a process may have few."""

from __future__ import annotations

import logging
import resource
import threading

from valkka_async.seldom import Seldom

_MOST = 512
_EACH = 3  # descriptors of a reader that waits
_SHARE = 4  # a descriptor in so many, at most
_SHORT = 1.5  # s for which they count as few when one was not to be had

log = logging.getLogger("valkka_async.link")


class Places:
    """Of all senders of a link. From any thread."""

    def __init__(self) -> None:
        self._limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(2, min(_MOST, self._limit // _SHARE // _EACH))
        self._lock = threading.Lock()
        self._taken = 0
        self._short_until = 0.0
        self._says = Seldom()

    def take(self, now: float, *, again: bool) -> bool:
        """One for a ring, if there is one. `again`: it was waited for before, and let go; such rings leave
        half of the places to others."""
        with self._lock:
            if self._taken < (self._most // 2 if again else self._most):
                self._taken += 1
                return True
            self._short_until = now + _SHORT
            return False

    def give(self) -> None:
        """Back."""
        with self._lock:
            self._taken -= 1

    def short(self, now: float) -> bool:
        """Has somebody found none?"""
        return now < self._short_until

    def tell(self) -> None:
        """A ring was let go for others: log why, now and then."""
        if self._says():
            log.warning(
                "many rings do not answer, and no more than %d are waited for at a time (there are %d "
                "descriptors: ulimit -n, or LimitNOFILE of a systemd unit)",
                self._most,
                self._limit,
            )
