# SPDX-License-Identifier: MIT
"""The table of all addresses but those of the page's own files."""

from __future__ import annotations

import json
from dataclasses import dataclass

from aiohttp import web

from valkka_async.record.timeline import Timeline
from valkka_async.service.status import ServiceStatus
from valkka_async.service.web import login
from valkka_async.service.web.api import Alive, Api, NotReady, Ready, RecordedEvent, Recording
from valkka_async.service.web.auth import Guard
from valkka_async.service.web.boxes import Boxes
from valkka_async.service.web.happening import Happening
from valkka_async.service.web.hub import FORMATS
from valkka_async.service.web.live import Live
from valkka_async.service.web.metrics import Metrics
from valkka_async.service.web.openapi import PATH, Route, document
from valkka_async.service.web.others import Hosts, Others
from valkka_async.service.web.problems import Code
from valkka_async.service.web.recorded import Listing, Recorded
from valkka_async.service.web.statuses import Statuses

_NAME = r"{camera:[A-Za-z0-9._-]{1,64}}"
_HOST = r"{host:[A-Za-z0-9._-]{1,64}}"
_CAMERA = f"/api/cameras/{_NAME}"
_RECORDINGS = f"/api/recordings/{_NAME}"
_JSON, _FORM, _HTML = "application/json", "application/x-www-form-urlencoded", "text/html"
_FORMAT = {"enum": list(FORMATS), "default": "fmp4", "description": "fMP4 without or with sound, or JPEGs"}
_SECONDS = {"type": "number", "minimum": 0, "maximum": 3600}
_ON = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
_SPAN = {"type": "object", "properties": {"before": _SECONDS, "after": _SECONDS}}
_TOKEN = {"type": "object", "properties": {"token": {"type": "string"}}, "required": ["token"]}
_WIDTH = {"type": "integer", "minimum": 16, "maximum": 1920, "default": 320, "description": "pixels"}
_PATTERNS = {
    "type": "array",
    "items": {"type": "string"},
    "maxItems": 32,
    "default": ["*"],
    "description": "names or patterns, such as front* or camera.*",
}
_WHEN = "RFC 3339 or Unix seconds"


@dataclass(frozen=True, slots=True)
class Handlers:
    """All that answer requests."""

    api: Api
    boxes: Boxes
    guard: Guard
    happening: Happening
    live: Live
    metrics: Metrics
    others: Others
    recorded: Recorded
    statuses: Statuses


