# SPDX-License-Identifier: MIT
"""What servers and services say of themselves, put together and counted per second. No I/O.

A ring that belongs to a camera says how that camera is; a service says how each of its cameras is, and of one
whose process is gone, with all its rings, nobody else says so. Both together are one row here.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from valkka_async.camera.status import CameraState

# States of what cannot speak for itself, beside those of cameras.
SILENT = "no answer"  # connected, but it does not answer
GONE = "gone"  # its process has died
MISSING = "not running"  # asked for by name
IDLE = "idle"  # a server that is no camera, and publishes nothing now
OTHER = "?"  # it answers, but not what we understand

_WINDOW = 3.0  # s over which rates are measured
_IDLE = 2.0  # s without a frame; slow ones get three times their own interval
_STREAMS = ("fmp4", "packets", "jpeg")  # formats that have a bit rate worth the name

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Silence:
    """In place of an answer: what is wrong, as a state, and in words."""

    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What was to be learned at one moment: the answers by name."""

    time_ns: int  # Unix
    servers: Mapping[str, Values | Silence]
    services: Mapping[str, Values | Silence]
    processes: Mapping[int, str] = field(default_factory=dict)  # names of those that read, by pid


# In all figures None means: not known (yet). Ages are in seconds, rates per second.


@dataclass(frozen=True, slots=True)
class ReaderFigures:
    """A reader of a ring; its counts are what it says itself."""

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
    reason: str
    pid: int | None
    format: str  # "": not known, as of a server that is no camera's
    fps: float | None  # published
    age: float | None  # of the newest frame, since it was published
    published: int | None
    dropped: int | None  # no slot was free
    drop_rate: float | None
    bit_rate: float | None
    readers: int | None
    slots: int | None
    slots_used: int | None
    clients: tuple[ReaderFigures, ...]  # the message has no room for more than some hundred


@dataclass(frozen=True, slots=True)
class CameraFigures:
    """A camera, from its rings, its service, or both."""

    name: str
    service: str | None
    url: str  # without credentials
    state: str
    reason: str
    retry_in: float | None
    since_ns: int | None
    codec: str
    width: int
    height: int
    fps: float | None  # received
    age: float | None  # of the newest packet
    bit_rate: float | None  # known while somebody reads the stream
    key_interval: float | None
    attempts: int | None
    reconnects: int | None
    errors: int | None
    packets: int | None
    decoded: int | None
    cpu: float | None  # of one core, by the camera's thread; 0.5 is half
    pid: int | None
    restarts: int | None  # of its worker, if a service runs it
    last_exit: str  # how the worker before ended
    rss: int | None  # bytes of memory of its worker, which it may share with others
    recording: bool | None
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


@dataclass(frozen=True, slots=True)
class Figures:
    """All rows of a moment, sorted by name."""

    time_ns: int
    cameras: tuple[CameraFigures, ...]
    servers: tuple[RingFigures, ...]  # those that are no camera's
    services: tuple[ServiceFigures, ...]


