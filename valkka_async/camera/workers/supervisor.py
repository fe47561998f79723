# SPDX-License-Identifier: MIT
"""Supervisor: cameras in worker processes of their own, looked after from an event loop.

PyAV is not loaded here: whatever a codec library does to a process, it does to a worker.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import subprocess
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self, overload

from valkka_async import typed
from valkka_async.backoff import Backoff
from valkka_async.camera.source.secrets import parse
from valkka_async.camera.spec import CameraSpec, Output
from valkka_async.camera.status import CameraState, CameraStatus, Cause, before_start
from valkka_async.camera.workers.channel import LONGEST, Channel, Message
from valkka_async.camera.workers.process import ended, environment, spawn
from valkka_async.ring import fork
from valkka_async.ring.rendezvous import sweep

_STARTING = 30.0  # s that a process may take until it speaks: interpreters start slowly on a busy machine
_FIRST = 5.0  # s in which it keeps others from starting, at most
_ANSWER = 2.0  # s beyond stop_timeout in which a worker must have done what it was told
_KILL = 2.0  # s for a killed process to be gone
_POLL = 0.01

log = logging.getLogger("valkka_async.camera")


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """How a worker is: a place for a process, which is filled again when the process ends."""

    cameras: tuple[str, ...]
    pid: int | None  # None: there is no process now
    since_ns: int  # when the process was started or, without one, when the last one ended; Unix
    restarts: int
    retry_in: float | None  # s until the next process, if it waits for one
    last_exit: str  # how the last process ended: "was killed by SIGSEGV"; "": none did
    cpu_s: float  # processor seconds of the process
    rss: int  # bytes of memory it has


class Supervisor:
    """Runs each camera in a worker process of its own, and a crash there costs that camera a gap::

        async with va.Supervisor() as supervisor:
            await supervisor.add("front", "rtsp://me:pw@10.0.0.7/live", [va.Output("front")])
            await supervisor.add("yard", "rtsp://me:secret@10.0.0.8/live")
            ...
            for status in supervisor.status().values():
                print(status.name, status.state, status.reason)

    Readers connect to the rings by name as ever. A worker that crashes, is killed, or does not answer any
    more is started again, after a pause that grows with each failure; meanwhile its cameras are "waiting".

    Parameters
    ----------
    group_size
        Cameras per process. Fewer processes take less memory (about 30 MB each), but cameras of a group fall
        together.
    restart_max
        The longest pause in seconds before a worker is started again.
    hang_timeout
        Seconds, at least 1, without a sign of life after which a worker is killed. One whose camera does not
        come back from a library long after its own time-outs is killed too.
    stop_timeout
        Seconds that cameras have to close: a worker which has not ended by then is killed.

    It belongs to the event loop in which it is used. Workers end with the thread of that loop, however it
    ends, and with this process, even if that is killed. Ctrl-C in a terminal does not reach them.
    Raises ValueError for settings that make no sense.
    """

    def __init__(
        self,
        *,
        group_size: int = 1,
        restart_max: float = 30.0,
        hang_timeout: float = 10.0,
        stop_timeout: float = 5.0,
    ) -> None:
        self._closed = True  # until there is something to close
        self._workers: list[_Worker] = []
        self._cameras: dict[str, _Camera] = {}
        if group_size < 1:
            raise ValueError(f"group_size is at least 1, not {group_size!r}")
        for key, value, least in (
            ("restart_max", restart_max, 0.0),
            ("hang_timeout", hang_timeout, 1.0),
            ("stop_timeout", stop_timeout, 0.0),
        ):
            if not (math.isfinite(value) and value >= least and value > 0):
                limit = f"at least {least:g}" if least else "above 0"
                raise ValueError(f"{key} is {limit} seconds, not {value!r}")
        self.group_size = group_size
        self.restart_max = float(restart_max)
        self.hang_timeout = float(hang_timeout)
        self.stop_timeout = float(stop_timeout)
        # Fifty interpreters that start at once would all be late.
        self._starting = asyncio.Semaphore(max(2, os.cpu_count() or 1))
        self._closed = False
        fork.in_child(self, Supervisor._after_fork)

    # ------------------------------------------------------------------------------- cameras

    @overload
    async def add(self, camera: CameraSpec, /) -> None: ...
    @overload
    async def add(
        self,
        name: str,
        url: str | os.PathLike[str],
        outputs: Iterable[Output] | None = None,
        **settings: Any,
    ) -> None: ...
    async def add(self, *args: Any, **settings: Any) -> None:
        """Run one more camera: a :class:`CameraSpec`, or what :class:`Camera` takes.

        Returns when its rings are served, or the first attempt to do so has failed: the attempts go on, and
        `status()` says why; or when the supervisor is closed meanwhile. Cancelling stops the waiting; the
        camera is there. Raises ValueError when there is a camera of that name, or one that feeds a ring of
        one of these names, TypeError and ValueError for settings that make no sense, RuntimeError after
        close.
        """
        spec, text = _described(args, settings)
        if self._closed:
            raise RuntimeError("this supervisor was closed")
        if spec.name in self._cameras:
            raise ValueError(f"there is a camera {spec.name!r} already: change() or remove() it")
        self._check_rings(spec)
        worker = next((w for w in self._workers if w.has_room(self.group_size)), None)
        if worker is None:
            worker = _Worker(self)
            self._workers.append(worker)
        camera = self._cameras[spec.name] = _Camera(spec, text, worker)
        worker.put(camera)
        await camera.settled()

    @overload
    async def change(self, camera: CameraSpec, /) -> None: ...
    @overload
    async def change(
        self,
        name: str,
        url: str | os.PathLike[str],
        outputs: Iterable[Output] | None = None,
        **settings: Any,
    ) -> None: ...
    async def change(self, *args: Any, **settings: Any) -> None:
        """Give the camera of that name new settings. It alone is closed and opened again, in the process in
        which it is, and not even that if nothing differs.

        Arguments, errors and cancellation as with `add()`; ValueError when there is no such camera.
        """
        spec, text = _described(args, settings)
        camera = self._camera(spec.name)
        if spec == camera.spec:
            return
        self._check_rings(spec)
        camera.spec, camera.text = spec, text
        camera.rings |= {output.name for output in spec.outputs}
        camera.worker.changed(camera)
        await camera.settled()

    async def remove(self, name: str) -> None:
        """Close a camera and its rings. Raises ValueError when there is no such camera.

        Takes as long as the camera needs, at most about `stop_timeout`. Cancelling stops the waiting; the
        camera goes.
        """
        camera = self._camera(name)
        camera.leaving = True
        camera.worker.changed(camera)
        await camera.settled()

    def status(self) -> dict[str, CameraStatus]:
        """How each camera is, as known here: workers tell it each second, and what changes at once.

        Counts begin again with each process of its worker.
        """
        return {name: camera.shown() for name, camera in self._cameras.items() if not camera.leaving}

    def workers(self) -> list[WorkerStatus]:
        """How each worker is, as known here."""
        return [worker.shown() for worker in self._workers]

    def _camera(self, name: str) -> _Camera:
        if self._closed:
            raise RuntimeError("this supervisor was closed")
        camera = self._cameras.get(name)
        if camera is None or camera.leaving:
            raise ValueError(f"there is no camera {name!r}")
        return camera

    def _check_rings(self, spec: CameraSpec) -> None:
        wanted = {output.name for output in spec.outputs}
        for other in self._cameras.values():
            if other.spec.name != spec.name:
                for ring in sorted(wanted & other.rings):
                    raise ValueError(f"the ring {ring!r} is fed by the camera {other.spec.name!r}")

    def _gone(self, camera: _Camera) -> None:
        if self._cameras.get(camera.spec.name) is camera:
            del self._cameras[camera.spec.name]

    def _ended(self, worker: _Worker) -> None:
        if worker in self._workers:
            self._workers.remove(worker)

    # ----------------------------------------------------------------------------------- end

    @property
    def closed(self) -> bool:
        """True after close() or aclose()."""
        return self._closed

    async def aclose(self) -> None:
        """End all cameras and workers. Idempotent.

        Takes at most `stop_timeout`, and then what the kernel needs to kill a process. Cancelling kills at
        once those that are left.
        """
        self._closed = True
        workers = list(self._workers)
        for worker in workers:
            worker.close()
        try:
            if workers:
                await asyncio.wait([worker.task for worker in workers])
        except asyncio.CancelledError:
            for worker in workers:
                worker.hurry()
            raise

    def close(self) -> None:
        """`aclose()` for where no loop runs any more: it blocks, for as long as that takes at most."""
        self._closed = True
        workers = list(self._workers)
        processes = [worker.abandon() for worker in workers]
        left = [process for process in processes if process is not None]
        for patience in (self.stop_timeout, _KILL):
            deadline = time.monotonic() + patience
            while (left := [p for p in left if p.poll() is None]) and time.monotonic() < deadline:
                time.sleep(_POLL)
            for process in left:
                process.kill()
        for worker in workers:
            worker.forget()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not self._closed and self._workers:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._cameras)} cameras in {len(self._workers)} workers"
        return f"<Supervisor [{state}]>"

    def _after_fork(self) -> None:
        """In a forked child: the workers are the parent's, and must see it end when it ends."""
        self._closed = True
        for worker in self._workers:
            worker.after_fork()
        self._workers, self._cameras = [], {}


