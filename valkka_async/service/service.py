# SPDX-License-Identifier: MIT
"""Service: the cameras of a config, looked after, recorded and told about."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Coroutine, Iterable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

from valkka_async import __version__
from valkka_async.camera.spec import CameraSpec
from valkka_async.camera.status import CameraState, CameraStatus, StreamStatus
from valkka_async.camera.workers.status import SupervisedStatus
from valkka_async.camera.workers.supervisor import Supervisor
from valkka_async.errors import ValkkaError
from valkka_async.rates import CounterRates
from valkka_async.record.archive import Archive, Kept, index_of
from valkka_async.record.cause import RecordingCause
from valkka_async.record.pattern import Pattern
from valkka_async.record.retention import Keep
from valkka_async.ring.events import EventCode
from valkka_async.service.chronicle import Chronicle
from valkka_async.service.config.config import Config
from valkka_async.service.config.config import Keep as KeepConfig
from valkka_async.service.hearing import Hearing
from valkka_async.service.herald import Herald
from valkka_async.service.hooks import Hooks
from valkka_async.service.outages import Outages
from valkka_async.service.recordings import Plan, Recordings, unrecordable
from valkka_async.service.status import CameraReport, RecordingStatus, ServiceStatus

_LOOK = 0.25  # s between looks at the cameras
_RATES = 3.0  # s over which rates are measured; a worker tells its counts each second
_CPU, _RING = "cpu", "ring "  # names of counters
# Keys of a config that are for all cameras: some take effect with the next start of the service.
_SETTINGS = ("recordings", "keep", "on")
_RESTART = ("name", "workers")

log = logging.getLogger("valkka_async.service")


@dataclass(frozen=True, slots=True)
class Changes:
    """What apply() did: names of cameras, and keys of the config. `restart` has the keys that take effect
    with the next start only."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed or self.settings or self.restart)

    def __str__(self) -> str:
        parts = [
            f"{kind} {', '.join(names)}"
            for kind in ("added", "changed", "removed")
            if (names := getattr(self, kind))
        ]
        if self.settings:
            parts.append(f"new settings of {', '.join(self.settings)}")
        if self.restart:
            parts.append(f"restart it for the change of {', '.join(self.restart)}")
        return "; ".join(parts) or "nothing has changed"


