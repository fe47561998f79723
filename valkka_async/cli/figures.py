# SPDX-License-Identifier: MIT
"""What servers and services say of themselves, put together and counted per second. No I/O.

A ring that belongs to a camera says how that camera is. A service says how each of its cameras is, and is the
only one to do so for a camera whose process is gone, with all its rings. Both together are one row here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from valkka_async.camera.status import (
    CameraState,
    CameraStatus,
    CameraWarning,
    Cause,
    SoundState,
    StreamStatus,
)
from valkka_async.camera.workers.status import WorkerEnd
from valkka_async.cli.reports import ReaderReport, ServerReport
from valkka_async.rates import CounterRates
from valkka_async.record.archive import ArchiveStatus
from valkka_async.record.index import Stored
from valkka_async.ring.names import EVENTS, matches
from valkka_async.service.status import CameraReport, RecordingStatus, ServiceStatus

# States of what cannot speak for itself, beside those of cameras.
SILENT = "no answer"  # connected, but it does not answer
GONE = "gone"  # its process has died
MISSING = "not running"  # asked for by name
IDLE = "idle"  # a server that is no camera, and publishes nothing now
OTHER = "?"  # it answers, but not what we understand

_WINDOW = 3.0  # s over which rates are measured
_IDLE = 2.0  # s without a frame; slow ones get three times their own interval
_STREAMS = ("fmp4", "packets", "jpeg", "h264", "h265", "bytes")  # formats whose bit rate says something


@dataclass(frozen=True, slots=True)
class Silence:
    """In place of an answer: what is wrong, as a state, and in words."""

    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What was to be learned at one moment: the answers by name."""

    time_ns: int  # Unix
    servers: Mapping[str, ServerReport | Silence]
    services: Mapping[str, ServiceStatus | Silence]
    processes: Mapping[int, str] = field(default_factory=dict)  # names of the readers' processes, by pid


# In all figures None means: not known (yet). Ages are in seconds, rates per second.


@dataclass(frozen=True, slots=True)
class ReaderFigures:
    """A reader of a ring. Its counts are its own."""

    id: int
    pid: int  # 0: it lives in another pid namespace
    process: str  # "": not known
    policy: str
    fps: float | None  # received
    received: int
    dropped: int
    drop_rate: float | None
    leases: int


@dataclass(frozen=True, slots=True)
class RingFigures:
    """A server. Its counts begin again with its process."""

    name: str
    state: str  # "live", "idle" or what keeps it from answering
    reason: str = ""
    pid: int | None = None
    format: str = ""  # "": not known, as there was no frame
    stream: str = ""  # of its camera's; "": that has but one, or there is no camera
    shape: tuple[int, ...] = ()  # of the newest frame
    fps: float | None = None  # published
    age: float | None = None  # of the newest frame, since it was published
    published: int | None = None
    dropped: int | None = None  # no slot was free
    drop_rate: float | None = None
    bit_rate: float | None = None
    readers: int | None = None
    slots: int | None = None
    slots_used: int | None = None
    backlog: int | None = None  # frames for readers that come late
    backlog_outgrown: bool = False  # the GOP is too long for that
    clients: tuple[ReaderFigures, ...] = ()  # the message has no room for more than some hundred


@dataclass(frozen=True, slots=True)
class SourceFigures:
    """What is said of a camera as of each of its streams."""

    name: str
    url: str  # without credentials
    state: str
    cause: Cause | None
    reason: str
    retry_in: float | None
    since_ns: int
    codec: str
    width: int
    height: int
    fps: float | None  # received
    age: float | None  # of the newest packet
    bit_rate: float | None  # known while the stream has readers
    key_interval: float | None
    attempts: int
    reconnects: int
    errors: int
    packets: int
    decoded: int
    cpu: float | None  # of one core, by its threads; 0.5 is half


S = TypeVar("S", bound=SourceFigures)


@dataclass(frozen=True, slots=True)
class StreamFigures(SourceFigures):
    """One of a camera's streams, each a connection of its own. Its name is "" if the camera has but one."""


@dataclass(frozen=True, slots=True)
class CameraFigures(SourceFigures):
    """A camera, from its rings, its service, or both. What is of one stream is of the main one, counts and
    `cpu` are of all."""

    service: str | None
    sound: str  # its codec; "": none comes
    pid: int | None
    restarts: int | None  # of its worker, if a service runs it
    last_end: WorkerEnd | None  # how the worker before ended
    last_exit: str  # the same in words
    rss: int | None  # bytes of memory of its worker, which it may share with others
    recording: RecordingStatus | None  # None: not asked for, or not known
    stored: Stored | None  # recordings that there are of it; None: none, or not known
    warnings: tuple[CameraWarning, ...]
    streams: tuple[StreamFigures, ...]  # the main one first
    rings: tuple[RingFigures, ...]

    @property
    def readers(self) -> int:
        """Of all its rings."""
        return sum(ring.readers or 0 for ring in self.rings)

    @property
    def dropped(self) -> int:
        """Frames that found no free slot, in any of its rings."""
        return sum(ring.dropped or 0 for ring in self.rings)


