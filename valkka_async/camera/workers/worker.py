# SPDX-License-Identifier: MIT
"""A worker process: cameras that a supervisor in another process asks for.

It comes from a nursery, as a fork of it (run()) or as a new interpreter:

    python -m valkka_async.camera.workers.worker FD PIDFD THREAD WORDS

FD is one end of a pair of stream sockets; messages.py has what is said over it. PIDFD is the supervisor's,
THREAD the one of its threads to which the worker belongs, WORDS a file for its last words (words.py). A
worker ends when told to, on SIGTERM, and with its supervisor. Of that it learns by the socket, which closes;
and in a thread, in case the main thread is stuck, by the pidfd (a process that the supervisor forked may
still have the socket) and by asking for THREAD. It does not depend on the nursery. Only a process that
somebody has stopped (SIGSTOP) stays, until it goes on.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from valkka_async.backoff import Backoff
from valkka_async.camera.camera import Camera
from valkka_async.camera.source.secrets import Address, parse
from valkka_async.camera.spec import CameraSpec
from valkka_async.camera.status import CameraState, CameraStatus, before_start, cause_of
from valkka_async.camera.workers.channel import Channel
from valkka_async.camera.workers.messages import (
    PROTOCOL,
    Applied,
    Begin,
    Configure,
    Happened,
    Hello,
    Log,
    Message,
    Status,
    Stop,
    in_parts,
)
from valkka_async.errors import ValkkaError
from valkka_async.timeouts import timeout, timeout_at

_LOOK = 0.25  # s between looks at the cameras' states
_STUCK_BEATS = 3  # a process that was stopped and goes on must not take its late threads for stuck ones
_STOPPING = 0.8  # of stop_timeout, in which cameras have to close: the supervisor waits for the whole
_RECORDS = 1000  # log records that wait for the main thread, at most
_TEXT = 10_000  # characters of one
_EVENTS = 1000  # that wait to be sent, at most
_ASK = 1.0  # s between looks for the supervisor's thread

FAILED = -1

log = logging.getLogger("valkka_async.camera")


class Worker:
    """The main thread's part. `run()` returns the signal that ended it; 0 if none did; FAILED."""

    def __init__(self, sock: socket.socket, supervisor: int, thread: int) -> None:
        self._sock = sock
        self._supervisor = supervisor
        self._thread = thread
        self._slots: dict[str, _Slot] = {}
        # Of all cameras that were ever here: old credentials are as secret as new ones. Replaced and never
        # changed, because other threads iterate over it.
        self._addresses: frozenset[Address] = frozenset()
        self._begun = asyncio.Event()
        self._events: deque[Happened] = deque(maxlen=_EVENTS)
        self._stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._heartbeat = 1.0
        self.stop_timeout = 5.0

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop, int(signal.SIGTERM))
        self._channel = Channel(self._sock, self._on_message, lambda ending, text: self._stop(0))
        forward = _Forward(loop, self._channel, self.scrub)
        logging.getLogger().addHandler(forward)
        logging.captureWarnings(True)
        loop.set_exception_handler(lambda loop, context: _unexpected(context))
        threading.Thread(target=self._guard, args=(os.dup(self._sock.fileno()),), daemon=True).start()
        self.send(Hello(PROTOCOL))
        beats = asyncio.create_task(self._beat())
        beats.add_done_callback(self._done)
        try:
            return await self._stopped
        finally:
            # Whatever happens from here on, the kernel ends this process then (SIGALRM).
            signal.setitimer(signal.ITIMER_REAL, self.stop_timeout)
            beats.cancel()
            for slot in self._slots.values():
                slot.want(None, slot.version)
            if tasks := [slot.task for slot in self._slots.values()]:
                await asyncio.wait(tasks, timeout=self.stop_timeout * _STOPPING)
            forward.flush()
            self._channel.close()

    def send(self, message: Message, *, optional: bool = False) -> None:
        self._channel.send(message, optional=optional)

    def scrub(self, text: str) -> str:
        """Without credentials of any camera that ever was here."""
        for address in self._addresses:
            text = address.scrub(text)
        return text

    def _stop(self, number: int) -> None:
        if not self._stopped.done():
            self._stopped.set_result(number)

    def _on_message(self, message: Message) -> None:
        match message:
            case Begin():
                self._heartbeat, self.stop_timeout = message.heartbeat, message.stop_timeout
                logging.getLogger().setLevel(message.level)
                self._begun.set()
            case Configure():
                self._configure(message)
            case Stop():
                self._stop(0)
            case _:
                log.error("%s is no message for a worker", type(message).__name__)

    def _configure(self, message: Configure) -> None:
        if self._stopped.done():
            return
        spec = message.camera
        if spec is not None:
            self._addresses |= {parse(url) for url in spec.urls.values()}
        slot = self._slots.get(message.name)
        if slot is None:
            slot = self._slots[message.name] = _Slot(self, message.name, spec, message.version)
            slot.task.add_done_callback(lambda _, slot=slot: self._vacated(slot))  # type: ignore[misc]
        else:
            slot.want(spec, message.version)

    def _vacated(self, slot: _Slot) -> None:
        if self._slots.get(slot.name) is slot:
            del self._slots[slot.name]
        self._done(slot.task)

    def _done(self, task: asyncio.Task[None]) -> None:
        """A bug in here must not leave a process that looks alive and does only half of its work."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("this worker process fails", exc_info=error)
            self._stop(FAILED)

    async def _beat(self) -> None:
        """Tell how the cameras are: that is the sign of life."""
        await self._begun.wait()
        due = 0.0
        told: dict[str, tuple[object, ...]] = {}
        while True:
            now = time.monotonic()
            full = now >= due
            cameras, stuck = [], []
            for slot in self._slots.values():
                camera = slot.status()
                if camera is None:
                    continue
                gist = (slot.version, *((s.state, s.cause, s.attempts) for s in camera.streams))
                if full or told.get(slot.name) != gist:
                    told[slot.name] = gist
                    cameras.append(camera)
                if full and slot.is_stuck():
                    stuck.append(slot.name)
                self._events.extend(slot.events())
            if full:
                due = now + self._heartbeat
                for gone in told.keys() - self._slots.keys():
                    del told[gone]
            if full or cameras:
                self._tell(cameras, stuck)
            while self._events and self._channel.send(self._events[0], optional=True):
                self._events.popleft()
            await asyncio.sleep(min(_LOOK, self._heartbeat))

    def _tell(self, cameras: list[CameraStatus], stuck: list[str]) -> None:
        cpu_s, rss = round(time.process_time(), 3), _rss()
        for some in in_parts(cameras):
            self.send(Status(cpu_s, rss, some, tuple(stuck)), optional=True)

    def _guard(self, fd: int) -> None:
        """In a thread: this process goes when the supervisor is gone, even if its main thread is stuck."""
        poll = select.poll()
        poll.register(fd, 0)  # hang-ups only, which the main thread sees, too
        poll.register(self._supervisor, select.POLLIN)
        while not (gone := poll.poll(_ASK * 1e3)) and _lives(self._thread):
            pass
        if fd not in dict(gone):
            os.kill(os.getpid(), signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, self.stop_timeout)


class _Slot:
    """Runs one camera by its newest settings: closes the old one, starts the new one, tries again if that
    fails. `task` ends when the camera is to go and is closed."""

    def __init__(self, worker: Worker, name: str, spec: CameraSpec | None, version: int) -> None:
        self.name = name
        self.version = version
        self.camera: Camera | None = None
        self._worker = worker
        self._spec = spec
        self._changed = asyncio.Event()
        self._stuck = 0  # heartbeats in a row
        self._failed: CameraStatus | None = None  # why it could not be started
        self._retry_at = 0.0
        self.task = asyncio.create_task(self._run())

    def want(self, spec: CameraSpec | None, version: int) -> None:
        self._spec, self.version = spec, version
        self._changed.set()

    def is_stuck(self) -> bool:
        """Has it been stuck for some heartbeats? To be called once in each."""
        self._stuck = self._stuck + 1 if self.camera is not None and self.camera.stuck() else 0
        return self._stuck >= _STUCK_BEATS

    def status(self) -> CameraStatus | None:
        """How its camera is; None: there is none."""
        if self.camera is not None:
            return self.camera.status()
        if self._failed is None or self._spec is None:
            return None
        left = max(0.0, self._retry_at - time.monotonic())
        return replace(self._failed, retry_in=left)

    def events(self) -> list[Happened]:
        """What has happened to its camera's readers since the last call."""
        if self.camera is None:
            return []
        return [
            Happened(event.code, self.name, event.time_ns, event.text, event.fields)
            for event in self.camera.reader_events()
        ]

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            # For both: then the rings are closed all the same, and a thread that does not end is left alone.
            until = asyncio.get_running_loop().time() + self._worker.stop_timeout * _STOPPING
            if not await self._change(self._spec, until):
                await self._close(until)
            spec, version = self._spec, self.version
            backoff = Backoff(last=10.0)
            while not self._changed.is_set():
                retry = None
                if spec is not None and self.camera is None and not self._open(spec):
                    retry = backoff.next()
                    self._retry_at = time.monotonic() + retry
                self._worker.send(Applied(self.name, version, None if spec is None else self.status()))
                if spec is None:
                    return
                try:
                    async with timeout(retry):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    async def _change(self, spec: CameraSpec | None, until: float) -> bool:
        """Change the camera, if one of its streams can go on as it is. False: it is to be closed. `until`: by
        the loop's clock."""
        camera = self.camera
        if camera is None or spec is None:
            return False
        before = camera.spec.parts()
        if not any(before.get(name) == part for name, part in spec.parts().items()):
            return False
        try:
            async with timeout_at(until):
                await camera.achange(spec)
        except (ValkkaError, OSError, ValueError, RuntimeError):  # opening all of it says why, if that fails
            return False
        return True

    def _open(self, spec: CameraSpec) -> bool:
        """Start the camera. False if something hinders that, which `status()` says."""
        before, self._failed = self._failed, None
        try:
            self.camera = Camera.from_spec(spec)
        except (ValkkaError, OSError, ValueError, RuntimeError) as e:
            reason = self._worker.scrub(str(e)) or type(e).__name__
            repeated = before is not None and before.reason == reason
            if not repeated:
                log.warning("%s: %s; trying again", self.name, reason, extra={"camera": self.name})
            self._failed = before_start(
                spec,
                CameraState.FAILED,
                cause_of(e),
                reason,
                pid=os.getpid(),
                since_ns=before.since_ns if repeated and before is not None else None,
            )
        return self.camera is not None

    async def _close(self, until: float) -> None:
        self._failed = None
        camera, self.camera = self.camera, None
        if camera is not None:
            try:
                async with timeout_at(until):
                    await camera.aclose()
            except TimeoutError:
                pass


