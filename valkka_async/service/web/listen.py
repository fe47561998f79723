# SPDX-License-Identifier: MIT
"""Addresses and connections: limits on their number and duration, which aiohttp does not have."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from typing import Any

from aiohttp import web
from aiohttp.web_request import BaseRequest

from valkka_async.errors import ValkkaError
from valkka_async.service.web.headers import secure
from valkka_async.service.web.sockets import Seldom

_IDLE_SECONDS = 20.0  # without a whole request; also for the first one
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
    except (OSError, UnicodeError) as e:
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


def url(host: str, sockets: list[socket.socket]) -> str:
    """The page's address for a browser on this machine."""
    name = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{name}]' if ':' in name else name}:{sockets[0].getsockname()[1]}/"


class Connection(web.RequestHandler):
    """One TCP connection."""

    def __init__(self, door: Door, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=_LINGER_SECONDS,
            access_log=None,  # type: ignore[arg-type]
            logger=log,
        )
        self._door = door
        self._waiting = 0  # unsent bytes, and since when none of them has left
        self._since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._door.enter(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._door.leave(self)
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        self._since = 0.0
        super().resume_writing()

    def look(self, now: float) -> None:
        """End it if the unsent data does not leave: a browser that does not read would hold it for ever."""
        transport = self.transport
        if transport is None:
            return
        waiting = transport.get_write_buffer_size()
        if not waiting or waiting != self._waiting or not self._since:
            self._waiting, self._since = waiting, now
        elif now - self._since >= _STUCK:
            log.info("a browser has read nothing for %.0f s: closed", now - self._since)
            transport.abort()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A response that shows nothing of our code or of the request."""
        if status >= 500:
            log.error("%s %s failed", request.method, request.path, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has been begun")
        text = "internal error" if status >= 500 else "this is not a request"
        response = web.json_response({"error": text}, status=status)
        secure(response)
        response.force_close()
        return response


class Door:
    """Lets connections in, up to a number, and looks after them."""

    def __init__(self, server: web.Server, limit: int) -> None:
        self._server = server
        self._limit = limit
        self._inside: set[Connection] = set()
        self._warn = Seldom()
        self._task = asyncio.create_task(self._watch(), name="web connections")

    def __call__(self) -> Connection:
        return Connection(self, self._server)

    def enter(self, connection: Connection) -> None:
        self._inside.add(connection)
        if len(self._inside) > self._limit and connection.transport is not None:
            if self._warn():
                log.warning("too many connections: more than %d at once", self._limit)
            connection.transport.abort()

    def leave(self, connection: Connection) -> None:
        self._inside.discard(connection)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK)
            now = loop.time()
            for connection in list(self._inside):
                connection.look(now)

    async def aclose(self) -> None:
        """Stop looking after them."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