def table(its: Handlers, *, token: bool) -> list[Route]:
    """All of it. `token`: requests need one."""
    routes = [
        Route("GET", "/api/status", its.api.status, "How all is.", {200: ServiceStatus}),
        Route(
            "GET",
            "/api/status/live",
            its.statuses.handle,
            "A WebSocket with a ServiceStatus each second, and when something has changed.",
            {101: None},
            (Code.UPGRADE,),
            head=False,
        ),
        Route(
            "GET",
            "/api/events",
            its.happening.handle,
            "What happens from now on, as server-sent events without an end: `data` is an event as JSON. "
            "Whoever is too slow misses the oldest of 256; `missed` counts them.",
            {200: "text/event-stream"},
            (Code.BUSY, Code.STOPS),
            {"camera": _PATTERNS, "code": _PATTERNS},
            head=False,
        ),
        Route(
            "GET",
            _CAMERA + "/live",
            its.live.handle,
            "A WebSocket with live video.",
            {101: None},
            (Code.UPGRADE,),
            {"format": _FORMAT},
            head=False,
        ),
        Route(
            "GET",
            _CAMERA + "/boxes",
            its.boxes.handle,
            "A WebSocket with what analysers find in the camera's frames.",
            {101: None},
            (Code.UPGRADE,),
            head=False,
        ),
        Route(
            "GET",
            _CAMERA + "/snapshot.jpg",
            its.api.snapshot,
            "The newest frame.",
            {200: "image/jpeg"},
            (Code.CAMERA, Code.RING, Code.BUSY, Code.FRAME, Code.STOPS),
            head=False,
        ),
        Route(
            "POST",
            _CAMERA + "/recording",
            its.api.recording,
            "Start or stop recording a camera.",
            {200: Recording},
            (Code.CAMERA, Code.REFUSED),
            body={_JSON: _ON},
        ),
        Route(
            "POST",
            _CAMERA + "/event",
            its.api.event,
            "Something happens: record it, from so many seconds before until so many after.",
            {200: RecordedEvent},
            (Code.CAMERA, Code.REFUSED),
            body={_JSON: _SPAN},
        ),
        Route("GET", "/api/hosts", its.others.list, "Cameras of other hosts.", {200: Hosts}),
        Route(
            "GET",
            f"/api/hosts/{_HOST}/{_NAME}/snapshot.jpg",
            its.others.snapshot,
            "A frame of a camera of another host.",
            {200: "image/jpeg"},
            (Code.CAMERA, Code.BUSY, Code.FRAME),
            head=False,
        ),
        Route(
            "GET",
            "/api/recordings",
            its.recorded.cameras,
            "Of which cameras there are recordings.",
            {200: Listing},
        ),
        Route(
            "GET",
            _RECORDINGS,
            its.recorded.timeline,
            "When a camera was recorded.",
            {200: Timeline},
            (Code.TIME, Code.CAMERA, Code.DISK),
            {"from": _when("24 hours before `to`"), "to": _when("now")},
        ),
        Route(
            "GET",
            _RECORDINGS + "/clip.mp4",
            its.recorded.clip,
            "What was recorded from a time to another, as one fragmented MP4.",
            {200: "video/mp4", 206: "video/mp4"},
            (
                *(Code.TIME, Code.CAMERA, Code.EMPTY, Code.GONE, Code.CHANGED, Code.LONG),
                *(Code.RANGE, Code.BUSY, Code.STARTING, Code.DISK),
            ),
            {
                "from": _when() | {"required": True},
                "to": _when() | {"required": True},
                "download": {"enum": ["1"], "description": "as a file to be saved"},
            },
        ),
        Route(
            "GET",
            _RECORDINGS + "/still.jpg",
            its.recorded.still,
            "The key frame at or before a time.",
            {200: "image/jpeg"},
            (
                *(Code.TIME, Code.WIDTH, Code.CAMERA, Code.EMPTY, Code.GONE, Code.CHANGED),
                *(Code.FORMAT, Code.BUSY, Code.STARTING, Code.DISK),
            ),
            {
                "at": _when() | {"required": True},
                "width": _WIDTH,
            },
            head=False,
        ),
        Route("GET", "/metrics", its.metrics.handle, "The same for Prometheus.", {200: "text/plain"}),
        Route("GET", "/healthz", its.api.alive, "Does the loop run?", {200: Alive}, open=True),
        Route(
            "GET",
            "/readyz",
            its.api.ready,
            "Has every camera been started?",
            {200: Ready, 503: NotReady},
            open=True,
        ),
        Route("GET", "/login", its.guard.ask, "The form.", {200: _HTML, 303: None}, open=True),
        Route(
            "POST",
            "/login",
            its.guard.sign_in,
            "The token, for a cookie.",
            {303: None, 401: _HTML, 408: _HTML, 413: _HTML, 429: _HTML},
            body={_FORM: _TOKEN},
            open=True,
            form=True,
        ),
        Route(
            "POST",
            "/logout",
            its.guard.sign_out,
            "The session is over, for whoever has its cookie.",
            {303: None},
            open=True,
            form=True,
        ),
        Route(
            "GET",
            f"/{login.STYLE.name}",
            login.STYLE.handle,
            "The form's style.",
            {200: "text/css", 304: None},
            open=True,
        ),
    ]

    async def description(request: web.Request) -> web.Response:
        return web.Response(body=text, content_type=_JSON)

    routes.append(Route("GET", PATH, description, "This description.", {200: _JSON}))
    text = json.dumps(document(routes, token=token)).encode()
    return routes


def _when(default: str = "") -> dict[str, object]:
    return {"type": "string", "description": f"{_WHEN}; by default {default}" if default else _WHEN}
