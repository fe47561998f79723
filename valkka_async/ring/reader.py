# SPDX-License-Identifier: MIT
"""attach(): read frames without an event loop (API level 1)."""

from __future__ import annotations

import logging
import os
import select
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType

from valkka_async.errors import ConcurrencyError, ConnectError, ConnectionClosedOK, ProtocolError
from valkka_async.foreign import pass_on
from valkka_async.ring import _kernel, _shm, fork, patched
from valkka_async.ring._home import running_loop
from valkka_async.ring._shm import Frame, drain
from valkka_async.ring.connection import (
    ANSWER_SECONDS,
    REFUSED_SECONDS,
    WELCOME_SECONDS,
    Connection,
    ReaderStats,
    inherited,
    new_pauses,
    waited_too_long,
)
from valkka_async.ring.names import check_source
from valkka_async.ring.policy import Policy, check_policy
from valkka_async.timeouts import check_timeout

log = logging.getLogger("valkka_async")

_LONGEST_WAIT_SECONDS = 3600.0  # of one system call; what is longer waits again
_DESCRIPTORS = 4  # in the set: socket, doorbell, nudge, timer
_LOOP_STANDS_STILL = (
    "; attach() holds up the event loop of this thread, and all that is to happen there: in a coroutine, "
    "use `async with va.connect(name)`"
)


def attach(
    name: str,
    *,
    policy: Policy = "latest",
    max_leases: int = 4,
    open_timeout: float | None = 10.0,
    reconnect: bool = False,
) -> Reader:
    """Connect to the server called ``name``, waiting for it to start if need be.

    Parameters
    ----------
    policy
        "latest": the newest frame; "ordered": every frame in order, as long as the reader keeps up;
        "lossless": every frame, and the server waits (for files, not for cameras).
    max_leases
        How many frames may be held at once.
    open_timeout
        Seconds to wait for the server to be there; None: for ever; 0: it must be there now, and has a second
        to answer.
    reconnect
        Whenever the server goes away, wait for it to come back instead of ending.

    Raises TimeoutError, ConnectError (ProtocolError), InvalidNameError, ValueError. It blocks its thread
    meanwhile, and the event loop there: a coroutine uses :func:`connect`.
    The reader belongs to the process that made it: in a forked child it raises InheritedError.
    """
    return Reader(name, policy=policy, max_leases=max_leases, open_timeout=open_timeout, reconnect=reconnect)


def begin(name: str, *, policy: Policy, max_leases: int) -> Reader:
    """As attach(), for one thread that reads many: it waits for nothing. Until the server answers
    recv_nowait() gives None; it raises ConnectError if the server refuses. Raises TimeoutError if there is no
    server, and what attach() raises."""
    return Reader(name, policy=policy, max_leases=max_leases, open_timeout=0, reconnect=False, waits=False)


