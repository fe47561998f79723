# SPDX-License-Identifier: MIT
"""connect(): read frames in asyncio (API level 2)."""

from __future__ import annotations

import asyncio
import warnings
from asyncio import get_running_loop
from collections.abc import Generator
from time import monotonic
from types import TracebackType

from valkka_async.errors import ConcurrencyError, ConnectionClosedOK, NotOpenError
from valkka_async.ring import fork
from valkka_async.ring._shm import Frame, Waiter
from valkka_async.ring.connection import ReaderStats
from valkka_async.ring.policy import Policy
from valkka_async.ring.subscription import TURN_SECONDS, Link, Subscription
from valkka_async.timeouts import check_timeout


def connect(
    name: str,
    *,
    policy: Policy = "latest",
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


class Client:
    """Made by :func:`connect`. Receives in one task at a time; belongs to the loop that opened it."""

    def __init__(
        self, name: str, *, policy: Policy, max_leases: int, open_timeout: float | None, reconnect: bool
    ) -> None:
        self.subscription = Subscription(name, policy, max_leases)
        self._open_timeout = check_timeout(open_timeout, "open_timeout")
        self._reconnect = reconnect
        self._receiving = False
        self._turn = 0.0  # when other tasks last had a chance to run

    async def open(self) -> Client:
        """Connect, if not connected. Cancelling leaves it unconnected."""
        await self.subscription.connect(self._open_timeout)
        return self

    async def recv(self) -> Frame:
        """Wait for the next frame.

        Cancelling (or ``asyncio.timeout``) loses no frame: one is claimed only when it is returned.
        Other tasks get to run even when frames are always ready. Raises ConnectionClosedOK after a
        clean close of the server or of this client (once its last frames are read),
        ConnectionClosedError if the server crashed, LeaseLimitError, NotOpenError, ConcurrencyError if
        another task is receiving.
        """
        frame = self._ready()
        return frame if frame is not None else await self._receive()

    def _ready(self) -> Frame | None:
        """The next frame if it is there, and if it is not the other tasks' turn. Raises ConcurrencyError,
        LeaseLimitError."""
        if self._receiving:
            self.subscription.check()  # in a forked child it is the parent's task
            raise ConcurrencyError(f"another task receives from {self.name!r}: give each its own client")
        link = self.subscription.link
        if link is None or get_running_loop() is not link.loop or monotonic() - self._turn > TURN_SECONDS:
            return None
        return link.doorbell.claim()

    async def _receive(self) -> Frame:
        """Wait for the next frame."""
        self._receiving = True
        try:
            while True:
                link = self.subscription.link
                if link is None:
                    link = await self._relink()
                elif get_running_loop() is not link.loop:
                    self.subscription.check()
                doorbell = link.doorbell
                if monotonic() - self._turn > TURN_SECONDS and doorbell.pending():
                    await asyncio.sleep(0)
                    self._turn = monotonic()
                    if link is not self.subscription.link:
                        continue
                frame = doorbell.claim()
                if frame is not None:
                    return frame
                if link.connection.ended:
                    self._ended(link)
                elif doorbell.arm():
                    waiter = doorbell.waiter = Waiter(link.loop)
                    try:
                        if not link.connection.ended:  # by a signal's handler, before there was a waiter
                            await waiter
                    finally:
                        doorbell.waiter = None
                    self._turn = monotonic()
        finally:
            self._receiving = False

    async def _relink(self) -> Link:
        """Connect again. Raises NotOpenError, ConnectionClosedOK."""
        self._check_open()
        return await self.subscription.connect(None, patient=True)

    def _check_open(self) -> None:
        self.subscription.check()
        if self.subscription.closed:
            raise ConnectionClosedOK(f"this client of {self.name!r} was closed")
        if not self.subscription.opened:
            raise NotOpenError(
                f"this client of {self.name!r} was never opened: `async with` or await it first"
            )

    def _ended(self, link: Link) -> None:
        """The link is over and its ring read to the end: raise, or forget it, to connect again."""
        if not self._reconnect:
            raise link.connection.error()
        self.subscription.unlink()

    def recv_nowait(self) -> Frame | None:
        """The next frame, or None if there is none now (or, with ``reconnect``, no server).

        Raises as recv() does.
        """
        self.subscription.check()
        link = self.subscription.link
        if self._receiving:
            raise ConcurrencyError(f"another task receives from {self.name!r}: give each its own client")
        if link is None:
            self._check_open()
            return None
        frame = link.doorbell.claim()
        if frame is None and link.connection.ended:
            self._ended(link)
        return frame

    def __aiter__(self) -> Client:
        """Frames until the server closes."""
        return self

    async def __anext__(self) -> Frame:
        frame = self._ready()
        if frame is not None:
            return frame
        try:
            return await self._receive()
        except ConnectionClosedOK:
            raise StopAsyncIteration from None

    @property
    def name(self) -> str:
        """The server's name."""
        return self.subscription.name

    @property
    def header(self) -> bytes:
        """The stream header that belongs to the next frame; b"" if there is none."""
        link = self.subscription.link
        return link.connection.header if link is not None else b""

    def stats(self) -> ReaderStats:
        """Counters since connect(), over all reconnections."""
        return self.subscription.stats()

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self.subscription.closed

    def close(self) -> None:
        """Leave. Idempotent; a task that waits in recv() gets ConnectionClosedOK. Frames that are still
        held stay valid until they are released."""
        self.subscription.close()

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

    @fork.quiet_at_end
    def __del__(self) -> None:
        subscription = getattr(self, "subscription", None)
        if subscription is not None and subscription.link is not None:
            try:
                warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
            finally:  # the warning may be an error
                fork.collected(self.close)

    def __repr__(self) -> str:
        connected = self.subscription.link is not None
        state = "closed" if self.closed else "open" if connected else "not connected"
        return f"<Client of {self.name} [{state}]>"
