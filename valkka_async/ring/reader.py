# SPDX-License-Identifier: MIT
"""attach(): read frames without an event loop (API level 1)."""

from __future__ import annotations

import asyncio
import os
import select
import time
import warnings
from collections.abc import Iterator
from types import TracebackType

from valkka_async.errors import ConnectionClosedOK
from valkka_async.ring import _fork
from valkka_async.ring._shm import Frame, drain
from valkka_async.ring.connection import Connection, ReaderStats, check_policy
from valkka_async.ring.rendezvous import check_name

_RETRY_SECONDS = 0.02
_LOOP_STANDS_STILL = (
    "; attach() holds up the event loop of this thread, and with it any server made there: in a coroutine, "
    "use `async with va.connect(name)`"
)


def attach(name: str, *, policy: str = "latest", max_leases: int = 4, timeout: float | None = 10.0) -> Reader:
    """Connect to the server called ``name``, waiting for it to start if need be.

    Parameters
    ----------
    policy
        "latest": the newest frame; "ordered": every frame in order, as long as the reader keeps up;
        "lossless": every frame, and the server waits (for files, not for cameras).
    max_leases
        How many frames may be held at once.
    timeout
        Seconds to wait for the server; None: for ever.

    Raises TimeoutError, ConnectError (ProtocolError), InvalidNameError. It blocks its thread meanwhile: a
    coroutine uses :func:`connect`, and a server of the same event loop could not even answer. The reader
    belongs to the process that made it: after a fork it is inert in the child.
    """
    return Reader(name, policy=policy, max_leases=max_leases, timeout=timeout)


def waited_too_long(name: str, seconds: float | None, was_there: bool) -> TimeoutError:
    """The error of whoever waited for a server."""
    if was_there:
        return TimeoutError(f"the server {name!r} is there but did not answer within {seconds:g} s")
    return TimeoutError(
        f"no server called {name!r} within {seconds:g} s: start it, or look with `valkka-async top` "
        "(both sides must have the same VALKKA_RUNTIME_DIR)"
    )


def _loop_runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Reader:
    """Made by :func:`attach`. A context manager and an iterator; usable from one thread at a time."""

    _epoll: select.epoll | None = None
    _nudge = -1  # makes fileno() readable until the first recv_nowait() that returns None
    _connection: Connection | None = None

    def __init__(self, name: str, *, policy: str, max_leases: int, timeout: float | None) -> None:
        number = check_policy(policy, max_leases)
        self._name = check_name(name)
        deadline = None if timeout is None else time.monotonic() + timeout
        was_there = False
        while True:
            connection = Connection.dial(name, number, max_leases)
            if connection is not None:
                was_there = True
                try:
                    if self._await_welcome(connection, deadline):
                        break
                except BaseException:
                    connection.close()
                    raise
                connection.close()
            if deadline is not None and time.monotonic() >= deadline:
                error = waited_too_long(name, timeout, was_there)
                raise TimeoutError(f"{error}{_LOOP_STANDS_STILL}") if _loop_runs_here() else error
            time.sleep(_RETRY_SECONDS)
        self._connection = connection
        self._poll = select.poll()
        self._poll.register(connection.sock.fileno(), select.POLLIN)
        self._poll.register(connection.bell, select.POLLIN)
        _fork.register(self)

    @staticmethod
    def _await_welcome(connection: Connection, deadline: float | None) -> bool:
        """False: the server went away before it answered, or the time is up."""
        poll = select.poll()
        poll.register(connection.sock, select.POLLIN)
        while not connection.ready:
            if not poll.poll(_milliseconds(deadline)):
                return False
            connection.pump()
            if connection.failure is not None:
                raise connection.failure
            if connection.ended:
                return False
        return True

    def fileno(self) -> int:
        """A descriptor that is readable while frames may be waiting, or the connection has ended.

        For select, selectors and epoll. Once it is readable call recv_nowait(), until None or once each
        time: it stays readable until recv_nowait() has returned None.
        """
        connection = self._open()
        if self._epoll is None:
            self._epoll = select.epoll()
            self._epoll.register(connection.sock.fileno(), select.EPOLLIN)
            self._epoll.register(connection.bell, select.EPOLLIN)
            if not connection.arm():
                # A frame is there already, for which nobody rings.
                self._nudge = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._epoll.register(self._nudge, select.EPOLLIN)
        return self._epoll.fileno()

    def recv_nowait(self) -> Frame | None:
        """The next frame, or None if there is none now.

        Raises ConnectionClosedOK after a clean close of the server (once its last frames are read),
        ConnectionClosedError if it crashed, LeaseLimitError.
        """
        connection = self._open()
        while True:
            frame = connection.claim()
            if frame is not None:
                return frame
            if connection.ended:
                raise connection.error()
            # Drain before looking again: a frame that comes after the drain rings anew.
            self._close_nudge()
            drain(connection.bell)
            connection.pump()
            if connection.arm() and not connection.ended:
                return None

    def recv(self, timeout: float | None = None) -> Frame:
        """Wait for the next frame, ``timeout`` seconds at most (None: for ever).

        Raises TimeoutError, and what recv_nowait() raises.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            frame = self.recv_nowait()
            if frame is not None:
                return frame
            if not self._poll.poll(_milliseconds(deadline)) and deadline is not None:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"no frame from {self._name!r} within {timeout:g} s")

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the server closes."""
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
        return self._open().header

    def stats(self) -> ReaderStats:
        """Counters since attach()."""
        assert self._connection is not None
        return self._connection.stats()

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._connection is None or self._connection.sock.fileno() < 0

    def _close_nudge(self) -> None:
        if self._nudge >= 0:
            os.close(self._nudge)
            self._nudge = -1

    def close(self) -> None:
        """Leave. Idempotent. Frames that are still held stay valid until they are released."""
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
        self._close_nudge()
        if self._connection is not None:
            self._connection.close()

    def _open(self) -> Connection:
        connection = self._connection
        assert connection is not None
        if connection.sock.fileno() < 0:
            raise connection.error()
        return connection

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
        return f"<Reader of {self._name}{' [closed]' if self.closed else ''}>"

    def _after_fork(self) -> None:
        if self._epoll is not None:
            self._epoll.close()  # closed, not unregistered: the set itself is shared with the parent
            self._epoll = None
        self._close_nudge()


def _milliseconds(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, (deadline - time.monotonic()) * 1000)
