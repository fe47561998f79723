# SPDX-License-Identifier: MIT
"""Requests of programs and of the page's buttons: the status, a snapshot, a recording."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

from aiohttp import web

from valkka_async import typed
from valkka_async.errors import ValkkaError
from valkka_async.service.status import ServiceStatus
from valkka_async.service.web.contract import Find, Service
from valkka_async.service.web.headers import problem
from valkka_async.service.web.hub import NO_CAMERA
from valkka_async.service.web.live import Hubs
from valkka_async.service.web.viewer import Ending, unpack

_SNAPSHOT_SECONDS = 5.0
_SNAPSHOTS = 32  # requests that may wait for one at once
_BODY_SECONDS = 5.0  # for a browser to send its request


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
            return _text(404, f"there is no camera {name}")
        if camera.still is None:
            return _text(404, f"{name} has no ring for the page: set `live` in the config")
        if self._waiting >= _SNAPSHOTS:
            return _text(429, "too many requests wait for a snapshot; try again", Retry_After="1")
        self._waiting += 1
        try:
            async with asyncio.timeout(_SNAPSHOT_SECONDS):
                taken_ns, jpeg = unpack(await self._newest(name))
        except TimeoutError:
            camera = self._find(name) or camera
            source = camera.feeding(camera.still)
            why = f"{source.state}: {source.reason}" if source.reason else source.state
            return _text(503, f"no frame of {name} within {_SNAPSHOT_SECONDS:g} s ({why})", Retry_After="5")
        except Ending as e:
            return _text(404 if e.code == NO_CAMERA else 503, e.reason)
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
            async with asyncio.timeout(_BODY_SECONDS):
                wish = json.loads(await request.read())
            on = wish["on"]
            if not isinstance(on, bool):
                raise TypeError
        except TimeoutError:
            return problem(408, "the request did not arrive in time")
        except (ValueError, TypeError, KeyError, RecursionError):
            return problem(400, 'say {"on": true} or {"on": false}')
        name = request.match_info["camera"]
        try:
            recording = await self._service.set_recording(name, on)
        except KeyError:
            return problem(404, f"there is no camera {name}")
        except ValkkaError as e:
            return problem(409, str(e))
        return web.json_response({"recording": None if recording is None else typed.encode(recording)})

    async def event(self, request: web.Request) -> web.Response:
        """POST /api/cameras/NAME/event, with nothing or {"before": 10, "after": 20}, in seconds: something
        happens, and is recorded by cameras that wait for it."""
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                text = await request.read()
            said = json.loads(text) if text.strip() else {}
            before, after = (_seconds(said.get(key)) for key in ("before", "after"))
        except TimeoutError:
            return problem(408, "the request did not arrive in time")
        except (ValueError, TypeError, AttributeError, RecursionError):
            return problem(400, 'say {"before": 10, "after": 20}, in seconds, or nothing')
        name = request.match_info["camera"]
        try:
            self._service.record_event(name, before, after)
        except KeyError:
            return problem(404, f"there is no camera {name}")
        except ValkkaError as e:
            return problem(409, str(e))
        except ValueError as e:
            return problem(400, str(e))
        return web.json_response({"recording": True})

    async def alive(self, request: web.Request) -> web.Response:
        """GET /healthz: the loop runs."""
        return web.json_response({"alive": True})

    async def ready(self, request: web.Request) -> web.Response:
        """GET /readyz: every camera has been started, whether it could be opened or not."""
        if self._service.ready:
            return web.json_response({"ready": True})
        reason = "the cameras are being started for the first time"
        return web.json_response({"ready": False, "reason": reason}, status=503, headers={"Retry-After": "1"})


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 3600:
        return float(value)
    raise ValueError


def _text(status: int, text: str, **headers: str) -> web.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.Response(status=status, text=text + "\n", headers=named)
