# SPDX-License-Identifier: MIT
"""The headers of every response."""

from __future__ import annotations

from aiohttp import hdrs, web

# Only our own files run and style the page: nothing inline, nothing from elsewhere; and no other page frames
# it. Media Source Extensions and JPEGs from a WebSocket have blob: URLs.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "manifest-src 'self'",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)

SECURITY = {
    "Server": "valkka-async",  # and no version of anything
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_COOKIE = web.RequestKey("cookie", str)  # that the response to a request is to set
_DEFAULTS = {
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def secure(response: web.StreamResponse) -> None:
    """Add the headers. A response may have set its own Cache-Control and Referrer-Policy."""
    for name, value in SECURITY.items():
        response.headers[name] = value
    for name, value in _DEFAULTS.items():
        response.headers.setdefault(name, value)


def set_cookie(request: web.Request, name: str, value: str, seconds: int, *, secure: bool) -> None:
    """Have the response to this request, of whatever kind, give the browser a cookie. `name` and `value` are
    ours, and need no quotes; 0 `seconds` take it away."""
    flags = "; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")
    request[_COOKIE] = f"{name}={value}; Max-Age={seconds}; Path=/{flags}"


async def on_prepare(request: web.Request, response: web.StreamResponse) -> None:
    """For an application's ``on_response_prepare``."""
    secure(response)
    if (cookie := request.get(_COOKIE)) is not None:
        response.headers.add(hdrs.SET_COOKIE, cookie)
