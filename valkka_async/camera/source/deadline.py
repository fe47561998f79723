# SPDX-License-Identifier: MIT
"""Ends a call into FFmpeg that blocks for too long, from another thread.

FFmpeg has no safe call for that: closing a container frees memory that the blocked thread is using, and
its own `timeout` option starts again with every packet, so that a camera which hangs but goes on sending
RTCP reports is never noticed. What works is shutdown() on the socket that the thread is waiting for. The
kernel tells which one that is: /proc/self/task/<tid>/syscall has the system call in which a thread is
blocked, and its arguments. Where that file is missing, FFmpeg's `timeout` remains.

TCP sockets only. A UDP socket that was shut down is always readable and never has anything: FFmpeg's RTP
reader spins on it for ever. RTSP over UDP waits for its TCP connection as well, so that is no loss; a
plain udp:// source and a DNS lookup have to run into their own time-outs.

One thread per process watches all deadlines. It lives as long as there is something to watch.
"""

from __future__ import annotations

import math
import os
import platform
import socket
import struct
import threading
import time
from collections.abc import Callable
from functools import partial

_X86 = platform.machine() == "x86_64"
# Linux system call numbers: poll, ppoll; and those whose first argument is the descriptor: read, write,
# readv, writev, connect, sendto, recvfrom, sendmsg, recvmsg, recvmmsg, sendmmsg.
_POLL = {7, 271} if _X86 else {73}
_ON_FD_X86 = {0, 1, 19, 20, 42, 44, 45, 46, 47, 299, 307}
_ON_FD_ARM = {63, 64, 65, 66, 203, 206, 207, 211, 212, 243, 269}
_ON_FD = _ON_FD_X86 if _X86 else _ON_FD_ARM
_POLLFD = struct.Struct("ihh")
_GOODBYE = 0.2  # s after the deadline, in which a thread may still write to its socket
_FAST, _SOON = 0.002, 0.1  # s between looks at the connections of a call, and for so long; then _AGAIN
_TRIES, _BETWEEN = 10, 0.0003  # s; to find out for what a thread waits that never waits for long
_AGAIN = 0.02  # s; a call that goes on after its socket was shut down (DNS, a second address) is cut again