class Reader:
    """Made by :func:`attach`. A context manager and an iterator; usable from one thread at a time. Any thread
    may close() it."""

    _epoll: select.epoll | None = None  # all that we wait for; None: closed
    _connection: Connection | None = None  # None: the server is away
    _dialled: Connection | None = None  # has not been welcomed yet
    _selected = False  # fileno() was called
    _receiving = False  # in recv() or recv_nowait(); what closes meanwhile leaves it to them
    _closing = False  # close() was called
    _inherited = False  # open in the parent process, of which this one is a fork
    _nudge = -1  # makes it readable, while _nudged: until the first recv_nowait() that returns None
    _nudged = False
    _timer = -1  # makes it readable when it is time to dial

    def __init__(
        self,
        name: str,
        *,
        policy: Policy,
        max_leases: int,
        open_timeout: float | None,
        reconnect: bool,
        waits: bool = True,
    ) -> None:
        self._name = check_source(name)
        self._policy = check_policy(policy, max_leases)
        open_timeout = check_timeout(open_timeout, "open_timeout")
        self._max_leases = max_leases
        self._reconnect = reconnect
        self._before = ReaderStats(0, 0, 0, 0)  # of connections that are over
        self._pauses = new_pauses()
        self._due = 0.0  # when to dial again, or to give up the connection that was dialled
        self._since = 0.0  # when it was connected
        self._was_there = False
        self._said = ""
        patched.refuse()
        try:
            with fork.steady():
                try:
                    self._epoll = select.epoll()
                except OSError as e:
                    pass_on(e)
                    raise ConnectError(
                        e.errno, f"no descriptor for a reader of {name!r}: {e.strerror}"
                    ) from None
                fork.in_child(self, Reader._after_fork)
            start = time.monotonic()
            deadline = None if open_timeout is None else start + open_timeout
            while not self._step() and (waits or self._dialled is None):
                if open_timeout == 0 and self._was_there:
                    open_timeout = ANSWER_SECONDS
                    deadline = start + open_timeout
                if deadline is not None and time.monotonic() >= deadline:
                    error = waited_too_long(name, open_timeout, self._was_there)
                    raise TimeoutError(f"{error}{_LOOP_STANDS_STILL}") if running_loop() else error
                self._wait(deadline)
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------------------------- connecting

    def _step(self) -> bool:
        """One step towards a connection, without waiting. False: wait until something happens or it is due.

        Raises ConnectError.
        """
        try:
            return self._advance()
        except ConnectError:
            raise
        except OSError as e:  # the set takes no other descriptor, or there is none for the nudge
            self._drop_dialled()
            pass_on(e)
            raise ConnectError(
                e.errno,
                f"cannot wait for {self._name!r}: {e.strerror}; raise ulimit -n, or "
                "fs.epoll.max_user_watches",
            ) from None

    def _advance(self) -> bool:
        if self._dialled is None:
            if time.monotonic() < self._due:
                return False
            self._dialled = Connection.dial(self._name, self._policy, self._max_leases)
            if self._dialled is None:
                self._pause(self._pauses.next())
                return False
            self._was_there = True
            self._watch(self._dialled.sock.fileno())
            self._pause(WELCOME_SECONDS)
        connection = self._dialled
        connection.pump()
        if connection.ready:
            self._watch(connection.bell)
            if self._selected:
                self._be_readable()  # no doorbell rings for frames that are there already
            self._dialled, self._connection = None, connection
            self._since = time.monotonic()
            self._said = ""
            self._pause(0)
            return True
        if connection.ended or time.monotonic() >= self._due:
            self._drop_dialled()
            if connection.failure is not None:
                raise connection.failure
        return False

    def _drop_dialled(self) -> None:
        """Dial again later."""
        if self._dialled is not None:
            self._hang_up(self._dialled)
            self._dialled = None
        self._pause(self._pauses.next())

    def _step_again(self) -> bool:
        """_step() towards a server that was there before. One that refuses is asked again."""
        if self._timer >= 0:
            drain(self._timer)
        try:
            return self._step()
        except ConnectError as e:
            self._complain(e)
            return False

    def _complain(self, error: ConnectError) -> None:
        if str(error) != self._said:
            self._said = str(error)
            log.warning("%s: %s; trying again", self._name, str(error))
        self._pause(REFUSED_SECONDS)

    def _pause(self, seconds: float) -> None:
        self._due = time.monotonic() + seconds
        if self._timer >= 0:
            _kernel.set_timer(self._timer, seconds)

    def _watch(self, fd: int) -> None:
        assert self._epoll is not None
        try:
            self._epoll.register(fd, select.EPOLLIN)
        except FileExistsError:
            pass  # an interrupt came after it was done

    def _hang_up(self, connection: Connection) -> None:
        # Out of the set first: frames that are held keep the socket open. Each step may be done twice.
        for fd in (connection.sock.fileno(), connection.bell):
            if self._epoll is not None and fd >= 0:
                try:
                    self._epoll.unregister(fd)
                except FileNotFoundError:
                    pass  # an interrupt came before it got there, or after it had left
        connection.close()

    def _lost(self, connection: Connection) -> None:
        """The server is gone and its ring read to the end: look for the next."""
        self._hang_up(connection)
        self._connection = None
        # their connection is over, so frames that are still held are not counted any more
        self._before = replace(self._before.plus(connection.stats()), leases=0)
        self._pauses.lived(time.monotonic() - self._since)
        self._pause(self._pauses.next())
        if connection.failure is not None:
            self._complain(connection.failure)

    def _wait(self, deadline: float | None) -> None:
        """Until something happens, it is time to dial, the deadline has passed, or close() is called."""
        if self._closing:
            return
        assert self._epoll is not None
        if self._connection is not None and self._connection.reading:
            raise ConcurrencyError(
                f"recv() from {self._name!r} in a signal's handler would wait for ever, as this reader is in "
                "the middle of a message: use recv_nowait() there"
            )
        if self._connection is None:
            deadline = self._due if deadline is None else min(deadline, self._due)
        seconds = None if deadline is None else deadline - time.monotonic()
        if seconds is not None:
            seconds = min(max(0.0, seconds), _LONGEST_WAIT_SECONDS)
        self._epoll.poll(seconds, _DESCRIPTORS)

    # -------------------------------------------------------------------------------- receiving

    def fileno(self) -> int:
        """A descriptor that is readable while frames may be waiting, or the connection has ended.

        For select, selectors and epoll. Once it is readable call recv_nowait(), until None or once each
        time: it stays readable until recv_nowait() has returned None. With ``reconnect`` it stays the same
        one whatever becomes of the server, and is readable also when it is time to look for the server.
        """
        epoll = self._open()
        if not self._selected:
            try:
                self._select()
            except OSError as e:
                pass_on(e)
                raise ConnectError(
                    e.errno, f"no descriptor for fileno() of {self._name!r}: {e.strerror}; raise ulimit -n"
                ) from None
        return epoll.fileno()

    def _select(self) -> None:
        if self._reconnect and self._timer < 0:
            with fork.steady():
                self._timer = _kernel.timer()
                self._watch(self._timer)
            self._pause(max(0.0, self._due - time.monotonic()))
        self._make_nudge()
        if self._connection is None or not self._connection.arm():
            self._be_readable()
        self._selected = True

    def _make_nudge(self) -> None:
        """Once: when it is needed, a frame may be in our hands, and no descriptor left."""
        if self._nudge < 0:
            with fork.steady():
                fds: list[int] = []
                try:
                    _shm.note(fds, os.eventfd, 0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                    self._watch(fds[0])
                    self._nudge = fds[0]
                    del fds[0]
                finally:
                    _shm.close_all(fds)

    def _be_readable(self) -> None:
        """Although no doorbell has rung."""
        self._nudged = True
        os.eventfd_write(self._nudge, 1)

    def _calm(self) -> None:
        if self._nudged:
            drain(self._nudge)
            self._nudged = False

    def recv_nowait(self) -> Frame | None:
        """The next frame, or None if there is none now (or, with ``reconnect``, no server).

        Raises ConnectionClosedOK after a clean close of the server (once its last frames are read) or after
        close(), ConnectionClosedError if it crashed, LeaseLimitError. With ``reconnect`` nothing but close()
        ends it.
        """
        before, self._receiving = self._receiving, True  # True: in a signal's handler
        try:
            return self._next()
        finally:
            self._receiving = before
            if self._closing:
                self._end()

    def _next(self) -> Frame | None:
        if self._closing or self._epoll is None:
            self._open()  # raises
        drained = False
        while True:
            connection = self._connection
            if connection is None:
                if self._step_again() if self._reconnect else self._step():
                    continue
                if self._dialled is None and not self._reconnect:
                    raise ConnectionClosedOK(f"the server {self._name!r} went before it answered")
                self._calm()
                return None
            try:
                frame = connection.claim()
            except ProtocolError:
                if not self._reconnect:
                    raise
                frame = None  # the connection knows
            if frame is not None:
                if drained and self._selected:
                    self._be_readable()  # there may be more frames, and their doorbell was drained
                return frame
            if connection.ended:
                if not self._reconnect:
                    raise connection.error()
                self._lost(connection)
                continue
            # Drain before looking again: a frame that comes after the drain rings again.
            self._calm()
            drain(connection.bell)
            drained = True
            connection.pump()
            if connection.arm() and not connection.ended:
                return None

    def recv(self, timeout: float | None = None) -> Frame:
        """Wait for the next frame, ``timeout`` seconds at most (None: for ever).

        Raises TimeoutError, and what recv_nowait() raises: ConnectionClosedOK when another thread, or a
        signal's handler, calls close() meanwhile. ConcurrencyError where it would wait in a signal's handler
        for the message that the handler interrupts.
        """
        deadline = None
        if timeout is not None and (timeout := check_timeout(timeout)) is not None:
            deadline = time.monotonic() + timeout
        before, self._receiving = self._receiving, True
        try:
            while True:
                frame = self._next()
                if frame is not None:
                    return frame
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(f"no frame from {self._name!r} within {timeout:g} s")
                self._wait(deadline)
        finally:
            self._receiving = before
            if self._closing:
                self._end()

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the server closes; with ``reconnect``, until close()."""
        return self

    def __next__(self) -> Frame:
        try:
            return self.recv()
        except ConnectionClosedOK:
            raise StopIteration from None

    @property
    def name(self) -> str:
        """The server's name."""
        return self._name

    @property
    def header(self) -> bytes:
        """The stream header that belongs to the next frame; b"" if there is none."""
        return self._connection.header if self._connection is not None else b""

    def stats(self) -> ReaderStats:
        """Counters since attach(), over all reconnections."""
        return self._before if self._connection is None else self._before.plus(self._connection.stats())

    # -------------------------------------------------------------------------------------- end

    @property
    def connected(self) -> bool:
        """True while a server is there that has answered, as far as recv() and recv_nowait() have seen."""
        connection = self._connection
        return connection is not None and not connection.ended and not self.closed

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._closing or self._epoll is None

    def _open(self) -> select.epoll:
        if self._epoll is not None and not self._closing:
            return self._epoll
        if self._inherited:
            raise inherited(f"the reader of {self._name!r}")
        if self._connection is not None and self._connection.ended:
            raise self._connection.error()
        raise ConnectionClosedOK(f"this reader of {self._name!r} was closed")

    def close(self) -> None:
        """Leave. Idempotent; from any thread, and one that waits in recv() gets ConnectionClosedOK at once
        (within a second, if the server is away); one that waits for fileno() is not woken. Frames that are
        still held stay valid until they are released."""
        self._closing = True  # first this, then the look: who receives does it the other way round
        if self._receiving:
            self._wake()
        else:
            self._end()

    def _wake(self) -> None:
        """Have the thread that waits look again. Needs no descriptor: there may be none."""
        epoll = self._epoll
        for connection in (self._dialled, self._connection):
            if epoll is not None and connection is not None:
                try:
                    # A socket is writable, so the set is readable.
                    epoll.modify(connection.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
                except (OSError, ValueError):
                    pass  # it is closed or not there yet, so that thread does not wait

    def _end(self) -> None:
        """What close() does, where nobody receives."""
        with fork.steady():
            if self._receiving or self._epoll is None:
                return
            for connection in (self._dialled, self._connection):
                if connection is not None:
                    self._hang_up(connection)
            self._close_descriptors()

    def _close_descriptors(self) -> None:
        # Closed, not unregistered: in a forked child the set itself is shared with the parent. The set comes
        # last: without it, this reader counts as closed.
        fds, self._nudge, self._timer = [self._nudge, self._timer], -1, -1
        self._nudged = False
        _shm.close_all(fds)
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @fork.quiet_at_end
    def __del__(self) -> None:
        if self._epoll is not None:
            try:
                warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
            finally:  # the warning may be an error
                fork.collected(self.close)

    def __repr__(self) -> str:
        state = " [closed]" if self.closed else " [not connected]" if self._connection is None else ""
        return f"<Reader of {self._name}{state}>"

    def _after_fork(self) -> None:
        self._inherited = self._epoll is not None
        self._receiving = False
        self._close_descriptors()