class _Camera:
    """What the supervisor knows of a camera."""

    def __init__(self, spec: CameraSpec, text: str, worker: _Worker) -> None:
        self.spec = spec
        self.text = text  # the spec for the worker, with credentials
        self.worker = worker
        self.rings = {output.name for output in spec.outputs}  # and those that it had, until they are closed
        self.leaving = False
        self.version = 1  # of the settings; those of `applied` are in force in the worker
        self.applied = 0
        self.due = math.inf  # on the worker's clock, when the latest settings should be in force
        self.error = ""  # why they cannot be
        self.error_ns = 0  # since when; Unix
        self.retry_at = 0.0
        self.fresh = False  # `status` is of the process that there is
        self.status = before_start(spec)
        self.heard = 0.0  # monotonic
        self.pending = True  # told something that is not done
        self._waiting: list[asyncio.Future[None]] = []

    async def settled(self) -> None:
        """Wait until the worker has done what it was told, or has ended."""
        if not self.pending:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def settle(self) -> None:
        self.pending = False
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def shown(self) -> CameraStatus:
        now = time.monotonic()
        known, worker = self.status, self.worker
        if self.fresh and not self.error:
            if known.retry_in is None:
                return known
            return replace(known, retry_in=max(0.0, known.retry_in - (now - self.heard)))
        retry_in = None
        if self.error:
            state, reason, since_ns, retry_in = (
                CameraState.FAILED,
                self.error,
                self.error_ns,
                self.retry_at - now,
            )
        elif worker.pid is not None or not worker.last_exit:
            state, since_ns = CameraState.CONNECTING, worker.since_ns
            reason = f"the worker process {worker.last_exit}" if worker.last_exit else ""
        else:
            state, reason = CameraState.WAITING, f"the worker process {worker.last_exit}"
            since_ns, retry_in = worker.since_ns, worker.retry_at - now
        return replace(
            known,
            url=parse(self.spec.url).shown,
            state=state,
            cause=(Cause.RING if self.error else Cause.WORKER) if reason else None,
            reason=reason,
            since_ns=since_ns,
            retry_in=retry_in if retry_in is None else max(0.0, retry_in),
            fps=0.0,
        )


