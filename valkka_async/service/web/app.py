# SPDX-License-Identifier: MIT
"""The page and the rest of the HTTP interface: make_app(), serve()."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace

from aiohttp import web

from valkka_async.errors import ValkkaError
from valkka_async.service.state import State
from valkka_async.service.status import PageStatus, ServiceStatus
from valkka_async.service.tls import Certificate
from valkka_async.service.web import assets
from valkka_async.service.web.api import Api
from valkka_async.service.web.auth import Guard, Handler, is_loopback
from valkka_async.service.web.boxes import Boxes
from valkka_async.service.web.contract import Lens, Service, Settings
from valkka_async.service.web.entrance import Entrance
from valkka_async.service.web.happening import Happening
from valkka_async.service.web.headers import on_prepare
from valkka_async.service.web.listen import Door, listen, url
from valkka_async.service.web.live import Hubs, Live
from valkka_async.service.web.metrics import Metrics
from valkka_async.service.web.others import Others
from valkka_async.service.web.recorded import Recorded
from valkka_async.service.web.routes import Handlers, table
from valkka_async.service.web.sessions import Sessions
from valkka_async.service.web.sockets import Sockets
from valkka_async.service.web.statuses import Statuses
from valkka_async.service.web.visits import Visits

_BODY_BYTES = 16 << 10  # of a request: a token, or {"on": true}
_STOP_SECONDS = 0.5  # for requests that are being answered when the service stops

log = logging.getLogger("valkka_async.service.web")


class Page:
    """Where the page is, for a browser on this machine, as ``http://127.0.0.1:8088/``."""

    def __init__(self, url: str, certificate: Certificate | None) -> None:
        self.url = url
        self._certificate = certificate

    async def renew(self) -> bool:
        """Read the certificate's files again, if there is one. True: it is another one, which new connections
        get; those that there are stay. Raises CertificateError, and then the one before stays."""
        if self._certificate is None:
            return False
        other = await asyncio.to_thread(self._certificate.renew)
        _tell(self._certificate)
        return other


@contextlib.asynccontextmanager
async def serve(service: Service, settings: Settings, state: State | None = None) -> AsyncIterator[Page]:
    """Serve the page of a service::

        async with serve(service, config.web, State(directory(), service.name)) as page:
            print(page.url)

    With `state`, browsers stay signed in when the service is started again. Raises ValkkaError, which says
    what to do, when it cannot listen there or the certificate cannot be used. Leaving tells browsers that the
    service stops, and takes about 2 seconds at most, whatever they do. Cancelling leaves nothing behind.
    """
    _check(settings)
    files = await asyncio.to_thread(assets.load)
    sessions = await asyncio.to_thread(open_sessions, service, settings, state)
    certificate = None
    if (tls := settings.tls) is not None:
        certificate = await asyncio.to_thread(Certificate, tls.cert, tls.key)
        _tell(certificate)
    listening = await listen(settings.host, settings.port)
    async with contextlib.AsyncExitStack() as stack:
        for sock in listening:
            stack.callback(sock.close)
        if settings.token is None and not all(is_loopback(sock.getsockname()[0]) for sock in listening):
            raise ValkkaError(_open_to_others(settings))  # a name that says localhost, and is not
        app = make_app(service, settings, files, sessions, state, certificate)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_STOP_SECONDS)
        await runner.setup()
        assert runner.server is not None
        # A page takes a WebSocket for each camera and one more, and some requests beside them.
        door = Door(runner.server, 2 * settings.max_connections + 64)
        stack.push_async_callback(door.aclose)  # at last, when all have been told to leave
        stack.push_async_callback(runner.cleanup)
        # Before aiohttp's own clean-up, which reads nothing more from browsers.
        stack.push_async_callback(app[_VISITS].aclose)
        loop = asyncio.get_running_loop()
        for sock in listening:
            if certificate is None:
                listener = await loop.create_server(door, sock=sock)
                stack.callback(listener.close)
            else:
                stack.push_async_callback(Entrance(door, sock, certificate.context).aclose)
        yield Page(url(settings.host, listening, secure=certificate is not None), certificate)


def open_sessions(service: Service, settings: Settings, state: State | None) -> Sessions | None:
    """The sessions of a page with a token: those of the service before, if it had this `state`. Blocks."""
    if settings.token is None:
        return None
    key, over = (secrets.token_bytes(32), []) if state is None else (state.key(), state.signed_out())
    return Sessions(key, _identity(service, settings), settings.token.get_secret_value(), over)


def _identity(service: Service, settings: Settings) -> str:
    """Tells the page from others that a browser finds under the same name of a host."""
    return f"{service.name}:{settings.port}"


def make_app(
    service: Service,
    settings: Settings,
    files: list[assets.Asset] | None = None,
    sessions: Sessions | None = None,
    state: State | None = None,
    certificate: Certificate | None = None,
) -> web.Application:
    """The application, to serve it by other means than serve(), which also limits connections.

    Reads the page's files, and the key of sessions, unless they are given. Raises ValkkaError for an address
    that others reach and no token.
    """
    _check(settings)
    if sessions is None:
        sessions = open_sessions(service, settings, state)
    visits = Visits(settings.max_connections)
    sockets = Sockets(visits)
    guard = Guard(settings.token, _identity(service, settings), sessions, state, visits)

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await guard(request, handler)

    lens = Lens(service)
    hubs = Hubs(lens.camera)
    boxes = Boxes(lens.camera, sockets)

    def status() -> ServiceStatus:
        page = PageStatus(sum(hubs.viewers().values()), len(visits), visits.limit, settings.token is not None)
        return replace(service.status(), page=page)

    statuses = Statuses(status, sockets)
    happening = Happening(visits)
    app = web.Application(middlewares=[guarded], client_max_size=_BODY_BYTES)
    app[_VISITS] = visits
    app.on_response_prepare.append(on_prepare)
    handlers = Handlers(
        api=Api(service, status, lens.camera, hubs),
        boxes=boxes,
        guard=guard,
        happening=happening,
        live=Live(hubs, sockets),
        metrics=Metrics(service, hubs, statuses, happening, visits, certificate),
        others=Others(),
        recorded=Recorded(service.archive, lens.camera),
        statuses=statuses,
    )
    for route in table(handlers, token=settings.token is not None):
        route.add(app)
    for file in assets.load() if files is None else files:
        app.router.add_get("/" if file.name == "index.html" else f"/static/{file.name}", file.handle)

    async def stop(app: web.Application) -> None:
        await visits.aclose()
        await statuses.aclose()
        await happening.aclose()
        await hubs.aclose()
        await boxes.aclose()

    app.on_shutdown.append(stop)
    return app


def _tell(certificate: Certificate) -> None:
    for doubt in certificate.newest.doubts():
        log.warning("%s", doubt)


_VISITS = web.AppKey("visits", Visits)


def _check(settings: Settings) -> None:
    if settings.token is None and not is_loopback(settings.host):
        raise ValkkaError(_open_to_others(settings))


def _open_to_others(settings: Settings) -> str:
    return (
        f"web.host: {settings.host or 'every address'} is reached by others: set web.token, for example to "
        "what `python3 -c 'import secrets; print(secrets.token_urlsafe(24))'` prints"
    )
