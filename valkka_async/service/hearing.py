# SPDX-License-Identifier: MIT
"""The events of all programs on this host, read once for all who want them, and only while somebody does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from valkka_async.ring.events import Event
from valkka_async.ring.listening import events

_EVERYTHING = ("*", "*/*")
_AGAIN = 5.0  # s

log = logging.getLogger("valkka_async.service")

Hears = Callable[[Event], object]


class Hearing:
    """Belongs to an event loop. Whoever joins is called with each event, and must not wait."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._all: set[Hears] = set()
        self._task: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()

    async def join(self, hears: Hears) -> None:
        """Returns when the events of all rings that there are will be heard. Idempotent. When it is cancelled
        it has joined, and is to leave()."""
        self._all.add(hears)
        if self._task is None:
            self._begun = asyncio.Event()
            self._task = asyncio.create_task(self._read(self._begun), name=self._name)
        await self._begun.wait()

    def leave(self, hears: Hears) -> None:
        """Idempotent."""
        self._all.discard(hears)
        if not self._all:
            self._end()

    async def aclose(self) -> None:
        """Read no more. Idempotent."""
        self._all.clear()
        self._end()
        if self._ending:
            await asyncio.wait(list(self._ending))

    def _end(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            self._begun.set()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _read(self, begun: asyncio.Event) -> None:
        while True:
            try:
                async with events(*_EVERYTHING) as happening:
                    begun.set()
                    async for event in happening:
                        for hears in list(self._all):
                            hears(event)
            except Exception:  # nobody knows of any; without this task everybody is deaf
                log.exception("%s: events cannot be read; trying again", self._name)
            begun.set()
            await asyncio.sleep(_AGAIN)