@dataclass(frozen=True, slots=True)
class ServiceFigures:
    """A service that runs on this host. `reason`: why it does not say more."""

    name: str
    pid: int | None
    reason: str
    recordings: ArchiveStatus | None  # all that there are


@dataclass(frozen=True, slots=True)
class Figures:
    """All rows of a moment, sorted by name."""

    time_ns: int
    cameras: tuple[CameraFigures, ...]
    servers: tuple[RingFigures, ...]  # those that are no camera's
    services: tuple[ServiceFigures, ...]


@dataclass(slots=True)
class _Group:
    """What a camera says through its rings, and these."""

    status: CameraStatus
    at_ns: int  # when it said that
    rings: list[RingFigures]


class Collector:
    """Takes one look after the other. `names` are those of cameras and servers, or patterns; None: all."""

    def __init__(self, names: Iterable[str] | None = None) -> None:
        self._names = None if names is None else list(dict.fromkeys(names))
        self._rates = CounterRates(_WINDOW)
        self._cameras: dict[tuple[str, int], CameraFigures] = {}  # as they were in the last look, by pid
        self._services: dict[str, ServiceStatus] = {}  # what each said last
        self._alive: set[str] = set()  # servers that have answered

    def take(self, look: Look) -> Figures:
        """The figures of this moment. For rates it takes two looks."""
        rings = {name: self._ring(name, reply, look) for name, reply in look.servers.items()}
        groups = self._group(rings, look)
        rows = self._known_to_services(groups, look)
        rows += [self._camera(group.status, group.rings, look) for group in groups.values()]
        used = {ring.name for row in rows for ring in row.rings}
        rows += self._lost(rings, used, rows)
        used |= {ring.name for row in rows for ring in row.rings} | self._rings_of_services()
        self._cameras = {(row.name, row.pid): row for row in rows if row.pid is not None}
        self._alive &= set(rings)
        self._alive |= {name for name, reply in look.servers.items() if not isinstance(reply, Silence)}
        self._rates.forget_others()
        # The socket of a server that was killed before we came belongs to nothing.
        servers = [
            ring
            for ring in rings.values()
            if ring.name not in used and (ring.state != GONE or ring.name in self._alive)
        ]
        cameras = [row for row in rows if self._wanted(row.name, *(ring.name for ring in row.rings))]
        servers = [ring for ring in servers if self._wanted(ring.name)]
        return Figures(
            look.time_ns,
            tuple(sorted(cameras, key=lambda row: (_natural(row.name), row.pid or 0))),
            tuple(sorted([*servers, *self._missing(cameras, servers)], key=lambda ring: _natural(ring.name))),
            tuple(_service(name, look.services[name]) for name in sorted(look.services)),
        )

    # ------------------------------------------------------------------------------------- rings

    def _ring(self, name: str, reply: ServerReport | Silence, look: Look) -> RingFigures:
        if isinstance(reply, Silence):
            return RingFigures(name, reply.state, reply.reason)
        at = reply.now_ns / 1e9
        counts = {"published": reply.published, "dropped": reply.dropped, "bytes": reply.bytes}
        rates = self._rates.sample(("ring", name, reply.pid), at, counts)
        fps, byte_rate = rates.rate("published"), rates.rate("bytes")
        last_ns = reply.last_published_ns
        age = max(0.0, (reply.now_ns - last_ns) / 1e9) if last_ns else None
        idle = age is None or age > max(_IDLE, 3 / fps if fps else 0.0)
        outputs = () if reply.camera is None else reply.camera.outputs
        output = next((output for output in outputs if output.name == name), None)
        format = reply.format if output is None else output.format
        return RingFigures(
            name=name,
            state=IDLE if idle else CameraState.LIVE,
            pid=reply.pid,
            format=format,
            stream="" if output is None else output.stream,
            shape=reply.shape,
            fps=fps,
            age=age,
            published=reply.published,
            dropped=reply.dropped,
            drop_rate=rates.rate("dropped"),
            bit_rate=byte_rate * 8 if byte_rate is not None and format in _STREAMS else None,
            readers=reply.readers,
            slots=reply.slots,
            slots_used=reply.slots_used,
            backlog=reply.backlog,
            backlog_outgrown=reply.backlog_outgrown,
            clients=tuple(self._reader(name, reply.pid, at, one, look) for one in reply.clients),
        )

    def _reader(self, ring: str, server: int, at: float, reader: ReaderReport, look: Look) -> ReaderFigures:
        counts = {"received": reader.received, "dropped": reader.dropped}
        rates = self._rates.sample(("reader", ring, server, reader.id), at, counts)
        return ReaderFigures(
            id=reader.id,
            pid=reader.pid,
            process=look.processes.get(reader.pid, ""),
            policy=reader.policy,
            fps=rates.rate("received"),
            received=reader.received,
            dropped=reader.dropped,
            drop_rate=rates.rate("dropped"),
            leases=reader.leases,
        )

    # ----------------------------------------------------------------------------------- cameras

    def _group(self, rings: dict[str, RingFigures], look: Look) -> dict[tuple[int, str], _Group]:
        """What cameras say through their rings: the newest word of each counts."""
        groups: dict[tuple[int, str], _Group] = {}
        for name, reply in look.servers.items():
            if isinstance(reply, Silence) or reply.camera is None:
                continue
            key = (reply.pid, reply.camera.name)
            group = groups.setdefault(key, _Group(reply.camera, reply.now_ns, []))
            group.rings.append(rings[name])
            if reply.now_ns > group.at_ns:
                group.status, group.at_ns = reply.camera, reply.now_ns
        for key, group in groups.items():
            cpus = {stream.name: stream.cpu_s for stream in group.status.streams}
            self._rates.sample(("cpu", *key), group.at_ns / 1e9, cpus)
        return groups

    def _known_to_services(self, groups: dict[tuple[int, str], _Group], look: Look) -> list[CameraFigures]:
        """Rows of the services' cameras; groups of rings that belong to these are taken out."""
        for name, reply in look.services.items():
            if not isinstance(reply, Silence):
                self._services[name] = reply
            elif reply.state == GONE:
                self._services.pop(name, None)
        self._services = {name: last for name, last in self._services.items() if name in look.services}
        rows = []
        for name, service in self._services.items():
            for report in service.cameras:
                its = {output.name for output in report.camera.outputs}
                found = next(
                    (
                        key
                        for key, group in groups.items()
                        if key[1] == report.name and its & {ring.name for ring in group.rings}
                    ),
                    None,
                )
                if found is None:
                    rows.append(self._camera(report.camera, [], look, report, name))
                else:
                    group = groups.pop(found)
                    rows.append(self._camera(group.status, group.rings, look, report, name))
        return rows

    def _rings_of_services(self) -> set[str]:
        """Those that there are or should be."""
        return {
            output.name
            for service in self._services.values()
            for report in service.cameras
            for output in report.camera.outputs
        }

    def _silent(self, names: set[str], look: Look) -> list[RingFigures]:
        """Those of these rings that are there, and do not answer."""
        replies = ((name, look.servers.get(name)) for name in sorted(names))
        return [
            RingFigures(name, reply.state, reply.reason)
            for name, reply in replies
            if isinstance(reply, Silence) and reply.state != GONE
        ]

    def _camera(
        self,
        status: CameraStatus,
        rings: list[RingFigures],
        look: Look,
        report: CameraReport | None = None,
        service: str | None = None,
    ) -> CameraFigures:
        """`status` is the camera's own. `report`, what a service says of it, counts where no ring answers."""
        shown: CameraStatus | CameraReport = status if rings or report is None else report
        state, cause, reason, retry_in = str(shown.state), shown.cause, shown.reason, shown.retry_in
        outputs = {output.name for output in status.outputs}
        rings = [*rings, *self._silent(outputs - {ring.name for ring in rings}, look)]
        pid = next((ring.pid for ring in rings if ring.pid is not None), None)
        if rings and pid is None:
            state, cause, reason, retry_in = SILENT, None, rings[0].reason, None
        current = bool(rings) and state != SILENT
        if not current and report is not None:
            current = report.current
        streams = tuple(
            self._stream(status, stream, rings, look, pid, state=None if current else state)
            for stream in status.streams
        )
        cpus = [stream.cpu for stream in streams if stream.cpu is not None]
        cpu = sum(cpus) if cpus else None
        if pid is None and report is not None and state != SILENT:
            cpu = report.cpu
        worker = None if report is None else report.worker
        if pid is None and worker is not None:
            pid = worker.pid
        recording = None if report is None else report.recording
        main = streams[0]
        last_ns = status.last_packet_ns
        return CameraFigures(
            name=status.name,
            service=service,
            url=status.url,
            state=state,
            cause=cause,
            reason=reason,
            retry_in=retry_in,
            since_ns=shown.since_ns,
            codec=status.codec,
            width=status.width,
            height=status.height,
            fps=main.fps,
            age=max(0.0, (look.time_ns - last_ns) / 1e9) if last_ns else None,
            bit_rate=main.bit_rate,
            key_interval=main.key_interval,
            sound=status.sound.codec if status.sound.state in (SoundState.LIVE, SoundState.IDLE) else "",
            attempts=status.attempts,
            reconnects=status.reconnects,
            errors=status.errors,
            packets=status.packets,
            decoded=status.decoded,
            cpu=cpu,
            pid=pid,
            restarts=None if worker is None else worker.restarts,
            last_end=None if worker is None else worker.last_end,
            last_exit="" if worker is None else worker.last_exit,
            rss=None if worker is None else worker.rss,
            recording=recording,
            stored=None if report is None else report.stored,
            warnings=status.warnings,
            streams=streams,
            rings=tuple(sorted(rings, key=lambda ring: _natural(ring.name))),
        )

    def _stream(
        self,
        camera: CameraStatus,
        stream: StreamStatus,
        rings: list[RingFigures],
        look: Look,
        pid: int | None,
        state: str | None,
    ) -> StreamFigures:
        """`state`: the camera's, which counts where the stream's own is old."""
        own = state is None
        shown = str(stream.state) if state is None else state
        last_ns = stream.last_packet_ns
        rates = [
            ring.bit_rate
            for ring in rings
            if ring.stream == stream.name and ring.format in ("fmp4", "packets") and ring.bit_rate
        ]
        return StreamFigures(
            name=stream.name,
            url=stream.url,
            state=shown,
            cause=stream.cause if own else None,
            reason=stream.reason if own else "",
            retry_in=stream.retry_in if own else None,
            since_ns=stream.since_ns,
            codec=stream.codec,
            width=stream.width,
            height=stream.height,
            fps=stream.fps if shown == CameraState.LIVE else 0.0 if shown == CameraState.STALLED else None,
            age=max(0.0, (look.time_ns - last_ns) / 1e9) if last_ns else None,
            bit_rate=rates[0] if rates else None,
            key_interval=stream.key_interval or None,
            attempts=stream.attempts,
            reconnects=stream.reconnects,
            errors=stream.errors,
            packets=stream.packets,
            decoded=stream.decoded,
            cpu=None if pid is None else self._rates.rate(("cpu", pid, camera.name), stream.name),
        )

    def _lost(
        self, rings: dict[str, RingFigures], used: set[str], rows: list[CameraFigures]
    ) -> list[CameraFigures]:
        """Cameras that we have seen, whose rings are there still and say nothing."""
        there = {row.name for row in rows}
        lost = []
        for camera in self._cameras.values():
            mine = [rings[ring.name] for ring in camera.rings if ring.name in rings]
            silent = [ring for ring in mine if ring.pid is None and ring.name not in used]
            if camera.name in there or not silent or len(silent) < len(mine):
                continue
            gone = silent[0].state == GONE
            reason = f"its process ({camera.pid}) has died" if gone else silent[0].reason
            lost.append(
                _without_news(
                    camera,
                    silent[0].state,
                    reason,
                    streams=tuple(_without_news(one, silent[0].state, "") for one in camera.streams),
                    rings=tuple(silent),
                )
            )
        return lost

    # ------------------------------------------------------------------------------------- names

    def _wanted(self, *names: str) -> bool:
        if self._names is None:  # rings of events only where they are asked for
            return not all(name.endswith(EVENTS) for name in names)
        return any(matches(name, want) for want in self._names for name in names)

    def _missing(self, cameras: list[CameraFigures], servers: list[RingFigures]) -> list[RingFigures]:
        there = {camera.name for camera in cameras} | {server.name for server in servers}
        there |= {ring.name for camera in cameras for ring in camera.rings}
        return [
            RingFigures(name, MISSING)
            for name in self._names or ()
            if not set(name) & set("*?[") and name not in there
        ]


def _without_news(source: S, state: str, reason: str, **more: Any) -> S:
    return replace(
        source,
        state=state,
        reason=reason,
        cause=None,
        retry_in=None,
        fps=None,
        cpu=None,
        bit_rate=None,
        **more,
    )


def _service(name: str, reply: ServiceStatus | Silence) -> ServiceFigures:
    if isinstance(reply, Silence):
        return ServiceFigures(name, None, reply.reason or reply.state, None)
    return ServiceFigures(name, reply.pid, "", reply.recordings)


def _natural(name: str) -> list[tuple[str, int]]:
    """demo2 before demo10, wherever the number is."""
    parts = re.split(r"(\d+)", name)
    return [(text, int(number or 0)) for text, number in zip(parts[::2], [*parts[1::2], ""], strict=True)]
