# SPDX-License-Identifier: MIT
"""The thread that reads a source: how it is started, told to stop, and waited for."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator

from valkka_async.camera.source.source import Source
from valkka_async.errors import CameraError
from valkka_async.foreign import pass_on, start
from valkka_async.timeouts import timeout

_BEYOND = 5.0  # s beyond a source's time-outs; for a thread in a call that nothing can cut short
_SOON = 0.7  # s from stop(); who is in such a call then is left alone
_LOOKS = (0.0, 0.03, 0.02, 0.05)  # s between looks at who may be; asleep each time, it is

log = logging.getLogger("valkka_async.camera")


def _nothing() -> None:
    pass


class SourceThread:
    """Runs ``body`` in a daemon thread.

    ``patience`` is the longest time in seconds for which a source may block: at the interpreter's end that is
    waited for. close() and aclose() leave a thread alone that nothing can cut short (a DNS lookup, a pause of
    FFmpeg's between two playlists, a FIFO that nobody writes); it ends by itself. They and abandon() call
    ``after`` in the caller's thread, once this one has ended or was left; it must be idempotent.
    """

    def __init__(
        self,
        name: str,
        body: Callable[[], None],
        patience: float,
        after: Callable[[], None] = _nothing,
    ) -> None:
        self._body = body
        self.patience = patience + _BEYOND
        self._after = after
        self._stop = threading.Event()
        self._source: Source | None = None
        self._ended = False
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._cpu_clock: int | None = None
        self._cpu_s = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start it. Raises CameraError when the system has no room for another thread."""
        try:
            start(self._thread)
        except OSError as e:
            pass_on(e)
            raise CameraError(
                f"{self._thread.name}: {e.strerror}; raise the limit of threads (ulimit -u, or that of the "
                "container)"
            ) from None
        _running.add(self)

    @property
    def alive(self) -> bool:
        """Is it at work?"""
        return self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Was it told to stop?"""
        return self._stop.is_set()

    @property
    def cpu_s(self) -> float:
        """CPU seconds that it has taken."""
        if self._cpu_clock is not None:
            with contextlib.suppress(OSError):  # it has ended
                self._cpu_s = time.clock_gettime(self._cpu_clock)
        return round(self._cpu_s, 3)

    # ------------------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        # Asked for here: for a thread that has ended it would be undefined (pthread_getcpuclockid(3)).
        self._cpu_clock = time.pthread_getcpuclockid(threading.get_ident())
        try:
            self._body()
        finally:
            self._ended = True
            self._wake()

    @contextlib.contextmanager
    def reading(self, source: Source) -> Iterator[None]:
        """While the body blocks in this source. It looks at ``stopping`` after entering."""
        self._source = source
        try:
            yield
        finally:
            self._source = None

    def sleep(self, seconds: float) -> None:
        """Sleep for so long, or until it is told to stop."""
        self._stop.wait(seconds)

    def _wake(self) -> None:
        while self._waiters:
            try:
                waiter = self._waiters.popleft()
            except IndexError:  # another thread was faster
                return
            with contextlib.suppress(RuntimeError):  # its loop is closed
                waiter.get_loop().call_soon_threadsafe(_resolve, waiter)

    # ------------------------------------------------------------------------------ from outside

    def stop(self) -> None:
        """Tell it to stop. Calls that block in a dead network are cut short."""
        self._stop.set()
        # The thread stores its source and then looks at the flag; here the flag comes first.
        if (source := self._source) is not None:
            source.cut()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended. False: not within so many seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    async def wait(self) -> None:
        """The same in asyncio. May be cancelled, and any number of tasks may wait."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if self._ended:
            self._wake()
        try:
            await waiter
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)
        while self._thread.is_alive():  # noqa: ASYNC110 - it is on its last line
            await asyncio.sleep(0)

    def close(self) -> None:
        """Stop, and return when it has ended or was given up. Idempotent. In its own thread it only stops."""
        self.stop()
        if threading.current_thread() is self._thread:
            return
        try:
            if not self.join(_SOON) and (self._stuck() or not self.join(self.patience)):
                self._leave()
        finally:  # after a second Ctrl-C, too
            self._after()

    async def aclose(self) -> None:
        """close() for asyncio. Cancelled, it leaves the thread ending by itself."""
        self.stop()
        try:
            if not await self._waited(_SOON) and (
                await self._astuck() or not await self._waited(self.patience)
            ):
                self._leave()
        finally:
            self._after()

    async def _waited(self, seconds: float) -> bool:
        try:
            async with timeout(seconds):
                await self.wait()
        except TimeoutError:
            return False
        return True

    def _stuck(self) -> bool:
        source = self._source
        for pause in _LOOKS:
            time.sleep(pause)
            if source is None or not source.sleeps():
                return False
        return True

    async def _astuck(self) -> bool:
        """The same in asyncio: many that close at a time would hold up the loop."""
        source = self._source
        for pause in _LOOKS:
            await asyncio.sleep(pause)
            if source is None or not source.sleeps():
                return False
        return True

    def abandon(self) -> None:
        """Stop, and wait for nothing: the thread ends by itself."""
        self.stop()
        self._after()

    def _leave(self) -> None:
        log.info("%s: its thread ends when FFmpeg lets it", self._thread.name)

    def forget(self) -> None:
        """In a forked child, which does not have the thread."""
        self._stop = threading.Event()  # another thread may have held the lock of the old one
        self._stop.set()
        self._source, self._ended = None, True
        self._waiters.clear()


_running: weakref.WeakSet[SourceThread] = weakref.WeakSet()


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _close_all() -> None:
    """At the interpreter's exit: no thread may be inside FFmpeg when Python is taken down."""
    threads = list(_running)
    for thread in threads:
        thread.stop()
    for thread in threads:
        thread.join(thread.patience)
        thread.close()


def _forget_all() -> None:
    for thread in list(_running):
        thread.forget()
    _running.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