class Service:
    """Runs the cameras of a config::

        async with Service(config) as service:
            ...
            print(service.status())

    Entering starts them and does not wait for them: `ready` says when all have been tried. Leaving completes
    recordings, closes the cameras and ends their processes, which takes `config.workers.stop_timeout` seconds
    and some, at most. It belongs to the event loop in which it is entered.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._first = config  # what needs a restart is in force as it says
        self._complete = config  # the last one of which all was done
        self._specs: dict[str, CameraSpec] = {}  # of the config
        self._supervisor: Supervisor | None = None
        self._archive = Archive(index_of(config.recordings, config.name))
        self._herald = Herald(config.name)
        self._recordings = Recordings(self._herald.journal(self._archive.journal))
        self._hearing = Hearing("events")
        self._chronicle = Chronicle(self._archive.happened, lambda: self._specs)
        self._hooks = Hooks(config.name, self._hearing)
        self._rates = CounterRates(_RATES)
        self._sampled: dict[str, CameraStatus] = {}
        self._states: dict[str, CameraState] = {}
        self._outages = Outages()
        self._stuck: dict[str, RecordingCause] = {}  # why recordings fail whose attempts go on
        self._since_ns = time.time_ns()
        self._applying = asyncio.Lock()
        self._adding: set[asyncio.Task[None]] = set()
        self._working: set[asyncio.Task[None]] = set()  # cameras that are being added, changed or removed
        self._look_task: asyncio.Task[None] | None = None

    # -------------------------------------------------------------------------------- telling

    @property
    def name(self) -> str:
        """The service's name, which its control socket has too."""
        return self._first.name

    @property
    def config(self) -> Config:
        """What is in force, but for what needs a restart."""
        return self._config

    @property
    def archive(self) -> Archive:
        """The recordings that there are."""
        return self._archive

    @property
    def ready(self) -> bool:
        """Has every camera been started, whether it could be opened or not?"""
        return self._supervisor is not None and not self._adding

    async def started(self) -> None:
        """Wait until it is `ready`: some seconds, while processes start. May be cancelled."""
        while self._adding:
            await asyncio.wait(list(self._adding))

    def status(self) -> ServiceStatus:
        """How all is, without credentials. Figures of a camera are up to a second old. Before it is entered
        it has no cameras, but its name may be claimed, and others may ask already."""
        statuses = {} if self._supervisor is None else self._supervisor.status()
        return ServiceStatus(
            name=self.name,
            version=__version__,
            pid=os.getpid(),
            now_ns=time.time_ns(),
            since_ns=self._since_ns,
            ready=self.ready,
            # In the order of the config; one that is being added or removed may be missing.
            cameras=tuple(self._report(statuses[name]) for name in self._specs if name in statuses),
            recordings=self._archive.status(),
            hooks=self._hooks.status(),
            page=None,
        )

    def _report(self, status: SupervisedStatus) -> CameraReport:
        name, now = status.name, time.monotonic()
        rings = {output.name for output in self._specs[name].outputs}
        config = self._config.cameras.get(name)
        live = config.live_ring(name) if config is not None and config.live else ""
        still = config.still_ring(name) if config is not None and config.live else ""
        last_ns = status.camera.last_packet_ns
        return CameraReport(
            name=name,
            title=config.title if config is not None else "",
            group=config.group if config is not None else "",
            state=status.state,
            cause=status.cause,
            reason=status.reason,
            since_ns=status.since_ns,
            retry_in=status.retry_in,
            age=max(0.0, (time.time_ns() - last_ns) / 1e9) if last_ns else None,
            cpu=self._rates.rate(name, _CPU, now) or 0.0,
            ring_fps={ring: self._rates.rate(name, _RING + ring, now) or 0.0 for ring in sorted(rings)},
            live=live if live in rings else None,
            still=still if still in rings else None,
            recording=self._recording(name, status.camera),
            stored=self._archive.stored(name),
            camera=status.camera,
            worker=status.worker,
        )

    def _recording(self, name: str, camera: CameraStatus) -> RecordingStatus | None:
        stream = self._recorded(camera)
        if stream is None:
            return self._recordings.status(name)
        return self._recordings.status(name, stream.codec, stream.last_packet_ns)

    def _recorded(self, camera: CameraStatus) -> StreamStatus | None:
        """The stream of a camera that is or would be recorded."""
        config = self._config.cameras.get(camera.name)
        return camera.stream_of(config.record_ring(camera.name)) if config is not None else None

    @property
    def _supervised(self) -> Supervisor:
        assert self._supervisor is not None, "the service was not entered"
        return self._supervisor

    # ------------------------------------------------------------------------------- changing

    async def set_recording(self, camera: str, on: bool) -> RecordingStatus | None:
        """Begin or end the recording of a camera; how it is then, as in `status()`.

        Raises KeyError when there is no such camera, ValkkaError when it cannot be. Cancelling leaves a
        recording ending by itself.
        """
        plan = _plan(self._config, camera)
        if plan.always:
            if on:
                return self._recording(camera, self._supervised.status()[camera].camera)
            raise ValkkaError(f"{camera} is always recorded: change `record` in the config")
        if not on:
            await self._recordings.stop(camera)
            return None
        if plan.ring not in {output.name for output in self._specs[camera].outputs}:
            raise ValkkaError(f"{camera} cannot be recorded: set `live` or `record` in the config")
        stream = self._recorded(self._supervised.status()[camera].camera)
        if stream is not None and (why := unrecordable(stream.codec)):
            raise ValkkaError(f"{camera} cannot be recorded: {why}")
        try:
            self._recordings.start(camera, plan)
        except ValueError as e:
            raise ValkkaError(f"recordings: {e}") from None
        return self._recordings.status(camera)

    def record_event(self, camera: str, before: float | None = None, after: float | None = None) -> None:
        """Record what happens now, from `before` seconds ago until `after` seconds from now, of a camera with
        ``record: {on: event}``, whose config says how many seconds where this does not. Returns at once.

        Raises KeyError when there is no such camera, ValkkaError when it cannot be, ValueError.
        """
        _plan(self._config, camera)
        self._recordings.clip(camera, before, after)
        self._herald.emit(EventCode.RECORDING_EVENT, camera, before=before, after=after)

    async def apply(self, config: Config) -> Changes:
        """Change over to another config, touching only what differs; cameras change side by side.

        Raises ValkkaError for a config that cannot be applied, and then nothing has changed. Cancelling
        leaves some of it undone, and the next apply(), of whatever config, does the rest.
        """
        async with self._applying:
            plans, specs = _checked(config)
            if (
                self._working
            ):  # what an apply() before has left: neither change nor remove it at the same time
                await asyncio.wait(list(self._working))
            return await self._apply(config, specs, plans)

    async def _apply(self, config: Config, specs: dict[str, CameraSpec], plans: dict[str, Plan]) -> Changes:
        supervisor = self._supervised
        there = supervisor.specs()  # and not what the config before wanted: that may not have been completed
        before = self._complete
        self._config, self._specs = config, specs
        added = [name for name in specs if name not in there]
        removed = [name for name in there if name not in specs]
        other = [name for name in specs if name in there and specs[name] != there[name]]
        changed = [
            name
            for name in specs
            if name in there and (name in other or before.cameras.get(name) != config.cameras[name])
        ]

        await asyncio.gather(*(self._recordings.stop(name) for name in removed))
        await self._wait(self._work(self._remove(name), f"remove {name}") for name in removed)
        exchanged: list[str] = []
        await self._wait(self._work(self._change(specs[name], exchanged), f"change {name}") for name in other)
        # Cameras that exchange their rings: none of them can be the first to have the other's.
        await self._wait(self._work(self._remove(name), f"remove {name}") for name in exchanged)
        await self._wait(self._add(specs[name]) for name in (*added, *exchanged))
        self._keep(config)
        await self._recordings.follow(plans)
        await self._hooks.follow(config.on)
        self._complete = config
        changes = Changes(
            tuple(added),
            tuple(changed),
            tuple(removed),
            tuple(key for key in _SETTINGS if getattr(config, key) != getattr(before, key)),
            tuple(key for key in _RESTART if getattr(config, key) != getattr(self._first, key)),
        )
        if changes:
            lists = {key: list(value) for key, value in asdict(changes).items()}
            self._herald.emit(EventCode.SERVICE_RELOADED, self.name, str(changes), **lists)
        return changes

    def _work(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        """A task for something that is to be done also when apply() is cancelled."""
        task = asyncio.create_task(work, name=name)
        self._working.add(task)
        task.add_done_callback(self._worked)
        return task

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        self._adding.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: %s", task.get_name(), error)

    async def _wait(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        if begun := list(tasks):
            await asyncio.wait(begun)

    def _add(self, spec: CameraSpec) -> asyncio.Task[None]:
        task = self._work(self._supervised.add(spec), f"add {spec.name}")
        self._adding.add(task)
        return task

    async def _change(self, spec: CameraSpec, exchanged: list[str]) -> None:
        try:
            await self._supervised.change(spec)
        except ValueError:  # another camera has one of these rings
            exchanged.append(spec.name)

    async def _remove(self, name: str) -> None:
        try:
            await self._supervised.remove(name)
        except ValueError:  # gone already
            pass
        if self._states.pop(name, None) is not None:
            self._outages.forget(name)
            log.info("%s: removed", name, extra={"camera": name})
            self._herald.removed(name)

    def _keep(self, config: Config) -> None:
        """Tell the archive which recordings there are, and how long they are kept."""
        cameras = {}
        for name, camera in config.cameras.items():
            keep = camera.record.keep if camera.record is not None else None
            cameras[name] = Kept(Pattern(_pattern(config, name), name), _bounds(keep))
        self._archive.follow(
            cameras,
            _bounds(config.keep),
            lambda name: Pattern(config.recordings.replace("{name}", name), name),
        )

    # ------------------------------------------------------------------------------- looking

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            now = time.monotonic()
            statuses = self._supervised.status()
            for name, status in statuses.items():
                self._sample(name, status.camera, now)
                if self._states.get(name) != status.state:
                    self._states[name] = status.state
                    self._outages.tell(status)
                self._herald.camera(status)
                recording = self._recording(name, status.camera)
                self._tell_stuck(name, recording)
                self._herald.recording(name, recording)
            self._herald.archive(self._archive.status())
            if self.ready:
                self._herald.started()
            for gone in self._sampled.keys() - statuses.keys():
                del self._sampled[gone]

    def _tell_stuck(self, name: str, recording: RecordingStatus | None) -> None:
        """Log once that nothing is written, where no attempt ends by an error and says so."""
        goes_on = recording is not None and recording.active and recording.retry_in is None
        error = recording.error if recording is not None and goes_on else None
        cause = None if error is None else error.cause
        if cause not in (RecordingCause.STUCK, RecordingCause.FORMAT):
            self._stuck.pop(name, None)
        elif error is not None and self._stuck.get(name) is not cause:
            self._stuck[name] = error.cause
            log.error("%s: recording failed: %s", name, error.text, extra={"camera": name})

    def _sample(self, name: str, camera: CameraStatus, now: float) -> None:
        """Note the counts, if there is news of them."""
        if self._sampled.get(name) is not camera:
            self._sampled[name] = camera
            rings = {_RING + output.name: float(output.published) for output in camera.outputs}
            self._rates.sample(name, now, rings | {_CPU: camera.cpu_s})

    # ------------------------------------------------------------------------- begin and end

    async def __aenter__(self) -> Self:
        workers = self._config.workers
        plans, self._specs = _checked(self._config)
        self._herald.open()
        self._supervisor = Supervisor(
            group_size=workers.group_size,
            restart_max=workers.restart_max,
            hang_timeout=workers.hang_timeout,
            stop_timeout=workers.stop_timeout,
            on_event=self._herald.publish,
        )
        self._since_ns = time.time_ns()
        try:
            await self._hearing.join(self._chronicle.put)
            await self._hooks.follow(self._config.on)
            for spec in self._specs.values():
                self._add(spec)
            await asyncio.sleep(0)  # add() begins: from here on status() has them all
            await self._archive.__aenter__()
            self._keep(self._config)
            await self._recordings.follow(plans)
        except BaseException:
            await self.aclose()
            raise
        self._look_task = asyncio.create_task(self._look(), name="look at cameras")
        return self

    async def aclose(self) -> None:
        """Complete recordings, close cameras, end their processes. Idempotent. Cancelling kills the processes
        at once."""
        if self._look_task is not None:
            self._look_task.cancel()
            await asyncio.wait([self._look_task])
        try:
            if self._supervisor is not None:
                self._herald.emit(EventCode.SERVICE_STOPPING, self.name)
            await self._recordings.aclose()
            await self._archive.aclose()
        finally:
            try:
                if self._supervisor is not None:
                    await self._supervisor.aclose()
                await self._wait(self._working)
                await self._hooks.aclose()
            finally:
                self._herald.close()
                await self._hearing.aclose()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _checked(config: Config) -> tuple[dict[str, Plan], dict[str, CameraSpec]]:
    """All that a config asks for. Raises ValkkaError before anything is touched."""
    specs = config.specs()
    plans = {name: _plan(config, name) for name in specs}
    for name, plan in plans.items():
        try:
            plan.check()
        except ValueError as e:
            raise ValkkaError(f"recordings of {name}: {e}") from None
    return plans, specs


def _plan(config: Config, name: str) -> Plan:
    """How a camera is recorded. Raises KeyError when there is no such camera."""
    camera = config.cameras[name]
    if not camera.enabled:
        raise KeyError(name)
    record = camera.record
    return Plan(
        ring=camera.record_ring(name),
        pattern=_pattern(config, name),
        seconds=record.seconds if record is not None else None,
        max_bytes=record.max_bytes if record is not None else None,
        always=record is not None,
        before=record.before if record is not None and record.on == "event" else None,
        after=record.after if record is not None else 0.0,
    )


def _pattern(config: Config, name: str) -> str:
    record = config.cameras[name].record
    pattern = (record.path if record is not None else None) or config.recordings
    return pattern.replace("{name}", name)  # a recorder's own {name} is its ring's


def _bounds(keep: KeepConfig | None) -> Keep:
    return Keep() if keep is None else Keep(keep.age, keep.size, keep.free)
