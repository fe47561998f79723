# SPDX-License-Identifier: MIT
"""What happens, as server-sent events: for programs of other machines, and for browsers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import hdrs, web

from valkka_async.errors import InvalidNameError
from valkka_async.ring.events import Event, check_codes
from valkka_async.ring.names import check_pattern
from valkka_async.service.hearing import Hearing
from valkka_async.service.waiting import Waiting
from valkka_async.service.web.problems import Code, problem
from valkka_async.service.web.viewer import Ending
from valkka_async.service.web.visits import STOPS, TOO_MANY, Visit, Visits, keep_little
from valkka_async.timeouts import timeout

_PATTERNS = 32  # of each kind
_LOOK = 1.0  # s between looks whether the client is still there
_COMMENT = 15.0  # s without an event, after which proxies and clients see that there is a connection
_HEADERS = {
    hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}


class Happening:
    """GET /api/events?camera=PATTERN&code=PATTERN, each as often as wanted. The rings of events are read
    once for all clients, and only while there are any."""

    def __init__(self, visits: Visits) -> None:
        self._visits = visits
        self._hearing = Hearing("events over HTTP")
        self._open: set[Waiting] = set()
        self._dropped = 0  # of clients that have left

    def __len__(self) -> int:
        return len(self._open)

    @property
    def dropped(self) -> int:
        """Events that clients were too slow for."""
        return self._dropped + sum(one.dropped for one in self._open)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """What happens after the head of the answer is in it, or counted as missed."""
        cameras, codes = request.query.getall("camera", ["*"]), request.query.getall("code", ["*"])
        if max(len(cameras), len(codes)) > _PATTERNS:
            return problem(Code.REQUEST, f"at most {_PATTERNS} of `camera`, and of `code`")
        try:
            for pattern in cameras:
                check_pattern(pattern)
            for pattern in codes:
                check_codes(pattern)
        except InvalidNameError as e:
            return problem(Code.REQUEST, str(e))
        with self._visits.enter(request) as visit:
            if visit.ending.done():
                return _refused(visit.ending.result())
            return await self._tell(request, visit, Waiting(codes, cameras))

    async def _tell(self, request: web.Request, visit: Visit, waiting: Waiting) -> web.StreamResponse:
        there = asyncio.Event()

        def hear(event: Event) -> None:
            if waiting.put(event):
                there.set()

        answer = web.StreamResponse(headers=_HEADERS)
        self._open.add(waiting)
        try:
            sending = asyncio.create_task(self._send(request, answer, hear, there, waiting))
            try:
                waited: list[asyncio.Future[Any]] = [sending, visit.ending]
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sending.cancel()
                await asyncio.wait([sending])
            if not sending.cancelled() and (error := sending.exception()) is not None:
                if not isinstance(error, ConnectionError):
                    raise error
        finally:
            self._hearing.leave(hear)
            self._open.discard(waiting)
            self._dropped += waiting.dropped
        if not answer.prepared:
            gone = not visit.ending.done()
            return problem(Code.REQUEST, "the client is gone") if gone else _refused(visit.ending.result())
        # Whoever has not taken what was sent does not take the end either.
        transport = request.transport
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()
        return answer

    async def _send(
        self,
        request: web.Request,
        answer: web.StreamResponse,
        hear: Callable[[Event], None],
        there: asyncio.Event,
        waiting: Waiting,
    ) -> None:
        """Until the client leaves. Raises ConnectionError."""
        await self._hearing.join(hear)
        await answer.prepare(request)
        keep_little(request.transport)
        await answer.write(b": it begins\n\n")
        loop = asyncio.get_running_loop()
        due = loop.time() + _COMMENT
        while request.transport is not None and not request.transport.is_closing():
            try:
                async with timeout(_LOOK):
                    await there.wait()
            except TimeoutError:
                if loop.time() < due:
                    continue
                await answer.write(b":\n\n")
            there.clear()
            while waiting:
                await answer.write(f"data: {json.dumps(waiting.take().to_json())}\n\n".encode())
            due = loop.time() + _COMMENT

    async def aclose(self) -> None:
        """Read no more events. Idempotent."""
        await self._hearing.aclose()


def _refused(ending: Ending) -> web.Response:
    if ending.code == TOO_MANY:
        return problem(Code.BUSY, ending.reason, Retry_After="10")
    return problem(Code.STOPS if ending.code == STOPS.code else Code.TOKEN, ending.reason)
