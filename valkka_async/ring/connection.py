# SPDX-License-Identifier: MIT
"""A reader's connection to one server: the socket, the doorbell and the rings. It never waits.

``dial`` and ``pump`` do what can be done now. The caller waits for ``sock`` (messages, the end) and ``bell``
(frames) to become readable: in an epoll set in reader.py, in the event loop in subscription.py.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import stat
import time
from dataclasses import dataclass

from valkka_async.backoff import Backoff
from valkka_async.errors import (
    ConnectError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InheritedError,
    ProtocolError,
)
from valkka_async.foreign import pass_on
from valkka_async.ring import _memory, _shm, fork, patched
from valkka_async.ring._shm import Frame
from valkka_async.ring._weak import weakly
from valkka_async.ring.handshake import (
    MAX_BYTES,
    Ack,
    Busy,
    Bye,
    Hello,
    Message,
    Refused,
    Report,
    Ring,
    Room,
    Stats,
    Welcome,
    decode,
    encode,
)
from valkka_async.ring.names import check_source
from valkka_async.ring.rendezvous import (
    check_server,
    is_young,
    refused,
    runtime_dir,
    socket_path,
)
from valkka_async.timeouts import check_timeout

_FIRST_RETRY_SECONDS = 0.01  # between looks for a server that is not there, at first,
_LAST_RETRY_SECONDS = 0.2  # and after a while
_STABLE_SECONDS = 1.0  # a connection that has lived so long was a good one
# With a timeout of 0 nobody waits for a server that is not there; one that is there needs time to answer.
ANSWER_SECONDS = 1.0
WELCOME_SECONDS = 5.0  # until a server that does not answer is dialled again
REFUSED_SECONDS = 1.0  # until a server that refused us is asked again

_LONGEST_TIMEOUT_SECONDS = 2e6  # of a poll: milliseconds in an int
_CRASHED = "crashed"
_FDS_BYTES = socket.CMSG_SPACE(4 * 4)  # room for four descriptors that come with a message
# Rings that a slow reader may have mapped and not read. With more it does not acknowledge, and the server
# sends it no other until it has caught up.
_MAX_RINGS = 4
# Not there, not listening, or its queue is full: try again.
_NOT_YET = (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN)


@dataclass(frozen=True, slots=True)
class ReaderStats:
    """``received`` frames, ``dropped`` ones (published but missed), ``leases`` held now,
    ``last_received_ns`` (CLOCK_MONOTONIC; 0: never)."""

    received: int
    dropped: int
    leases: int
    last_received_ns: int

    def plus(self, other: ReaderStats) -> ReaderStats:
        """Both together."""
        return ReaderStats(
            self.received + other.received,
            self.dropped + other.dropped,
            self.leases + other.leases,
            max(self.last_received_ns, other.last_received_ns),
        )


class Connection:
    """Made by :meth:`dial`. ``ready`` once the server has welcomed it; ``ended`` once it is over."""

    def __init__(self, name: str, sock: socket.socket, policy: int, max_leases: int) -> None:
        self.name = name
        self.sock = sock
        self.bell = -1
        self.pid = 0
        self.ended = False  # no message or frame will come; frames in the ring may still be claimed
        self._end = ""  # how it ended
        self.failure: ConnectError | None = None  # why we gave it up
        self._policy = policy
        self._max_leases = max_leases
        self._generation = 0  # of the newest ring when we were welcomed
        self._unacknowledged = 0  # generation of a ring that we have
        self._reader: _shm.Reader | None = None
        self._inherited = False
        self.reading = False  # a message; a signal's handler may come in the middle
        fork.in_child(self, Connection._after_fork)

    @classmethod
    def dial(cls, name: str, policy: int, max_leases: int) -> Connection | None:
        """Connect and say hello. None: no server listens there yet. Raises ConnectError."""
        with fork.steady():
            sock = dial(name)
            if sock is None:
                return None
            try:
                sock.send(encode(Hello(policy, max_leases)), socket.MSG_NOSIGNAL)
            except OSError as e:
                sock.close()
                pass_on(e)
                return None
            return cls(name, sock, policy, max_leases)

    @property
    def ready(self) -> bool:
        """Welcomed, and in possession of the ring, if there is one."""
        if self._reader is None or self.bell < 0:  # the bell comes last, unless an interrupt came first
            return False
        return not self._generation or self._reader.generation > 0

    def error(self) -> ConnectionClosed | ConnectError | InheritedError:
        """The exception that says how it ended."""
        if self._inherited:
            return inherited(f"the reader of {self.name!r}")
        if self.failure is not None:
            return self.failure
        if self._end != _CRASHED:
            return ConnectionClosedOK(self._end)
        last = self._reader.last_seq if self._reader else 0
        return ConnectionClosedError(
            f"the server {self.name!r} (process {self.pid or 'unknown'}) went away without closing; "
            f"the last frame was {last}",
            pid=self.pid,
            last_seq=last,
        )

    def pump(self) -> None:
        """Read the messages that have arrived. ``ended`` and ``error`` say what went wrong."""
        if not self._unacknowledged and _shm.is_silent(self.sock.fileno()):
            return  # as after nearly every frame
        try:
            with fork.steady():
                if self.reading:
                    return  # the one that this interrupts goes on, in order
                try:
                    self.reading = True
                    while not self.ended and self.sock.fileno() >= 0 and self._receive():
                        pass
                finally:
                    self.reading = False
            if self._unacknowledged and self._reader is not None:
                self._acknowledge(self._reader)
        except ConnectError as e:
            self.fail(e)
        except OSError as e:
            pass_on(e)
            self.fail(ConnectError(e.errno, f"server {self.name!r}: {e.strerror}"))
        except MemoryError as e:  # RingMemoryError
            text = str(e) or "no memory for its ring: raise the limit (ulimit -v, cgroup)"
            self.fail(ConnectError(errno.ENOMEM, f"server {self.name!r}: {text}"))

    def fail(self, error: ConnectError) -> None:
        """Give it up: what it sends makes no sense, or there is no memory for it."""
        self.failure = error
        self._over(str(error))

    def _over(self, how: str) -> None:
        self.ended, self._end = True, how

    def _receive(self) -> bool:
        """Read one message. False: there is none now."""
        fds: list[int] = []
        try:
            try:
                data, flags = _shm.receive(
                    self.sock, fds, MAX_BYTES, _FDS_BYTES, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return False
            except ConnectionResetError:
                # The server closed before it read our last ACK. Reported once; what it sent before follows.
                return True
            if not data:
                self._over(_CRASHED)
                return False
            message = self._decode(data)
            if flags & socket.MSG_CTRUNC:
                raise ConnectError(
                    errno.EMFILE,
                    f"no descriptor left for the ring of {self.name!r}: raise the limit (ulimit -n)",
                )
            self._take(message, fds)
            return True
        except BaseException as e:
            if isinstance(e, OSError) and e.errno is not None:  # ConnectError among them: pump() tells
                raise
            # Of a signal's handler; the message is lost, and with it all that follows.
            self.fail(ConnectError(errno.EINTR, f"server {self.name!r}: interrupted while it was read"))
            raise
        finally:
            _shm.close_all(fds)

    def _decode(self, data: bytes) -> Message:
        try:
            return decode(data)
        except ProtocolError as e:
            raise ProtocolError(f"server {self.name!r}: {e}") from None

    def _take(self, message: Message, fds: list[int]) -> None:
        match message:
            case Welcome(pid, start_seq, generation) if self._reader is None and len(fds) == 2:
                self._check_memory(fds[0], _shm.LEASE_PAGE_BYTES, writable=True)
                if not stat.S_ISFIFO(os.fstat(fds[1]).st_mode):
                    raise ProtocolError(f"server {self.name!r} sent a doorbell that is not a pipe")
                self._reader = _shm.Reader(self.name, fds[0], self._policy, self._max_leases, start_seq)
                self._reader.connect(self.sock.fileno(), encode(Room()), weakly(self.pump))
                self.pid, self._generation = pid, generation
                os.set_blocking(fds[1], False)
                self.bell = fds[1]
                del fds[1]
            case Ring(generation, size) if self._reader is not None and len(fds) == 1:
                self._check_memory(fds[0], size, writable=False)
                if generation != self._reader.generation:  # else a server that was interrupted sent it again
                    self._reader.add_ring(fds[0], size)
                self._unacknowledged = generation
            case Bye():
                self._over(f"the server {self.name!r} was closed")
            case Refused(reason):
                raise ConnectError(errno.ECONNREFUSED, reason)
            case Busy(reason):
                self._over(reason)  # without a failure, so it is dialled again
            case _:
                raise ProtocolError(
                    f"server {self.name!r}: {type(message).__name__} with {len(fds)} descriptors "
                    "was not expected here"
                )

    def _acknowledge(self, reader: _shm.Reader) -> None:
        if reader.ring_count <= _MAX_RINGS:
            try:
                self.sock.send(encode(Ack(self._unacknowledged)), socket.MSG_NOSIGNAL)
            except OSError as e:
                pass_on(e)  # else the server is gone; the next recv tells
            self._unacknowledged = 0

    def _check_memory(self, fd: int, size: int, *, writable: bool) -> None:
        if not _memory.is_sealed(fd, size, writable=writable):
            raise ProtocolError(f"server {self.name!r} sent memory that is not sealed, or not of its size")

    # ----------------------------------------------------------------------------------- frames

    def claim(self) -> Frame | None:
        """The next frame of the policy, if there is one. Raises LeaseLimitError, ProtocolError."""
        if self._reader is None:
            return None
        try:
            return self._reader.claim()
        except ProtocolError as e:
            self.fail(e)
            raise

    def doorbell(self) -> _shm.Doorbell:
        """For an event loop, of a connection that is ready."""
        assert self._reader is not None
        return _shm.Doorbell(self, self._reader, self.bell)

    def arm(self) -> bool:
        """Have the server ring the doorbell for the next frame. False: a frame is there already."""
        return self._reader is None or self._reader.arm()

    @property
    def header(self) -> bytes:
        return self._reader.header if self._reader is not None else b""

    def stats(self) -> ReaderStats:
        r = self._reader
        if r is None:
            return ReaderStats(0, 0, 0, 0)
        return ReaderStats(r.received, r.dropped, r.leases, r.last_received_ns)

    def close(self) -> None:
        """Leave. Frames that are still held stay valid: the server sees the connection end, and takes the
        slots back, when the last of them is released."""
        with fork.steady():
            if not self.ended:
                self._over(f"this reader of {self.name!r} was closed")
            if self._reader is not None:
                self._reader.close(self.sock)
            self.sock.close()
            self._close_bell()

    def _close_bell(self) -> None:
        bell, self.bell = [self.bell], -1
        _shm.close_all(bell)

    def _after_fork(self) -> None:
        self._inherited = self.ended = True
        if self._reader is not None:
            fork.drop(self._reader.after_fork)
        fork.drop(self.sock.close)
        fork.drop(self._close_bell)


def inherited(what: str) -> InheritedError:
    """The error of a child that uses something of its parent's."""
    return InheritedError(f"{what} belongs to the parent process: open one of your own after the fork")


