# SPDX-License-Identifier: MIT
"""Figures as a table that fits the terminal, as lines, and as data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from valkka_async.camera.status import WARNINGS, CameraState
from valkka_async.cli.figures import (
    GONE,
    MISSING,
    OTHER,
    SILENT,
    CameraFigures,
    Figures,
    ReaderFigures,
    RingFigures,
    ServiceFigures,
    SourceFigures,
    StreamFigures,
)
from valkka_async.cli.shape import describe, seconds
from valkka_async.service.status import RecordingState
from valkka_async.units import in_bytes

_COLOURS = {
    CameraState.LIVE: "green",
    CameraState.STALLED: "red",
    CameraState.FAILED: "red",
    SILENT: "red",
    GONE: "red",
    OTHER: "red",
    CameraState.WAITING: "yellow",
    MISSING: "yellow",
    CameraState.CONNECTING: "yellow",
    CameraState.STOPPED: "dim",
    CameraState.IDLE: "dim",
}
_REC = {
    RecordingState.WRITING: ("rec", "red"),
    RecordingState.WAITING: ("rec waits", "yellow"),
    RecordingState.ARMED: ("rec armed", ""),
    RecordingState.FAILED: ("rec fails", "red"),
}
_WIDE = 104  # columns from which on there is room for all that is known
_TALL = 20  # lines from which on there is room for air
_AIR = 4  # lines around the rows: the head, and what sets it and the table apart
_NOTHING = "-"


@dataclass(frozen=True, slots=True)
class _Row:
    name: Text
    state: Text
    what: Text
    fps: str = ""
    age: str = ""
    dropped: str = ""
    readers: str = ""
    reconnects: str = ""
    restarts: str = ""
    pid: str = ""
    cpu: str = ""


class View:
    """All of it, as far as it fits: where there is too little room, that goes first that says least.

    `height` None: as long as it comes out. `hint` is shown where there is nothing to show.
    """

    def __init__(
        self, figures: Figures, notes: Iterable[Text] = (), height: int | None = None, hint: str = ""
    ) -> None:
        self._figures = figures
        self._notes = list(notes)
        self._height = height
        self._hint = hint

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        def length(texts: list[Text]) -> int:
            return sum(len(console.render_lines(text, options, pad=False)) for text in texts)

        width = options.max_width
        columns = _columns(width >= _WIDE, self._figures)
        reasons, notes = _reasons(self._figures), self._notes
        rows = list(_rows(self._figures, 4))
        airy = _WIDE <= width >= _width(columns, rows, True)
        airy &= self._height is None or self._height >= _TALL
        if self._height is not None:
            # Each row is a line; rendering it to know that would cost too much for a hundred cameras.
            room = self._height - 1 - (_AIR if airy else 1) - length(notes)
            detail = 4
            while detail and len(rows) + length(reasons) > room:
                detail -= 1
                rows = list(_rows(self._figures, detail))
            if len(rows) + length(reasons) > room:
                rows, reasons = _shortened(rows, reasons, room)
        table = _table(rows, columns, width, airy) if rows else Text(self._hint, style="dim")
        yield Group(_summary(self._figures), table, *reasons, *notes)


def widths(figures: Figures) -> tuple[int, int]:
    """Columns below which names are cut, and from which on nothing is."""
    rows = list(_rows(figures, 4))
    columns = _columns(True, figures)
    least = [column for column in columns if column.heading not in _GIVEN_UP]
    return _width(least, rows, False), max(_WIDE, _width(columns, rows, True, whole=True))


def _shortened(rows: list[_Row], reasons: list[Text], room: int) -> tuple[list[_Row], list[Text]]:
    """At most so many lines: if possible all rows, and a few reasons in any case."""
    for reason in reasons:  # not wrapped any more
        reason.no_wrap, reason.overflow = True, "ellipsis"
    if len(rows) + len(reasons) <= room:
        return rows, reasons
    if (left := room - len(rows)) >= 2:
        return rows, [*reasons[: left - 1], _more(len(reasons) - left + 1, "reasons")]
    few = min(len(reasons), max(1, room // 5))
    fit = max(1, room - few - 1)
    more = _more(len(rows) - fit, "make the window taller, or name those to be shown")
    return rows[:fit], [*reasons[:few], more]


def _more(number: int, what: str) -> Text:
    return Text(f"... and {number} more ({what})", "dim", no_wrap=True, overflow="ellipsis")


@dataclass(frozen=True, slots=True)
class _Column:
    heading: str
    field: str  # of the row
    least: int = 0  # columns that it has in any case, so that it does not jump about
    left: bool = False
    elastic: bool = False  # what does not fit is cut


# Columns that make room for names, the first one first.
_GIVEN_UP = ("pid", "restarts", "readers", "cpu", "reconn", "reconnects", "stream", "dropped", "age")


def _columns(wide: bool, figures: Figures) -> list[_Column]:
    workers = wide and any(camera.restarts is not None for camera in figures.cameras)
    return [
        _Column("camera", "name", 8, left=True),
        _Column("state", "state", 11, left=True),
        _Column("stream", "what", 14, left=True, elastic=True),
        _Column("fps", "fps", 5),
        _Column("age", "age", 6),
        _Column("dropped", "dropped"),
        *([_Column("readers", "readers")] if wide else []),
        _Column("reconnects" if wide else "reconn", "reconnects"),
        *([_Column("restarts", "restarts")] if workers else []),
        *([_Column("pid", "pid")] if wide else []),
        _Column("cpu", "cpu", 5),
    ]


def _width(columns: list[_Column], rows: list[_Row], airy: bool, whole: bool = False) -> int:
    """Of a table of these; `whole`: with nothing cut."""

    def cell(row: _Row, column: _Column) -> int:
        value = getattr(row, column.field)
        return value.cell_len if isinstance(value, Text) else len(value)

    total = 0
    for column in columns:
        cells = [] if column.elastic and not whole else [cell(row, column) for row in rows]
        total += max(column.least, len(column.heading), *cells, 0)
    return total + len(columns) * (3 if airy else 1)


def _table(rows: list[_Row], columns: list[_Column], width: int, airy: bool) -> Table:
    for heading in _GIVEN_UP:
        if _width(columns, rows, airy) <= width:
            break
        columns = [column for column in columns if column.heading != heading]
    table = Table(
        box=box.SIMPLE_HEAD if airy else None,
        pad_edge=False,
        header_style="bold",
        padding=(0, 1) if airy else (0, 1, 0, 0),
    )
    for column in columns:
        # Rich takes room from columns that may be wrapped; their cells may not.
        fixed = not column.elastic and column.field != "name"
        justify: Literal["left", "right"] = "left" if column.left else "right"
        table.add_column(column.heading, justify=justify, no_wrap=fixed, min_width=column.least or None)
    for row in rows:
        for text in (row.name, row.what):
            text.no_wrap, text.overflow = True, "ellipsis"
        table.add_row(*(getattr(row, column.field) for column in columns))
    return table


def _summary(figures: Figures) -> Text:
    """One line, for a look whether all is well."""
    cameras = figures.cameras
    states: dict[str, int] = {}
    for camera in cameras:
        states[camera.state] = states.get(camera.state, 0) + 1
    parts = []
    if cameras:
        text = Text(_count(len(cameras), "camera") + ": ")
        text.append_text(
            Text(", ").join(
                Text(f"{states[state]} {state}", _COLOURS.get(state, ""))
                for state in sorted(states, key=lambda state: (state != CameraState.LIVE, state))
            )
        )
        parts.append(text)
    if figures.servers:
        parts.append(Text(_count(len(figures.servers), "server" if not cameras else "other server")))
    rings = [*figures.servers, *(ring for camera in cameras for ring in camera.rings)]
    readers = Text(_count(sum(ring.readers or 0 for ring in rings), "reader"))
    if losing := sum(1 for ring in rings for reader in ring.clients if reader.drop_rate):
        readers.append(f" ({losing} losing)", "yellow")
    parts.append(readers)
    if cpus := [camera.cpu for camera in cameras if camera.cpu is not None]:
        parts.append(Text(f"{sum(cpus):.2f} cores"))
    parts += [Text(told) for service in figures.services if (told := _stored(service))]
    parts.append(Text(time.strftime("%H:%M:%S", time.localtime(figures.time_ns / 1e9)), "dim"))
    return Text("  ", no_wrap=True, overflow="ellipsis", end="\n").join(parts)


def _stored(service: ServiceFigures) -> str:
    """ "412 GB recorded since 2026-11-16 08:00"; "" if nothing is."""
    recordings = service.recordings
    if recordings is None or recordings.oldest_ns is None:
        return ""
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(recordings.oldest_ns / 1e9))
    return f"{in_bytes(recordings.bytes)} recorded since {since}"


# ------------------------------------------------------------------------------------------- rows


def _rows(figures: Figures, detail: int) -> Iterator[_Row]:
    """4: all; 3: no rings without readers; 2: of readers only those that have trouble, and of several streams
    only those that are not live; 1: no rings but theirs and those that have trouble themselves; 0: no
    rings."""
    for camera in figures.cameras:
        several = len(camera.streams) > 1
        yield _camera_row(camera, in_short=several and detail >= 3)
        if several:
            for stream in camera.streams:
                if detail >= 3 or stream.state not in (CameraState.LIVE, CameraState.IDLE):
                    yield _stream_row(stream)
        if not detail:
            continue
        for ring in camera.rings:
            if ring.state == SILENT or (ring.readers and (detail > 1 or _has_trouble(ring))):
                yield _ring_row(ring)
                yield from _reader_rows(ring, detail)
        idle = [ring for ring in camera.rings if ring.readers == 0]
        if detail == 4 and idle:
            yield _ring_row(idle[0]) if len(idle) == 1 else _idle_row(idle)
    for server in figures.servers:
        yield _server_row(server)
        yield from _reader_rows(server, detail)


def _reader_rows(ring: RingFigures, detail: int) -> Iterator[_Row]:
    for reader in ring.clients:
        if detail >= 3 or (detail and _trouble_of(reader, ring)):
            yield _reader_row(reader, ring)


def _camera_row(camera: CameraFigures, in_short: bool) -> _Row:
    """`in_short`: rows of its streams follow."""
    state = Text(camera.state, _COLOURS.get(camera.state, ""))
    if camera.retry_in is not None:
        state.append(f" {_soon(camera.retry_in)}")
    if camera.recording is not None:
        state.append(f" {_REC[camera.recording.state][0]}", _REC[camera.recording.state][1])
    return _Row(
        Text(camera.name, "bold"),
        state,
        Text(f"{len(camera.streams)} streams" if in_short else _stream(camera) or _NOTHING),
        fps="" if in_short else _rate(camera.fps),
        age=_age(camera.age),
        dropped=_number(camera.dropped),
        readers=str(camera.readers),
        reconnects=_number(camera.reconnects),
        restarts=_number(camera.restarts),
        pid="" if camera.pid is None else str(camera.pid),
        cpu=_percent(camera.cpu),
    )


def _stream_row(stream: StreamFigures) -> _Row:
    """Of one of several."""
    state = Text(stream.state, _COLOURS.get(stream.state, ""))
    if stream.retry_in is not None:
        state.append(f" {_soon(stream.retry_in)}")
    return _Row(
        Text(f"  {_plain(stream.name)}"),
        state,
        Text(_stream(stream) or _NOTHING),
        fps=_rate(stream.fps),
        age=_age(stream.age),
        reconnects=_number(stream.reconnects),
        cpu=_percent(stream.cpu),
    )


def _ring_row(ring: RingFigures) -> _Row:
    readers = "" if ring.readers is None else _count(ring.readers, "reader") if ring.readers else "no reader"
    trouble = ring.state if ring.readers is None else ""
    return _Row(
        Text(f"  {ring.name}"),
        Text(trouble, _COLOURS.get(trouble, "")) if trouble else Text(readers, "dim"),
        _what(ring),
        fps=_rate(ring.fps),
        age=_age(ring.age),
        dropped=_number(ring.dropped),
        readers=_number(ring.readers),
    )


def _idle_row(rings: list[RingFigures]) -> _Row:
    """Of rings that publish nothing, as they have no readers."""
    formats = ", ".join(dict.fromkeys(ring.format for ring in rings if ring.format))
    return _Row(
        Text(f"  {len(rings)} rings", "dim"), Text("no reader", "dim"), Text(formats, "dim"), readers="0"
    )


def _server_row(server: RingFigures) -> _Row:
    return _Row(
        Text(server.name, "bold"),
        Text(server.state, _COLOURS.get(server.state, "")),
        _what(server) if server.readers is not None else Text(_NOTHING),
        fps=_rate(server.fps),
        age=_age(server.age),
        dropped=_number(server.dropped),
        readers=_number(server.readers),
        pid="" if server.pid is None else str(server.pid),
    )


def _reader_row(reader: ReaderFigures, ring: RingFigures) -> _Row:
    return _Row(
        Text(f"    {_process(reader)}", "dim"),
        Text(_plain(reader.policy), "dim"),
        Text(_trouble_of(reader, ring), "yellow"),
        fps=_rate(reader.fps),
        dropped=_number(reader.dropped),
    )


def _what(ring: RingFigures) -> Text:
    if ring.drop_rate:
        return Text(f"drops {ring.drop_rate:.1f}/s", "red")
    if ring.backlog_outgrown:
        return Text(f"{_format(ring)}, GOP longer than slots", "yellow")
    return Text(_format(ring))


def _has_trouble(ring: RingFigures) -> bool:
    return bool(ring.drop_rate) or any(_trouble_of(reader, ring) for reader in ring.clients)


def _trouble_of(reader: ReaderFigures, ring: RingFigures) -> str:
    """ "loses 10.0/s"; "" if there is none."""
    if reader.drop_rate:
        return f"loses {reader.drop_rate:.1f}/s" if reader.drop_rate >= 0.05 else "loses some"
    if ring.fps and ring.fps >= 1 and reader.fps == 0:
        return "reads nothing"
    return ""


# ---------------------------------------------------------------------------------------- reasons


def _reasons(figures: Figures) -> list[Text]:
    """Why something is as it is, each with the names that it concerns."""
    concerned: dict[tuple[str, str], list[str]] = {}
    known = [(camera.state, _reason(camera), camera.name) for camera in figures.cameras]
    for camera in figures.cameras:
        for stream in camera.streams if len(camera.streams) > 1 else ():
            said = f"{stream.name}: {stream.reason.removeprefix(f'{stream.url}: ')}"
            if stream.reason and said != _reason(camera):
                known.append((stream.state, said, camera.name))
    known += [(CameraState.FAILED, _unrecorded(camera), camera.name) for camera in figures.cameras]
    known += [("", _restarted(camera), camera.name) for camera in figures.cameras]
    known += [
        ("", WARNINGS[warning], camera.name) for camera in figures.cameras for warning in camera.warnings
    ]
    known += [(server.state, server.reason, server.name) for server in figures.servers]
    known += [
        (CameraState.FAILED, service.recordings.problem, f"service {service.name}")
        for service in figures.services
        if service.recordings is not None
    ]
    known += [(SILENT, service.reason, f"service {service.name}") for service in figures.services]
    for state, reason, name in known:
        if reason:
            concerned.setdefault((state, reason), []).append(name)
    return [
        Text.assemble(
            (
                ", ".join(names) if len(names) < 6 else f"{', '.join(names[:4])} and {len(names) - 4} more",
                "bold",
            ),
            ": ",
            (_plain(reason), _COLOURS.get(state, "dim")),
            overflow="fold",
        )
        for (state, reason), names in concerned.items()
    ]


def _reason(camera: CameraFigures) -> str:
    """Without the URL: the same reason is then the same text for all cameras."""
    for stream in camera.streams:
        name = f"{stream.name}: " if len(camera.streams) > 1 else ""
        if stream.url and camera.reason.startswith(f"{name}{stream.url}: "):
            return name + camera.reason.removeprefix(f"{name}{stream.url}: ")
    return camera.reason


def _unrecorded(camera: CameraFigures) -> str:
    """Why nothing is recorded, though it should be."""
    recording = camera.recording
    if recording is None or recording.error is None:
        return ""
    next_ = f"; next attempt in {_soon(recording.retry_in)}" if recording.retry_in is not None else ""
    return f"not recorded: {recording.error.text}{next_}"


def _restarted(camera: CameraFigures) -> str:
    if not camera.restarts or camera.reason:
        return ""
    times = "once" if camera.restarts == 1 else f"{camera.restarts} times"
    return f"started again {times}" + (f": its process {camera.last_exit}" if camera.last_exit else "")


# ------------------------------------------------------------------------------------------ lines


def lines(figures: Figures) -> list[str]:
    """Without a terminal: one for each camera and other server, for each of several streams, for each ring
    that is read, and for each reader. How they begin tells them apart."""
    return list(_lines(figures))


def _lines(figures: Figures) -> Iterator[str]:
    for camera in figures.cameras:
        state = camera.state
        if camera.retry_in is not None:
            state += f" {_soon(camera.retry_in)}"
        cells = [
            camera.name,
            state,
            _stream(camera) or _NOTHING,
            f"{_rate(camera.fps)} fps",
            f"age {_age(camera.age)}",
            f"{_number(camera.dropped)} dropped",
            _count(camera.readers, "reader"),
            f"{_number(camera.reconnects)} reconnects",
            *([] if camera.restarts is None else [f"{camera.restarts} restarts"]),
            f"cpu {_percent(camera.cpu)}",
            *([] if camera.recording is None else [_REC[camera.recording.state][0]]),
            *([_plain(_reason(camera))] if camera.reason else []),
            *([_plain(_unrecorded(camera))] if _unrecorded(camera) else []),
        ]
        yield "  ".join(cells)
        for stream in camera.streams if len(camera.streams) > 1 else ():
            yield _stream_line(stream, f"{camera.name}/{stream.name}")
        for ring in camera.rings:
            if ring.readers or ring.state == SILENT:
                yield from _ring_lines(
                    ring, f"{camera.name}/{ring.name}", _count(ring.readers or 0, "reader")
                )
    for server in figures.servers:
        state = f"{server.state} ({_plain(server.reason)})" if server.reason else server.state
        yield from _ring_lines(server, server.name, state)
    for service in figures.services:
        if told := _stored(service):
            yield f"service {service.name}  {told}"
        if service.recordings is not None and service.recordings.problem:
            yield f"service {service.name}  {_plain(service.recordings.problem)}"
        if service.reason:
            yield f"service {service.name}  {_plain(service.reason)}"


def _stream_line(stream: StreamFigures, name: str) -> str:
    state = stream.state
    if stream.retry_in is not None:
        state += f" {_soon(stream.retry_in)}"
    cells = [
        name,
        state,
        _stream(stream) or _NOTHING,
        f"{_rate(stream.fps)} fps",
        f"age {_age(stream.age)}",
        f"{_number(stream.reconnects)} reconnects",
        f"cpu {_percent(stream.cpu)}",
    ]
    return "  ".join(cells)


def _ring_lines(ring: RingFigures, name: str, state: str) -> Iterator[str]:
    what = _format(ring) or _NOTHING
    dropped = f"{_number(ring.dropped)} dropped ({_rate(ring.drop_rate)}/s)"
    yield "  ".join([name, state, what, f"{_rate(ring.fps)} fps", f"age {_age(ring.age)}", dropped])
    for reader in ring.clients:
        dropped = f"{_number(reader.dropped)} dropped ({_rate(reader.drop_rate)}/s)"
        yield "  ".join(
            [f"{name}/{_process(reader)}", _plain(reader.policy), f"{_rate(reader.fps)} fps", dropped]
        )


# ------------------------------------------------------------------------------------------- data


def document(figures: Figures) -> dict[str, Any]:
    """For programs: the same figures by their names, rounded to what they are worth. Rates are per second,
    ages in seconds; null is what is not known."""
    rounded = _rounded(asdict(figures))
    assert isinstance(rounded, dict)
    for camera in rounded["cameras"]:
        camera["readers"] = sum(ring["readers"] or 0 for ring in camera["rings"])
        camera["dropped"] = sum(ring["dropped"] or 0 for ring in camera["rings"])
    return rounded


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return round(value, 3) if isinstance(value, float) else value


# ------------------------------------------------------------------------------------------ words


def _stream(source: SourceFigures) -> str:
    size = f"{source.width}x{source.height}" if source.width and source.height else ""
    return f"{_plain(source.codec)} {size}".strip()


def _process(reader: ReaderFigures) -> str:
    return f"{reader.pid or 'elsewhere'} {_plain(reader.process)}".strip()


def _plain(text: str) -> str:
    """A terminal should not obey what another process says of itself."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _rate(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.1f}" if value < 9999.5 else _number(round(value))


def _age(value: float | None) -> str:
    return _NOTHING if value is None else seconds(value)


def _percent(value: float | None) -> str:
    """In five columns."""
    return _NOTHING if value is None else f"{value * 100:.{0 if value >= 0.0995 else 1}f} %"


def _number(value: int | None) -> str:
    """In seven columns, whatever a broken reader says."""
    if value is None:
        return _NOTHING
    if value < 1_000_000:
        return str(value)
    for unit in "MGT":
        value //= 1000
        if value < 1_000_000:
            return f"{value / 1000:.1f}{unit}"
    return ">999T"


def _format(ring: RingFigures) -> str:
    """ "640x360 rgb24", "fmp4 2.1 Mb/s"; "rgb24" before the first frame."""
    if ring.bit_rate:
        return f"{_plain(ring.format)} {ring.bit_rate / 1e6:.1f} Mb/s"
    name = _plain(ring.format)
    return describe(ring.shape, name) if len(ring.shape) > 1 else name


def _soon(value: float) -> str:
    """A countdown."""
    return f"{value:.0f} s" if value < 60 else seconds(value)
