# SPDX-License-Identifier: MIT
"""WebSockets: how many there may be, and how one ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import time
from collections.abc import Callable, Coroutine

from aiohttp import WSMsgType, web

from valkka_async.service.web.headers import problem
from valkka_async.service.web.viewer import Ending

_INTERNAL = 1011
TOO_MANY = 4429
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


class Seldom:
    """True once a minute at most: for log messages that others can cause as often as they like."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._last = -math.inf

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


class Sockets:
    """All WebSockets of the page."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.refused = 0
        self._open: set[asyncio.Task[object]] = set()
        self._warn = Seldom()
        self._stopped = False
        self._stopping: asyncio.Future[None] | None = None  # wakes all when they are to end

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, request: web.Request, talk: Talk) -> web.StreamResponse:
        """Upgrade a request and run `talk`, which sends, until the browser leaves, it raises Ending, or the
        service stops. Beyond the limit the WebSocket is closed with the code 4429: a browser would not see
        why an upgrade was refused."""
        ws = web.WebSocketResponse(
            timeout=_GOODBYE,
            heartbeat=_PING,
            compress=False,
            max_msg_size=_LARGEST,
            writer_limit=_WRITER,
        )
        if not ws.can_prepare(request):
            return problem(426, "this address is for WebSockets", Upgrade="websocket")
        task = asyncio.current_task()
        assert task is not None
        welcome = len(self._open) < self.limit and not self._stopped
        if welcome:
            self._open.add(task)
        try:
            transport = request.transport
            await ws.prepare(request)
            _keep_little(transport)
            if welcome:
                ending = await self._attend(ws, talk)
            elif self._stopped:
                ending = STOPS
            else:
                self.refused += 1
                if self._warn():
                    log.warning("too many connections: web.max_connections is %d", self.limit)
                ending = Ending(TOO_MANY, "too many connections")
            await _close(ws, transport, ending)
        except ConnectionError:  # the browser is gone
            if not ws.prepared:  # aiohttp would try to close what was never opened, and log that it cannot
                return web.Response(status=400)
        finally:
            self._open.discard(task)
        return ws

    async def _attend(self, ws: web.WebSocketResponse, talk: Talk) -> Ending:
        """Run one connection. Returns how to close it."""
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_future()
        sender = asyncio.create_task(talk(ws))
        tasks = [sender, asyncio.create_task(_listen(ws))]
        try:
            await asyncio.wait([*tasks, self._stopping], return_when=asyncio.FIRST_COMPLETED)
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
        return STOPS if self._stopped else Ending(1000, "")

    async def aclose(self) -> None:
        """Close all, which takes a second at most, and accept no more. Idempotent."""
        self._stopped = True
        if self._stopping is not None and not self._stopping.done():
            self._stopping.set_result(None)
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
