# SPDX-License-Identifier: MIT
"""One server's frames in an event loop, through all lives of the server. Client and Merge use it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import replace

from valkka_async.backoff import Backoff
from valkka_async.errors import ConnectError, ConnectionClosedOK
from valkka_async.ring import fork
from valkka_async.ring._home import Home
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

log = logging.getLogger("valkka_async")

TURN_SECONDS = 0.001  # how long a task may take frames that are ready before other tasks have a turn


class Link:
    """A connection whose descriptors are registered with the running loop. Its ``doorbell`` tells when there
    may be frames to claim, and when it has ended."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.doorbell = connection.doorbell()
        self.loop = asyncio.get_running_loop()
        self.since = time.monotonic()
        self._bell = connection.bell
        self._socket = connection.sock.fileno()
        try:
            self.loop.add_reader(self._bell, self.doorbell.ring)
            self.loop.add_reader(self._socket, self._on_message)
        except BaseException:
            self.close()
            raise

    def _on_message(self) -> None:
        self.connection.pump()
        if self.connection.ended:
            self._unregister()  # both are readable for ever after
        self.doorbell.heard()

    def close(self) -> None:
        # Descriptors leave the loop before they are closed: the server holds the other ends, so one that is
        # only closed would stay in the epoll set and wake the loop for ever.
        if not self.loop.is_closed():
            self._unregister()
            self.doorbell.heard_soon()  # closed by another task: let the one that waits go on
        self.connection.close()

    def _unregister(self) -> None:
        for fd in (self._bell, self._socket):
            if fd >= 0:
                self.loop.remove_reader(fd)
        self._bell = self._socket = -1


class Subscription:
    """Connects, and connects again when the server is back; sums up the counters of all connections."""

    def __init__(self, name: str, policy: Policy, max_leases: int, pauses: Backoff | None = None) -> None:
        self.name = check_source(name)
        self.link: Link | None = None  # None: not connected
        self.closed = False
        self.home = Home()
        self.inherited = False  # in use in the parent process, of which this one is a fork
        self.merged = False  # read by a merge
        self._policy = check_policy(policy, max_leases)
        self._max_leases = max_leases
        self._pauses = pauses or new_pauses()
        self.opened = False  # it was connected once
        self.tried = False  # whether a server answers is known
        self._pause = 0.0  # before the next dial
        self._failure: ConnectError | None = None  # of the last connection
        self._before = ReaderStats(0, 0, 0, 0)  # of connections that are over
        self._sleepers: set[asyncio.Future[None]] = set()
        fork.in_child(self, Subscription._after_fork)

    def _after_fork(self) -> None:
        if self.home.loop is not None and not self.closed:
            self.inherited = self.closed = True
        self.link = None  # its loop is the parent's, and so stays alone
        self.home = Home()
        self._sleepers = set()

    def check(self) -> None:
        """Raises ConcurrencyError in another loop or thread than the one it is used in, InheritedError in a
        forked child."""
        if self.inherited:
            raise inherited(f"the client of {self.name!r}")
        self.home.check(f"the client of {self.name!r}")

    async def connect(self, seconds: float | None, *, patient: bool = False) -> Link:
        """Connect, unless connected. Waits for the server for so many seconds; None: for ever.

        ``patient``: a server that refuses is logged and asked again. Raises TimeoutError, ConnectionClosedOK
        when it is closed meanwhile, ConnectError unless ``patient``, and what check() raises. May be
        cancelled.
        """
        self.check()
        self.home.enter(f"the client of {self.name!r}")
        start = time.monotonic()
        deadline = None if seconds is None else start + seconds
        was_there = False
        said = ""
        failure, self._failure = self._failure, None
        while True:
            if failure is not None:
                if not patient:
                    raise failure
                if str(failure) != said:
                    said = str(failure)
                    log.warning("%s: %s; trying again", self.name, said)
                self._pause = REFUSED_SECONDS
            if self._pause:
                await self._sleep(self._pause if deadline is None else min(self._pause, _left(deadline)))
            if self.closed:
                raise ConnectionClosedOK(f"this reader of {self.name!r} was closed")
            if self.link is not None:  # connected by another task
                return self.link
            failure, self._pause = None, self._pauses.next()
            try:
                connection = Connection.dial(self.name, self._policy, self._max_leases)
                if connection is not None:
                    was_there = True
                    if seconds == 0:
                        seconds = ANSWER_SECONDS
                        deadline = start + seconds
                    await self._welcome(connection, WELCOME_SECONDS if deadline is None else _left(deadline))
            except ConnectError as e:
                failure = e
            except OSError as e:
                failure = ConnectError(
                    e.errno,
                    f"the event loop cannot wait for {self.name!r}: {e.strerror}; raise ulimit -n, or "
                    "fs.epoll.max_user_watches",
                )
            self.tried = True
            if self.link is not None or self.closed:
                self._pause = 0.0
            elif failure is None and deadline is not None and not _left(deadline):
                raise waited_too_long(self.name, seconds, was_there)

    async def _welcome(self, connection: Connection, seconds: float) -> None:
        """Wait for the server's answer. Raises ConnectError if it refuses."""
        deadline = time.monotonic() + seconds
        try:
            while not (connection.ready or connection.ended or self.closed) and _left(deadline):
                await self._sleep(_left(deadline), connection.sock.fileno())
                connection.pump()
            if connection.failure is not None:
                raise connection.failure
            if connection.ready and not self.closed and self.link is None:
                self.link = Link(connection)
                self.opened = True
        finally:
            if self.link is None or self.link.connection is not connection:
                connection.close()

    async def _sleep(self, seconds: float, fd: int = -1) -> None:
        """Sleep until wake(), until fd is readable, or for so many seconds."""
        loop = asyncio.get_running_loop()
        sleeper: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _fulfil, sleeper)
        self._sleepers.add(sleeper)
        try:
            if fd >= 0:
                loop.add_reader(fd, _fulfil, sleeper)
            if not self.closed:  # by a signal's handler, before there was a sleeper
                await sleeper
        finally:
            self._sleepers.discard(sleeper)
            timer.cancel()
            if fd >= 0:
                loop.remove_reader(fd)

    def wake(self) -> None:
        """Dial now, and soon again: the server may be there."""
        self._pauses.lived(math.inf)
        for sleeper in self._sleepers:
            _fulfil(sleeper)

    def unlink(self) -> None:
        """Close the connection; connect() makes another."""
        link = self.link
        if link is not None:
            link.close()  # may be done twice
            self.link = None
            self._pauses.lived(time.monotonic() - link.since)
            self._pause = self._pauses.next()
            self._failure = link.connection.failure
            # their connection is over, so frames that are still held are not counted any more
            self._before = replace(self._before.plus(link.connection.stats()), leases=0)

    def stats(self) -> ReaderStats:
        """Counters over all connections."""
        return self._before if self.link is None else self._before.plus(self.link.connection.stats())

    def close(self) -> None:
        """Leave for good; from any thread. A task in connect() gets ConnectionClosedOK."""
        self.closed = True
        self.home.call(self._leave)

    def _leave(self) -> None:
        self.unlink()
        self.wake()


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _fulfil(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
