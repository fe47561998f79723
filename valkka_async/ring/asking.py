# SPDX-License-Identifier: MIT
"""What servers say of themselves, asked in an event loop, for as long as it takes: a server that hangs is
asked once, and not left with a queue of connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from valkka_async.foreign import pass_on
from valkka_async.ring.connection import dial, said
from valkka_async.ring.handshake import MAX_BYTES, Stats, encode


async def hear(sock: socket.socket) -> bytes:
    """Ask the server at the other end. Its answer; b"": it hung up. Raises OSError."""
    with contextlib.suppress(BrokenPipeError):  # it hung up on us, and has said why
        sock.send(encode(Stats()), socket.MSG_NOSIGNAL)
    loop = asyncio.get_running_loop()
    try:
        return await loop.sock_recv(sock, MAX_BYTES)
    except ConnectionResetError:  # it was closed before it read the question; what it sent follows
        return await loop.sock_recv(sock, MAX_BYTES)


async def ask(name: str) -> dict[str, object] | None:
    """As connection.report(). None, too, if its queue is full, as it has not looked for long. Raises
    ConnectError, ValueError."""
    if (sock := dial(name)) is None:
        return None
    with sock:
        try:
            data = await hear(sock)
        except OSError as e:
            pass_on(e)
            return None
    return said(name, data)
