# SPDX-License-Identifier: MIT
"""Service: the cameras of a config, looked after, recorded and told about."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from valkka_async import __version__
from valkka_async.camera.spec import CameraSpec
from valkka_async.camera.status import CameraState, CameraStatus
from valkka_async.camera.workers.supervisor import Supervisor, WorkerStatus
from valkka_async.errors import ValkkaError
from valkka_async.service.config.config import Config
from valkka_async.service.rates import Rates
from valkka_async.service.recordings import Plan, Recordings

_LOOK = 0.25  # s between looks at the cameras
_TROUBLE = {CameraState.STALLED, CameraState.WAITING, CameraState.FAILED}

log = logging.getLogger("valkka_async.service")


@dataclass(frozen=True, slots=True)
class Changes:
    """What apply() did: names of cameras; `restart` has what comes into force with the next start only."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed or self.restart)

    def __str__(self) -> str:
        parts = [
            f"{kind} {', '.join(names)}"
            for kind in ("added", "changed", "removed")
            if (names := getattr(self, kind))
        ]
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
        self._specs: dict[str, CameraSpec] = {}
        self._supervisor: Supervisor | None = None
        self._recordings = Recordings()
        self._rates: dict[str, Rates] = {}
        self._states: dict[str, str] = {}
        self._since_ns = time.time_ns()
        self._applying = asyncio.Lock()
        self._adding: set[asyncio.Task[None]] = set()
        self._look_task: asyncio.Task[None] | None = None

    # -------------------------------------------------------------------------------- telling

    @property
    def name(self) -> str:
        """The service's name, which its control socket has too."""
        return self._config.name

    @property
    def config(self) -> Config:
        """What is in force, but for what needs a restart."""
        return self._config

    @property
    def ready(self) -> bool:
        """Has every camera been started, whether it could be opened or not?"""
        return self._supervisor is not None and not self._adding

    async def started(self) -> None:
        """Wait until it is `ready`: some seconds, while processes start. May be cancelled."""
        while self._adding:
            await asyncio.wait(list(self._adding))

    def status(self) -> dict[str, Any]:
        """How all is, as data for JSON, without credentials. Figures of a camera are up to a second old."""
        assert self._supervisor is not None
        workers = {name: worker for worker in self._supervisor.workers() for name in worker.cameras}
        statuses = self._supervisor.status()
        # In the order of the config; one that is being added or changed may be missing.
        cameras = [
            self._camera(statuses[name], workers.get(name)) for name in self._specs if name in statuses
        ]
        return {
            "name": self.name,
            "version": __version__,
            "pid": os.getpid(),
            "now_ns": time.time_ns(),
            "since_ns": self._since_ns,
            "ready": self.ready,
            "cameras": cameras,
        }

    def _camera(self, status: CameraStatus, worker: WorkerStatus | None) -> dict[str, Any]:
        name, now = status.name, time.monotonic()
        rates = self._rates.setdefault(name, Rates())
        rings = {output.name: output for output in self._specs[name].outputs}
        camera = self._config.cameras.get(name)
        values = asdict(status)
        for output in values["outputs"]:
            output["fps"] = rates.fps(output["name"], now)
        age = (time.time_ns() - status.last_packet_ns) / 1e9 if status.last_packet_ns else None
        live, still = f"{name}.fmp4", f"{name}.jpeg"
        shown = camera is not None and camera.live
        return values | {
            "title": camera.title if camera is not None else "",
            "age": None if age is None else max(0.0, age),
            "cpu": rates.cpu(now),
            "live": live if shown and live in rings else None,
            "still": still if shown and still in rings else None,
            "recording": self._recordings.status(name),
            "worker": None if worker is None else _worker(worker),
        }

    # ------------------------------------------------------------------------------- changing

    async def set_recording(self, camera: str, on: bool) -> dict[str, Any] | None:
        """Begin or end the recording of a camera; how it is then, as in `status()`.

        Raises KeyError when there is no such camera, ValkkaError when it cannot be. Cancelling leaves a
        recording ending by itself.
        """
        plan = self._plan(camera)
        if plan.always:
            if on:
                return self._recordings.status(camera)
            raise ValkkaError(f"{camera} is always recorded: change `record` in the config")
        if not on:
            await self._recordings.stop(camera)
            return None
        if plan.ring not in {output.name for output in self._specs[camera].outputs}:
            raise ValkkaError(f"{camera} cannot be recorded: set `live` or `record` in the config")
        codec = self._status(camera).codec
        if codec not in ("", "h264", "hevc"):
            raise ValkkaError(f"{camera} sends {codec}, and only H.264 and H.265 can be recorded")
        try:
            self._recordings.start(camera, plan)
        except ValueError as e:
            raise ValkkaError(f"recordings: {e}") from None
        return self._recordings.status(camera)

    async def apply(self, config: Config) -> Changes:
        """Go over to another config, touching only what differs. Cancelling it leaves some of that undone;
        the next apply() does the rest."""
        async with self._applying:
            return await self._apply(config)

    async def _apply(self, config: Config) -> Changes:
        assert self._supervisor is not None
        before, self._config = self._config, config
        restart = tuple(key for key in ("name", "workers") if getattr(config, key) != getattr(before, key))
        wanted = config.specs()
        if self._adding:  # a camera that is still being added can be neither changed nor removed in peace
            await asyncio.wait(list(self._adding))
        there = self._supervisor.status()
        removed = [name for name in there if name not in wanted]
        added = [name for name in wanted if name not in there]
        changed = [name for name in wanted if name in there and wanted[name] != self._specs.get(name)]
        for name in removed:
            await self._recordings.stop(name)
        await asyncio.gather(*(self._remove(name) for name in removed))
        self._specs = wanted
        again = []
        for name in changed:
            try:
                await self._supervisor.change(wanted[name])
            except ValueError:  # two cameras exchange their rings: neither can be first
                await self._remove(name)
                again.append(name)
        for name in (*again, *added):
            self._add(wanted[name])
        if self._adding:
            await asyncio.wait(list(self._adding))
        await self._recordings.follow(self._plans())
        return Changes(tuple(added), tuple(changed), tuple(removed), restart)

    def _add(self, spec: CameraSpec) -> None:
        assert self._supervisor is not None
        task = asyncio.create_task(self._supervisor.add(spec), name=f"add {spec.name}")
        self._adding.add(task)
        task.add_done_callback(self._added)

    def _added(self, task: asyncio.Task[None]) -> None:
        self._adding.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: %s", task.get_name(), error)

    async def _remove(self, name: str) -> None:
        assert self._supervisor is not None
        try:
            await self._supervisor.remove(name)
        except ValueError:  # gone already
            pass
        self._rates.pop(name, None)
        if self._states.pop(name, None) is not None:
            log.info("%s: removed", name)

    def _plan(self, name: str) -> Plan:
        camera = self._config.cameras[name]
        if name not in self._specs:
            raise KeyError(name)
        record = camera.record
        pattern = (record.path if record is not None else None) or self._config.recordings
        return Plan(
            ring=f"{name}.fmp4",
            pattern=pattern.replace("{name}", name),  # a recorder's own {name} is its ring's
            seconds=record.seconds if record is not None else None,
            max_bytes=record.max_bytes if record is not None else None,
            always=record is not None,
        )

    def _plans(self) -> dict[str, Plan]:
        return {name: self._plan(name) for name in self._specs}

    # ------------------------------------------------------------------------------- looking

    def _status(self, name: str) -> CameraStatus:
        assert self._supervisor is not None
        return self._supervisor.status()[name]

    async def _look(self) -> None:
        assert self._supervisor is not None
        while True:
            await asyncio.sleep(_LOOK)
            now = time.monotonic()
            for name, status in self._supervisor.status().items():
                self._rates.setdefault(name, Rates()).take(status, now)
                if self._states.get(name) != status.state:
                    self._states[name] = status.state
                    _tell(status)

    # ------------------------------------------------------------------------- begin and end

    async def __aenter__(self) -> Self:
        workers = self._config.workers
        self._supervisor = Supervisor(
            group_size=workers.group_size,
            restart_max=workers.restart_max,
            hang_timeout=workers.hang_timeout,
            stop_timeout=workers.stop_timeout,
        )
        self._since_ns = time.time_ns()
        self._specs = self._config.specs()
        for spec in self._specs.values():
            self._add(spec)
        try:
            await asyncio.sleep(0)  # add() begins: from here on status() has them all
            await self._recordings.follow(self._plans())
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
            await self._recordings.aclose()
        finally:
            if self._supervisor is not None:
                await self._supervisor.aclose()
            if self._adding:
                await asyncio.wait(list(self._adding))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _worker(worker: WorkerStatus) -> dict[str, Any]:
    return {
        "pid": worker.pid,
        "restarts": worker.restarts,
        "last_exit": worker.last_exit,
        "rss": worker.rss,
        "cpu_s": worker.cpu_s,
    }


def _tell(status: CameraStatus) -> None:
    """A camera has come into another state."""
    text = f"{status.name}: {status.state}"
    if status.state == CameraState.LIVE and status.codec:
        text += f", {status.codec} {status.width}x{status.height}"
    if status.reason:
        text += f": {status.reason}"
    log.log(
        logging.WARNING if status.state in _TROUBLE else logging.INFO,
        "%s",
        text,
        extra={"camera": status.name, "state": status.state},
    )
