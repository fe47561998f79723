# SPDX-License-Identifier: MIT
"""WebSockets, and how one ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import WSMsgType, web

from valkka_async.service.web.problems import Code, problem
from valkka_async.service.web.viewer import Ending
from valkka_async.service.web.visits import Visit, Visits, keep_little
from valkka_async.timeouts import timeout

_INTERNAL = 1011
_GOODBYE = 1.0  # s that a browser has to answer the close
_PING = 30.0  # s without a sign of life after which a browser is pinged, and has half as long to answer
_LARGEST = 1024  # bytes of a message from a browser, which needs to send none
_WRITER = 64 << 10  # bytes after which a send waits for the transport, which may hold as much again

Talk = Callable[[web.WebSocketResponse], Coroutine[object, None, None]]

log = logging.getLogger("valkka_async.service.web")


class Sockets:
    """All WebSockets of the page."""

    def __init__(self, visits: Visits) -> None:
        self._visits = visits

    async def serve(self, request: web.Request, talk: Talk) -> web.StreamResponse:
        """Upgrade a request and run `talk`, which sends, until the browser leaves, it raises Ending, its
        session signs out, or the service stops. Where there is no room for it, the WebSocket is closed with
        the code 4429: a browser would not see why an upgrade was refused."""
        ws = web.WebSocketResponse(
            timeout=_GOODBYE,
            heartbeat=_PING,
            compress=False,
            max_msg_size=_LARGEST,
            writer_limit=_WRITER,
        )
        if not ws.can_prepare(request):
            return problem(Code.UPGRADE, "this address is for WebSockets", Upgrade="websocket")
        with self._visits.enter(request) as visit:
            try:
                transport = request.transport
                await ws.prepare(request)
                keep_little(transport)
                await _close(ws, transport, await self._attend(ws, talk, visit))
            except ConnectionError:  # the browser is gone
                if not ws.prepared:  # aiohttp would try to close what was never opened, and log it cannot
                    return problem(Code.REQUEST, "the browser is gone")
        return ws

    async def _attend(self, ws: web.WebSocketResponse, talk: Talk, visit: Visit) -> Ending:
        """Run one connection. Returns how to close it."""
        if visit.ending.done():
            return visit.ending.result()
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


async def _listen(ws: web.WebSocketResponse) -> None:
    """Read, so that pings are answered and the end is noticed."""
    while True:
        message = await ws.receive()
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            return


async def _close(ws: web.WebSocketResponse, transport: asyncio.Transport | None, ending: Ending) -> None:
    with contextlib.suppress(TimeoutError):
        async with timeout(_GOODBYE):
            await ws.close(code=ending.code, message=ending.reason.encode())
    # Unsent data for a browser that does not read would keep the connection until TCP gives up.
    if transport is not None and transport.get_write_buffer_size():
        transport.abort()
