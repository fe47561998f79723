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
import stat
import struct
import threading
import time

_X86 = platform.machine() == "x86_64"
# Linux system call numbers: poll, ppoll; and those whose first argument is the descriptor: read, write,
# readv, writev, connect, sendto, recvfrom, sendmsg, recvmsg, recvmmsg, sendmmsg.
_POLL = {7, 271} if _X86 else {73}
_ON_FD_X86 = {0, 1, 19, 20, 42, 44, 45, 46, 47, 299, 307}
_ON_FD_ARM = {63, 64, 65, 66, 203, 206, 207, 211, 212, 243, 269}
_ON_FD = _ON_FD_X86 if _X86 else _ON_FD_ARM
_POLLFD = struct.Struct("ihh")
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
        self.expired = False  # the time was over, once
        _watch(self)

    def begin(self, seconds: float = math.inf) -> None:
        """A blocking call starts, which may last `seconds`."""
        due = time.monotonic() + seconds
        with self._lock:
            self._due = due
        _wake_before(min(due, self._cut_at))

    def end(self) -> None:
        """It has returned."""
        with self._lock:
            self._due = None

    def cut(self, after: float = 0.0) -> None:
        """In `after` seconds, end the current call and all to come. From any thread; does not block."""
        self._cut_at = min(self._cut_at, time.monotonic() + after)
        _wake_before(self._cut_at)

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self.end()
        _unwatch(self)

    def check(self, now: float) -> float:
        """Cut the call short if it is time to. Returns when to look again. For the watching thread."""
        with self._lock:
            if self._due is None:
                return max(self._cut_at, now + _AGAIN)
            limit = min(self._due, self._cut_at)
            if now < limit:
                return limit
            self.expired |= now < self._cut_at
            interrupt(self._tid)
            return now + _AGAIN


def interrupt(tid: int) -> int:
    """Shut down the stream sockets for which a thread of this process is waiting now; returns how many.

    Does nothing if it is running or waits for something else.
    """
    count = 0
    for fd in blocked_on(tid):
        try:
            copy = os.dup(fd)
        except OSError:
            continue
        try:
            # With the copy in hand, the number cannot come to mean another socket.
            if fd in blocked_on(tid) and stat.S_ISSOCK(os.fstat(copy).st_mode):
                with socket.socket(fileno=os.dup(copy)) as s:
                    if s.type == socket.SOCK_STREAM:
                        s.shutdown(socket.SHUT_RDWR)
                        count += 1
        except OSError:  # ENOTCONN: it is shut down already
            pass
        finally:
            os.close(copy)
    return count


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
