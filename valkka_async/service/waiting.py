# SPDX-License-Identifier: MIT
"""Events that wait for one who wants some of them: bounded, and what is lost is told."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection
from dataclasses import replace

from valkka_async.ring.events import Event

WAITING = 256  # events; the oldest go


class Waiting:
    """A queue that holds nobody up: with too many the oldest one goes. How many of its source's did not get
    here is in the next one's ``missed``, and ``dropped`` has the sum. Nobody knows whether those would have
    been wanted that were lost on their way."""

    def __init__(self, codes: Collection[str], cameras: Collection[str]) -> None:
        self.dropped = 0
        self._codes = codes
        self._cameras = cameras
        self._queue: deque[Event] = deque()
        # By source: lost before the first one that waits, and behind the last one.
        self._before: Counter[str] = Counter()
        self._behind: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def full(self) -> bool:
        """The next one makes the oldest go."""
        return len(self._queue) >= WAITING

    def put(self, event: Event) -> bool:
        """Is it wanted?"""
        source, missed = event.source, event.missed
        self.dropped += missed
        if not event.is_one_of(self._codes, self._cameras):
            if missed:
                self._behind[source] += missed
            return False
        if self.full:
            oldest = self._queue.popleft()
            self.dropped += 1
            self._before[oldest.source] += 1 + oldest.missed
        missed += self._behind.pop(source, 0)
        self._queue.append(event if missed == event.missed else replace(event, missed=missed))
        return True

    def take(self) -> Event:
        """The oldest one. Raises IndexError."""
        event = self._queue.popleft()
        before = self._before.pop(event.source, 0)
        return replace(event, missed=event.missed + before) if before else event
