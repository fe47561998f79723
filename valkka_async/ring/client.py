# SPDX-License-Identifier: MIT
"""connect(): read frames in asyncio (API level 2)."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Callable, Coroutine, Generator
from dataclasses import replace
from types import TracebackType

from valkka_async.errors import ConcurrencyError, ConnectionClosedOK
from valkka_async.ring._shm import Frame, drain
from valkka_async.ring._waiter import Waiter
from valkka_async.ring.connection import Connection, ReaderStats, check_policy
from valkka_async.ring.reader import waited_too_long
from valkka_async.ring.rendezvous import check_name

_FIRST_RETRY_SECONDS = 0.01
_LAST_RETRY_SECONDS = 0.2
_WELCOME_SECONDS = 5.0
# How long a task may take frames that are ready without letting other tasks run.
_TURN_SECONDS = 0.001


def connect(
    name: str,
    *,
    policy: str = "latest",
    max_leases: int = 4,
    open_timeout: float | None = 10.0,
    reconnect: bool = False,
) -> Client:
    """A client of the server called ``name``::

        async with va.connect("cam1") as client:
            async for frame in client:
                detect(frame.array)

    A loop that asks for the next frame still holds the one before; ``with frame: detect(frame.array)``
    gives it back first.

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

    Opening (``async with`` or ``await``) raises TimeoutError, ConnectError (ProtocolError) and may be
    cancelled at any moment. The name and options are checked at once: InvalidNameError, ValueError.
    """
    return Client(name, policy=policy, max_leases=max_leases, open_timeout=open_timeout, reconnect=reconnect)


class Link:
    """A connection whose descriptors are registered with the running loop.

    When there may be frames to claim (after ``arm``), and at the end, it wakes ``waiter`` if there is one,
    else calls ``notify`` if there is one; both in a callback of the loop.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.waiter: Waiter | None = None
        self.notify: Callable[[], None] | None = None
        self.loop = asyncio.get_running_loop()
        self._bell = connection.bell
        self._socket = connection.sock.fileno()
        self.loop.add_reader(self._bell, self._on_bell)
        self.loop.add_reader(self._socket, self._on_message)

    def _on_bell(self) -> None:
        drain(self._bell)
        waiter = self.waiter
        if waiter is not None:
            waiter.wake()
        elif self.notify is not None:
            self.notify()

    def _on_message(self) -> None:
        self.connection.pump()
        if self.connection.ended:
            self.loop.remove_reader(self._socket)  # readable for ever after
            self._socket = -1
        if self.waiter is not None:
            self.waiter.wake()
        elif self.notify is not None:
            self.notify()

    def close(self) -> None:
        # The descriptors leave the loop before they are closed: the server holds the other ends, so a
        # closed number alone would stay in the epoll set and wake the loop for ever.
        if not self.loop.is_closed():
            self.loop.remove_reader(self._bell)
            if self._socket >= 0:
                self.loop.remove_reader(self._socket)
            if self.waiter is not None:
                self.waiter.wake_soon()  # closed by another task: this one goes on in its turn
        self.connection.close()


async def open_connection(
    name: str,
    policy: int,
    max_leases: int,
    seconds: float | None,
    still_wanted: Callable[[], bool] | None = None,
) -> Connection | None:
    """Dial until the server welcomes us. None: no longer wanted. Raises TimeoutError, ConnectError."""
    deadline = None if seconds is None else time.monotonic() + seconds
    was_there = False
    pause = _FIRST_RETRY_SECONDS
    while still_wanted is None or still_wanted():
        connection = Connection.dial(name, policy, max_leases)
        if connection is not None:
            was_there = True
            try:
                left = _WELCOME_SECONDS if deadline is None else deadline - time.monotonic()
                async with asyncio.timeout(left):
                    await _welcome(connection)
            except TimeoutError:
                connection.close()
            except BaseException:
                connection.close()
                raise
            else:
                if connection.ready:
                    return connection
                connection.close()  # it went away before it answered
        left = _LAST_RETRY_SECONDS if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise waited_too_long(name, seconds, was_there)
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 1.5, _LAST_RETRY_SECONDS)
    return None


async def _welcome(connection: Connection) -> None:
    loop = asyncio.get_running_loop()
    fd = connection.sock.fileno()
    while not connection.ready and not connection.ended:
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(fd, _fulfil, readable)
        try:
            await readable
        finally:
            loop.remove_reader(fd)
        connection.pump()
    if connection.failure is not None:
        raise connection.failure


