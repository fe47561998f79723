# SPDX-License-Identifier: MIT
"""Frames that wait for their results, and results whose frames have not come. No I/O and no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from valkka_async.ring._shm import Frame
from valkka_async.ring.results import Result

_EARLY = 64  # results that wait for their frames


@dataclass(slots=True)
class Pair:
    """A frame, when it need not wait any more (monotonic), and its result, once that is there."""

    frame: Frame
    due: float
    result: Result | None = None


class _Times(NamedTuple):
    """Of a frame, which its owner may have dropped."""

    source: str
    published_ns: int
    timestamp_ns: int


class Pairs:
    """Gives each frame once, in order, with its result or without it.

    A result is that of a frame if it names its ring, number and time; one of another ring of the camera, if
    both were captured at the same nanosecond.
    """

    def __init__(self, depth: int, wait: float) -> None:
        self._depth = depth
        self._wait = wait
        self._waiting: deque[Pair] = deque()
        self._answered = 0  # of those that wait
        self._early: deque[Result] = deque()
        self._newest: _Times | None = None
        self.matched = self.unmatched = self.late = 0

    @property
    def waiting(self) -> int:
        """Frames that were received, and not given yet."""
        return len(self._waiting)

    @property
    def early(self) -> int:
        """Results that were received, and not given yet."""
        return len(self._early) + self._answered

    @property
    def full(self) -> bool:
        """No more frames are to be put in before one is taken."""
        return len(self._waiting) > self._depth

    def put_frame(self, frame: Frame, now: float) -> None:
        """The next frame."""
        newest = self._newest = _Times(frame.source, frame.published_ns, frame.timestamp_ns)
        one = Pair(frame, now + self._wait)
        self._waiting.append(one)
        for result in list(self._early):
            if one.result is None and _belongs(result, frame):
                self._early.remove(result)
                one.result = result
                self._answered += 1
            elif _passed(result, newest):
                self._early.remove(result)
                self.late += 1

    def put_result(self, result: Result) -> None:
        """The next result. The oldest of those without a frame goes when there are too many."""
        for one in self._waiting:
            if one.result is None and _belongs(result, one.frame):
                one.result = result
                self._answered += 1
                return
        if self._newest is not None and _passed(result, self._newest):
            self.late += 1
            return
        self._early.append(result)
        if len(self._early) > _EARLY:
            self._early.popleft()
            self.late += 1

    def take(self, now: float, expected: bool) -> Pair | None:
        """The oldest frame, if it has its result, or need not wait for it any more: because a later one has
        one, its time is up, too many wait, or no results are ``expected``."""
        if not self._waiting:
            return None
        first = self._waiting[0]
        if first.result is not None:
            self._answered -= 1
            self.matched += 1
        elif self._answered or self.full or not expected or now >= first.due:
            self.unmatched += 1
        else:
            return None
        return self._waiting.popleft()

    @property
    def due(self) -> float | None:
        """When to look again."""
        return self._waiting[0].due if self._waiting else None

    def clear(self) -> None:
        """Give all slots back."""
        for one in self._waiting:
            one.frame.release()
        self._waiting.clear()
        self._early.clear()
        self._answered = 0


def _belongs(result: Result, frame: Frame) -> bool:
    if result.source == frame.source:
        return result.seq == frame.seq and result.published_ns == frame.published_ns
    return result.timestamp_ns == frame.timestamp_ns


def _passed(result: Result, frame: _Times) -> bool:
    """Is a result, which no frame waits for, about this one or one before it?"""
    if result.source == frame.source:
        return result.published_ns <= frame.published_ns
    return result.timestamp_ns <= frame.timestamp_ns
