# SPDX-License-Identifier: MIT
"""The status of all cameras, pushed to the page each second, and sooner when something has changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from aiohttp import web

from valkka_async import typed
from valkka_async.service.status import CameraReport, RecordingStatus, ServiceStatus
from valkka_async.service.web.sockets import Sockets

_EVERY = 1.0  # s
_LOOK = 0.25  # s

log = logging.getLogger("valkka_async.service.web")


class _Newest:
    """Holds one text: a slow browser gets the newest."""

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


class Statuses:
    """GET /api/status/live. The status is looked up and encoded once for all listeners, and only while there
    are any."""

    def __init__(self, status: Callable[[], ServiceStatus], sockets: Sockets) -> None:
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
        newest.put(typed.dumps(self._status()))
        self._listeners.add(newest)
        if self._task is None:
            self._task = asyncio.create_task(self._watch(), name="statuses")
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
        known: object = _gist(self._status().cameras)
        due = loop.time() + _EVERY
        while True:
            await asyncio.sleep(min(_LOOK, max(0.0, due - loop.time())))
            try:
                status = self._status()
            except Exception:  # of the service: the page goes on
                log.exception("the status of the service is not available")
                due = loop.time() + _EVERY
                continue
            gist = _gist(status.cameras)
            if gist == known and loop.time() < due:
                continue
            known, due = gist, loop.time() + _EVERY
            text = typed.dumps(status)
            for listener in self._listeners:
                listener.put(text)

    async def aclose(self) -> None:
        """Send no more. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            self._task = None


def _gist(cameras: Iterable[CameraReport]) -> list[tuple[object, ...]]:
    """What is worth telling at once when it changes."""
    return [
        (
            *(report.name, report.title, report.group, report.live, report.still),
            *(report.state, report.cause),
            *((s.state, s.cause, s.codec, s.width, s.height) for s in report.camera.streams),
            *_recording(report.recording),
        )
        for report in cameras
    ]


def _recording(recording: RecordingStatus | None) -> tuple[object, ...]:
    if recording is None:
        return ()
    cause = None if recording.error is None else recording.error.cause
    return (recording.state, recording.active, recording.always, cause)