class _Forward(logging.Handler):
    """Sends log records of any thread to the supervisor, without credentials and in bounded number."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, channel: Channel, scrub: Callable[[str], str]
    ) -> None:
        super().__init__()
        self._loop = loop
        self._channel = channel
        self._scrub = scrub
        self._records: deque[Log] = deque()
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._records) >= _RECORDS:
            self._lost += 1
            return
        try:
            text = self.format(record)
        except Exception:  # wrong arguments; logging's own report would print them to stderr
            text = str(record.msg)
        text = self._scrub(text)[:_TEXT]
        thread = record.threadName or ""
        camera = str(getattr(record, "camera", ""))
        self._records.append(Log(record.name, record.levelno, record.created, thread, camera, text))
        try:
            self._loop.call_soon_threadsafe(self.flush)
        except RuntimeError:  # the loop is closed: the process is as good as gone
            pass

    def flush(self) -> None:
        """In the main thread."""
        while self._records:
            if not self._channel.send(self._records.popleft(), optional=True):
                self._lost += 1
        if self._lost:
            text = f"{self._lost} log records were left out"
            if self._channel.send(
                Log(log.name, logging.WARNING, time.time(), "MainThread", "", text), optional=True
            ):
                self._lost = 0


def _unexpected(context: dict[str, Any]) -> None:
    log.error("%s", context.get("message"), exc_info=context.get("exception"))


def _rss() -> int:
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _lives(thread: int) -> bool:
    """Is there a thread with this number?"""
    try:
        os.getpriority(os.PRIO_PROCESS, thread)
    except ProcessLookupError:
        return False
    except OSError:  # it may not be looked at
        pass
    return True


async def _serve(fd: int, supervisor: int, thread: int) -> int:
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    return await Worker(sock, supervisor, thread).run()


def run(fd: int, supervisor: int, thread: int, words: int) -> NoReturn:
    """Be a worker, from here to the end of the process: see above. `words`: the file of its last words."""
    # Ctrl-C in the terminal is for the supervisor, which decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.set_inheritable(words, False)
    faulthandler.enable(words)  # names of functions and line numbers, no values
    try:
        number = asyncio.run(_serve(fd, supervisor, thread))
    except BaseException as e:
        lines = [*traceback.format_tb(e.__traceback__), type(e).__name__]  # its text may be anything
        os.write(words, "".join(lines).encode(errors="replace"))
        number = FAILED
    if sys.stderr is not None:
        sys.stderr.flush()
    if number > 0:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    # Not through Python's own end, which would wait for threads that were left alone in a library.
    os._exit(0 if number == 0 else 1)


if __name__ == "__main__":
    run(*map(int, sys.argv[1:5]))
