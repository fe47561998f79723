# SPDX-License-Identifier: MIT
"""WebSockets: how many there may be, and how one ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import WSMsgType, web

from valkka_async.service.web.clients import Seldom, client_of, share
from valkka_async.service.web.problems import Code, problem
from valkka_async.service.web.viewer import Ending

_INTERNAL = 1011
TOO_MANY = 4429
SIGNED_OUT = 4401
SESSION = web.RequestKey("session", str)  # that a request belongs to
STOPS = Ending(1001, "the service stops")

_GOODBYE = 1.0  # s that a browser has to answer the close
_PING = 30.0  # s without a sign of life after which a browser is pinged, and has half as long to answer
_LARGEST = 1024  # bytes of a message from a browser, which needs to send none
_WRITER = 64 << 10  # bytes after which a send waits for the transport, which may hold as much again
# Bytes that the kernel may hold unsent. By default it takes megabytes, which a slow browser would get too
# late.
_UNSENT = 128 << 10

Talk = Callable[[web.WebSocketResponse], Coroutine[object, None, None]]

log = logging.getLogger("valkka_async.service.web")


class _Visit:
    """One WebSocket that is open: of whom, and how it is to end when we want it to."""

    def __init__(self, client: str, session: str | None) -> None:
        self.client = client
        self.session = session
        self.ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def end(self, ending: Ending) -> None:
        """Idempotent."""
        if not self.ending.done():
            self.ending.set_result(ending)


class Sockets:
    """All WebSockets of the page."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.refused = 0
        self._share = share(limit)
        self._open: dict[asyncio.Task[object], _Visit] = {}
        self._warn = Seldom()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, request: web.Request, talk: Talk) -> web.StreamResponse:
        """Upgrade a request and run `talk`, which sends, until the browser leaves, it raises Ending, its
        session signs out, or the service stops. Beyond the limit, and one client's share of it, the WebSocket
        is closed with the code 4429: a browser would not see why an upgrade was refused."""
        ws = web.WebSocketResponse(
            timeout=_GOODBYE,
            heartbeat=_PING,
            compress=False,
            max_msg_size=_LARGEST,
            writer_limit=_WRITER,
        )
        if not ws.can_prepare(request):
            return problem(Code.UPGRADE, "this address is for WebSockets", Upgrade="websocket")
        task = asyncio.current_task()
        assert task is not None
        visit = _Visit(client_of(request.remote), request.get(SESSION))
        refusal = STOPS if self._stopped else self._refusal(visit)
        if refusal is None:
            self._open[task] = visit
        try:
            transport = request.transport
            await ws.prepare(request)
            _keep_little(transport)
            ending = await self._attend(ws, talk, visit) if refusal is None else refusal
            await _close(ws, transport, ending)
        except ConnectionError:  # the browser is gone
            if not ws.prepared:  # aiohttp would try to close what was never opened, and log that it cannot
                return problem(Code.REQUEST, "the browser is gone")
        finally:
            self._open.pop(task, None)
        return ws

    def _refusal(self, visit: _Visit) -> Ending | None:
        """Why there is no room for it."""
        of_client = sum(one.client == visit.client for one in self._open.values())
        if len(self._open) < self.limit and of_client < self._share:
            return None
        self.refused += 1
        if self._warn():
            log.warning(
                "too many connections: web.max_connections is %d, and one client has %d of them at most",
                self.limit,
                self._share,
                extra={"client": visit.client},
            )
        return Ending(TOO_MANY, "too many connections")

    async def _attend(self, ws: web.WebSocketResponse, talk: Talk, visit: _Visit) -> Ending:
        """Run one connection. Returns how to close it."""
        sender = asyncio.create_task(talk(ws))
        tasks = [sender, asyncio.create_task(_listen(ws))]
        try:
            waited: list[asyncio.Future[Any]] = [*tasks, visit.ending]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if not sender.cancelled() and (error := sender.exception()) is not None:
            if isinstance(error, Ending):
                return error
            if not isinstance(error, ConnectionError):
                log.error("a WebSocket ended by an error", exc_info=error)
                return Ending(_INTERNAL, "internal error")
        return visit.ending.result() if visit.ending.done() else Ending(1000, "")

    def sign_out(self, session: str) -> None:
        """Close those of a session that is over."""
        for visit in self._open.values():
            if visit.session == session:
                visit.end(Ending(SIGNED_OUT, "signed out"))

    async def aclose(self) -> None:
        """Close all, which takes a second at most, and accept no more. Idempotent."""
        self._stopped = True
        for visit in self._open.values():
            visit.end(STOPS)
        if self._open:
            await asyncio.wait(list(self._open), timeout=2 * _GOODBYE)


async def _listen(ws: web.WebSocketResponse) -> None:
    """Read, so that pings are answered and the end is noticed."""
    while True:
        message = await ws.receive()
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            return


def _keep_little(transport: asyncio.Transport | None) -> None:
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)


async def _close(ws: web.WebSocketResponse, transport: asyncio.Transport | None, ending: Ending) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GOODBYE):
            await ws.close(code=ending.code, message=ending.reason.encode())
    # Unsent data for a browser that does not read would keep the connection until TCP gives up.
    if transport is not None and transport.get_write_buffer_size():
        transport.abort()
