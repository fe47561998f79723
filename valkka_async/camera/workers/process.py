# SPDX-License-Identifier: MIT
"""One worker process, from its start to its end. No PyAV here."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from valkka_async.camera.workers.channel import Channel, Ending
from valkka_async.camera.workers.exits import Exit, ended
from valkka_async.camera.workers.forked import Forked
from valkka_async.camera.workers.messages import PROTOCOL, Begin, Hello, Message, Stop
from valkka_async.camera.workers.nurseries import NotStartedError, Nurseries
from valkka_async.camera.workers.status import WorkerEnd
from valkka_async.camera.workers.words import LastWords
from valkka_async.timeouts import timeout

_STARTING = 30.0  # s that a process may take until it speaks: interpreters start slowly on a busy machine
_FIRST = 5.0  # s in which it keeps others from starting, at most
_GOODBYE = 1.0  # s for a process that has closed its connection to end by itself
_KILL = 2.0  # s for a killed process to be gone

log = logging.getLogger("valkka_async.camera")


@dataclass(frozen=True, slots=True)
class Limits:
    """A supervisor's settings that concern its processes; seconds."""

    restart_max: float
    hang_timeout: float
    stop_timeout: float


class Process:
    """A worker process: run() starts it, looks after it and sees it off.

    ``on_message`` is called with each of its messages but HELLO, ``on_hello`` when it listens, ``on_turn``
    several times per `hang_timeout`. They may call fail(). It belongs to the running loop and its thread.
    """

    def __init__(
        self,
        limits: Limits,
        nurseries: Nurseries,
        *,
        on_hello: Callable[[], object],
        on_message: Callable[[Message], object],
        on_turn: Callable[[], object],
    ) -> None:
        self._limits = limits
        self._nurseries = nurseries
        self._tick = min(1.0, limits.hang_timeout / 4)
        self._on_hello = on_hello
        self._on_message = on_message
        self._on_turn = on_turn
        self._loop = asyncio.get_running_loop()
        self._start: asyncio.Future[Forked] | None = None  # asked for
        self._worker: Forked | None = None
        self._channel: Channel | None = None
        self._words: LastWords | None = None
        self._wake = asyncio.Event()
        self._exited = asyncio.Event()
        self._fault: Exit | None = None  # why it must be killed
        self._greeted = False  # it has said HELLO
        self._hung_up = False
        self._stopping = False
        self._hurried = False
        self._closed = False
        self._heard = 0.0
        self.speaks = False  # it listens, and has not ended
        self.started_ns = 0  # Unix; 0: it was not started yet
        # Seconds that we were there to listen. Deadlines by the wall clock would pass while this process is
        # stopped (Ctrl-Z) or its loop is blocked, and workers would die for our own silence.
        self.clock = 0.0

    @property
    def pid(self) -> int | None:
        """None: it was not started yet."""
        return None if self._worker is None else self._worker.pid

    async def run(self, starting: asyncio.Semaphore) -> Exit:
        """Start it when `starting` allows; return when it has ended. Cancelling leaves it to discard()."""
        async with starting:
            if self._stopping:
                return Exit(WorkerEnd.EXITED, "was not started")
            try:
                self._ask_for()
            except (OSError, NotStartedError) as e:
                why = e.strerror if isinstance(e, OSError) else e
                self.fail(WorkerEnd.NOT_STARTED, f"could not be started: {why}")
            while not self.speaks and self.clock < _FIRST and not self._over:
                await self._turn()
        while not self._over:
            await self._turn()
        return await self._see_off()

    def send(self, message: Message) -> None:
        """Send it a message; nothing if it is gone."""
        if self._channel is not None:
            self._channel.send(message)

    def fail(self, end: WorkerEnd, text: str) -> None:
        """Have it killed, for this reason."""
        self._fault = self._fault or Exit(end, text)
        self._wake.set()

    def stop(self) -> None:
        """Have it end: by itself if it listens, in `stop_timeout`."""
        self._stopping = True
        self._wake.set()

    def hurry(self) -> None:
        """Do not wait for it any more."""
        self._hurried = True
        if self._worker is not None:
            self._worker.kill()

    async def discard(self) -> None:
        """Kill it if it runs, without ceremony. Idempotent."""
        await self._kill()
        self._close()

    # ------------------------------------------------------------------------ without a running loop

    def abandon(self) -> None:
        """Close the connection, which ends the process. For wait_for(), without a running loop."""
        self._stopping = True
        if self._channel is not None:
            self._channel.close()
        self._call_off()

    def forget(self) -> None:
        """After wait_for()."""
        self.speaks = False
        self._close()

    def after_fork(self) -> None:
        """In a forked child: it is none of this process's."""
        if self._channel is not None:
            self._channel.after_fork()
        if self._worker is not None:
            self._worker.after_fork()
        if self._words is not None:
            self._words.close()

    @staticmethod
    def wait_for(processes: Iterable[Process], seconds: float) -> list[Process]:
        """Block until all have ended or the time is over. Returns those that still run."""
        running = {
            process._worker.pidfd: process
            for process in processes
            if process._worker is not None and process.runs()
        }
        poll = select.poll()
        for pidfd in running:
            poll.register(pidfd, select.POLLIN)
        deadline = time.monotonic() + seconds
        while running and (left := deadline - time.monotonic()) > 0:
            for pidfd, _ in poll.poll(left * 1000):
                if not running[pidfd].runs():
                    poll.unregister(pidfd)
                    del running[pidfd]
        return list(running.values())

    # ------------------------------------------------------------------------------------- its life

    def _ask_for(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._words = LastWords()
                self._start = self._nurseries.start(theirs, self._words.fd)
            except BaseException:
                ours.close()
                raise
        self._channel = Channel(ours, self._hear, self._on_end)
        level = log.getEffectiveLevel()
        self._channel.send(Begin(self._tick, self._limits.stop_timeout, level))
        self._start.add_done_callback(self._on_start)

    def _on_start(self, start: asyncio.Future[Forked]) -> None:
        if start.cancelled():
            return
        if (error := start.exception()) is not None:
            self.fail(WorkerEnd.NOT_STARTED, f"could not be started: {error}")
            return
        worker = start.result()
        if self._closed:
            worker.kill()
            worker.close()
            return
        self.started_ns = time.time_ns()
        self._worker = worker
        worker.on_end = self._on_exit
        if self._hurried:
            worker.kill()
        if worker.ended:
            self._on_exit()
        self._listen()

    def _call_off(self) -> None:
        """If it is still to come, it is killed then."""
        if self._start is not None and not self._loop.is_closed():
            self._start.cancel()

    @property
    def _over(self) -> bool:
        # A channel that closes before there is a worker: what was to start it says why.
        hung_up = self._hung_up and self._worker is not None
        return self._stopping or hung_up or self._fault is not None or self._exited.is_set()

    def runs(self) -> bool:
        """Was it started, and has it not ended?"""
        return self._worker is not None and self._worker.runs()

    async def _turn(self) -> None:
        """Wait for a tick, or until something happens; then see if it has kept its deadlines."""
        before = self._loop.time()
        await _within(self._tick, self._wake)
        self._wake.clear()
        self.clock += min(self._loop.time() - before, 2 * self._tick)
        limit = self._limits.hang_timeout if self.speaks else max(_STARTING, self._limits.hang_timeout)
        if self.clock - self._heard > limit:
            self.fail(WorkerEnd.SILENT, f"did not {'answer' if self.speaks else 'start'} for {limit:g} s")
        self._on_turn()

    def _hear(self, message: Message) -> None:
        self._heard = self.clock
        if not isinstance(message, Hello):
            self._on_message(message)
        elif message.protocol == PROTOCOL:
            self._greeted = True
            self._listen()
        else:
            self.fail(WorkerEnd.GARBLED, f"is of another version ({message.protocol} and not {PROTOCOL})")

    def _listen(self) -> None:
        """Its HELLO may be here before we are told that it was started."""
        if self._greeted and self._worker is not None and not self._over and not self.speaks:
            self.speaks = True
            self._wake.set()
            self._on_hello()

    def _on_end(self, ending: Ending, text: str) -> None:
        if ending is Ending.GARBLED:
            self.fail(WorkerEnd.GARBLED, f"sent what is no message ({text})")
        self._hung_up = True
        self._wake.set()

    def _on_exit(self) -> None:
        self._exited.set()
        self._wake.set()

    async def _see_off(self) -> Exit:
        """By itself, when asked to, or by SIGKILL."""
        patience, fault = 0.0, self._fault
        if fault is None and self._stopping and self.speaks and not self._hung_up:
            self.send(Stop())
            patience = self._limits.stop_timeout
        elif fault is None and self._hung_up:
            patience = _GOODBYE
            fault = Exit(WorkerEnd.SILENT, "closed its connection")
        exited = await _within(patience, self._exited)
        if patience and not exited and self._worker is not None and not self.runs():
            exited = await _within(_KILL, self._exited)  # how, will be said in a moment
        if exited:
            assert self._worker is not None
            how = ended(self._worker.status)
        else:
            if self._stopping and self.speaks and not self._hurried:
                log.warning("worker process %d does not end, and is killed", self.pid)
            started = self._worker is not None
            await self._kill()
            how = Exit(WorkerEnd.KILLED, "was killed")
            if fault is not None:
                how = Exit(fault.end, f"{fault.text} and was killed" if started else fault.text)
        if self._channel is not None:
            self._channel.drain()
        if self._words is not None:
            how = replace(how, words=self._words.read())
        self._close()
        return how

    async def _kill(self) -> None:
        self._call_off()
        if self._worker is not None and self.runs():
            self._worker.kill()
            if not await _within(_KILL, self._exited):
                log.error("worker process %d was killed and does not end", self.pid)

    def _close(self) -> None:
        """Give the descriptors back."""
        self.speaks = False
        self._closed = True
        self._call_off()
        if self._channel is not None:
            self._channel.close()
        if self._worker is not None:
            self._worker.close()
        if self._words is not None:
            self._words.close()


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Wait so long for an event. Did it happen?"""
    if not event.is_set() and seconds > 0:
        try:
            async with timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
    return event.is_set()
