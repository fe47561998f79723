# SPDX-License-Identifier: MIT
"""What analysers find in a camera's frames, for the page to draw: the ring CAMERA.boxes, as texts (JSON).

A text has a "type": "result" (at: capture time of the frame in Unix ms; size: its width and height, or null;
boxes: [x1, y1, x2, y2, label, score, track] each, in its pixels; text), or "waiting" (code and reason: there
are no results now; the code is a Missing, the reason is for people).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from functools import partial

from aiohttp import web

from valkka_async.errors import ConnectError, DataError, InvalidNameError
from valkka_async.ring.client import Client, connect
from valkka_async.ring.names import check_name
from valkka_async.ring.results import Result
from valkka_async.service.web.contract import Find
from valkka_async.service.web.hub import NO_CAMERA
from valkka_async.service.web.sockets import Sockets
from valkka_async.service.web.viewer import Ending
from valkka_async.service.web.visits import STOPS
from valkka_async.timeouts import timeout

_LOOK = 1.0  # s between looks whether there is still such a camera, and a ring
_QUEUE = 32  # results that wait for a browser; the oldest go, as it would draw the newest

log = logging.getLogger("valkka_async.service.web")


class Missing(StrEnum):
    """Why there are no results. The page decides by this."""

    NOBODY = "nobody"  # no such ring is served
    RING = "ring"  # it refuses its readers, or has something else


class _Board:
    """The results of one camera, for all browsers that asked for them: one reader of the ring."""

    def __init__(self, camera: str) -> None:
        self.camera = camera
        self.queues: dict[asyncio.Event, deque[str]] = {}
        self.task: asyncio.Task[None] | None = None
        self.ending: Ending | None = None
        self._missing: str | None = None

    def put(self, text: str) -> None:
        self._missing = None
        self._send(text)

    def miss(self, code: Missing, reason: str) -> bool:
        """There are no results now. False: that was said before."""
        text = json.dumps({"type": "waiting", "code": code, "reason": reason})
        if text == self._missing:
            return False
        self._missing = text
        self._send(text)
        return True

    def end(self, ending: Ending) -> None:
        self.ending = ending
        for wake in self.queues:
            wake.set()

    def join(self) -> tuple[asyncio.Event, deque[str]]:
        wake = asyncio.Event()
        queue = self.queues[wake] = deque(maxlen=_QUEUE)
        if self._missing is not None:
            queue.append(self._missing)
            wake.set()
        return wake, queue

    def _send(self, text: str) -> None:
        for wake, queue in self.queues.items():
            queue.append(text)
            wake.set()


class Boxes:
    """GET /api/cameras/NAME/boxes. A camera's ring of results is read while a browser asks for it."""

    def __init__(self, find: Find, sockets: Sockets) -> None:
        self._find = find
        self._sockets = sockets
        self._boards: dict[str, _Board] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        return await self._sockets.serve(request, partial(self._show, request.match_info["camera"]))

    async def _show(self, camera: str, ws: web.WebSocketResponse) -> None:
        with self._watching(camera) as (board, wake, queue):
            while True:
                await wake.wait()
                wake.clear()
                while queue:
                    await ws.send_str(queue.popleft())
                if board.ending is not None:
                    raise Ending(board.ending.code, board.ending.reason)

    @contextlib.contextmanager
    def _watching(self, camera: str) -> Iterator[tuple[_Board, asyncio.Event, deque[str]]]:
        board = self._boards.get(camera)
        if board is None or board.ending is not None:
            board = self._boards[camera] = _Board(camera)
            board.task = asyncio.create_task(self._read(board), name=f"boxes of {camera}")
        wake, queue = board.join()
        try:
            yield board, wake, queue
        finally:
            del board.queues[wake]
            if not board.queues and board.task is not None:
                board.task.cancel()
                if self._boards.get(camera) is board:
                    del self._boards[camera]

    async def _read(self, board: _Board) -> None:
        """Read until there is no such camera. To be cancelled."""
        ring = f"{board.camera}.boxes"
        gone = Ending(NO_CAMERA, "no such camera")
        try:
            check_name(ring)
        except InvalidNameError:
            board.end(Ending(NO_CAMERA, "the camera's name is too long for a ring of results"))
            return
        while self._find(board.camera) is not None:
            try:
                async with connect(ring, policy="ordered", open_timeout=_LOOK, reconnect=True) as client:
                    await self._follow(board, client)
            except TimeoutError:
                board.miss(Missing.NOBODY, f"nobody publishes results under {ring}")
            except (ConnectError, DataError) as e:
                if board.miss(Missing.RING, str(e)):
                    log.warning("%s: no boxes: %s", board.camera, e, extra={"camera": board.camera})
                await asyncio.sleep(_LOOK)
        board.end(gone)

    async def _follow(self, board: _Board, client: Client) -> None:
        """Read one ring, while there is the camera. Raises ConnectError, DataError; no TimeoutError."""
        while True:
            try:
                async with timeout(_LOOK):
                    frame = await client.recv()
            except TimeoutError:
                if self._find(board.camera) is None:
                    return
                continue
            with frame:
                board.put(_text(Result.of(frame)))

    async def aclose(self) -> None:
        """End all. Idempotent."""
        tasks = [board.task for board in self._boards.values() if board.task is not None]
        for board in list(self._boards.values()):
            board.end(STOPS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _text(result: Result) -> str:
    boxes = [[b.x1, b.y1, b.x2, b.y2, b.label, b.score, b.track] for b in result.boxes]
    at = result.timestamp_ns / 1e6
    return json.dumps({"type": "result", "at": at, "size": result.size, "boxes": boxes, "text": result.text})
