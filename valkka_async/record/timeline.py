# SPDX-License-Identifier: MIT
"""When a camera was recorded: spans, gaps between them, and events. Times are Unix nanoseconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from valkka_async.record.contents import GAP_NS
from valkka_async.record.index import Entry
from valkka_async.ring.events import EventCode


@dataclass(frozen=True, slots=True)
class Span:
    """Recorded without a gap, and without a change of codec or size."""

    from_ns: int
    to_ns: int
    codec: str  # as browsers call it; "": they do not
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Between spans: nothing was recorded."""

    from_ns: int
    to_ns: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `code`: an EventCode, or an analyser's own. RECORDING_EVENT: something was
    recorded for it."""

    at_ns: int  # if there were several: the first
    code: str = EventCode.RECORDING_EVENT.value
    text: str = ""  # for people
    count: int = 1  # a long time has those of one code within a thousandth of it counted together


@dataclass(frozen=True, slots=True)
class Timeline:
    """What was recorded of a camera from a time to another. `oldest_ns` and `newest_ns` are of all that there
    is of it; None: there is nothing."""

    camera: str
    from_ns: int
    to_ns: int
    oldest_ns: int | None
    newest_ns: int | None
    spans: tuple[Span, ...]
    gaps: tuple[Gap, ...]
    events: tuple[Event, ...]


class Line:
    """What files have of a time, file by file in their order."""

    def __init__(self, from_ns: int, to_ns: int) -> None:
        self._from_ns = from_ns
        self._to_ns = to_ns
        self._found: list[tuple[str, Span]] = []  # and the init segments that they have
        self._events: set[int] = set()

    def add(self, entries: Iterable[Entry]) -> None:
        """The next files."""
        for one in entries:
            begin = one.begin_ns
            for stop, start in (*one.gaps, (one.end_ns, 0)):
                self._add(one, begin, stop)
                begin = start
            self._events.update(at for at in one.events if self._from_ns <= at < self._to_ns)

    def _add(self, one: Entry, begin: int, end: int) -> None:
        found = self._found
        if found:
            init, last = found[-1]
            begin = max(begin, last.to_ns)  # two recordings may share a moment
            if begin - last.to_ns <= GAP_NS:
                begin = last.to_ns
                if init == one.init:
                    longer = Span(last.from_ns, max(end, begin), last.codec, last.width, last.height)
                    found[-1] = init, longer
                    return
        if begin < end:
            found.append((one.init, Span(begin, end, one.codec, one.width, one.height)))

    def spans(self) -> tuple[Span, ...]:
        """Those that there are, as far as they are of that time."""
        cut = []
        for _, span in self._found:
            begin, end = max(span.from_ns, self._from_ns), min(span.to_ns, self._to_ns)
            if begin < end:
                cut.append(Span(begin, end, span.codec, span.width, span.height))
        return tuple(cut)

    def gaps(self) -> tuple[Gap, ...]:
        """Those between the spans."""
        spans = self.spans()
        holes = zip(spans, spans[1:], strict=False)
        return tuple(Gap(a.to_ns, b.from_ns) for a, b in holes if b.from_ns > a.to_ns)

    def events(self) -> tuple[Event, ...]:
        """Those of that time, in their order."""
        return tuple(Event(at) for at in sorted(self._events))
