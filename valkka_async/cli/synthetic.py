# SPDX-License-Identifier: MIT
"""A camera of the demo: a process that serves a drawn picture for as long as its standard input is open.

Its parent holds the other end of that pipe, so the camera ends with it, however the parent ends.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time

import valkka_async as va
from valkka_async.cli.picture import Picture

READY = b"live\n"  # said on standard output after the first frame


async def synthetic(name: str, size: tuple[int, int], fps: float, hue: float) -> None:
    """Until standard input ends. Raises NameInUseError, FrameError, RingMemoryError, ..."""
    picture = Picture(name, size, hue)
    ended = _end_of_input()
    async with va.serve(name) as server:
        due = time.monotonic()
        for number in itertools.count(1):
            _publish(server, picture, size, number)
            if number == 1:
                os.write(sys.stdout.fileno(), READY)
            # After a pause (a suspended machine) it goes on from now, it does not catch up.
            due = max(due + 1 / fps, time.monotonic())
            await asyncio.wait([ended], timeout=max(0, due - time.monotonic()))
            if ended.done():
                return


def _publish(server: va.Server, picture: Picture, size: tuple[int, int], number: int) -> None:
    now = time.time_ns()
    try:
        with server.loan((size[1], size[0], 3), "rgb24", timestamp_ns=now) as slot:
            picture.draw(slot.array, number, now)
    except va.NoFreeSlot:
        pass  # counted by the server; a camera does not wait for its readers


def _end_of_input() -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    fd = sys.stdin.fileno()

    def on_readable() -> None:
        if not os.read(fd, 4096):
            loop.remove_reader(fd)
            ended.set_result(None)

    loop.add_reader(fd, on_readable)
    return ended
