# SPDX-License-Identifier: MIT
"""What looks after a server's descriptors: the running event loop, or else one daemon thread.

Both offer ``add``, ``remove``, ``pause`` and ``later``. The thread is one for all servers of the process; it
starts with the first descriptor and ends with the last.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from valkka_async.ring import fork

log = logging.getLogger("valkka_async")

Callback = Callable[[], None]


class Watcher(Protocol):
    def add(self, fd: int, callback: Callback) -> None:
        """Call back whenever fd is readable."""

    def remove(self, fd: int) -> None:
        """No longer; before fd is closed."""

    def pause(self, fd: int, seconds: float) -> None:
        """Look away from an added fd for a while."""

    def later(self, seconds: float, callback: Callback) -> None:
        """Call back once. It may come after the caller has lost interest."""


class LoopWatcher:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._callbacks: dict[int, Callback] = {}

    def add(self, fd: int, callback: Callback) -> None:
        self._callbacks[fd] = callback
        self._loop.add_reader(fd, callback)

    def remove(self, fd: int) -> None:
        self._callbacks.pop(fd, None)
        if not self._loop.is_closed():
            self._loop.remove_reader(fd)

    def pause(self, fd: int, seconds: float) -> None:
        callback = self._callbacks[fd]
        self._loop.remove_reader(fd)
        self._loop.call_later(seconds, self._resume, fd, callback)

    def _resume(self, fd: int, callback: Callback) -> None:
        if self._callbacks.get(fd) is callback:  # neither removed nor taken over meanwhile
            self._loop.add_reader(fd, callback)

    def later(self, seconds: float, callback: Callback) -> None:
        self._loop.call_later(seconds, callback)


class ThreadWatcher:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[int, Callback] = {}
        self._timers: list[tuple[float, int, Callback]] = []
        self._tie = itertools.count()
        self._epoll: select.epoll | None = None
        self._wake = -1
        self._thread: threading.Thread | None = None
        fork.in_child(self, ThreadWatcher._after_fork)

    def add(self, fd: int, callback: Callback) -> None:
        with self._lock:
            if self._epoll is not None:
                self._epoll.register(fd, select.EPOLLIN)
                self._callbacks[fd] = callback
            else:
                self._start(fd, callback)

    def _start(self, fd: int, callback: Callback) -> None:
        """The thread, with its first descriptor; all or nothing, as there may be none left of either."""
        epoll = select.epoll()
        wake, thread = -1, None
        try:
            wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            epoll.register(wake, select.EPOLLIN)
            epoll.register(fd, select.EPOLLIN)
            thread = threading.Thread(target=self._run, args=(epoll, wake), name="valkka-async", daemon=True)
            self._callbacks[fd] = callback
            self._epoll, self._wake, self._thread = epoll, wake, thread
            thread.start()  # which waits for the lock
        except BaseException:
            self._callbacks.clear()
            self._epoll, self._wake, self._thread = None, -1, None
            if thread is not None and thread.ident is not None:  # it runs, and closes them as it ends
                os.eventfd_write(wake, 1)
                raise
            epoll.close()
            if wake >= 0:
                os.close(wake)
            raise

    def remove(self, fd: int) -> None:
        last = None
        with self._lock:
            if self._callbacks.pop(fd, None) is None or self._epoll is None:
                return
            self._epoll.unregister(fd)
            if not self._callbacks:
                # The thread owns these two now, and ends; the next add() starts another.
                os.eventfd_write(self._wake, 1)
                last, self._thread, self._epoll, self._wake = self._thread, None, None, -1
                self._timers.clear()
        # At the interpreter's end a daemon thread never runs again, so there is no waiting for it.
        if last is not None and last is not threading.current_thread() and not sys.is_finalizing():
            last.join()

    def pause(self, fd: int, seconds: float) -> None:
        with self._lock:
            if self._epoll is not None:
                self._epoll.modify(fd, 0)
        self.later(seconds, lambda: self._resume(fd))

    def _resume(self, fd: int) -> None:
        with self._lock:
            if self._epoll is not None and fd in self._callbacks:
                self._epoll.modify(fd, select.EPOLLIN)

    def later(self, seconds: float, callback: Callback) -> None:
        with self._lock:
            if self._epoll is None:
                return  # nothing is watched, so the timer has no owner
            heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._tie), callback))
            os.eventfd_write(self._wake, 1)

    def _run(self, epoll: select.epoll, wake: int) -> None:
        with epoll:
            while True:
                due: list[Callback] = []
                with self._lock:
                    if self._epoll is not epoll:
                        break
                    now = time.monotonic()
                    while self._timers and self._timers[0][0] <= now:
                        due.append(heapq.heappop(self._timers)[2])
                    timeout = self._timers[0][0] - now if self._timers else None
                for callback in due:
                    self._call(callback)
                if due:
                    continue
                for fd, _ in epoll.poll(timeout):
                    if fd == wake:
                        os.eventfd_read(wake)
                        continue
                    with self._lock:
                        ready = self._callbacks.get(fd) if self._epoll is epoll else None
                    if ready is not None:
                        self._call(ready)
        os.close(wake)

    @staticmethod
    def _call(callback: Callback) -> None:
        try:
            callback()
        except Exception:
            log.exception("a server's connection handler failed")

    def _after_fork(self) -> None:
        # Closed, not unregistered: the epoll set itself is shared with the parent.
        if self._epoll is not None:
            self._epoll.close()
            os.close(self._wake)
        self.__init__()  # type: ignore[misc]


_thread_watcher = ThreadWatcher()


def watcher() -> Watcher:
    """The running loop's watcher, or the thread's outside a loop."""
    try:
        return LoopWatcher(asyncio.get_running_loop())
    except RuntimeError:
        return _thread_watcher
