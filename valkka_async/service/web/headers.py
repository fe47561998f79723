# SPDX-License-Identifier: MIT
"""The headers of every response, and error responses."""

from __future__ import annotations

from aiohttp import web

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


async def on_prepare(request: web.Request, response: web.StreamResponse) -> None:
    """For an application's ``on_response_prepare``."""
    secure(response)


def problem(status: int, text: str, **headers: str) -> web.Response:
    """An error response for programs."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response({"error": text}, status=status, headers=named)
