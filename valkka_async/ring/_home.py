# SPDX-License-Identifier: MIT
"""Where something that lives in an event loop belongs. running_loop() is the loop that runs here, or None."""

from __future__ import annotations

import asyncio
import threading
from asyncio import _get_running_loop as running_loop
from collections.abc import Callable

from valkka_async.errors import ConcurrencyError

__all__ = ["Home", "running_loop"]


class Home:
    """The loop and the thread that something belongs to, from its first use in a loop."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def enter(self, what: str) -> None:
        """Belong to the running loop. Raises ConcurrencyError if it is at home elsewhere."""
        if self.loop is None:
            self.loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        else:
            self.check(what)

    def check(self, what: str) -> None:
        """Raises ConcurrencyError in another loop, or in another thread."""
        running = running_loop()
        if self.loop is None or running is self.loop:
            return
        if running is not None or threading.get_ident() != self._thread:
            raise ConcurrencyError(f"{what} belongs to another event loop or thread: make one for each")

    def call(self, function: Callable[[], None]) -> None:
        """Call it where it belongs: now, or, in another thread's loop, as soon as that comes to it.

        A signal's handler may call this while the loop sleeps in the same thread: then it wakes up.
        """
        loop = self.loop
        if loop is not None and loop.is_running() and threading.get_ident() != self._thread:
            try:
                loop.call_soon_threadsafe(function)
                return
            except RuntimeError:
                pass  # it was closed at this moment
        function()
        if loop is not None and running_loop() is loop and asyncio.current_task(loop) is None:
            loop.call_soon_threadsafe(_nothing)  # what the function has scheduled does not wake it


def _nothing() -> None:
    pass
