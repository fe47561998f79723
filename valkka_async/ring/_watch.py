# SPDX-License-Identifier: MIT
"""What looks after a server's descriptors and files: one daemon thread, or an event loop.

The thread is one for all servers of the process; it starts with the first descriptor and ends with the last.
It answers readers whatever the program does meanwhile; a loop does not while a coroutine computes or blocks.
"""

from __future__ import annotations

import asyncio
import atexit
import heapq
import itertools
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Literal, Protocol, get_args

from valkka_async.errors import ConcurrencyError
from valkka_async.foreign import pass_on, start
from valkka_async.ring import _shm, fork
from valkka_async.ring._home import Home, running_loop
from valkka_async.ring._looks import Look, Looks
from valkka_async.ring.rendezvous import LOOK_SECONDS

log = logging.getLogger("valkka_async")

Callback = Callable[[], None]
#: What looks after a server.
Watch = Literal["thread", "loop"]

_END_SECONDS = 1.0  # for which close() waits for the thread at most
_AGAIN_SECONDS = 0.05  # until the thread goes on after what nobody foresaw


class Watcher(Protocol):
    def add(self, fd: int, callback: Callback) -> None:
        """Call back whenever fd is readable."""

    def remove(self, fd: int) -> None:
        """No longer; before fd is closed."""

    def pause(self, fd: int, seconds: float) -> None:
        """Look away from an added fd for a while."""

    def later(self, seconds: float, callback: Callback) -> None:
        """Call back once. It may come after the caller has lost interest."""

    def look(self, directory: str, look: Look) -> None:
        """Call back, LOOK_SECONDS after something in the directory may have changed at the latest."""

    def look_away(self, look: Look) -> None:
        """No longer. It may be called again."""

    def call(self, function: Callback) -> None:
        """Call it where add() and remove() may be called: now, or as soon as the loop comes to it."""

    def check_may_wait(self) -> None:
        """Raises ConcurrencyError where waiting for a callback would keep it from being called."""

    def join(self) -> None:
        """Wait for what ends with the last descriptor. No lock may be held that a callback takes."""


class LoopWatcher:
    """Watches for one server, in the loop that runs here."""

    def __init__(self) -> None:
        self._home = Home()
        self._home.enter("the server")
        self._loop = asyncio.get_running_loop()
        self._callbacks: dict[int, Callback] = {}
        self._looks = Looks()

    def add(self, fd: int, callback: Callback) -> None:
        self._callbacks[fd] = callback
        self._loop.add_reader(fd, callback)

    def remove(self, fd: int) -> None:
        self._callbacks.pop(fd, None)
        if not self._loop.is_closed():
            self._loop.remove_reader(fd)

    def pause(self, fd: int, seconds: float) -> None:
        self._loop.call_later(seconds, self._resume, fd, self._callbacks[fd])  # first: it may fail
        self._loop.remove_reader(fd)

    def _resume(self, fd: int, callback: Callback) -> None:
        if self._callbacks.get(fd) is callback:  # neither removed nor taken over meanwhile
            self._loop.add_reader(fd, callback)

    def later(self, seconds: float, callback: Callback) -> None:
        self._loop.call_later(seconds, callback)

    def look(self, directory: str, look: Look) -> None:
        self._looks.add(directory, look)
        self._loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        if self._looks:
            self._looks.look()
            self._loop.call_later(LOOK_SECONDS, self._look)

    def look_away(self, look: Look) -> None:
        self._looks.remove(look)

    def call(self, function: Callback) -> None:
        self._home.call(function)

    def check_may_wait(self) -> None:
        if running_loop() is self._loop:
            raise ConcurrencyError(
                'this loop looks after the server (watch="loop") and must not be blocked: await writable()'
            )

    def join(self) -> None:
        pass


