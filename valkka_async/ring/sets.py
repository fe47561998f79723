# SPDX-License-Identifier: MIT
"""Sets of frames that belong together in time: one of each source, as near to one instant as they come."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Literal

from valkka_async.ring._shm import Frame

#: Which clock the frames of a batch were compared by: when they were captured (arrived at the camera's
#: process), the senders' own, or one of the two for each frame.
Clock = Literal["capture", "sender", "mixed"]

_TIMES = 1 << 63  # ns, of what is a time
_APART = 1e11  # s; no two times are further apart
_DEPTH = 3  # frames of a source that wait for those of others


@dataclass(frozen=True, slots=True)
class Candidate:
    """A frame that was claimed, and its time (ns) by the clock that it has."""

    frame: Frame
    at: int
    by_sender: bool


def timed(frame: Frame, by_sender: bool) -> Candidate:
    """By the sender's clock if that is asked for and the frame has it: metadata may be anything."""
    at = frame.meta.get("sender_time_ns") if by_sender else None
    if type(at) is int and -_TIMES <= at < _TIMES:
        return Candidate(frame, at, True)
    return Candidate(frame, frame.timestamp_ns, False)


def clock_of(chosen: list[Candidate]) -> Clock:
    """The clock by which these were compared."""
    kinds = {candidate.by_sender for candidate in chosen}
    return "mixed" if len(kinds) > 1 else "sender" if True in kinds else "capture"


class Sets:
    """The frames that wait for others, and what was left out of all sets."""

    def __init__(self, tolerance: float, most: int) -> None:
        self._tolerance = round(min(tolerance, _APART) * 1e9)
        self._most = most
        self._waiting: dict[str, deque[Candidate]] = {}
        self._turns: dict[str, int] = {}  # when a source was in a set last
        self._turn = 0
        self.unmatched: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __contains__(self, name: str) -> bool:
        """A frame of this source waits."""
        return name in self._waiting

    @property
    def names(self) -> list[str]:
        """Sources of which a frame waits."""
        return list(self._waiting)

    def put(self, candidate: Candidate) -> None:
        """A frame that came. The oldest of its source goes when there are too many."""
        waiting = self._waiting.setdefault(candidate.frame.source, deque())
        waiting.append(candidate)
        if len(waiting) > _DEPTH:
            self._pass(waiting)

    def make_room(self) -> bool:
        """Give up the oldest frame of each source that has two or more. False: there is none."""
        crowded = [waiting for waiting in self._waiting.values() if len(waiting) > 1]
        for waiting in crowded:
            self._pass(waiting)
        return bool(crowded)

    def too_old(self, before_ns: int) -> list[str]:
        """Let frames go that were captured before that. Their sources, one for each."""
        names = []
        for name, waiting in list(self._waiting.items()):
            while waiting and waiting[0].frame.timestamp_ns < before_ns:
                waiting.popleft().frame.release()
                names.append(name)
            if not waiting:
                del self._waiting[name]
        return names

    def best(self) -> list[Candidate]:
        """Of all sets within the tolerance, one of the most sources; of these, of the least spread; then the
        earliest. With more sources than a batch takes, those that were in a set longest ago."""
        every = sorted((c for waiting in self._waiting.values() for c in waiting), key=lambda c: c.at)
        inside: Counter[str] = Counter()
        first, found, rank = 0, (0, 0), (0, 0)
        for last, candidate in enumerate(every):
            inside[candidate.frame.source] += 1
            # One that another of its source makes up for only widens the set.
            while candidate.at - every[first].at > self._tolerance or inside[every[first].frame.source] > 1:
                name = every[first].frame.source
                inside[name] -= 1
                if not inside[name]:
                    del inside[name]
                first += 1
            this = len(inside), every[first].at - candidate.at
            if this > rank:
                found, rank = (first, last + 1), this
        return self._nearest(every[slice(*found)])

    def _nearest(self, window: list[Candidate]) -> list[Candidate]:
        if not window:
            return []
        middle = (window[0].at + window[-1].at) // 2
        chosen: dict[str, Candidate] = {}
        for candidate in window:
            name = candidate.frame.source
            if name not in chosen or abs(candidate.at - middle) < abs(chosen[name].at - middle):
                chosen[name] = candidate
        if len(chosen) > self._most:
            first = sorted(chosen, key=lambda name: self._turns.get(name, 0))[: self._most]
            chosen = {name: candidate for name, candidate in chosen.items() if name in first}
        return list(chosen.values())

    def take(self, chosen: list[Candidate]) -> None:
        """These make a set: they and what is older of their sources wait no longer."""
        for candidate in sorted(chosen, key=lambda c: self._turns.get(c.frame.source, 0)):
            name = candidate.frame.source
            waiting = self._waiting[name]
            while waiting[0] is not candidate:
                self._pass(waiting)
            waiting.popleft()
            if not waiting:
                del self._waiting[name]
            self._turn += 1
            self._turns[name] = self._turn  # those of one set keep their order, so that all rotate

    def clear(self) -> None:
        """Let all go that wait."""
        while self._waiting:
            for candidate in self._waiting.popitem()[1]:
                candidate.frame.release()

    def _pass(self, waiting: deque[Candidate]) -> None:
        frame = waiting.popleft().frame
        self.unmatched[frame.source] += 1
        frame.release()