class _Worker:
    """A place for a process, which outlives the processes that fill it. Its task ends when it has no more
    cameras, or is closed, and the process is gone."""

    def __init__(self, owner: Supervisor) -> None:
        self._owner = owner
        self._cameras: dict[str, _Camera] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._speaks = False  # the process has said hello
        self._closing = False
        self._hurry = False
        self._fault = ""  # why the process must be killed, in words
        # Seconds that this process was there to listen: deadlines by the wall clock would pass while it is
        # stopped (Ctrl-Z) or its loop is blocked, and workers would die for the silence of our own ears.
        self._clock = 0.0
        self._heard = 0.0
        self._wake = asyncio.Event()
        self._backoff = Backoff(last=owner.restart_max)
        self.since_ns = time.time_ns()
        self.retry_at = 0.0
        self.last_exit = ""
        self._restarts = 0
        self._cpu_s = 0.0
        self._rss = 0
        self._loop = asyncio.get_running_loop()
        self.task = asyncio.create_task(self._run(), name="valkka-worker")

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def _waits(self) -> bool:
        """Is there no process because the last one has failed?"""
        return self._process is None and bool(self.last_exit)

    def has_room(self, group_size: int) -> bool:
        """Is this a good place for one more camera? Not if its process has just failed."""
        return not (self._closing or self._waits) and len(self._cameras) < group_size

    def put(self, camera: _Camera) -> None:
        """Take a camera in."""
        self._cameras[camera.spec.name] = camera
        self._tell(camera)

    def changed(self, camera: _Camera) -> None:
        """A camera has other settings, or is to leave."""
        camera.version += 1
        camera.pending = True
        if self._speaks:
            self._tell(camera)
        elif camera.leaving or self._waits:  # the process to come begins with what is wanted then
            self._settle(camera)
        if all(c.leaving for c in self._cameras.values()):
            self.close()

    def close(self) -> None:
        """End the process, the gentle way if it listens."""
        self._closing = True
        self._wake.set()

    def hurry(self) -> None:
        """No more gentleness."""
        self._hurry = True

    def abandon(self) -> subprocess.Popen[bytes] | None:
        """Let go of the process, which ends by itself then: without the loop."""
        self._closing = True
        if self._channel is not None:
            self._channel.close()
        return self._process

    def forget(self) -> None:
        """After abandon(), and the end of the process."""
        self._process, self._speaks = None, False
        for camera in list(self._cameras.values()):
            self._drop(camera)
        self._owner._ended(self)
        if not self._loop.is_closed():
            self.task.cancel()

    def after_fork(self) -> None:
        if self._channel is not None:
            self._channel.after_fork()
        if self._process is not None:
            self._process.returncode = 0  # not a child of this process, so nothing to wait for

    def shown(self) -> WorkerStatus:
        waits = self._waits and not self._closing
        return WorkerStatus(
            cameras=tuple(name for name, camera in self._cameras.items() if not camera.leaving),
            pid=self.pid,
            since_ns=self.since_ns,
            restarts=self._restarts,
            retry_in=max(0.0, self.retry_at - time.monotonic()) if waits else None,
            last_exit=self.last_exit,
            cpu_s=self._cpu_s,
            rss=self._rss,
        )

    # ------------------------------------------------------------------------------ messages

    def _tell(self, camera: _Camera) -> None:
        if self._speaks and self._channel is not None:
            camera.due = self._clock + self._owner.stop_timeout + _ANSWER
            text = None if camera.leaving else camera.text
            told = {"name": camera.spec.name, "version": camera.version, "spec": text}
            self._channel.send({"op": "camera", **told})

    def _on_message(self, message: Message) -> None:
        self._heard = self._clock
        try:
            match message["op"]:
                case "status":
                    self._on_status(message)
                case "log":
                    self._on_log(message)
                case "applied":
                    self._on_applied(message)
                case "hello":
                    self._on_hello()
        except Exception as e:
            # By its type: the text may repeat what was sent.
            self._on_end(f"sent what makes no sense ({type(e).__name__})")

    def _on_end(self, reason: str) -> None:
        self._fault = self._fault or reason
        self._wake.set()

    def _on_hello(self) -> None:
        self._speaks = True
        self._wake.set()
        for camera in self._cameras.values():
            self._tell(camera)

    def _on_status(self, message: Message) -> None:
        self._cpu_s, self._rss = float(message["cpu_s"]), int(message["rss"])
        for values in message["cameras"]:
            status = typed.decode(CameraStatus, values)
            camera = self._cameras.get(status.name)
            if camera is not None:
                camera.status, camera.heard, camera.fresh = status, time.monotonic(), True
        for name in message["stuck"]:
            if name in self._cameras:
                self._on_end(f"was stuck in a library, with camera {name!r},")

    def _on_applied(self, message: Message) -> None:
        camera = self._cameras.get(message["name"])
        if camera is None or camera.version != message["version"]:
            return
        error, retry_in = str(message["error"]), message["retry_in"]
        if error and error != camera.error:
            log.warning("%s: %s; trying again", camera.spec.name, error)
            camera.error_ns = time.time_ns()
        camera.applied, camera.due, camera.error = camera.version, math.inf, error
        camera.retry_at = time.monotonic() + float(retry_in or 0.0)
        camera.rings = {output.name for output in camera.spec.outputs}
        self._settle(camera)

    def _on_log(self, message: Message) -> None:
        logger = logging.getLogger(str(message["name"]))
        level = int(message["level"])
        if not logger.isEnabledFor(level):
            return
        record = logger.makeRecord(logger.name, level, "worker", 0, str(message["text"]), (), None)
        record.created = float(message["created"])
        record.msecs = int(record.created % 1 * 1000) + 0.0
        record.process, record.processName = self.pid, "valkka-worker"
        record.threadName = str(message["thread"])
        logger.handle(record)

    def _settle(self, camera: _Camera) -> None:
        if camera.leaving:
            self._drop(camera)
        else:
            camera.settle()

    def _drop(self, camera: _Camera) -> None:
        self._cameras.pop(camera.spec.name, None)
        if not self._speaks:
            for ring in camera.rings:  # a process that was killed did not tidy up
                sweep(ring)
        self._owner._gone(camera)
        camera.settle()

    # ------------------------------------------------------------------------------- process

    async def _run(self) -> None:
        try:
            while not self._closing:
                try:
                    how = await self._live()
                except Exception:
                    log.exception("a mistake in the supervisor")
                    how = "could not be looked after"
                    await self._discard()
                if self._closing:
                    break
                self._backoff.lived(self._clock)
                delay = self._backoff.next()
                self._restarts += 1
                self.last_exit, self.retry_at = how, time.monotonic() + delay
                names = ", ".join(self._cameras) or "no camera"
                which = f"{names}: worker process {self.pid or ''}".rstrip()
                log.warning("%s %s; starting another in %.1f s", which, how, delay)
                self._process_is_gone()
                await self._pause(delay)
        finally:
            self._closing = True
            await self._discard()  # what is left if this was cancelled, because the loop is ending
            self._process, self._speaks = None, False
            for camera in list(self._cameras.values()):
                self._drop(camera)
            self._owner._ended(self)

    def _process_is_gone(self) -> None:
        self._process, self._speaks = None, False
        self.since_ns = time.time_ns()
        self._cpu_s, self._rss = 0.0, 0
        for camera in list(self._cameras.values()):
            camera.fresh, camera.error, camera.applied, camera.due = False, "", 0, math.inf
            self._settle(camera)
        if not self._cameras:
            self._closing = True

    async def _live(self) -> str:
        """One process, from its start to its end. Returns how it ended, in words."""
        starting = self._owner._starting
        self._clock = self._heard = 0.0
        await starting.acquire()
        try:
            if self._closing:
                return ""
            try:
                self._start()
            except OSError as e:
                return f"could not be started: {e.strerror}"
            while not self._speaks and self._clock < _FIRST and not self._over():
                await self._turn()
        finally:
            starting.release()
        while not self._over():
            await self._turn()
        return await self._end()

    def _start(self) -> None:
        self._fault, self._speaks = "", False
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                specs = [camera.spec for camera in self._owner._cameras.values()]
                self._process = spawn(theirs.fileno(), environment(specs))
            except BaseException:
                ours.close()
                raise
        self.since_ns = time.time_ns()
        self._channel = Channel(ours, self._on_message, self._on_end)
        self._channel.send(
            {
                "op": "begin",
                "heartbeat": self._tick,
                "stop_timeout": self._owner.stop_timeout,
                "level": log.getEffectiveLevel(),
            }
        )

    @property
    def _tick(self) -> float:
        return min(1.0, self._owner.hang_timeout / 4)

    def _over(self) -> bool:
        assert self._process is not None
        return self._closing or bool(self._fault) or self._process.poll() is not None

    async def _turn(self) -> None:
        """Wait for a tick, or until something happens; then see if the process has kept its deadlines."""
        before = self._loop.time()
        await self._pause(self._tick)
        self._clock += min(self._loop.time() - before, 2 * self._tick)
        limit = self._owner.hang_timeout if self._speaks else max(_STARTING, self._owner.hang_timeout)
        if self._clock - self._heard > limit:
            self._on_end(f"did not {'answer' if self._speaks else 'start'} for {limit:g} s")
        for camera in self._cameras.values():
            if self._clock > camera.due:
                self._on_end(f"did not do what it was told with camera {camera.spec.name!r}")

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        if self._closing:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _end(self) -> str:
        """See the process off: by itself, when asked to, or by SIGKILL."""
        process, channel = self._process, self._channel
        assert process is not None and channel is not None
        patience = 0.0
        if self._closing and self._speaks and not self._fault:
            channel.send({"op": "stop"})
            patience = self._owner.stop_timeout
        elif self._fault and process.poll() is None:
            patience = 1.0 if self._fault == "closed its connection" else 0.0  # on its way out
        if not await self._gone(process, patience):
            if self._closing and self._speaks and not self._hurry:
                log.warning("worker process %d does not end, and is killed", process.pid)
            await self._kill(process)
            how = f"{self._fault} and was killed" if self._fault else "was killed"
        else:
            how = ended(process.returncode)
        channel.drain()
        channel.close()
        return how

    async def _discard(self) -> None:
        """End the process, if there is one, without ceremony."""
        if self._process is not None:
            await self._kill(self._process)
        if self._channel is not None:
            self._channel.close()

    async def _kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        deadline = self._loop.time() + _KILL
        while process.poll() is None:
            if self._loop.time() > deadline:
                log.error("worker process %d was killed and does not end: the kernel holds it", process.pid)
                return
            await asyncio.sleep(_POLL)

    async def _gone(self, process: subprocess.Popen[bytes], seconds: float) -> bool:
        """Has the process ended? Waits so long for it."""
        deadline = self._loop.time() + seconds
        while process.poll() is None:
            if self._hurry or self._loop.time() >= deadline:
                return False
            await asyncio.sleep(_POLL)
        return True


def _described(args: tuple[Any, ...], settings: dict[str, Any]) -> tuple[CameraSpec, str]:
    """The spec that add() and change() were given, and the same for the worker."""
    if len(args) == 1 and not settings and isinstance(args[0], CameraSpec):
        spec = args[0]
    else:
        spec = CameraSpec(*args, **settings)
    text = spec.to_json()
    if len(text) > LONGEST // 2:
        raise ValueError(f"camera {spec.name!r}: its settings are too long")
    return spec, text