class _Life:
    """One life of the thread: from the first descriptor to the last."""

    def __init__(self, run: Callable[[_Life], None]) -> None:
        self._wake: list[int] = []
        self.look_at = time.monotonic() + LOOK_SECONDS  # when to look at directories
        try:
            self.epoll = select.epoll()
            _shm.note(self._wake, os.eventfd, 0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self.bell = self._wake[0]
            self.epoll.register(self.bell, select.EPOLLIN)
            self.thread = threading.Thread(target=run, args=(self,), name="valkka-async", daemon=True)
        except BaseException:
            self.close()
            raise

    @fork.quiet_at_end
    def __del__(self) -> None:
        self.close()  # one that nobody came to have

    def wake(self) -> None:
        os.eventfd_write(self.bell, 1)

    def close(self) -> None:
        # Closed, not unregistered: in a forked child the epoll set itself is shared with the parent.
        if hasattr(self, "epoll"):
            self.epoll.close()
        if hasattr(self, "_wake"):
            _shm.close_all(self._wake)


class ThreadWatcher:
    """May be called again in the middle of any of its methods: by a signal's handler, or by the collector,
    which runs the ``__del__`` of servers anywhere. A step under ``fork.steady`` leaves a consistent state."""

    def __init__(self) -> None:
        self._callbacks: dict[int, Callback] = {}
        self._timers: list[tuple[float, int, Callback]] = []
        self._tie = itertools.count()
        self._life: _Life | None = None
        self._lives: set[_Life] = set()  # whose descriptors are open
        self._last: threading.Thread | None = None  # that was told to end
        self._looks = Looks()
        fork.in_child(self, ThreadWatcher._after_fork)

    def add(self, fd: int, callback: Callback) -> None:
        with fork.steady():
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
                start(life.thread)
            except BaseException:
                self._life = None
                life.wake()
                if life.thread.ident is None:  # else it closes them
                    life.close()
                    self._lives.discard(life)
                raise
        return life

    def remove(self, fd: int) -> None:
        with fork.steady():
            life = self._life
            if life is not None and fd in self._callbacks:
                try:
                    life.epoll.unregister(fd)
                except OSError as e:
                    pass_on(e)  # else it had left, or never came there
            self._callbacks.pop(fd, None)
            if life is not None and life is self._life and not self._callbacks:
                # The thread owns its descriptors now, and ends; the next add() starts another.
                self._last = life.thread
                life.wake()
                self._timers.clear()
                self._life = None

    def look(self, directory: str, look: Look) -> None:
        self._looks.add(directory, look)

    def look_away(self, look: Look) -> None:
        self._looks.remove(look)

    def call(self, function: Callback) -> None:
        function()

    def check_may_wait(self) -> None:
        pass

    def join(self) -> None:
        last = self._last
        if last is None or last is threading.current_thread():
            return
        # An event loop is not held up. At the interpreter's end a daemon thread never runs again.
        if running_loop() is None and not sys.is_finalizing():
            last.join(_END_SECONDS)  # it may be in a callback that waits for us
            if self._last is last and not last.is_alive():
                self._last = None

    def pause(self, fd: int, seconds: float) -> None:
        self.later(seconds, lambda: self._resume(fd))  # first: it may fail
        with fork.steady():
            if self._life is not None and fd in self._callbacks:
                self._life.epoll.modify(fd, 0)

    def _resume(self, fd: int) -> None:
        with fork.steady():
            if self._life is not None and fd in self._callbacks:
                self._life.epoll.modify(fd, select.EPOLLIN)

    def later(self, seconds: float, callback: Callback) -> None:
        with fork.steady():
            life = self._life
            if life is None:
                return  # nothing is watched, so the timer has no owner
            heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._tie), callback))
            life.wake()

    def _run(self, life: _Life) -> None:
        try:
            while True:
                try:
                    if not self._turn(life):
                        break
                except Exception:  # there is no memory for a moment; without this thread all servers are deaf
                    time.sleep(_AGAIN_SECONDS)
        finally:
            with fork.steady():
                life.close()
                self._lives.discard(life)

    def _turn(self, life: _Life) -> bool:
        """Call what is due; if nothing is, wait for descriptors and call whom they are of. False: the end."""
        due: Callback | None = None
        with fork.steady():
            if self._life is not life:
                return False
            now = time.monotonic()
            if self._timers and self._timers[0][0] <= now:
                due = heapq.heappop(self._timers)[2]
            elif life.look_at <= now:
                due = self._looks.look
                life.look_at = now + LOOK_SECONDS
            timeout = (min(self._timers[0][0], life.look_at) if self._timers else life.look_at) - now
        if due is not None:
            self._call(due)
            return True
        for fd, _ in life.epoll.poll(timeout):
            if fd == life.bell:
                os.eventfd_read(fd)
                continue
            with fork.steady():
                ready = self._callbacks.get(fd) if self._life is life else None
            if ready is not None:
                self._call(ready)
        return True

    def end(self) -> None:
        """At the program's end, before the interpreter's. That stops other threads anywhere: if this one
        held a lock then, the ``__del__`` of a server would wait for it for ever."""
        with fork.steady():
            life, self._life = self._life, None
        if life is not None:
            life.wake()
            life.thread.join(_END_SECONDS)

    @staticmethod
    def _call(callback: Callback) -> None:
        """Whatever it raises, also SystemExit, the others are to be called."""
        try:
            callback()
        except BaseException:
            try:
                log.exception("a server's connection handler failed")
            except BaseException:  # a handler or a filter of the program's
                pass

    def _after_fork(self) -> None:
        for life in self._lives:
            fork.drop(life.close)
        self.__init__()  # type: ignore[misc]


_thread_watcher = ThreadWatcher()
atexit.register(_thread_watcher.end)


def watcher(watch: Watch) -> Watcher:
    """The thread's, or the running loop's. Raises ValueError."""
    if watch not in get_args(Watch):
        raise ValueError(f'watch is "thread" or "loop", not {watch!r}')
    if watch == "thread":
        return _thread_watcher
    if running_loop() is None:
        raise ValueError('watch="loop" needs a running event loop: serve() in a coroutine, or leave it out')
    return LoopWatcher()
