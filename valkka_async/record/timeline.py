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


def spans(entries: Iterable[Entry], from_ns: int, to_ns: int) -> tuple[tuple[Span, ...], tuple[Gap, ...]]:
    """Those of files in their order, from a time to another."""
    found: list[tuple[str, Span]] = []
    for one in entries:
        begin = one.begin_ns
        for stop, start in (*one.gaps, (one.end_ns, 0)):
            _add(found, one, begin, stop)
            begin = start
    cut = []
    for _, span in found:
        begin, end = max(span.from_ns, from_ns), min(span.to_ns, to_ns)
        if begin < end:
            cut.append(Span(begin, end, span.codec, span.width, span.height))
    holes = zip(cut, cut[1:], strict=False)
    return tuple(cut), tuple(Gap(a.to_ns, b.from_ns) for a, b in holes if b.from_ns > a.to_ns)


def events_of(entries: Iterable[Entry], from_ns: int, to_ns: int) -> list[Event]:
    """Those for which files were recorded, from a time to another, in their order."""
    return [Event(at) for at in sorted({at for one in entries for at in one.events if from_ns <= at < to_ns})]


def _add(found: list[tuple[str, Span]], one: Entry, begin: int, end: int) -> None:
    if found:
        init, last = found[-1]
        begin = max(begin, last.to_ns)  # two recordings may share a moment
        if begin - last.to_ns <= GAP_NS:
            begin = last.to_ns
            if init == one.init:
                found[-1] = init, Span(last.from_ns, max(end, begin), last.codec, last.width, last.height)
                return
    if begin < end:
        found.append((one.init, Span(begin, end, one.codec, one.width, one.height)))
