# SPDX-License-Identifier: MIT
"""Waiting for a free slot, in threads and in tasks of any loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial

from valkka_async.timeouts import check_timeout


class RoomWaiters:
    """Threads and tasks that wait. ``notify()`` wakes them, and they ask ``has_room`` again."""

    def __init__(self) -> None:
        self.waiters: list[Callable[[], object]] = []

    def notify(self) -> None:
        """Wake all. From any thread."""
        for wake in list(self.waiters):
            wake()

    async def wait(self, has_room: Callable[[], bool]) -> None:
        """Wait until there is room. May be cancelled. Raises what has_room() raises."""
        loop = asyncio.get_running_loop()
        while True:
            room = loop.create_future()
            wake = partial(_call_in, loop, room)
            self.waiters.append(wake)  # before looking: what comes after the look wakes us
            try:
                if has_room():
                    return
                await room
            finally:
                self.waiters.remove(wake)

    def wait_for(self, has_room: Callable[[], bool], timeout: float | None) -> bool:
        """The same for threads. False: no room within ``timeout`` seconds (None: wait for ever)."""
        timeout = check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        room = threading.Event()
        self.waiters.append(room.set)
        try:
            while not has_room():
                if not room.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    return False
                room.clear()
            return True
        finally:
            self.waiters.remove(room.set)


def _call_in(loop: asyncio.AbstractEventLoop, room: asyncio.Future[None]) -> None:
    """Wake a task of any loop from any thread."""
    try:
        loop.call_soon_threadsafe(_fulfil, room)
    except RuntimeError:
        pass  # the loop was closed, and its tasks wait no more


def _fulfil(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_result(None)
