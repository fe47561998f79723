# SPDX-License-Identifier: MIT
"""Requests of programs and of the page's buttons: the status, a snapshot, a recording."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from valkka_async import typed
from valkka_async.errors import ValkkaError
from valkka_async.service.status import RecordingStatus, ServiceStatus
from valkka_async.service.web.contract import Find, Service
from valkka_async.service.web.hub import NO_CAMERA
from valkka_async.service.web.live import Hubs
from valkka_async.service.web.problems import Code, problem
from valkka_async.service.web.viewer import Ending, unpack
from valkka_async.service.web.visits import STOPS
from valkka_async.timeouts import timeout

_SNAPSHOT_SECONDS = 5.0
_SNAPSHOTS = 32  # requests that may wait for one at once
_BODY_SECONDS = 5.0  # for a browser to send its request


@dataclass(frozen=True, slots=True)
class Recording:
    """How the recording of a camera is then; None: there is none."""

    recording: RecordingStatus | None


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """What happens is being recorded."""

    recording: bool


@dataclass(frozen=True, slots=True)
class Alive:
    """The loop runs."""

    alive: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """Every camera has been started, whether it could be opened or not."""

    ready: bool


@dataclass(frozen=True, slots=True)
class NotReady:
    """Some have not; `reason` is for people."""

    ready: bool
    reason: str


class Api:
    """Handlers of /api, and of the two health checks."""

    def __init__(self, service: Service, status: Callable[[], ServiceStatus], find: Find, hubs: Hubs) -> None:
        self._service = service
        self._status = status
        self._find = find
        self._hubs = hubs
        self._waiting = 0

    async def status(self, request: web.Request) -> web.Response:
        """GET /api/status"""
        return web.json_response(typed.encode(self._status()))

    async def snapshot(self, request: web.Request) -> web.Response:
        """GET /api/cameras/NAME/snapshot.jpg: the newest frame. Requests at the same time share it."""
        name = request.match_info["camera"]
        camera = self._find(name)
        if camera is None:
            return problem(Code.CAMERA, f"there is no camera {name}")
        if camera.still is None:
            return problem(Code.RING, f"{name} has no ring for the page: set `live` in the config")
        if self._waiting >= _SNAPSHOTS:
            return problem(Code.BUSY, "too many requests wait for a snapshot; try again", Retry_After="1")
        self._waiting += 1
        try:
            async with timeout(_SNAPSHOT_SECONDS):
                taken_ns, jpeg = unpack(await self._newest(name))
        except TimeoutError:
            camera = self._find(name) or camera
            source = camera.feeding(camera.still)
            why = f"{source.state}: {source.reason}" if source.reason else source.state
            text = f"no frame of {name} within {_SNAPSHOT_SECONDS:g} s ({why})"
            return problem(Code.FRAME, text, Retry_After="5")
        except Ending as e:
            if e.code == NO_CAMERA:
                return problem(Code.CAMERA, e.reason)
            return problem(Code.STOPS if e.code == STOPS.code else Code.FRAME, e.reason)
        finally:
            self._waiting -= 1
        when = time.strftime("%Y-%m-%d-%H-%M-%S", time.localtime(taken_ns / 1e9))
        return web.Response(
            body=jpeg,
            content_type="image/jpeg",
            headers={"Content-Disposition": f'inline; filename="{name}-{when}.jpg"'},
        )

    async def _newest(self, camera: str) -> bytes:
        with self._hubs.viewing(camera, "jpeg") as viewer:
            while True:
                for message in await viewer.next():
                    if isinstance(message, bytes):
                        return message

    async def recording(self, request: web.Request) -> web.Response:
        """POST /api/cameras/NAME/recording, with {"on": true} or {"on": false}"""
        try:
            async with timeout(_BODY_SECONDS):
                wish = json.loads(await request.read())
            on = wish["on"]
            if not isinstance(on, bool):
                raise TypeError
        except TimeoutError:
            return problem(Code.LATE, "the request did not arrive in time")
        except (ValueError, TypeError, KeyError, RecursionError):
            return problem(Code.REQUEST, 'say {"on": true} or {"on": false}')
        name = request.match_info["camera"]
        try:
            recording = await self._service.set_recording(name, on)
        except KeyError:
            return problem(Code.CAMERA, f"there is no camera {name}")
        except ValkkaError as e:
            return problem(Code.REFUSED, str(e))
        return web.json_response(typed.encode(Recording(recording)))

    async def event(self, request: web.Request) -> web.Response:
        """POST /api/cameras/NAME/event, with nothing or {"before": 10, "after": 20}, in seconds: something
        happens, and is recorded by cameras that wait for it."""
        try:
            async with timeout(_BODY_SECONDS):
                text = await request.read()
            said = json.loads(text) if text.strip() else {}
            before, after = (_seconds(said.get(key)) for key in ("before", "after"))
        except TimeoutError:
            return problem(Code.LATE, "the request did not arrive in time")
        except (ValueError, TypeError, AttributeError, RecursionError):
            return problem(Code.REQUEST, 'say {"before": 10, "after": 20}, in seconds, or nothing')
        name = request.match_info["camera"]
        try:
            self._service.record_event(name, before, after)
        except KeyError:
            return problem(Code.CAMERA, f"there is no camera {name}")
        except ValkkaError as e:
            return problem(Code.REFUSED, str(e))
        except ValueError as e:
            return problem(Code.REQUEST, str(e))
        return web.json_response(typed.encode(RecordedEvent(True)))

    async def alive(self, request: web.Request) -> web.Response:
        """GET /healthz: the loop runs."""
        return web.json_response(typed.encode(Alive(True)))

    async def ready(self, request: web.Request) -> web.Response:
        """GET /readyz: every camera has been started, whether it could be opened or not."""
        if self._service.ready:
            return web.json_response(typed.encode(Ready(True)))
        not_ready = typed.encode(NotReady(False, "the cameras are being started for the first time"))
        return web.json_response(not_ready, status=503, headers={"Retry-After": "1"})


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 3600:
        return float(value)
    raise ValueError