def _fulfil(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Client:
    """Made by :func:`connect`. Receives in one task at a time; belongs to the loop that opened it."""

    def __init__(
        self, name: str, *, policy: str, max_leases: int, open_timeout: float | None, reconnect: bool
    ) -> None:
        self._link: Link | None = None
        self._name = check_name(name)
        self._policy = check_policy(policy, max_leases)
        self._max_leases = max_leases
        self._open_timeout = open_timeout
        self._reconnect = reconnect
        self._closed = False
        self._was_open = False
        self._receiving = False
        self._turn = 0.0  # when other tasks last had a chance to run
        self._before = ReaderStats(0, 0, 0, 0)  # of connections that are over

    async def open(self) -> Client:
        """Connect, if not connected. Cancelling leaves it unconnected."""
        await self._connected(self._open_timeout)
        return self

    async def _connected(
        self, seconds: float | None, still_wanted: Callable[[], bool] | None = None
    ) -> Link | None:
        if self._closed:
            raise ConnectionClosedOK(f"this client of {self._name!r} was closed")
        if self._link is None:
            connection = await open_connection(
                self._name, self._policy, self._max_leases, seconds, still_wanted
            )
            if connection is None:
                return None
            if self._closed or self._link is not None:  # meanwhile, by another task
                connection.close()
                return await self._connected(seconds, still_wanted)
            self._link = Link(connection)
            self._was_open = True
        return self._link

    def recv(self) -> Coroutine[object, None, Frame]:
        """Wait for the next frame: a coroutine.

        Cancelling (or ``asyncio.timeout``) loses no frame: one is claimed only when it is returned.
        Other tasks get to run even when frames are always ready. Raises ConnectionClosedOK after a
        clean close of the server or of this client (once its last frames are read),
        ConnectionClosedError if the server crashed, LeaseLimitError, ConcurrencyError if another task
        is receiving.
        """
        return self._receive(False)

    async def _receive(self, iterating: bool) -> Frame:
        # One coroutine for recv() and the iteration, which ends with StopAsyncIteration: this runs for
        # each frame of each camera.
        if self._receiving:
            raise ConcurrencyError(f"another task receives from {self._name!r}: give each its own client")
        self._receiving = True
        try:
            while True:
                link = self._link
                if link is None:
                    link = await self._opened()
                if time.monotonic() - self._turn > _TURN_SECONDS:
                    await asyncio.sleep(0)
                    self._turn = time.monotonic()
                    if link is not self._link:
                        continue
                connection = link.connection
                frame = connection.claim()
                if frame is not None:
                    return frame
                if connection.ended:
                    self._ended(link)
                elif connection.arm():
                    waiter = link.waiter = Waiter(link.loop)
                    try:
                        await waiter
                    finally:
                        link.waiter = None
                    self._turn = time.monotonic()
        except ConnectionClosedOK:
            if iterating:
                raise StopAsyncIteration from None
            raise
        finally:
            self._receiving = False

    async def _opened(self) -> Link:
        if not self._was_open and not self._closed:
            raise ConnectionClosedOK(f"this client of {self._name!r} is not open: `async with` or await it")
        link = await self._connected(None)
        assert link is not None
        return link

    def _ended(self, link: Link) -> None:
        """The link is over and its ring read to the end: raise, or forget it and connect again."""
        if link.connection.failure is not None or not self._reconnect:
            raise link.connection.error()
        self._unlink()

    def _unlink(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
            # frames still held are counted by nobody from here on: their connection is over
            self._before = replace(self._before.plus(link.connection.stats()), leases=0)

    def recv_nowait(self) -> Frame | None:
        """The next frame, or None if there is none now (or, with ``reconnect``, no server).

        Raises as recv() does.
        """
        if self._receiving:
            raise ConcurrencyError(f"another task receives from {self._name!r}: give each its own client")
        link = self._link
        if link is None:
            if self._closed or not self._was_open:
                raise ConnectionClosedOK(f"the client of {self._name!r} is not open")
            return None
        frame = link.connection.claim()
        if frame is None and link.connection.ended:
            self._ended(link)
        return frame

    def __aiter__(self) -> Client:
        """Frames until the server closes."""
        return self

    def __anext__(self) -> Coroutine[object, None, Frame]:
        return self._receive(True)

    @property
    def name(self) -> str:
        """The server's name."""
        return self._name

    @property
    def header(self) -> bytes:
        """The stream header that belongs to the next frame; b"" if there is none."""
        return self._link.connection.header if self._link is not None else b""

    def stats(self) -> ReaderStats:
        """Counters since connect(), over all reconnections."""
        return self._before if self._link is None else self._before.plus(self._link.connection.stats())

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._closed

    def close(self) -> None:
        """Leave. Idempotent; a task that waits in recv() gets ConnectionClosedOK. Frames that are still
        held stay valid until they are released."""
        self._closed = True
        self._unlink()

    async def aclose(self) -> None:
        """close(); it does not wait for anything."""
        self.close()

    def __await__(self) -> Generator[object, None, Client]:
        return self.open().__await__()

    async def __aenter__(self) -> Client:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._link is not None:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._link is not None else "not connected"
        return f"<Client of {self._name} [{state}]>"