class Deadline:
    """The deadline of one thread's blocking calls. That thread makes it and calls begin(), end(), close().

        deadline = Deadline()
        deadline.begin(10.0)
        ... a call into FFmpeg ...
        deadline.end()

    Between begin() and end(), and never outside, the sockets in which the thread blocks are shut down
    once the time is over or cut() was called.
    """

    def __init__(self) -> None:
        self._tid = threading.get_native_id()
        self._lock = threading.Lock()  # held while sockets are shut down: end() waits for that
        self._due: float | None = None  # monotonic; None between calls
        self._cut_at = math.inf
        self._began = 0.0
        self._connections = 0
        self._sockets: set[int] = set()  # inodes of those seen in this call
        self._peers: dict[int, set[object]] = {}  # of each descriptor that was one of theirs
        self._finding = False
        self._found: list[socket.socket] = []
        self.expired = False  # the time was over, once
        self.crowded = False  # there were too many connections, once
        _watch(self)

    def begin(self, seconds: float = math.inf, connections: int = 0) -> None:
        """A blocking call starts, which may last `seconds`, and make so many connections; 0: any number."""
        now = time.monotonic()
        with self._lock:
            self._began, self._due = now, now + seconds
            self._connections = connections
            if self._sockets:
                self._sockets, self._peers = set(), {}
        soon = connections or self._finding
        _wake_before(now if soon else min(now + seconds, self._cut_at))

    def end(self) -> None:
        """It has returned."""
        with self._lock:
            self._due = None

    def find(self, *, counted: bool = False) -> None:
        """Find out for which sockets the thread waits in the calls to come. `counted`: if that is one, it is
        the connection that was counted in the last call. In the thread."""
        known = [one for _, one in self._connections_now(list)] if counted else []
        if len(known) == 1:
            self._found = known
            return
        for one in known:
            one.close()
        self._finding = True

    @property
    def finding(self) -> bool:
        """Would it have found out, had the thread waited?"""
        return self._finding and os.path.exists(f"/proc/self/task/{self._tid}/syscall")

    def found(self) -> list[socket.socket]:
        """Copies of them, for the caller to close, once they are known."""
        if not self._found:
            return []
        with self._lock:
            found, self._found = self._found, []
        return found

    def cut(self, after: float = 0.0) -> None:
        """In `after` seconds, end the current call and all to come. From any thread; does not block."""
        self._cut_at = min(self._cut_at, time.monotonic() + after)
        _wake_before(self._cut_at)

    def sleeps(self) -> bool:
        """Does the thread sleep in a call, now? From any thread; does not block."""
        return self._due is not None and not is_ready(self._tid)

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self.end()
        self._finding = False
        _unwatch(self)

    def check(self, now: float) -> float:
        """Cut the call short if it is time to. Returns when to look again. For the watching thread."""
        with self._lock:
            if self._due is None:
                return max(self._cut_at, now + _AGAIN)
            limit = min(self._due, self._cut_at)
            if self._connections and now < limit:
                return self._count(now, limit)
            if self._finding and now < limit:
                self._found = [one for _, one in _copies(partial(blocked_on, self._tid), self._tid)]
                self._finding = not self._found
                return min(limit, now + _FAST) if self._finding else limit
            if now < limit:
                return limit
            self.expired |= now < self._cut_at
            # At first only reading ends, so that the thread can still say goodbye (RTSP TEARDOWN).
            self._interrupt(socket.SHUT_RD if now < limit + _GOODBYE else socket.SHUT_RDWR)
            return now + _AGAIN

    def _count(self, now: float, limit: float) -> float:
        """Look how many connections the call has made. FFmpeg follows each redirect of RTSP, at any speed."""
        for fd, one in self._connections_now(self._blocked_soon):
            with one:
                self._sockets.add(os.fstat(one.fileno()).st_ino)
                if (peer := _peer(one)) is not None:
                    self._peers.setdefault(fd, set()).add(peer)
        if len(self._sockets) > self._connections:
            self.crowded = True
            self._interrupt()
        # The faster they come, the sooner the first of them have been seen.
        return min(limit, now + (_FAST if now < self._began + _SOON else _AGAIN))

    def _interrupt(self, how: int = socket.SHUT_RDWR) -> None:
        for _, one in self._connections_now(partial(blocked_on, self._tid)):
            with one:
                _shut_down(one, how)

    def _connections_now(self, blocked: Callable[[], list[int]]) -> list[tuple[int, socket.socket]]:
        """Copies of the sockets for which the thread waits, and of those that took their place and lead to
        where they did: it waits only for moments where a camera is quick, or a processor short.
        """
        found = _copies(blocked, self._tid)
        for fd in self._peers.keys() - {fd for fd, _ in found}:
            for one in _copy(fd):
                if _peer(one) in self._peers[fd]:
                    found.append((fd, one))
                else:
                    one.close()
        return found

    def _blocked_soon(self) -> list[int]:
        """blocked_on(), once it waits: where a processor is short, it is ready to run whenever we run."""
        for _ in range(_TRIES):
            if fds := blocked_on(self._tid):
                return fds
            time.sleep(_BETWEEN)
        return []


def interrupt(tid: int, how: int = socket.SHUT_RDWR) -> int:
    """Shut down the stream sockets for which a thread of this process is waiting now; returns how many.

    Does nothing if it is running or waits for something else.
    """
    count = 0
    for _, one in _copies(partial(blocked_on, tid), tid):
        with one:
            count += _shut_down(one, how)
    return count


