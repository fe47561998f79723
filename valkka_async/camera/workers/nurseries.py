# SPDX-License-Identifier: MIT
"""Where a supervisor's workers come from: nurseries (nursery.py), seen from the supervisor. No PyAV here."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable

from valkka_async.camera.spec import CameraSpec
from valkka_async.camera.workers.births import Ended, Ready, Refused, Start, Started, receive, send
from valkka_async.camera.workers.exits import ended
from valkka_async.camera.workers.forked import Forked
from valkka_async.camera.workers.spawn import environment, spawn, surroundings
from valkka_async.errors import DataError
from valkka_async.timeouts import timeout

_LOADING = 30.0  # s that a nursery may take until it has loaded everything
_ANSWER = 5.0  # s that it may then be silent when something is due
_TICK = 0.5  # s
_END = 2.0  # s for a nursery to be gone

log = logging.getLogger("valkka_async.camera")


class NotStartedError(Exception):
    """There is no worker; the text says why, for people."""


class Nursery:
    """One nursery, and its workers. `task` ends with it. Raises OSError if it cannot be started."""

    def __init__(self, environment: dict[str, str], surroundings: tuple[object, ...]) -> None:
        self.made_of = environment, surroundings
        self._loop = asyncio.get_running_loop()
        self._requests: dict[int, asyncio.Future[Forked]] = {}
        self._numbers = itertools.count()
        self._workers: dict[int, Forked] = {}
        self._ready = False
        self._heard = False
        self._retired = False
        self._told = self._told_end = False
        self._wake = asyncio.Event()
        self._exited = asyncio.Event()
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._popen = spawn(theirs.fileno(), environment)
            except BaseException:
                self._sock.close()
                raise
        try:
            self._pidfd = os.pidfd_open(self._popen.pid)
        except OSError:
            self._popen.kill()
            self._popen.wait()
            self._sock.close()
            raise
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock.fileno(), self._receive)
        self._loop.add_reader(self._pidfd, self._on_exit)
        self.task = asyncio.create_task(self._run(), name="valkka-nursery")

    @property
    def over(self) -> bool:
        """Does it start no more workers?"""
        return self._retired or self._exited.is_set()

    def start(self, sock: socket.socket, words: int) -> asyncio.Future[Forked]:
        """Have a worker started that speaks on `sock` and leaves its last words in a file; both may be closed
        then.

        The future has it, or raises NotStartedError. Cancelling it ends the worker. Raises OSError.
        """
        number = next(self._numbers)
        send(self._sock, Start(number, threading.get_native_id()), sock.fileno(), words)
        future: asyncio.Future[Forked] = self._loop.create_future()
        self._requests[number] = future
        self._wake.set()
        return future

    def retire(self) -> None:
        """Start no more: it ends with its last worker."""
        if not self._retired:
            self._retired = True
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:  # it is gone
                pass

    def kill(self) -> None:
        """SIGKILL."""
        self._retired = True
        self._popen.kill()

    async def aclose(self) -> None:
        """Its workers have ended, and now it does. Idempotent; cancelling kills it."""
        self._finish()
        try:
            async with timeout(_END):
                await self._exited.wait()
        except TimeoutError:
            log.warning("the process %d, which starts workers, does not end, and is killed", self._popen.pid)
        finally:
            self._popen.kill()
        await asyncio.wait([self.task], timeout=_END)

    # ------------------------------------------------------------------------ without a running loop

    def close(self) -> None:
        """aclose(), without a running loop: it blocks."""
        self._finish()
        try:
            self._popen.wait(_END)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._release()
        if not self._loop.is_closed():
            self._exited.set()
            self.task.cancel()

    def after_fork(self) -> None:
        """In a forked child: it is no child of this process."""
        self._sock.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._popen.returncode = 0  # nothing to wait for

    # ------------------------------------------------------------------------------------- its life

    async def _run(self) -> None:
        """Kill it if it does not do what it should."""
        silent = 0.0  # s that we were there to listen
        try:
            while not self._exited.is_set():
                if not self._owes:
                    await self._wake.wait()
                    self._wake.clear()
                    silent = 0.0
                    continue
                before = self._loop.time()
                self._wake.clear()
                try:
                    async with timeout(_TICK):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                # If this process is stopped (Ctrl-Z), the time does not count.
                silent = 0.0 if self._heard else silent + min(self._loop.time() - before, 2 * _TICK)
                self._heard = False
                if silent > (_ANSWER if self._ready else _LOADING):
                    self._say("did not answer and was killed")
                    self._popen.kill()
                    await self._exited.wait()
        finally:
            # It runs if this was cancelled, because the loop is ending: its workers are being killed.
            if not self._exited.is_set():
                self._finish()
                try:
                    async with timeout(_END):
                        await self._exited.wait()
                except TimeoutError:
                    self._popen.kill()
                    await self._exited.wait()
            self._release()

    def _finish(self) -> None:
        """Have it end once it has seen off its workers; at once if it has none, and may still be loading."""
        self.retire()
        if not self._ready or not (self._workers or self._requests):
            self._popen.kill()

    @property
    def _owes(self) -> bool:
        """Should it say something soon?"""
        return bool(self._requests) or any(worker.ended for worker in self._workers.values())

    def _receive(self) -> None:
        """Take what it says. All of it: another one may be the last."""
        while True:
            try:
                heard = receive(self._sock)
            except (BlockingIOError, InterruptedError):
                return
            except (OSError, DataError):
                heard = None
            if heard is None:
                self._loop.remove_reader(self._sock.fileno())  # readable for ever after
                self._popen.kill()  # if it has not ended
                return
            self._heard = True
            birth, fds = heard
            match birth:
                case Ready():
                    self._ready = True
                case Started():
                    self._started(birth, *fds)
                case Refused():
                    self._refuse(birth.number, os.strerror(birth.error))
                case Ended():
                    if (worker := self._workers.pop(birth.pid, None)) is not None:
                        worker.end(birth.status)
            self._wake.set()

    def _started(self, started: Started, pidfd: int = -1) -> None:
        if started.threads and not self._told:
            self._told = True
            log.warning(
                "workers start slowly, as new interpreters: other code (a sitecustomize?) runs %d threads in "
                "the process from which they would be forked",
                started.threads,
            )
        if pidfd < 0:  # this process has no room for it; the worker ends with its channel
            self._refuse(started.number, os.strerror(errno.EMFILE))
            return
        worker = Forked(started.pid, pidfd, self._wake.set)
        future = self._requests.pop(started.number, None)
        if future is None or future.done():  # nobody wants it any more
            worker.kill()
            worker.close()
        else:
            self._workers[worker.pid] = worker
            future.set_result(worker)

    def _refuse(self, number: int, text: str) -> None:
        future = self._requests.pop(number, None)
        if future is not None and not future.done():
            future.set_exception(NotStartedError(text))

    def _on_exit(self) -> None:
        if self._popen.poll() is None:
            return
        self._loop.remove_reader(self._pidfd)
        self._receive()  # its last words
        self._loop.remove_reader(self._sock.fileno())
        how = ended(self._popen.returncode).text
        if not self._retired:
            self._say(how)
        self._exited.set()
        self._wake.set()
        for number in list(self._requests):
            self._refuse(number, f"the process that starts workers {how}")
        workers, self._workers = self._workers, {}
        for worker in workers.values():
            worker.unparented()

    def _say(self, how: str) -> None:
        if not self._told_end:
            self._told_end = True
            running = sum(worker.runs() for worker in self._workers.values())
            log.warning(
                "the process %d, which starts workers, %s; its %d workers go on, another one starts the next",
                self._popen.pid,
                how,
                running,
            )

    def _release(self) -> None:
        """Give the descriptors back."""
        if self._pidfd < 0:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_reader(self._pidfd)
        self._sock.close()
        os.close(self._pidfd)
        self._pidfd = -1


class Nurseries:
    """The nursery that starts workers now, and those before it that still have some.

    A worker is as if this thread had started it now: once what it would inherit differs from what the nursery
    has (the environment, the current directory, limits, priority), another nursery is made.
    """

    def __init__(self, specs: Callable[[], Iterable[CameraSpec]]) -> None:
        self._specs = specs
        self._all: list[Nursery] = []
        self._newest: Nursery | None = None

    def start(self, sock: socket.socket, words: int) -> asyncio.Future[Forked]:
        """As Nursery.start(). Raises NotStartedError."""
        try:
            try:
                return self._nursery().start(sock, words)
            except (BrokenPipeError, ConnectionResetError):  # it has ended, and that was not noticed yet
                if self._newest is not None:
                    self._newest.retire()
                return self._nursery().start(sock, words)
        except OSError as e:
            raise NotStartedError(e.strerror or type(e).__name__) from None

    def _nursery(self) -> Nursery:
        """One that can start a worker now. Raises OSError."""
        made_of = environment(self._specs()), surroundings()
        newest = self._newest
        if newest is None or newest.over or newest.made_of != made_of:
            if newest is not None:
                newest.retire()
            self._newest = newest = Nursery(*made_of)
            self._all.append(newest)
            newest.task.add_done_callback(lambda _, it=newest: self._gone(it))  # type: ignore[misc]
        return newest

    def _gone(self, nursery: Nursery) -> None:
        if nursery in self._all:
            self._all.remove(nursery)
        if not nursery.task.cancelled() and (error := nursery.task.exception()) is not None:
            log.error("an error in the supervisor", exc_info=error)

    def __bool__(self) -> bool:
        return bool(self._all)

    def hurry(self) -> None:
        """Kill what aclose() is waiting for."""
        for nursery in self._all:
            nursery.kill()

    async def aclose(self) -> None:
        """All workers have ended. Idempotent."""
        if nurseries := list(self._all):
            await asyncio.gather(*(nursery.aclose() for nursery in nurseries))

    def close(self) -> None:
        """aclose(), without a running loop."""
        for nursery in self._all:
            nursery.retire()
        for nursery in self._all:
            nursery.close()
        self._all.clear()

    def after_fork(self) -> None:
        """In a forked child."""
        for nursery in self._all:
            nursery.after_fork()
        self._all.clear()