class Collector:
    """Takes one look after the other. `names` are those of cameras and servers, or patterns; None: all."""

    def __init__(self, names: Iterable[str] | None = None) -> None:
        self._names = None if names is None else list(dict.fromkeys(names))
        self._rates = Rates()
        self._cameras: dict[tuple[str, int], CameraFigures] = {}  # as they were in the last look, by pid
        self._services: dict[str, Values] = {}  # what each said last
        self._alive: set[str] = set()  # servers that have answered

    def take(self, look: Look) -> Figures:
        """The figures of this moment. For rates it takes two looks."""
        rings = {name: self._ring(name, reply, look) for name, reply in look.servers.items()}
        groups = self._group(rings, look)
        rows = self._known_to_services(groups, look)
        rows += [self._camera(values, None, None, mine, look) for values, mine in groups]
        used = {ring.name for row in rows for ring in row.rings}
        rows += self._lost(rings, used, rows)
        used |= {ring.name for row in rows for ring in row.rings} | self._rings_of_services()
        self._cameras = {(row.name, row.pid): row for row in rows if row.pid is not None}
        self._alive &= set(rings)
        self._alive |= {name for name, reply in look.servers.items() if not isinstance(reply, Silence)}
        self._rates.forget_the_rest()
        # The socket of a server that was killed before we came is nobody's.
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

    def _ring(self, name: str, reply: Values | Silence, look: Look) -> RingFigures:
        if isinstance(reply, Silence):
            return _without_figures(name, reply)
        now_ns, last_ns = _int(reply, "now_ns") or 0, _int(reply, "last_published_ns") or 0
        pid = _int(reply, "pid") or 0
        published, dropped = _int(reply, "published"), _int(reply, "dropped")
        at = now_ns / 1e9
        fps, drop_rate, byte_rate = self._rates.take(
            ("ring", name, pid), at, (published or 0, dropped or 0, _int(reply, "bytes") or 0)
        )
        age = max(0.0, (now_ns - last_ns) / 1e9) if last_ns else None
        format = _format(_dict(reply, "camera"), name)
        idle = age is None or age > max(_IDLE, 3 / fps if fps else 0.0)
        return RingFigures(
            name=name,
            state=IDLE if idle else CameraState.LIVE,
            reason="",
            pid=pid,
            format=format,
            fps=fps,
            age=age,
            published=published,
            dropped=dropped,
            drop_rate=drop_rate,
            bit_rate=byte_rate * 8 if byte_rate is not None and format in ("", *_STREAMS) else None,
            readers=_int(reply, "readers"),
            slots=_int(reply, "slots"),
            slots_used=_int(reply, "slots_used"),
            clients=tuple(self._reader(name, pid, at, c, look) for c in _dicts(reply, "clients")),
        )

    def _reader(self, ring: str, server: int, at: float, values: Values, look: Look) -> ReaderFigures:
        id, pid = _int(values, "id") or 0, _int(values, "pid") or 0
        received, dropped = _int(values, "received") or 0, _int(values, "dropped") or 0
        fps, drop_rate = self._rates.take(("reader", ring, server, id), at, (received, dropped))
        return ReaderFigures(
            id=id,
            pid=pid,
            process=look.processes.get(pid, ""),
            policy=_str(values, "policy"),
            fps=fps,
            received=received,
            dropped=dropped,
            drop_rate=drop_rate,
            leases=_int(values, "leases") or 0,
        )

    # ----------------------------------------------------------------------------------- cameras

    def _group(self, rings: dict[str, RingFigures], look: Look) -> list[tuple[Values, list[RingFigures]]]:
        """What cameras say through their rings: the newest word of each, and the rings."""
        groups: dict[tuple[int, str], tuple[Values, list[RingFigures]]] = {}
        newest: dict[tuple[int, str], int] = {}
        for ring in rings.values():
            reply = look.servers[ring.name]
            camera = None if isinstance(reply, Silence) else _dict(reply, "camera")
            if isinstance(reply, Silence) or not camera or not _str(camera, "name"):
                continue
            key = (ring.pid or 0, _str(camera, "name"))
            now_ns = _int(reply, "now_ns") or 0
            mine = groups[key][1] if key in groups else []
            if now_ns >= newest.get(key, 0):
                newest[key] = now_ns
                groups[key] = (camera, mine)
                self._rates.take(("cpu", *key), now_ns / 1e9, (_float(camera, "cpu_s") or 0.0,))
            mine.append(ring)
        return list(groups.values())

    def _known_to_services(
        self, groups: list[tuple[Values, list[RingFigures]]], look: Look
    ) -> list[CameraFigures]:
        """Rows of the services' cameras; groups of rings that belong to these are taken out."""
        rows = []
        for name, reply in look.services.items():
            if isinstance(reply, Silence):
                if reply.state == GONE:
                    self._services.pop(name, None)
            else:
                self._services[name] = reply
        for name in list(self._services):
            if name not in look.services:
                del self._services[name]
        for name, status in self._services.items():
            for camera in map(_flat, _dicts(status, "cameras")):
                its = {_str(output, "name") for output in _dicts(camera, "outputs")}
                found = next(
                    (
                        (values, mine)
                        for values, mine in groups
                        if _str(values, "name") == _str(camera, "name") and its & {ring.name for ring in mine}
                    ),
                    None,
                )
                if found is not None:
                    groups.remove(found)
                    rows.append(self._camera(found[0], camera, name, found[1], look))
                else:
                    rows.append(self._camera(camera, camera, name, [], look))
        return rows

    def _rings_of_services(self) -> set[str]:
        """Those that there are or should be."""
        return {
            _str(output, "name")
            for status in self._services.values()
            for camera in map(_flat, _dicts(status, "cameras"))
            for output in _dicts(camera, "outputs")
        }

    def _silent(self, names: set[str], look: Look) -> list[RingFigures]:
        """Those of these rings that are there, and do not answer."""
        replies = ((name, look.servers.get(name)) for name in sorted(names))
        return [
            _without_figures(name, reply)
            for name, reply in replies
            if isinstance(reply, Silence) and reply.state != GONE
        ]

    def _camera(
        self,
        values: Values,
        known: Values | None,
        service: str | None,
        rings: list[RingFigures],
        look: Look,
    ) -> CameraFigures:
        """`values` is the camera's status; `known` what a service knows besides."""
        state, reason = _str(values, "state"), _str(values, "reason")
        worker = _dict(known or {}, "worker") or {}
        outputs = {_str(output, "name") for output in _dicts(values, "outputs")}
        rings = [*rings, *self._silent(outputs - {ring.name for ring in rings}, look)]
        answers = [ring for ring in rings if ring.pid is not None]
        if rings and not answers:
            state, reason = SILENT, rings[0].reason
        pid = answers[0].pid if answers else _int(worker, "pid")
        if answers:
            (cpu,) = self._rates.get(("cpu", pid or 0, _str(values, "name")), 1)
        else:
            cpu = _float(known or {}, "cpu") if state != SILENT else None
        last_ns = _int(values, "last_packet_ns")
        fps = (
            _float(values, "fps")
            if state == CameraState.LIVE
            else 0.0
            if state == CameraState.STALLED
            else None
        )
        streams = [r.bit_rate for r in rings if r.format in ("fmp4", "packets") and r.bit_rate]
        return CameraFigures(
            name=_str(values, "name"),
            service=service,
            url=_str(values, "url"),
            state=state,
            reason=reason,
            retry_in=_float(values, "retry_in") if state != SILENT else None,
            since_ns=_int(values, "since_ns"),
            codec=_str(values, "codec"),
            width=_int(values, "width") or 0,
            height=_int(values, "height") or 0,
            fps=fps,
            age=max(0.0, (look.time_ns - last_ns) / 1e9) if last_ns else None,
            bit_rate=streams[0] if streams else None,
            key_interval=_float(values, "key_interval") or None,
            attempts=_int(values, "attempts"),
            reconnects=_int(values, "reconnects"),
            errors=_int(values, "errors"),
            packets=_int(values, "packets"),
            decoded=_int(values, "decoded"),
            cpu=cpu,
            pid=pid,
            restarts=_int(worker, "restarts"),
            last_exit=_str(worker, "last_exit"),
            rss=_int(worker, "rss"),
            recording=None if known is None else known.get("recording") is not None,
            rings=tuple(sorted(rings, key=lambda ring: _natural(ring.name))),
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
                replace(
                    camera,
                    state=silent[0].state,
                    reason=reason,
                    retry_in=None,
                    fps=None,
                    cpu=None,
                    bit_rate=None,
                    rings=tuple(silent),
                )
            )
        return lost

    # ------------------------------------------------------------------------------------- names

    def _wanted(self, *names: str) -> bool:
        return self._names is None or any(fnmatchcase(name, want) for want in self._names for name in names)

    def _missing(self, cameras: list[CameraFigures], servers: list[RingFigures]) -> list[RingFigures]:
        there = {camera.name for camera in cameras} | {server.name for server in servers}
        there |= {ring.name for camera in cameras for ring in camera.rings}
        return [
            _without_figures(name, Silence(MISSING))
            for name in self._names or ()
            if not set(name) & set("*?[") and name not in there
        ]


