# SPDX-License-Identifier: MIT
"""What the page knows of all cameras: pushed each second, and sooner when something has changed."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import web

from valkka_async.service.web.contract import Status
from valkka_async.service.web.sockets import Sockets

_EVERY = 1.0  # s
_LOOK = 0.25  # s
_TOLD_AT_ONCE = ("name", "title", "state", "reason", "codec", "width", "height", "live", "still")

log = logging.getLogger("valkka_async.service.web")


class _Newest:
    """A place for one text: a slow browser gets the newest."""

    def __init__(self) -> None:
        self._text = ""
        self._there = asyncio.Event()

    def put(self, text: str) -> None:
        self._text = text
        self._there.set()

    async def take(self) -> str:
        await self._there.wait()
        self._there.clear()
        return self._text


class Events:
    """GET /api/events. The status is looked at and put into words once for all, and only while somebody
    listens."""

    def __init__(self, status: Callable[[], Status], sockets: Sockets) -> None:
        self._status = status
        self._sockets = sockets
        self._listeners: set[_Newest] = set()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._listeners)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        return await self._sockets.serve(request, self._tell)

    async def _tell(self, ws: web.WebSocketResponse) -> None:
        newest = _Newest()
        newest.put(json.dumps(self._status()))
        self._listeners.add(newest)
        if self._task is None:
            self._task = asyncio.create_task(self._watch(), name="events")
        try:
            while True:
                await ws.send_str(await newest.take())
        finally:
            self._listeners.discard(newest)
            if not self._listeners and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        known: object = _gist(self._status()["cameras"])
        due = loop.time() + _EVERY
        while True:
            await asyncio.sleep(min(_LOOK, max(0.0, due - loop.time())))
            try:
                status = self._status()
            except Exception:  # of the service: the page is to go on telling what can be told
                log.exception("the status of the service cannot be told")
                due = loop.time() + _EVERY
                continue
            gist = _gist(status["cameras"])
            if gist == known and loop.time() < due:
                continue
            known, due = gist, loop.time() + _EVERY
            text = json.dumps(status)
            for listener in self._listeners:
                listener.put(text)

    async def aclose(self) -> None:
        """No more is told. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            self._task = None


def _gist(cameras: Iterable[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What is worth telling at once, when it changes."""
    return [(*(camera[key] for key in _TOLD_AT_ONCE), *_recording(camera["recording"])) for camera in cameras]


def _recording(recording: dict[str, Any] | None) -> tuple[Any, ...]:
    return () if recording is None else (recording.get("active"), recording["always"], recording["error"])
