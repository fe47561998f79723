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

from valkka_async.ring import _shm, fork

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


class _Life:
    """One life of the thread: from the first descriptor to the last."""

    def __init__(self, run: Callable[[_Life], None]) -> None:
        self._wake: list[int] = []
        try:
            self.epoll = select.epoll()
            _shm.note(self._wake, os.eventfd, 0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self.bell = self._wake[0]
            self.epoll.register(self.bell, select.EPOLLIN)
            self.thread = threading.Thread(target=run, args=(self,), name="valkka-async", daemon=True)
        except BaseException:
            self.close()
            raise

    def __del__(self) -> None:
        self.close()  # one that nobody came to have

    def wake(self) -> None:
        os.eventfd_write(self.bell, 1)

    def close(self) -> None:
        # Closed, not unregistered: in a forked child the epoll set itself is shared with the parent.
        if hasattr(self, "epoll"):
            self.epoll.close()
        _shm.close_all(self._wake)


class ThreadWatcher:
    """May be called again in the middle of any of its methods: by a signal's handler, or by the collector,
    which runs the ``__del__`` of servers anywhere. Each step under the lock leaves a consistent state."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._callbacks: dict[int, Callback] = {}
        self._timers: list[tuple[float, int, Callback]] = []
        self._tie = itertools.count()
        self._life: _Life | None = None
        self._lives: set[_Life] = set()  # whose descriptors are open
        self._last: threading.Thread | None = None  # that was told to end
        fork.in_child(self, ThreadWatcher._after_fork)

    def add(self, fd: int, callback: Callback) -> None:
        with fork.steady, self._lock:
            try:
                self._callbacks[fd] = callback  # from here on nobody ends the thread
                self._begin().epoll.register(fd, select.EPOLLIN)
            except BaseException:
                self.remove(fd)
                raise

    def _begin(self) -> _Life:
        life = self._life
        if life is None:
            life = _Life(self._run)
            try:
                self._lives.add(life)
                self._life = life
                life.thread.start()
            except BaseException:
                self._life = None
                life.wake()
                if life.thread.ident is None:  # else it closes them
                    life.close()
                    self._lives.discard(life)
                raise
        return life

    def remove(self, fd: int) -> None:
        with self._lock:
            life = self._life
            if life is not None and fd in self._callbacks:
                try:
                    life.epoll.unregister(fd)
                except OSError:
                    pass  # it had left, or never came there
            self._callbacks.pop(fd, None)
            if life is not None and life is self._life and not self._callbacks:
                # The thread owns its descriptors now, and ends; the next add() starts another.
                self._last = life.thread
                life.wake()
                self._timers.clear()
                self._life = None

    def join(self) -> None:
        """Wait for the thread to end, if it was told to. Neither in it nor under a lock that it may want."""
        last = self._last
        # At the interpreter's end a daemon thread never runs again, so there is no waiting for it.
        if last is not None and last is not threading.current_thread() and not sys.is_finalizing():
            last.join()
            if self._last is last:
                self._last = None

    def pause(self, fd: int, seconds: float) -> None:
        with self._lock:
            if self._life is not None and fd in self._callbacks:
                self._life.epoll.modify(fd, 0)
        self.later(seconds, lambda: self._resume(fd))

    def _resume(self, fd: int) -> None:
        with self._lock:
            if self._life is not None and fd in self._callbacks:
                self._life.epoll.modify(fd, select.EPOLLIN)

    def later(self, seconds: float, callback: Callback) -> None:
        with self._lock:
            life = self._life
            if life is None:
                return  # nothing is watched, so the timer has no owner
            heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._tie), callback))
            life.wake()

    def _run(self, life: _Life) -> None:
        try:
            while True:
                due: list[Callback] = []
                with self._lock:
                    if self._life is not life:
                        break
                    now = time.monotonic()
                    while self._timers and self._timers[0][0] <= now:
                        due.append(heapq.heappop(self._timers)[2])
                    timeout = self._timers[0][0] - now if self._timers else None
                for callback in due:
                    self._call(callback)
                if due:
                    continue
                for fd, _ in life.epoll.poll(timeout):
                    if fd == life.bell:
                        os.eventfd_read(fd)
                        continue
                    with self._lock:
                        ready = self._callbacks.get(fd) if self._life is life else None
                    if ready is not None:
                        self._call(ready)
        finally:
            with fork.steady:
                life.close()
                self._lives.discard(life)

    @staticmethod
    def _call(callback: Callback) -> None:
        try:
            callback()
        except Exception:
            log.exception("a server's connection handler failed")

    def _after_fork(self) -> None:
        for life in self._lives:
            fork.drop(life.close)
        self.__init__()  # type: ignore[misc]


_thread_watcher = ThreadWatcher()


def watcher() -> Watcher:
    """The running loop's watcher, or the thread's outside a loop."""
    try:
        return LoopWatcher(asyncio.get_running_loop())
    except RuntimeError:
        return _thread_watcher


def watcher_thread_ends() -> None:
    """Wait for the thread, if it was told to end. No lock may be held that a server's callbacks take."""
    _thread_watcher.join()
