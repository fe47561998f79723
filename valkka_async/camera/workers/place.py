# SPDX-License-Identifier: MIT
"""A place for worker processes, one after the other, and the cameras that they are to run."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from valkka_async.backoff import Backoff
from valkka_async.camera.spec import CameraSpec
from valkka_async.camera.status import CameraStatus, before_start
from valkka_async.camera.workers.exits import Exit
from valkka_async.camera.workers.messages import Applied, Configure, Happened, Log, Message, Status
from valkka_async.camera.workers.nurseries import Nurseries
from valkka_async.camera.workers.process import Limits, Process
from valkka_async.camera.workers.status import (
    SupervisedStatus,
    WorkerEnd,
    WorkerState,
    WorkerStatus,
    combine,
)
from valkka_async.ring.events import Event, EventCode
from valkka_async.ring.rendezvous import sweep
from valkka_async.timeouts import timeout

_AGAIN = 0.1  # s before a worker that has ended is started again, the first time
_ANSWER = 2.0  # s beyond stop_timeout in which a worker must have done what it was told

log = logging.getLogger("valkka_async.camera")


class Entry:
    """What is known of a camera in a place."""

    def __init__(self, spec: CameraSpec, place: Place) -> None:
        self.spec = spec
        self.place = place
        self.rings = {output.name for output in spec.outputs}  # and those that it had, until they are closed
        self.leaving = False
        self.version = 1  # of the settings
        self.due = math.inf  # on the process's clock, when these settings should be in force
        self.camera = before_start(spec)  # the camera's last word
        self._heard = time.monotonic()  # when it came
        self._pending = True  # told something that is not done
        self._waiting: list[asyncio.Future[None]] = []

    def configure(self, spec: CameraSpec | None) -> None:
        """Other settings, or none: the camera is to go."""
        self.version += 1
        self._pending = True
        if spec is None:
            self.leaving = True
        else:
            self.spec = spec
            self.rings |= {output.name for output in spec.outputs}

    def hear(self, camera: CameraStatus) -> None:
        """Its word."""
        self.camera, self._heard = camera, time.monotonic()

    def status(self) -> SupervisedStatus:
        """With the worker's."""
        return combine(self.camera, self.place.status(), time.monotonic() - self._heard)

    async def settled(self) -> None:
        """Wait until the worker has done what it was told, or has ended."""
        if self._pending:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    def settle(self) -> None:
        """It is done, or nobody is there to do it."""
        self._pending = False
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class Place:
    """Starts a process, looks after it, and starts another one when it ends, after a pause that grows.

    ``on_gone`` is called with each camera that has
    left, ``on_end`` when the place has no more cameras, or is closed, and its process is gone: then `task`
    ends. ``on_event``: with what the worker tells, and with its own end if nobody has asked for that.
    """

    def __init__(
        self,
        limits: Limits,
        nurseries: Nurseries,
        starting: asyncio.Semaphore,
        *,
        on_gone: Callable[[Entry], object],
        on_end: Callable[[Place], object],
        on_event: Callable[[Event], object],
    ) -> None:
        self._limits = limits
        self._nurseries = nurseries
        self._starting = starting
        self._on_gone = on_gone
        self._on_end = on_end
        self._on_event = on_event
        self._entries: dict[str, Entry] = {}
        self._process: Process | None = None
        self._closing = False
        self._wake = asyncio.Event()
        self._backoff = Backoff(_AGAIN, limits.restart_max)
        self._since_ns = time.time_ns()  # when the last process ended
        self._retry_at = 0.0
        self._last: Exit | None = None
        self._restarts = 0
        self._cpu_s = 0.0
        self._rss = 0
        self._loop = asyncio.get_running_loop()
        self.task = asyncio.create_task(self._run(), name="valkka-worker")

    # ------------------------------------------------------------------------------- cameras

    def has_room(self, group_size: int) -> bool:
        """Is this a good place for one more camera? Not if its process has just failed."""
        return not (self._closing or self._waits) and len(self._entries) < group_size

    def put(self, spec: CameraSpec) -> Entry:
        """Take a camera in."""
        entry = self._entries[spec.name] = Entry(spec, self)
        self._tell(entry)
        return entry

    def configure(self, entry: Entry, spec: CameraSpec | None) -> None:
        """Give a camera other settings; None: it is to leave."""
        entry.configure(spec)
        if self._listens:
            self._tell(entry)
        else:  # the process to come begins with what is wanted then
            if spec is not None:
                entry.hear(before_start(spec))
            if entry.leaving or self._waits:
                self._free_rings(entry)
                self._settle(entry)
        if all(one.leaving for one in self._entries.values()):
            self.close()

    def status(self) -> WorkerStatus:
        """How it is, as known here."""
        process, waits = self._process, self._waits
        if self._closing:
            state = WorkerState.STOPPING
        elif waits:
            state = WorkerState.WAITING
        else:
            state = WorkerState.RUNNING if self._listens else WorkerState.STARTING
        return WorkerStatus(
            cameras=tuple(name for name, entry in self._entries.items() if not entry.leaving),
            state=state,
            pid=None if process is None else process.pid,
            since_ns=(process.started_ns if process is not None else 0) or self._since_ns,
            restarts=self._restarts,
            retry_in=max(0.0, self._retry_at - time.monotonic()) if state is WorkerState.WAITING else None,
            last_end=None if self._last is None else self._last.end,
            last_exit="" if self._last is None else self._last.text,
            cpu_s=self._cpu_s,
            rss=self._rss,
        )

    @property
    def _listens(self) -> bool:
        return self._process is not None and self._process.speaks

    @property
    def _waits(self) -> bool:
        """Is there no process because the last one has failed?"""
        return self._process is None and self._last is not None

    def _tell(self, entry: Entry) -> None:
        if self._process is not None and self._process.speaks:
            entry.due = self._process.clock + self._limits.stop_timeout + _ANSWER
            spec = None if entry.leaving else entry.spec
            self._process.send(Configure(entry.spec.name, entry.version, spec))

    def _settle(self, entry: Entry) -> None:
        if entry.leaving:
            self._drop(entry)
        else:
            entry.settle()

    def _drop(self, entry: Entry) -> None:
        self._entries.pop(entry.spec.name, None)
        if not self._listens:
            self._free_rings(entry)
        self._on_gone(entry)
        entry.settle()

    def _free_rings(self, entry: Entry) -> None:
        """No process serves the camera's rings, and one that was killed did not tidy up."""
        wanted = set() if entry.leaving else {output.name for output in entry.spec.outputs}
        for ring in entry.rings - wanted:
            sweep(ring)
        entry.rings = wanted

    # ------------------------------------------------------------------------------ messages

    def _on_hello(self) -> None:
        for entry in self._entries.values():
            self._tell(entry)

    def _on_message(self, message: Message) -> None:
        match message:
            case Status():
                self._on_status(message)
            case Applied():
                self._on_applied(message)
            case Log():
                self._on_log(message)
            case Happened():
                self._on_event(
                    Event(message.code, message.camera, message.time_ns, message.text, message.fields)
                )
            case _:
                self._fail(WorkerEnd.GARBLED, "sent a message that is not for a supervisor")

    def _on_status(self, message: Status) -> None:
        self._cpu_s, self._rss = message.cpu_s, message.rss
        for camera in message.cameras:
            if (entry := self._entries.get(camera.name)) is not None:
                entry.hear(camera)
        for name in message.stuck:
            if name in self._entries:
                self._fail(WorkerEnd.STUCK, f"was stuck in a library, with camera {name!r},")

    def _on_applied(self, message: Applied) -> None:
        entry = self._entries.get(message.name)
        if entry is None or entry.version != message.version:
            return
        entry.due = math.inf
        entry.rings = {output.name for output in entry.spec.outputs}
        if message.camera is not None:
            entry.hear(message.camera)
        self._settle(entry)

    def _on_log(self, message: Log) -> None:
        logger = logging.getLogger(message.name)
        if not logger.isEnabledFor(message.level):
            return
        record = logger.makeRecord(logger.name, message.level, "worker", 0, message.text, (), None)
        record.created = message.created
        record.msecs = int(record.created % 1 * 1000) + 0.0
        record.process = None if self._process is None else self._process.pid
        record.processName = "valkka-worker"
        record.threadName = message.thread
        if message.camera:
            record.camera = message.camera
        logger.handle(record)

    def _on_turn(self) -> None:
        assert self._process is not None
        for entry in self._entries.values():
            if self._process.clock > entry.due:
                name = entry.spec.name
                self._fail(WorkerEnd.OVERDUE, f"did not do what it was told with camera {name!r}")

    def _fail(self, end: WorkerEnd, text: str) -> None:
        assert self._process is not None
        self._process.fail(end, text)

    # ----------------------------------------------------------------------- one process, and the next

    async def _run(self) -> None:
        try:
            while not self._closing:
                how, lived = await self._live()
                if self._closing:
                    if how.words:
                        self._log_end(how, self._process.pid if self._process is not None else None)
                    break
                self._backoff.lived(lived)
                delay = self._backoff.next()
                pid = self._process.pid if self._process is not None else None
                self._log_end(how, pid, f"; starting another one in {delay:.1f} s")
                self._restarts += 1
                self._tell_end(how, pid)
                self._last, self._retry_at = how, time.monotonic() + delay
                self._vacate()
                await self._pause(delay)
        finally:
            self._closing = True
            if self._process is not None:
                await self._process.discard()  # it runs if this was cancelled, because the loop is ending
            self._end()

    def _log_end(self, how: Exit, pid: int | None, then: str = "") -> None:
        """Log how a process ended, in one record: where its threads were stands where a stack does."""
        if not log.isEnabledFor(logging.WARNING):
            return
        names = ", ".join(self._entries)
        text = f"{names or 'no camera'}: worker process {pid or ''}".rstrip() + f" {how.text}{then}"
        extra = {key: value for key, value in (("camera", names), ("signal", how.signal)) if value}
        words = how.words or None
        log.handle(
            log.makeRecord(log.name, logging.WARNING, __file__, 0, text, (), None, extra=extra, sinfo=words)
        )

    def _tell_end(self, how: Exit, pid: int | None) -> None:
        fields = {"pid": pid, "end": str(how.end), "restarts": self._restarts}
        for camera in self._entries:
            text = f"worker process {pid or ''} {how.text}".replace("  ", " ")
            self._on_event(Event(EventCode.WORKER_ENDED, camera, time.time_ns(), text, fields))

    async def _live(self) -> tuple[Exit, float]:
        """One process, from its start to its end; and for how many seconds it was there."""
        self._process = process = Process(
            self._limits,
            self._nurseries,
            on_hello=self._on_hello,
            on_message=self._on_message,
            on_turn=self._on_turn,
        )
        if self._closing:
            process.stop()
        try:
            return await process.run(self._starting), process.clock
        except Exception:
            log.exception("an error in the supervisor")
            await process.discard()
            return Exit(WorkerEnd.INTERNAL, "could not be looked after"), process.clock

    def _vacate(self) -> None:
        """The process is gone, and another one will come."""
        self._process = None
        self._since_ns = time.time_ns()
        self._cpu_s, self._rss = 0.0, 0
        for entry in list(self._entries.values()):
            entry.due = math.inf
            self._free_rings(entry)
            self._settle(entry)
        if not self._entries:
            self._closing = True

    def _end(self) -> None:
        self._process = None
        for entry in list(self._entries.values()):
            entry.leaving = True
            self._drop(entry)
        self._on_end(self)

    async def _pause(self, seconds: float) -> None:
        if self._closing:
            return
        try:
            async with timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    # ----------------------------------------------------------------------------------- end

    def close(self) -> None:
        """End the process, the gentle way if it listens, and start no other."""
        self._closing = True
        self._wake.set()
        if self._process is not None:
            self._process.stop()

    def hurry(self) -> None:
        """Kill the process that close() is ending."""
        if self._process is not None:
            self._process.hurry()

    def abandon(self) -> Process | None:
        """Let go of the process, which ends by itself then: without the loop."""
        self._closing = True
        if self._process is not None:
            self._process.abandon()
        return self._process

    def forget(self) -> None:
        """After abandon(), and the end of the process."""
        if self._process is not None:
            self._process.forget()
        self._end()
        if not self._loop.is_closed():
            self.task.cancel()

    def after_fork(self) -> None:
        """In a forked child."""
        if self._process is not None:
            self._process.after_fork()
