# SPDX-License-Identifier: MIT
"""Live video for browsers: one hub for each camera and format that has viewers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from functools import partial

from aiohttp import web

from valkka_async.service.web.contract import Find
from valkka_async.service.web.hub import FORMATS, Hub
from valkka_async.service.web.problems import Code, problem
from valkka_async.service.web.sockets import Sockets
from valkka_async.service.web.viewer import Ending, Viewer
from valkka_async.service.web.visits import STOPS

_LINGER = 5.0  # s for which a hub reads on without viewers: pages are reloaded, connections made again
_INTERNAL = 1011

log = logging.getLogger("valkka_async.service.web")


class Hubs:
    """The hubs that run. One begins with its first viewer and ends a few seconds after the last: cameras
    without viewers are not muxed, decoded or encoded. Belongs to a loop."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._hubs: dict[tuple[str, str], Hub] = {}
        self._tasks: dict[Hub, asyncio.Task[None]] = {}
        self._timers: dict[Hub, asyncio.TimerHandle] = {}
        self._skipped = 0  # by viewers that have left

    @property
    def skipped(self) -> int:
        """Frames that browsers were too slow for."""
        return self._skipped + sum(v.skipped for hub in self._tasks for v in hub.viewers)

    def viewers(self) -> dict[str, int]:
        """The number of viewers of each format."""
        return {
            format: sum(len(hub.viewers) for hub in self._tasks if hub.format == format) for format in FORMATS
        }

    @contextlib.contextmanager
    def viewing(self, camera: str, format: str) -> Iterator[Viewer]:
        """A viewer of a camera, until the block ends."""
        hub = self._hubs.get((camera, format))
        if hub is None or self._tasks[hub].done():
            hub = self._begin(camera, format)
        self._stop_timer(hub)
        viewer = hub.join()
        try:
            yield viewer
        finally:
            hub.leave(viewer)
            self._skipped += viewer.skipped
            if not hub.viewers and hub in self._tasks:
                loop = asyncio.get_running_loop()
                self._timers[hub] = loop.call_later(_LINGER, self._retire, hub)

    def _begin(self, camera: str, format: str) -> Hub:
        hub = self._hubs[camera, format] = Hub(camera, format, self._find)
        task = asyncio.create_task(hub.run(), name=f"hub {camera} {format}")
        self._tasks[hub] = task
        task.add_done_callback(partial(self._ended, hub))
        return hub

    def _retire(self, hub: Hub) -> None:
        """Viewers that come from now on get another one."""
        self._stop_timer(hub)
        if self._hubs.get((hub.camera, hub.format)) is hub:
            del self._hubs[hub.camera, hub.format]
        self._tasks[hub].cancel()

    def _ended(self, hub: Hub, task: asyncio.Task[None]) -> None:
        del self._tasks[hub]
        self._stop_timer(hub)
        if self._hubs.get((hub.camera, hub.format)) is hub:
            del self._hubs[hub.camera, hub.format]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("live video of %s: %r", hub.camera, error, exc_info=error)
            hub.end(Ending(_INTERNAL, "internal error"))

    def _stop_timer(self, hub: Hub) -> None:
        if (timer := self._timers.pop(hub, None)) is not None:
            timer.cancel()

    async def aclose(self) -> None:
        """End all hubs and their viewers. Idempotent."""
        for hub in list(self._tasks):
            hub.end(STOPS)
            self._retire(hub)
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))


class Live:
    """GET /api/cameras/NAME/live?format=fmp4|sound|jpeg"""

    def __init__(self, hubs: Hubs, sockets: Sockets) -> None:
        self._hubs = hubs
        self._sockets = sockets

    async def handle(self, request: web.Request) -> web.StreamResponse:
        format = request.query.get("format", "fmp4")
        if format not in FORMATS:
            return problem(Code.REQUEST, f"format is one of {', '.join(FORMATS)}")
        return await self._sockets.serve(request, partial(self._show, request.match_info["camera"], format))

    async def _show(self, camera: str, format: str, ws: web.WebSocketResponse) -> None:
        with self._hubs.viewing(camera, format) as viewer:
            while True:
                for message in await viewer.next():
                    if isinstance(message, str):
                        await ws.send_str(message)
                    else:
                        await ws.send_bytes(message)