class Rates:
    """Counts that rise, by key, into rates."""

    def __init__(self) -> None:
        self._samples: dict[tuple[object, ...], deque[tuple[float, tuple[float, ...]]]] = {}
        self._taken: set[tuple[object, ...]] = set()

    def take(self, key: tuple[object, ...], at: float, counts: tuple[float, ...]) -> tuple[float | None, ...]:
        """Note the counts of a moment (s, monotonic); one that is noted already is no news. The rates."""
        samples = self._samples.setdefault(key, deque())
        self._taken.add(key)
        if samples and any(now < before for now, before in zip(counts, samples[-1][1], strict=True)):
            samples.clear()  # they begin again
        if not samples or at > samples[-1][0]:
            samples.append((at, counts))
        while len(samples) > 2 and samples[1][0] <= at - _WINDOW:
            samples.popleft()
        return self.get(key, len(counts))

    def get(self, key: tuple[object, ...], count: int) -> tuple[float | None, ...]:
        """The rates of so many counts as there are under this key."""
        samples = self._samples.get(key)
        if samples is None or len(samples) < 2:
            return (None,) * count
        (since, first), (until, last) = samples[0], samples[-1]
        return tuple((b - a) / (until - since) for a, b in zip(first, last, strict=True))

    def forget_the_rest(self) -> None:
        """All that was not taken since the last call."""
        self._samples = {key: samples for key, samples in self._samples.items() if key in self._taken}
        self._taken.clear()