def new_pauses(longest: float = _LAST_RETRY_SECONDS, growth: float = 2.0) -> Backoff:
    """Pauses between looks for a server."""
    return Backoff(
        _FIRST_RETRY_SECONDS, longest, _STABLE_SECONDS, shortest=_FIRST_RETRY_SECONDS, growth=growth
    )


def waited_too_long(name: str, seconds: float | None, was_there: bool) -> TimeoutError:
    """The error of a reader that waited for its server."""
    if was_there:
        return TimeoutError(f"the server {name!r} is there but did not answer within {seconds:g} s")
    if "/" in name:
        return TimeoutError(
            f"no camera {name!r} of another host within {seconds:g} s: look with `valkka-async link "
            "--status` whether that host is there and lets this one read it"
        )
    return TimeoutError(
        f"no server called {name!r} within {seconds:g} s: start it, or look with `valkka-async top` "
        "(both sides must have the same VALKKA_RUNTIME_DIR)"
    )


def dial(name: str, until: float = 0) -> socket.socket | None:
    """A socket connected to a server. None: no server listens there yet, or its queue is full, and was until
    then (monotonic). Raises ConnectError."""
    patched.refuse()
    directory = runtime_dir()
    path = socket_path(directory, check_source(name))
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    except OSError as e:
        raise refused(e, f"no socket to connect to {path}", directory) from None
    try:
        while True:
            try:
                sock.connect(path)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise
            time.sleep(_FIRST_RETRY_SECONDS)
        check_server(sock, path)
    except ConnectError:
        sock.close()
        raise
    except OSError as e:
        sock.close()
        if e.errno in _NOT_YET or (e.errno == errno.EACCES and is_young(path)):
            return None
        if e.errno in (errno.EPROTOTYPE, errno.ENOTSOCK):
            raise ProtocolError(f"{path} is not a valkka-async server") from None
        if e.errno == errno.EACCES and os.access(directory, os.X_OK, effective_ids=True):
            raise ConnectError(
                e.errno,
                f"cannot connect to {path}: {e.strerror}; it serves other users: run as its "
                f"user, or give serve() a "
                "mode and a group that this user is in",
            ) from None
        raise refused(e, f"cannot connect to {path}", directory) from None
    return sock


