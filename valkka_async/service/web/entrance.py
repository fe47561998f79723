# SPDX-License-Identifier: MIT
"""Where connections begin with TLS: they are counted before their handshakes, which have an end, so that
those who never finish one cost no more than others who say nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from functools import partial

from valkka_async.seldom import Seldom
from valkka_async.service.web.clients import client_of
from valkka_async.service.web.listen import Door
from valkka_async.timeouts import timeout

_HANDSHAKE_SECONDS = 10.0
_GOODBYE_SECONDS = 2.0  # for a client to answer the end of TLS
_PAUSE = 0.5  # s after a connection that could not be accepted
_HELLO = b"\x16"  # how TLS begins (RFC 8446, 5.1)
_PLAIN = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"This is HTTPS: begin the address with https://\n"
)

log = logging.getLogger("valkka_async.service.web")


class _Handshake:
    """A connection that is not one yet: a Guest."""

    idle = True

    def __init__(self, sock: socket.socket, client: str) -> None:
        self.client = client
        self.idle_since = asyncio.get_running_loop().time()
        self.task: asyncio.Task[None] | None = None
        self._sock = sock
        self._handed_over = False

    def look(self) -> None:
        pass  # it has a deadline

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # which ends it, whoever waits for what

    async def run(self, door: Door, context: ssl.SSLContext) -> None:
        """Raises nothing but CancelledError."""
        loop = asyncio.get_running_loop()
        try:
            async with timeout(_HANDSHAKE_SECONDS):
                first = await self._first_byte()
                if first != _HELLO:
                    if first:
                        await self._refuse()
                    return
            self._handed_over = True
            await loop.connect_accepted_socket(
                lambda: door(self),
                self._sock,
                ssl=context,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=_GOODBYE_SECONDS,
            )
        except (OSError, TimeoutError):  # a client that went, or spoke no TLS that we speak
            pass
        finally:
            door.leave(self)
            self.close()

    def close(self) -> None:
        """Unless a transport has the socket. Idempotent."""
        if not self._handed_over:
            self._sock.close()

    async def _first_byte(self) -> bytes:
        """b"": there will be none. It stays where it is. Raises OSError."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._sock.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._sock.fileno())
        return self._sock.recv(1, socket.MSG_PEEK)

    async def _refuse(self) -> None:
        """Plain HTTP, as browsers try it for an address without a scheme."""
        loop = asyncio.get_running_loop()
        await loop.sock_recv(self._sock, 1 << 16)  # what is unread would take the answer away with it
        await loop.sock_sendall(self._sock, _PLAIN)
        self._sock.shutdown(socket.SHUT_WR)


class Entrance:
    """Accepts connections at a socket that listens, which stays the caller's. Belongs to the running loop."""

    def __init__(self, door: Door, listening: socket.socket, context: ssl.SSLContext) -> None:
        self._door = door
        self._listening = listening
        self._context = context
        self._handshakes: set[_Handshake] = set()
        self._warn = Seldom()
        self._task = asyncio.create_task(self._accept(), name="web entrance")

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(self._listening)
            except OSError as e:  # no descriptors are left, or the client has gone
                if self._warn():
                    log.warning("a connection cannot be accepted: %s", e.strerror)
                await asyncio.sleep(_PAUSE)
                continue
            sock.setblocking(False)
            handshake = _Handshake(sock, client_of(address[0]))
            self._handshakes.add(handshake)
            handshake.task = asyncio.create_task(handshake.run(self._door, self._context), name="handshake")
            handshake.task.add_done_callback(partial(self._over, handshake))
            self._door.enter(handshake)
            await asyncio.sleep(0)  # a flood of connections leaves others their turn

    def _over(self, handshake: _Handshake, task: asyncio.Task[None]) -> None:
        self._handshakes.discard(handshake)

    async def aclose(self) -> None:
        """Accept no more, and end the handshakes. Connections stay. Idempotent."""
        handshakes = list(self._handshakes)
        tasks = [self._task, *(one.task for one in handshakes if one.task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for handshake in handshakes:  # of those that never began
            handshake.close()
