# SPDX-License-Identifier: MIT
"""Which requests are answered.

Without a token the page is for this machine alone. A loopback address ensures that, except against browsers
of this machine that show another site's page. Against those:

- The Host header must name a loopback address. A name of their own that points here (DNS rebinding) does not.
- Requests that change something need a header that only scripts of our own origin can send, and an Origin
  of ours. WebSockets, which browsers open to any host, need an Origin of ours.

A program sends no Origin, and a browser always does.

With a token, everything needs it: as ``Authorization: Bearer TOKEN``, or once, in a form, for a cookie
(sessions.py).

A right token is accepted at once, whatever else comes from the same address, which may be a proxy's. Guessing
is hopeless because a token has 16 characters or more; wrong ones are answered late and counted so that they
cost little, neither time nor memory nor lines of the log.

Behind a proxy that speaks TLS for us, whether the browser uses TLS is what its own Origin says; no
X-Forwarded header is believed. The proxy must pass the Host header on.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from urllib.parse import parse_qs, urlsplit

from aiohttp import hdrs, web

from valkka_async.seldom import Seldom
from valkka_async.service.state import State
from valkka_async.service.web import assets, login
from valkka_async.service.web.clients import client_of
from valkka_async.service.web.contract import Secret
from valkka_async.service.web.headers import set_cookie
from valkka_async.service.web.listen import Connection
from valkka_async.service.web.problems import Code, explained, problem
from valkka_async.service.web.sessions import SESSION_SECONDS, Session, Sessions
from valkka_async.service.web.visits import SESSION, Visits
from valkka_async.timeouts import timeout

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_OPEN = ("/healthz", "/readyz", "/login", "/logout", "/" + login.STYLE.name, *assets.PUBLIC)
_FORMS = ("/login", "/logout")  # a browser sends them without a script, and so without a header of ours
_PORTS = {"http": 80, "https": 443}
_BUTTON = ("X-Requested-With", "valkka-async")
_BODY_SECONDS = 5.0
# A wrong token is answered so late, and so many of one client wait for their answers at the same time.
_WRONG_SECONDS = 1.0
_WRONG_AT_ONCE = 4
_TRY_AGAIN = "2"  # s
_WRONG_TOLD = 20  # wrong tokens that the log tells of one by one in a minute, which fail2ban reads

log = logging.getLogger("valkka_async.service.web")


class Guard:
    """Looks at each request before anything else does. `name` tells services apart that share a host, and so
    a browser's cookies. `sessions` is None without a token; `state` remembers who has signed out."""

    def __init__(
        self,
        token: Secret | None,
        name: str,
        sessions: Sessions | None,
        state: State | None,
        visits: Visits,
    ) -> None:
        self._key = secrets.token_bytes(32)
        self._token = self._digest(token.get_secret_value().encode()) if token is not None else None
        self._cookie = f"valkka-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
        self._sessions = sessions
        self._state = state
        self._visits = visits
        self._wrong: Counter[str] = Counter()  # wrong tokens that have not been answered yet, by client
        self._warn = Seldom(_WRONG_TOLD)
        self._untold = 0  # wrong tokens of which the log has nothing

    # ---------------------------------------------------------------------------------- requests

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The middleware."""
        connection = request.protocol
        with connection.busy() if isinstance(connection, Connection) else nullcontext():
            return login.for_people(request, await self._answer(request, handler))

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = await self._refusal(request)
        if refusal is not None:
            return refusal
        try:
            return await handler(request)
        except web.HTTPException as e:
            return explained(e)

    async def _refusal(self, request: web.Request) -> web.StreamResponse | None:
        hosts = request.headers.getall(hdrs.HOST, [])
        if self._token is None and not all(map(is_loopback, hosts)):
            text = "without a token this page answers to names of this machine only (localhost)"
            return problem(Code.HOST, text)
        changes = request.method not in (hdrs.METH_GET, hdrs.METH_HEAD)
        if changes or request.headers.get(hdrs.UPGRADE):
            origins = request.headers.getall(hdrs.ORIGIN, [])
            if not all(is_ours(origin, hosts, secure=request.secure) for origin in origins):
                return problem(Code.ORIGIN, "the page of another site may not do that")
        if self._token is not None and request.path not in _OPEN:
            refusal = await self._stranger(request)
            if refusal is not None:
                return refusal
        if (error := request.match_info.http_exception) is not None:  # no such address, or not this method
            return explained(error)
        if changes and request.path not in _FORMS and request.headers.get(_BUTTON[0]) != _BUTTON[1]:
            return problem(Code.HEADER, f"send the header {_BUTTON[0]}: {_BUTTON[1]}")
        return None

    async def _stranger(self, request: web.Request) -> web.StreamResponse | None:
        """None: it has the token, or a session."""
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == "bearer":
            right = await self._check(request, given.strip())
            if right is None:
                return problem(Code.GUESSES, "too many wrong tokens; try again later", Retry_After=_TRY_AGAIN)
            if right:
                return None
        elif (session := self._session(request)) is not None:
            self._attend(request, session)
            return None
        elif request.path == "/" and "text/html" in request.headers.get(hdrs.ACCEPT, ""):
            return web.Response(status=303, headers={hdrs.LOCATION: "/login"})
        advice = "sign in, or send the header Authorization: Bearer TOKEN"
        return problem(Code.TOKEN, advice, WWW_Authenticate="Bearer")

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
        self._tell(client)
        self._wrong[client] += 1
        try:
            await asyncio.sleep(_WRONG_SECONDS)
        finally:
            self._wrong[client] -= 1
            if not self._wrong[client]:
                del self._wrong[client]
        return False

    def _tell(self, client: str) -> None:
        """Log a wrong token, but not as many as others can give."""
        if not self._warn():
            self._untold += 1
            return
        if self._untold:
            log.warning("%d other wrong tokens were given since the last one", self._untold)
            self._untold = 0
        log.warning("a wrong token was given, from %s", client, extra={"client": client})

    def _digest(self, data: bytes) -> bytes:
        """All digests have one length, so it says nothing."""
        return hmac.digest(self._key, data, "sha256")

    # ---------------------------------------------------------------------------------- sessions

    def _session(self, request: web.Request) -> Session | None:
        if self._sessions is None:
            return None
        return self._sessions.find(request.cookies.get(self._cookie, ""))

    def _attend(self, request: web.Request, session: Session) -> None:
        """A request of this session: its WebSocket ends with it, and it goes on while it is used."""
        assert self._sessions is not None
        request[SESSION] = session.id
        if (cookie := self._sessions.renewed(session)) is not None:
            set_cookie(request, self._cookie, cookie, SESSION_SECONDS, secure=session.secure)

    async def ask(self, request: web.Request) -> web.StreamResponse:
        """GET /login"""
        if self._token is None or self._session(request) is not None:
            return web.Response(status=303, headers={hdrs.LOCATION: "/"})
        return _form()

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """POST /login: the token, for a cookie."""
        if self._sessions is None:
            return web.Response(status=303, headers={hdrs.LOCATION: "/"})
        try:
            async with timeout(_BODY_SECONDS):
                body = await request.read()
            fields = parse_qs(body.decode(), max_num_fields=10)
        except TimeoutError:
            return _form(408, "The request did not arrive in time.")
        except web.HTTPRequestEntityTooLarge:
            return _form(413, "That is not the token.")
        except ValueError:
            fields = {}
        right = await self._check(request, fields.get("token", [""])[0].strip())
        if right is None:
            return _form(429, "Too many wrong tokens. Try again in a moment.", Retry_After=_TRY_AGAIN)
        if not right:
            return _form(401, "That is not the token.")
        secure = request.secure or request.headers.get(hdrs.ORIGIN, "").startswith("https://")
        cookie = self._sessions.begin(secure=secure)
        set_cookie(request, self._cookie, cookie, SESSION_SECONDS, secure=secure)
        return web.Response(status=303, headers={hdrs.LOCATION: "/"})

    async def sign_out(self, request: web.Request) -> web.StreamResponse:
        """POST /logout: the session is over, in all windows of the browser, and for whoever has its
        cookie."""
        session = self._session(request)
        if self._sessions is not None and session is not None:
            self._sessions.end(session)
            self._visits.sign_out(session.id)
            if self._state is not None:
                await asyncio.shield(asyncio.to_thread(self._state.sign_out, session.id))
        secure = request.secure or request.headers.get(hdrs.ORIGIN, "").startswith("https://")
        set_cookie(request, self._cookie, "", 0, secure=secure)
        return web.Response(status=303, headers={hdrs.LOCATION: "/login"})


def _form(status: int = 200, problem: str = "", **headers: str) -> web.Response:
    # With "no-referrer" the browser would send "Origin: null" with the form.
    named = {"Referrer-Policy": "same-origin"} | {k.replace("_", "-"): v for k, v in headers.items()}
    return web.Response(status=status, text=login.page(problem), content_type="text/html", headers=named)


def is_loopback(host: str) -> bool:
    """Does a Host header, or the host that one listens on, mean this machine alone?"""
    name = _split(host)[0].rstrip(".")
    try:
        return ipaddress.ip_address(name or host).is_loopback  # one that one listens on has no brackets
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def is_ours(origin: str, hosts: list[str], *, secure: bool = False) -> bool:
    """Is it the origin of our own page, for a request with these Host headers? `secure`: it came over TLS,
    so no page without TLS is ours."""
    scheme, separator, netloc = origin.partition("://")
    if not separator or scheme not in _PORTS or len(hosts) != 1 or (secure and scheme != "https"):
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
