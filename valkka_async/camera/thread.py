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

_BEYOND = (
    5.0  # s beyond a source's time-outs that close() waits for a thread in a call that nothing can cut short
)

log = logging.getLogger("valkka_async.camera")


def _nothing() -> None:
    pass


class SourceThread:
    """Runs ``body`` in a daemon thread.

    ``patience`` is the longest time in seconds for which a source may block. close(), aclose() and abandon()
    call ``after`` in the caller's thread, once this one has ended or was given up; it must be idempotent.
    """

    def __init__(
        self,
        name: str,
        body: Callable[[], None],
        patience: float,
        after: Callable[[], None] = _nothing,
    ) -> None:
        self._body = body
        self._patience = patience + _BEYOND
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
            self._thread.start()
        except RuntimeError as e:
            raise CameraError(
                f"{self._thread.name}: {e}; raise the limit of threads (ulimit -u, or that of the container)"
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
            if not self.join(self._patience):
                self._give_up()
        finally:  # after a second Ctrl-C, too
            self._after()

    async def aclose(self) -> None:
        """close() for asyncio. Cancelled, it leaves the thread ending by itself."""
        self.stop()
        try:
            async with asyncio.timeout(self._patience):
                await self.wait()
        except TimeoutError:
            self._give_up()
        finally:
            self._after()

    def abandon(self) -> None:
        """Stop, and wait for nothing: the thread ends by itself."""
        self.stop()
        self._after()

    def _give_up(self) -> None:
        log.warning("%s does not end; it is left alone", self._thread.name)

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
        thread.close()


def _forget_all() -> None:
    for thread in list(_running):
        thread.forget()
    _running.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