def _shut_down(one: socket.socket, how: int) -> bool:
    try:
        if one.type != socket.SOCK_STREAM:
            return False
        one.shutdown(how)
        return True
    except OSError:  # ENOTCONN: it is shut down already
        return False


def _copies(blocked: Callable[[], list[int]], tid: int) -> list[tuple[int, socket.socket]]:
    """The sockets among the descriptors for which a thread of this process is waiting now, and copies: all of
    them, or none, as it may go on at any moment."""
    fds = blocked()
    found = [(fd, one) for fd in fds for one in _copy(fd)]
    # With the copies in hand, the numbers cannot come to mean other sockets.
    if found and blocked_on(tid) != fds:
        for _, one in found:
            one.close()
        return []
    return found


def _copy(fd: int) -> list[socket.socket]:
    """A copy of the socket; nothing if it is none."""
    try:
        copy = os.dup(fd)
    except OSError:
        return []
    try:
        return [socket.socket(fileno=copy)]
    except OSError:
        os.close(copy)
        return []


def _peer(one: socket.socket) -> object:
    try:
        return one.getpeername()
    except OSError:  # it is not connected yet, or not any more
        return None


def is_ready(tid: int) -> bool:
    """Does a thread of this process run, or wait for a processor only? Also if that is unknown."""
    try:
        with open(f"/proc/self/task/{tid}/syscall", "rb") as file:
            return file.read().startswith(b"running")
    except OSError:
        return True


def blocked_on(tid: int) -> list[int]:
    """The descriptors for which a thread of this process is waiting now; [] if it is not, or unknown."""
    try:
        with open(f"/proc/self/task/{tid}/syscall", "rb") as file:
            words = file.read().split()
        if len(words) < 3:  # "running", or "-1 sp pc": blocked, but not in a system call
            return []
        number, first, second = int(words[0]), int(words[1], 16), int(words[2], 16)
        if number in _ON_FD:
            return [first]
        if number not in _POLL or second > 256:
            return []
        # pread fails where a stray pointer would crash: the thread may have gone on meanwhile.
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            data = os.pread(memory.fileno(), second * _POLLFD.size, first)
        return [fd for fd, _, _ in _POLLFD.iter_unpack(data) if fd >= 0]
    except (OSError, ValueError, struct.error, OverflowError):
        return []


class _Watchdog:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.watched: set[Deadline] = set()
        self.next = math.inf
        self.thread = threading.Thread(target=self._run, name="valkka-deadlines", daemon=True)

    def _run(self) -> None:
        with self.changed:
            while self.watched:
                self.next = math.inf  # calls that begin from here on may have been looked at already
                now = time.monotonic()
                self.next = min(deadline.check(now) for deadline in self.watched)
                delay = self.next - now
                self.changed.wait(None if delay == math.inf else max(0.0, delay))


_guard = threading.Lock()
_watchdog: _Watchdog | None = None


def _watch(deadline: Deadline) -> None:
    global _watchdog
    with _guard:
        if _watchdog is None:
            dog = _Watchdog()
            dog.watched.add(deadline)
            dog.thread.start()  # raises RuntimeError where there can be no more threads
            _watchdog = dog
        else:
            with _watchdog.changed:
                _watchdog.watched.add(deadline)


def _unwatch(deadline: Deadline) -> None:
    global _watchdog
    with _guard:
        dog = _watchdog
        if dog is None or deadline not in dog.watched:
            return
        with dog.changed:
            dog.watched.discard(deadline)
            if dog.watched:
                return
            dog.changed.notify()
        _watchdog = None
    dog.thread.join()


def _wake_before(due: float) -> None:
    dog = _watchdog
    if dog is not None and due < dog.next:
        with dog.changed:
            dog.changed.notify()


def _forget() -> None:
    """In a forked child: the threads stayed with the parent."""
    global _guard, _watchdog
    _guard, _watchdog = threading.Lock(), None


os.register_at_fork(after_in_child=_forget)