def _hear(sock: socket.socket) -> bytes:
    try:
        return sock.recv(MAX_BYTES)
    except ConnectionResetError:  # it was closed before it read what we asked; what it sent before follows
        return sock.recv(MAX_BYTES)


def report(name: str, timeout: float | None) -> dict[str, object] | None:
    """What a server says of itself (its ServerStats, ``pid``, ``now_ns``); None if it is not running.

    Blocks for ``timeout`` seconds at most (None: for ever; 0: a second, as it needs time to answer). Raises
    TimeoutError, ConnectError, ValueError.
    """
    timeout = check_timeout(timeout)
    if timeout == 0:
        timeout = ANSWER_SECONDS
    until = math.inf if timeout is None else time.monotonic() + timeout
    late = TimeoutError(f"the server {name!r} did not answer within {timeout} s")
    sock = dial(name, until)
    if sock is None:
        if time.monotonic() >= until:
            raise late
        return None
    with sock:
        answer = select.poll()
        answer.register(sock, select.POLLIN)
        try:
            try:
                sock.send(encode(Stats()), socket.MSG_NOSIGNAL)
            except BrokenPipeError:
                pass  # it hung up on us, and has said why
            there = answer.poll(None if timeout is None else min(timeout, _LONGEST_TIMEOUT_SECONDS) * 1000)
            data = _hear(sock) if there else b""
        except OSError as e:
            pass_on(e)
            return None
        if not there:
            raise late
    return said(name, data)


def said(name: str, data: bytes) -> dict[str, object] | None:
    """What a server has answered. None: it hung up. Raises ConnectError."""
    match decode(data) if data else None:
        case Report(values):
            return values
        case Refused(reason):
            raise ConnectError(errno.ECONNREFUSED, reason)
        case Busy(reason):
            raise ConnectError(errno.EAGAIN, reason)
        case None:
            return None
    raise ProtocolError(f"server {name!r} did not answer the question")
