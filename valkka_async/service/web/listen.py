# SPDX-License-Identifier: MIT
"""Addresses and connections: where the page listens, and how many connections there may be, of whom, and for
how long."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, cast

from aiohttp import web
from aiohttp.web_request import BaseRequest

from valkka_async.errors import ValkkaError
from valkka_async.seldom import Seldom
from valkka_async.service.web import login
from valkka_async.service.web.clients import client_of, share
from valkka_async.service.web.headers import secure
from valkka_async.service.web.problems import Code, explained, problem
from valkka_async.timeouts import timeout

_IDLE_SECONDS = 20.0  # without a whole request; also for the first one
_GOODBYE_SECONDS = 0.5  # for what is closed to be gone
_LINGER_SECONDS = 2.0  # for the rest of a refused request's body
_BACKLOG = 128
_LOOK = 5.0
_STUCK = 30.0  # s in which nothing of the unsent data has left

log = logging.getLogger("valkka_async.service.web")


async def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on all addresses of `host` ("": every address). May be cancelled.

    Raises ValkkaError, which says what to do.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as e:  # ValueError: what no name can have, as a NUL
        reason = e.strerror if isinstance(e, OSError) else "not a name"
        raise ValkkaError(f"web.host: {host!r} cannot be looked up ({reason})") from None
    sockets: list[socket.socket] = []
    try:
        for family, address in sorted({(family, address) for family, _, _, _, address in found}):
            bind_to: Any = address
            if sockets and port == 0:  # all on the port that the first one was given
                bind_to = (address[0], sockets[0].getsockname()[1], *address[2:])
            try:
                sockets.append(_bound(family, bind_to))
            except OSError as e:
                if sockets and e.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    continue  # "localhost" means ::1 too, even where there is no IPv6
                raise ValkkaError(_why(e, host, port)) from None
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bound(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # also while old connections linger
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _why(error: OSError, host: str, port: int) -> str:
    where = f"{host}, port {port}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"the page cannot listen on {where}: another program does (perhaps another service of yours; "
            f"`ss -ltnp 'sport = :{port}'` tells which). End it, or set web.port to another one, or to 0 for "
            "any that is free"
        )
    if error.errno == errno.EACCES:
        return f"the page may not listen on {where}: set web.port to one from 1024 on"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"the page cannot listen on {where}: this machine has no such address; check web.host"
    return f"the page cannot listen on {where}: {error.strerror or os.strerror(error.errno or 0)}"


def url(host: str, sockets: list[socket.socket], *, secure: bool = False) -> str:
    """The page's address for a browser on this machine. `secure`: over TLS."""
    name = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    scheme = "https" if secure else "http"
    return f"{scheme}://{f'[{name}]' if ':' in name else name}:{sockets[0].getsockname()[1]}/"


class Guest(Protocol):
    """Somebody inside. `client`: as of client_of(). `idle_since`: the loop's time. `idle`: nothing has been
    asked for, or all was answered."""

    @property
    def client(self) -> str: ...
    @property
    def idle(self) -> bool: ...
    @property
    def idle_since(self) -> float: ...

    def look(self) -> None:
        """Called every few seconds, to end what takes too long."""

    def abort(self) -> None:
        """End it at once."""


