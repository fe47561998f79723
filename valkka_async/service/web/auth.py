# SPDX-License-Identifier: MIT
"""Which requests are answered.

Without a token the page is for this machine alone. A loopback address ensures that, except against browsers
of this machine that show another site's page. Against those:

- The Host header must name a loopback address. A name of their own that points here (DNS rebinding) does not.
- Requests that change something need a header that only scripts of our own origin can send, and an Origin
  of ours. WebSockets, which browsers open to any host, need an Origin of ours.

A program sends no Origin, and a browser always does.

With a token, everything needs it: as ``Authorization: Bearer TOKEN``, or once, in a form, for a cookie. The
cookie is not the token: it is a signature under a key that this process has made for itself, so it is worth
nothing elsewhere, or after a restart.

A right token is accepted at once, whatever else comes from the same address, which may be a proxy's. Guessing
is hopeless because a token has 16 characters or more; wrong ones are answered late and counted so that they
cost little.

The service does not speak TLS. A proxy that does must pass the Host header on. Whether the browser uses TLS
is then what its own Origin says; no X-Forwarded header is believed.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from urllib.parse import parse_qs, urlsplit

from aiohttp import hdrs, web

from valkka_async.service.web import assets, login
from valkka_async.service.web.contract import Secret
from valkka_async.service.web.headers import problem
from valkka_async.service.web.listen import Connection, client_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_OPEN = ("/healthz", "/readyz", "/login", "/logout", "/" + login.STYLE.name, *assets.PUBLIC)
_FORMS = ("/login", "/logout")
_PORTS = {"http": 80, "https": 443}
_BUTTON = ("X-Requested-With", "valkka-async")
_SESSION_SECONDS = 7 * 24 * 3600
_BODY_SECONDS = 5.0
# A wrong token is answered so late, and so many of one client wait for their answers at the same time.
_WRONG_SECONDS = 1.0
_WRONG_AT_ONCE = 4

log = logging.getLogger("valkka_async.service.web")


class Guard:
    """Looks at each request before anything else does. `name` tells services apart that share a host, and so
    a browser's cookies."""

    def __init__(self, token: Secret | None, name: str) -> None:
        self._key = secrets.token_bytes(32)
        self._token = self._digest(token.get_secret_value().encode()) if token is not None else None
        self._cookie = f"valkka-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
        self._wrong: Counter[str] = Counter()  # wrong tokens that have not been answered yet, by client

    # ---------------------------------------------------------------------------------- requests

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The middleware."""
        connection = request.protocol
        with connection.busy() if isinstance(connection, Connection) else nullcontext():
            return await self._answer(request, handler)

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = await self._refusal(request)
        if refusal is not None:
            return refusal
        try:
            return await handler(request)
        except web.HTTPException as e:
            if not request.path.startswith("/api/"):
                raise
            answer = problem(e.status, e.reason)
            if hdrs.ALLOW in e.headers:
                answer.headers[hdrs.ALLOW] = e.headers[hdrs.ALLOW]
            return answer

    async def _refusal(self, request: web.Request) -> web.StreamResponse | None:
        hosts = request.headers.getall(hdrs.HOST, [])
        if self._token is None and not all(map(is_loopback, hosts)):
            return problem(403, "without a token this page answers to names of this machine only (localhost)")
        changes = request.method not in (hdrs.METH_GET, hdrs.METH_HEAD)
        if changes or request.headers.get(hdrs.UPGRADE):
            if not all(is_ours(origin, hosts) for origin in request.headers.getall(hdrs.ORIGIN, [])):
                return problem(403, "the page of another site may not do that")
        if self._token is not None and request.path not in _OPEN:
            refusal = await self._stranger(request)
            if refusal is not None:
                return refusal
        if changes and request.path not in _FORMS and request.headers.get(_BUTTON[0]) != _BUTTON[1]:
            return problem(403, f"send the header {_BUTTON[0]}: {_BUTTON[1]}")
        return None

    async def _stranger(self, request: web.Request) -> web.StreamResponse | None:
        """None: it has the token, or a session."""
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == "bearer":
            right = await self._check(request, given.strip())
            if right is None:
                return problem(429, "too many wrong tokens; try again later", Retry_After="2")
            if right:
                return None
        elif self._session_holds(request.cookies.get(self._cookie, "")):
            return None
        elif request.method == hdrs.METH_GET and "text/html" in request.headers.get(hdrs.ACCEPT, ""):
            return web.Response(status=303, headers={hdrs.LOCATION: "/login"})
        advice = "sign in, or send the header Authorization: Bearer TOKEN"
        return problem(401, advice, WWW_Authenticate="Bearer")

    # ------------------------------------------------------------------------------------ tokens

    async def _check(self, request: web.Request, given: str) -> bool | None:
        """Is it the token? Yes comes at once, no late; None, at once: no, and too many wrong ones of this
        client have not been answered yet."""
        assert self._token is not None
        if hmac.compare_digest(self._digest(given.encode("utf-8", "surrogateescape")), self._token):
            return True
        client = client_of(request.remote)
        if self._wrong[client] >= _WRONG_AT_ONCE:
            return None
        log.warning("a wrong token was given, from %s", client, extra={"client": client})
        self._wrong[client] += 1
        try:
            await asyncio.sleep(_WRONG_SECONDS)
        finally:
            self._wrong[client] -= 1
            if not self._wrong[client]:
                del self._wrong[client]
        return False

    def _digest(self, data: bytes) -> bytes:
        """All digests have one length, so it says nothing."""
        return hmac.digest(self._key, data, "sha256")

    # ---------------------------------------------------------------------------------- sessions

    def _session(self) -> str:
        until = int(time.time()) + _SESSION_SECONDS
        return f"{until}.{self._digest(b'session %d' % until).hex()}"

    def _session_holds(self, cookie: str) -> bool:
        until, _, signature = cookie.partition(".")
        if not (until.isascii() and until.isdecimal() and len(until) < 20 and signature.isascii()):
            return False
        expected = self._digest(b"session %d" % int(until)).hex()
        return hmac.compare_digest(signature.encode(), expected.encode()) and time.time() < int(until)

    async def ask(self, request: web.Request) -> web.StreamResponse:
        """GET /login"""
        if self._token is None or self._session_holds(request.cookies.get(self._cookie, "")):
            return web.Response(status=303, headers={hdrs.LOCATION: "/"})
        return _form()

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """POST /login: the token, for a cookie."""
        if self._token is None:
            return web.Response(status=303, headers={hdrs.LOCATION: "/"})
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await request.read()
            fields = parse_qs(body.decode(), max_num_fields=10)
        except TimeoutError:
            return _form(408, "The request did not arrive in time.")
        except ValueError:
            fields = {}
        right = await self._check(request, fields.get("token", [""])[0].strip())
        if right is None:
            return _form(429, "Too many wrong tokens. Try again in a moment.")
        if not right:
            return _form(401, "That is not the token.")
        response = web.Response(status=303, headers={hdrs.LOCATION: "/"})
        response.set_cookie(
            self._cookie,
            self._session(),
            max_age=_SESSION_SECONDS,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=request.secure or request.headers.get(hdrs.ORIGIN, "").startswith("https://"),
        )
        return response

    async def sign_out(self, request: web.Request) -> web.StreamResponse:
        """POST /logout: the browser forgets its session."""
        response = web.Response(status=303, headers={hdrs.LOCATION: "/login"})
        response.del_cookie(self._cookie, path="/")
        return response


def _form(status: int = 200, problem: str = "") -> web.Response:
    # With "no-referrer" the browser would send "Origin: null" with the form.
    headers = {"Referrer-Policy": "same-origin"}
    return web.Response(status=status, text=login.page(problem), content_type="text/html", headers=headers)


def is_loopback(host: str) -> bool:
    """Does a Host header, or the host that one listens on, mean this machine alone?"""
    name = _split(host)[0].rstrip(".")
    try:
        return ipaddress.ip_address(name or host).is_loopback  # one that one listens on has no brackets
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def is_ours(origin: str, hosts: list[str]) -> bool:
    """Is it the origin of our own page, for a request with these Host headers?"""
    scheme, separator, netloc = origin.partition("://")
    if not separator or scheme not in _PORTS or len(hosts) != 1:
        return False
    ours = _split(hosts[0], _PORTS[scheme])
    return ours[0] != "" and _split(netloc, _PORTS[scheme]) == ours


def _split(host: str, default: int = 0) -> tuple[str, int]:
    """Name and port of a Host header; an empty name if it is none."""
    try:
        parts = urlsplit("//" + host)
        if parts.username is not None or parts.path or parts.query or parts.fragment or not parts.hostname:
            return "", -1
        return parts.hostname.lower(), default if parts.port is None else parts.port
    except ValueError:
        return "", -1
