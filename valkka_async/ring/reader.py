# SPDX-License-Identifier: MIT
"""attach(): read frames without an event loop (API level 1)."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType

from valkka_async.errors import ConnectError, ConnectionClosedOK, ProtocolError
from valkka_async.ring import _kernel, fork
from valkka_async.ring._deadline import deadline_in
from valkka_async.ring._shm import Frame, drain
from valkka_async.ring.connection import (
    REFUSED_SECONDS,
    WELCOME_SECONDS,
    Connection,
    ReaderStats,
    new_pauses,
    waited_too_long,
)
from valkka_async.ring.policy import Policy, check_policy
from valkka_async.ring.rendezvous import check_name

log = logging.getLogger("valkka_async")

_LONGEST_POLL = 86400.0  # seconds; epoll counts milliseconds in 32 bits
_DESCRIPTORS = 4  # in the set: socket, doorbell, nudge, timer
_LOOP_STANDS_STILL = (
    "; attach() holds up the event loop of this thread, and with it any server made there: in a coroutine, "
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
        Seconds to wait for the server to be there; None: for ever.
    reconnect
        Whenever the server goes away, wait for it to come back instead of ending.

    Raises TimeoutError, ConnectError (ProtocolError), InvalidNameError, ValueError. It blocks its thread
    meanwhile: a coroutine uses :func:`connect`, and a server of the same event loop could not even answer.
    The reader belongs to the process that made it: after a fork it is inert in the child.
    """
    return Reader(name, policy=policy, max_leases=max_leases, open_timeout=open_timeout, reconnect=reconnect)


