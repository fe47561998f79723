# SPDX-License-Identifier: MIT
"""When frames come, and how long a batch should wait for which of them. Nothing here looks at a clock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

_REMEMBERED = 5  # intervals of a source
_MOST = 0.05  # s that a batch waits unless it is told to wait longer
_UNKNOWN = 0.02  # s that it waits for sources whose rate is not known yet
_SLACK = 0.002  # s that any frame may be late
_STALLED, _SILENT = 4, 1.0  # intervals of silence, but s at least
_CLEAR = 2.0  # times as long as any other: then a gap is worth ending a batch at


@dataclass(frozen=True, slots=True)
class Plan:
    """A batch in the making: it ends at ``deadline``, or when each of the ``awaited`` has come or is late
    (name and time, the latest last). Times are seconds of the monotonic clock."""

    begun: float
    deadline: float
    awaited: list[tuple[float, str]]


class _Source:
    def __init__(self, seq: int, at: float) -> None:
        self.seq = seq
        self.last = at
        self.interval = self.jitter = 0.0  # seconds between frames; unknown before the second one
        self.intervals: deque[float] = deque(maxlen=_REMEMBERED)

    def note(self, seq: int, at: float) -> None:
        """Its frame came at that time. The median interval counts: a pause does not change it."""
        self.intervals.append((at - self.last) / (seq - self.seq))
        self.seq, self.last = seq, at
        middle = len(self.intervals) // 2
        self.interval = sorted(self.intervals)[middle]
        self.jitter = sorted(abs(one - self.interval) for one in self.intervals)[middle]

    @property
    def expected(self) -> float:
        """When its next frame is due."""
        return self.last + self.interval

    @property
    def slack(self) -> float:
        return _SLACK + 3 * self.jitter


class Arrivals:
    """What is known of the sources' rates. ``window``: seconds that a batch waits at most, from its first
    frame on; None: as the rates suggest."""

    def __init__(self, window: float | None) -> None:
        self._window = window
        self._sources: dict[str, _Source] = {}

    def note(self, name: str, seq: int, at: float) -> None:
        """The newest frame of a source, and when it was published."""
        source = self._sources.get(name)
        if source is None or seq <= source.seq or at < source.last:  # its server is another one
            self._sources[name] = _Source(seq, at)
        else:
            source.note(seq, at)

    def forget(self, names: Iterable[str]) -> None:
        """Of all but these."""
        self._sources = {name: self._sources[name] for name in names if name in self._sources}

    def __len__(self) -> int:
        return len(self._sources)

    def begin(self, ready: Iterable[str], now: float, since: float = -math.inf) -> tuple[float, float]:
        """When the first frame of the ``ready`` sources came, as far as is known, and until when others have
        time. None of these frames was there at the time ``since``. A window that tunes itself ends when the
        first of them has another frame, and after 50 ms at the latest."""
        begun, again = self._cycle(ready, now, since)
        if self._window is not None:
            return begun, begun + self._window
        return begun, begun + _UNKNOWN if again is None else min(again, begun + _MOST)

    def _cycle(self, ready: Iterable[str], now: float, since: float) -> tuple[float, float | None]:
        """When the first of their frames came, and when the first of them has another one. One that was late
        already counts as having come now: a camera that stalled does not make a batch as old as its pause."""
        known = [s for name in ready if (s := self._sources.get(name)) is not None and s.intervals]
        begun = min([now, *(source.expected for source in known if source.expected >= since)])
        return begun, min((begun + source.interval for source in known), default=None)

    def late(self, name: str, deadline: float, now: float) -> float | None:
        """Until when a source that has no frame yet is worth waiting for; None: it is not.

        It is if it gives frames, until it is silent for longer than usual, and, with a window that tunes
        itself, if the next one is due in time.
        """
        source = self._sources.get(name)
        if source is None or now >= deadline:
            return None
        if self._window is not None:
            late = min(deadline, source.last + max(_STALLED * source.interval, _SILENT))
            return late if now < late else None
        if not source.intervals:
            return deadline
        late = min(deadline, source.expected + source.slack)
        return late if source.expected < deadline and now < late else None

    def plan(self, ready: Iterable[str], others: Iterable[str], now: float, since: float = -math.inf) -> Plan:
        """For a batch of which the ``ready`` sources have frames, and the ``others`` (connected) have not; at
        the time ``since`` none had one.

        With a window that tunes itself, it waits up to a clear gap between arrivals only, if there is one:
        the next batch then begins behind that, where cameras in step are together.
        """
        ready = list(ready)
        begun, deadline = self.begin(ready, now, since)
        awaited = [(late, name) for name in others if (late := self.late(name, deadline, now)) is not None]
        again = self._cycle(ready, now, since)[1]
        if self._window is None and again is not None:
            known = [self._sources[name].expected for _, name in awaited if self._sources[name].intervals]
            edge = _clear_gap(sorted(known), begun, again)
            awaited = [
                (late, name)
                for late, name in awaited
                if not self._sources[name].intervals or self._sources[name].expected < edge
            ]
        return Plan(begun, deadline, sorted(awaited))


def _clear_gap(times: list[float], begun: float, again: float) -> float:
    """The time behind the longest gap between these, if it is clearly longer than all others and than the one
    that a batch of all would end with; else infinity."""
    edges = [begun, *times, again]
    gaps = [later - earlier for earlier, later in zip(edges, edges[1:], strict=False)]
    *others, longest = sorted(gaps)
    if not others or longest <= _CLEAR * others[-1] + _SLACK:
        return math.inf
    return edges[gaps.index(longest) + 1]