def _flat(report: Values) -> Values:
    """A service's report of a camera, with the camera's own record in it."""
    return {**(_dict(report, "camera") or {}), **report}


def _without_figures(name: str, silence: Silence) -> RingFigures:
    return RingFigures(
        name=name,
        state=silence.state,
        reason=silence.reason,
        pid=None,
        format="",
        fps=None,
        age=None,
        published=None,
        dropped=None,
        drop_rate=None,
        bit_rate=None,
        readers=None,
        slots=None,
        slots_used=None,
        clients=(),
    )


def _service(name: str, reply: Values | Silence) -> ServiceFigures:
    if isinstance(reply, Silence):
        return ServiceFigures(name, None, reply.reason or reply.state)
    return ServiceFigures(name, _int(reply, "pid"), "")


def _format(camera: Values | None, ring: str) -> str:
    """Of a camera's ring."""
    outputs = _dicts(camera or {}, "outputs")
    return next((_str(output, "format") for output in outputs if output.get("name") == ring), "")


def _natural(name: str) -> list[tuple[str, int]]:
    """demo2 before demo10, wherever the number is."""
    parts = re.split(r"(\d+)", name)
    return [(text, int(number or 0)) for text, number in zip(parts[::2], [*parts[1::2], ""], strict=True)]


# What comes from other processes may come from another version: what is not as expected is not there.


def _int(values: Values, key: str) -> int | None:
    value = values.get(key)
    return value if isinstance(value, int) else None


def _float(values: Values, key: str) -> float | None:
    value = values.get(key)
    return float(value) if isinstance(value, int | float) else None


def _str(values: Values, key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) else ""


def _dict(values: Values, key: str) -> Values | None:
    value = values.get(key)
    return value if isinstance(value, dict) else None


def _dicts(values: Values, key: str) -> list[Values]:
    value = values.get(key)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list | tuple) else []
