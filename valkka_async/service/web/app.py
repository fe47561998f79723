# SPDX-License-Identifier: MIT
"""The page and the rest of the HTTP interface: make_app(), serve()."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from aiohttp import web

from valkka_async.errors import ValkkaError
from valkka_async.service.status import PageStatus, ServiceStatus
from valkka_async.service.web import assets, login
from valkka_async.service.web.api import Api
from valkka_async.service.web.auth import Guard, Handler, is_loopback
from valkka_async.service.web.boxes import Boxes
from valkka_async.service.web.contract import Lens, Service, Settings
from valkka_async.service.web.events import Events
from valkka_async.service.web.headers import on_prepare
from valkka_async.service.web.listen import Door, listen, url
from valkka_async.service.web.live import Hubs, Live
from valkka_async.service.web.metrics import Metrics
from valkka_async.service.web.others import Others
from valkka_async.service.web.recorded import Recorded
from valkka_async.service.web.sockets import Sockets

_BODY_BYTES = 16 << 10  # of a request: a token, or {"on": true}
_STOP_SECONDS = 0.5  # for requests that are being answered when the service stops
_NAME = r"{camera:[A-Za-z0-9._-]{1,64}}"
_HOST = r"{host:[A-Za-z0-9._-]{1,64}}"


@dataclass(frozen=True, slots=True)
class Page:
    """Where the page is, for a browser on this machine, as ``http://127.0.0.1:8088/``."""

    url: str


@contextlib.asynccontextmanager
async def serve(service: Service, settings: Settings) -> AsyncIterator[Page]:
    """Serve the page of a service::

        async with serve(service, config.web) as page:
            print(page.url)

    Raises ValkkaError, which says what to do, when it cannot listen there. Leaving tells browsers that the
    service stops, and takes about 2 seconds at most, whatever they do. Cancelling leaves nothing behind.
    """
    _check(settings)
    files = await asyncio.to_thread(assets.load)
    listening = await listen(settings.host, settings.port)
    async with contextlib.AsyncExitStack() as stack:
        for sock in listening:
            stack.callback(sock.close)
        if settings.token is None and not all(is_loopback(sock.getsockname()[0]) for sock in listening):
            raise ValkkaError(_open_to_others(settings))  # a name that says localhost, and is not
        app = make_app(service, settings, files)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_STOP_SECONDS)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        assert runner.server is not None
        # A page takes a WebSocket for each camera and one more, and some requests beside them.
        door = Door(runner.server, 2 * settings.max_connections + 64)
        stack.push_async_callback(door.aclose)
        # Before aiohttp's own clean-up, which reads nothing more from browsers.
        stack.push_async_callback(app[_SOCKETS].aclose)
        loop = asyncio.get_running_loop()
        for sock in listening:
            listener = await loop.create_server(door, sock=sock)
            stack.callback(listener.close)
        yield Page(url(settings.host, listening))


def make_app(
    service: Service, settings: Settings, files: list[assets.Asset] | None = None
) -> web.Application:
    """The application, to serve it by other means than serve(), which also limits connections.

    Reads the page's files, unless they are given. Raises ValkkaError for an address that others reach and no
    token.
    """
    _check(settings)
    guard = Guard(settings.token, f"{service.name}:{settings.port}")

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await guard(request, handler)

    lens = Lens(service)
    sockets = Sockets(settings.max_connections)
    hubs = Hubs(lens.camera)
    boxes = Boxes(lens.camera, sockets)

    def status() -> ServiceStatus:
        page = PageStatus(
            sum(hubs.viewers().values()), len(sockets), sockets.limit, settings.token is not None
        )
        return replace(service.status(), page=page)

    events = Events(status, sockets)
    api = Api(service, status, lens.camera, hubs)
    app = web.Application(middlewares=[guarded], client_max_size=_BODY_BYTES)
    app[_SOCKETS] = sockets
    app.on_response_prepare.append(on_prepare)
    others = Others()
    recorded = Recorded(service.archive, lens.camera)
    camera = f"/api/cameras/{_NAME}"
    app.add_routes(
        [
            web.get("/api/status", api.status),
            web.get("/api/events", events.handle, allow_head=False),
            web.get(camera + "/live", Live(hubs, sockets).handle, allow_head=False),
            web.get(camera + "/boxes", boxes.handle, allow_head=False),
            web.get(camera + "/snapshot.jpg", api.snapshot, allow_head=False),
            web.post(camera + "/recording", api.recording),
            web.get("/api/hosts", others.list),
            web.get(f"/api/hosts/{_HOST}/{_NAME}/snapshot.jpg", others.snapshot, allow_head=False),
            web.post(camera + "/event", api.event),
            web.get("/api/recordings", recorded.cameras),
            web.get(f"/api/recordings/{_NAME}", recorded.timeline),
            web.get(f"/api/recordings/{_NAME}/still.jpg", recorded.still, allow_head=False),
            web.get(f"/api/recordings/{_NAME}/clip.mp4", recorded.clip),
            web.get("/metrics", Metrics(service, hubs, events, sockets).handle),
            web.get("/healthz", api.alive),
            web.get("/readyz", api.ready),
            web.get("/login", guard.ask),
            web.post("/login", guard.sign_in),
            web.post("/logout", guard.sign_out),
            web.get(f"/{login.STYLE.name}", login.STYLE.handle),
        ]
    )
    for file in assets.load() if files is None else files:
        app.router.add_get("/" if file.name == "index.html" else f"/static/{file.name}", file.handle)

    async def stop(app: web.Application) -> None:
        await sockets.aclose()
        await events.aclose()
        await hubs.aclose()
        await boxes.aclose()

    app.on_shutdown.append(stop)
    return app


_SOCKETS = web.AppKey("sockets", Sockets)


def _check(settings: Settings) -> None:
    if settings.token is None and not is_loopback(settings.host):
        raise ValkkaError(_open_to_others(settings))


def _open_to_others(settings: Settings) -> str:
    return (
        f"web.host: {settings.host or 'every address'} is reached by others: set web.token, for example to "
        "what `python3 -c 'import secrets; print(secrets.token_urlsafe(24))'` prints"
    )