class Connection(web.RequestHandler):
    """One TCP connection, a Guest. `before` is who it was until now."""

    def __init__(self, door: Door, server: web.Server, before: Guest | None) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=_LINGER_SECONDS,
            access_log=None,  # type: ignore[arg-type]
            logger=log,
        )
        self.client = ""
        self.idle_since = 0.0
        self._busy = 0  # requests that are being answered
        self._door = door
        self._before = before
        self._line: asyncio.Transport | None = None  # aiohttp forgets it when it is told to close
        self._waiting = 0  # unsent bytes, and at how many looks since none of them had left
        self._looks = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._line = cast(asyncio.Transport, transport)  # uvloop's for TLS is none by its type
        peer = transport.get_extra_info("peername")
        self.client = client_of(peer[0] if isinstance(peer, tuple) else None)
        self.idle_since = asyncio.get_running_loop().time()
        if self._before is not None:
            self._door.leave(self._before)
            self._before = None
        self._door.enter(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._line = None
        self._door.leave(self)
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        self._waiting = 0
        super().resume_writing()

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """While in it, a request of this connection is being answered."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self.idle_since = asyncio.get_running_loop().time()

    @property
    def idle(self) -> bool:
        """Nothing has been asked for, or all was answered."""
        return not self._busy and self.transport is not None and not self.transport.get_write_buffer_size()

    def abort(self) -> None:
        """Whatever is still to be sent."""
        if self._line is not None:
            self._line.abort()

    def look(self) -> None:
        """End it if nothing of what is to be sent leaves, as a client that does not read would keep it."""
        transport = self.transport
        if transport is None:
            return
        waiting = transport.get_write_buffer_size()
        if not waiting or waiting != self._waiting:
            self._waiting, self._looks = waiting, 0
            return
        self._looks += 1  # and not a time: while we stood still ourselves, nothing was sent
        if self._looks * _LOOK >= _STUCK:
            log.info("a browser has read nothing for %.0f s: closed", self._looks * _LOOK)
            transport.abort()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """An answer without anything of ours or theirs in it."""
        if isinstance(exc, ConnectionError) and (self.transport is None or self.transport.is_closing()):
            raise exc  # the client has left in the middle of its request, which is its own business
        if isinstance(exc, web.RequestPayloadError):  # its body is not what its headers say
            status = 400
        if status >= 500:
            log.error("%s %s failed", request.method, request.path, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has been begun")
        if status >= 500:
            response = problem(Code.INTERNAL, "internal error; the service's log has it")
        else:
            response = problem(Code.REQUEST, "this is not a request")
        login.for_people(request, response)
        secure(response)
        response.force_close()
        return response

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send it. What aiohttp refuses by itself before any of ours is asked, such as an Expect that it does
        not know, is a problem as others are."""
        if isinstance(resp, web.HTTPException):
            resp = login.for_people(request, explained(resp))
        return await super().finish_response(request, resp, start_time)

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """For what aiohttp notices by itself, such as the rest of a body that is not what its headers say."""
        if not isinstance(kwargs.get("exc_info"), (ConnectionError, web.RequestPayloadError)):
            super().log_exception(*args, **kwargs)


class Door:
    """Lets connections in, up to a number in all and a share of it for each client, and looks after them.

    Where it is full, the connection that has been idle for longest makes room for a new one: of the client
    itself if that has its share, else of the client with the most. So connections that say nothing cost
    nobody else anything, however many there are.
    """

    def __init__(self, server: web.Server, limit: int) -> None:
        self._server = server
        self._limit = limit
        self._share = share(limit)
        self._inside: dict[Guest, None] = {}  # in the order in which they came
        self._clients: Counter[str] = Counter()
        self._warn = Seldom()
        self._task = asyncio.create_task(self._watch(), name="web connections")

    def __call__(self, before: Guest | None = None) -> Connection:
        return Connection(self, self._server, before)

    def enter(self, connection: Guest) -> None:
        """Raises nothing: a connection that cannot stay is aborted."""
        self._inside[connection] = None
        self._clients[connection.client] += 1
        if self._clients[connection.client] > self._share:
            self._make_room(connection, connection.client)
        elif len(self._inside) > self._limit:
            self._make_room(connection, max(self._clients, key=self._clients.__getitem__))

    def leave(self, connection: Guest) -> None:
        """Idempotent."""
        if connection in self._inside:
            del self._inside[connection]
            self._clients[connection.client] -= 1
            if not self._clients[connection.client]:
                del self._clients[connection.client]

    def _make_room(self, newcomer: Guest, client: str) -> None:
        if self._warn():
            log.warning(
                "too many connections: more than %d at once, or %d of one client; most are of %s",
                self._limit,
                self._share,
                client,
                extra={"client": client},
            )
        leaving = _longest_idle(c for c in self._inside if c.client == client and c is not newcomer)
        if leaving is None and client != newcomer.client:
            leaving = _longest_idle(c for c in self._inside if c is not newcomer)
        leaving = leaving or newcomer
        self.leave(leaving)  # now, and not when its end has been noticed
        leaving.abort()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            for connection in list(self._inside):
                connection.look()

    async def aclose(self) -> None:
        """Wait for those to leave who were told to, and end the rest: over TLS a client has to answer."""
        self._task.cancel()
        await asyncio.wait([self._task])
        with contextlib.suppress(TimeoutError):
            async with timeout(_GOODBYE_SECONDS):
                await self._emptied()
        for connection in list(self._inside):
            connection.abort()
        with contextlib.suppress(TimeoutError):
            async with timeout(_GOODBYE_SECONDS):
                await self._emptied()

    async def _emptied(self) -> None:
        while self._inside:  # noqa: ASYNC110 - a few looks, at the end
            await asyncio.sleep(_GOODBYE_SECONDS / 50)


def _longest_idle(connections: Iterable[Guest]) -> Guest | None:
    return min((c for c in connections if c.idle), key=lambda c: c.idle_since, default=None)
