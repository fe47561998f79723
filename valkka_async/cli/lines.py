# SPDX-License-Identifier: MIT
"""Lines without an end on standard output, whose reader may have stopped to read."""

from __future__ import annotations

import asyncio
import os
import select
import sys

_AT_ONCE = select.PIPE_BUF  # bytes: a pipe that has any room takes so many
_LOOK = 0.05  # s


async def put(line: str) -> None:
    """Print a line. While nobody reads, other tasks and signals have their turn: a print() that waits could
    be ended by SIGKILL alone. May be cancelled. Raises BrokenPipeError when nobody will read any more."""
    data = f"{line}\n".encode(sys.stdout.encoding, "backslashreplace")
    sys.stdout.flush()
    fd = sys.stdout.fileno()
    room = select.poll()
    room.register(fd, select.POLLOUT)
    while data:
        while not room.poll(0):  # noqa: ASYNC110 - nothing tells of files and terminals
            await asyncio.sleep(_LOOK)
        data = data[os.write(fd, data[:_AT_ONCE]) :]