def _loop_runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Reader:
    """Made by :func:`attach`. A context manager and an iterator; usable from one thread at a time."""

    _epoll: select.epoll | None = None  # all that we wait for; None: closed
    _connection: Connection | None = None  # None: the server is away
    _dialled: Connection | None = None  # has not been welcomed yet
    _selected = False  # fileno() was called
    _nudge = -1  # makes it readable until the first recv_nowait() that returns None
    _timer = -1  # makes it readable when it is time to dial

    def __init__(
        self, name: str, *, policy: Policy, max_leases: int, open_timeout: float | None, reconnect: bool
    ) -> None:
        self._name = check_name(name)
        self._policy = check_policy(policy, max_leases)
        self._max_leases = max_leases
        self._reconnect = reconnect
        self._before = ReaderStats(0, 0, 0, 0)  # of connections that are over
        self._pauses = new_pauses()
        self._due = 0.0  # when to dial again, or to give up the connection that was dialled
        self._since = 0.0  # when it was connected
        self._was_there = False
        self._said = ""
        deadline = deadline_in(open_timeout)
        try:
            self._epoll = select.epoll()
        except OSError as e:
            raise ConnectError(e.errno, f"no descriptor for a reader of {name!r}: {e.strerror}") from None
        fork.in_child(self, Reader._after_fork)
        try:
            while not self._step():
                if deadline is not None and time.monotonic() >= deadline:
                    error = waited_too_long(name, open_timeout, self._was_there)
                    raise TimeoutError(f"{error}{_LOOP_STANDS_STILL}") if _loop_runs_here() else error
                self._wait(deadline)
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------------------------- connecting

    def _step(self) -> bool:
        """One step towards a connection, without waiting. False: wait until something happens or it is due.

        Raises ConnectError.
        """
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
            self._dialled, self._connection = None, connection
            self._watch(connection.bell)
            self._since = time.monotonic()
            self._said = ""
            self._pause(0)
            if self._selected:
                self._make_nudge()  # no doorbell rings for frames that are there already
            return True
        if connection.ended or time.monotonic() >= self._due:
            self._hang_up(connection)
            self._dialled = None
            self._pause(self._pauses.next())
            if connection.failure is not None:
                raise connection.failure
        return False

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
            log.warning("%s: %s; trying again", self._name, error)
        self._pause(REFUSED_SECONDS)

    def _pause(self, seconds: float) -> None:
        self._due = time.monotonic() + seconds
        if self._timer >= 0:
            _kernel.set_timer(self._timer, seconds)

    def _watch(self, fd: int) -> None:
        assert self._epoll is not None
        self._epoll.register(fd, select.EPOLLIN)

    def _hang_up(self, connection: Connection) -> None:
        # Out of the set first: frames that are held keep the socket open.
        if self._epoll is not None and connection.sock.fileno() >= 0:
            self._epoll.unregister(connection.sock.fileno())
            if connection is self._connection:
                self._epoll.unregister(connection.bell)
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
        """Until something happens, it is time to dial, or the deadline has passed."""
        assert self._epoll is not None
        if self._connection is None:
            deadline = self._due if deadline is None else min(deadline, self._due)
        left = None if deadline is None else min(max(0.0, deadline - time.monotonic()), _LONGEST_POLL)
        self._epoll.poll(left, _DESCRIPTORS)

    # -------------------------------------------------------------------------------- receiving

    def fileno(self) -> int:
        """A descriptor that is readable while frames may be waiting, or the connection has ended.

        For select, selectors and epoll. Once it is readable call recv_nowait(), until None or once each
        time: it stays readable until recv_nowait() has returned None. With ``reconnect`` it stays the same
        one whatever becomes of the server, and is readable also when it is time to look for the server.
        """
        epoll = self._open()
        if not self._selected:
            if self._reconnect:
                self._timer = _kernel.timer()
                self._watch(self._timer)
                self._pause(max(0.0, self._due - time.monotonic()))
            if self._connection is None or not self._connection.arm():
                self._make_nudge()
            self._selected = True
        return epoll.fileno()

    def _make_nudge(self) -> None:
        """Be readable although no doorbell has rung."""
        if self._nudge < 0:
            self._nudge = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._watch(self._nudge)

    def _close_nudge(self) -> None:
        if self._nudge >= 0:
            os.close(self._nudge)
            self._nudge = -1

    def recv_nowait(self) -> Frame | None:
        """The next frame, or None if there is none now (or, with ``reconnect``, no server).

        Raises ConnectionClosedOK after a clean close of the server (once its last frames are read),
        ConnectionClosedError if it crashed, LeaseLimitError. With ``reconnect`` nothing but close() ends it.
        """
        self._open()
        drained = False
        while True:
            connection = self._connection
            if connection is None:
                if self._step_again():
                    continue
                self._close_nudge()
                return None
            try:
                frame = connection.claim()
            except ProtocolError:
                if not self._reconnect:
                    raise
                frame = None  # the connection knows
            if frame is not None:
                if drained and self._selected:
                    self._make_nudge()  # there may be more frames, and their doorbell was drained
                return frame
            if connection.ended:
                if not self._reconnect:
                    raise connection.error()
                self._lost(connection)
                continue
            # Drain before looking again: a frame that comes after the drain rings again.
            self._close_nudge()
            drain(connection.bell)
            drained = True
            connection.pump()
            if connection.arm() and not connection.ended:
                return None

    def recv(self, timeout: float | None = None) -> Frame:
        """Wait for the next frame, ``timeout`` seconds at most (None: for ever).

        Raises TimeoutError, and what recv_nowait() raises.
        """
        deadline = deadline_in(timeout)
        while True:
            frame = self.recv_nowait()
            if frame is not None:
                return frame
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"no frame from {self._name!r} within {timeout:g} s")
            self._wait(deadline)

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
    def closed(self) -> bool:
        """True after close()."""
        return self._epoll is None

    def _open(self) -> select.epoll:
        if self._epoll is not None:
            return self._epoll
        if self._connection is not None:
            raise self._connection.error()
        raise ConnectionClosedOK(f"this reader of {self._name!r} was closed")

    def close(self) -> None:
        """Leave. Idempotent. Frames that are still held stay valid until they are released."""
        if self._epoll is None:
            return
        for connection in (self._dialled, self._connection):
            if connection is not None:
                self._hang_up(connection)
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        # Closed, not unregistered: in a forked child the set itself is shared with the parent.
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
        self._close_nudge()
        if self._timer >= 0:
            os.close(self._timer)
            self._timer = -1

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self.closed:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        state = " [closed]" if self.closed else " [not connected]" if self._connection is None else ""
        return f"<Reader of {self._name}{state}>"

    def _after_fork(self) -> None:
        self._close_descriptors()
