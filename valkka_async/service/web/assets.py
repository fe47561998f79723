# SPDX-License-Identifier: MIT
"""The files of the page: few and small, read into memory once, each with a route of its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.helpers import ETag

_FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
}
# What browsers fetch without a cookie when the page is installed; nothing of the service is in it.
PUBLIC = ("/static/app.webmanifest", "/static/favicon.svg", "/static/icon.svg")
_TEXT = (".html", ".css", ".js")


@dataclass(frozen=True, slots=True)
class Asset:
    """A file, and its handler."""

    name: str
    body: bytes
    content_type: str
    charset: str | None
    tag: str

    async def handle(self, request: web.Request) -> web.Response:
        """Answer 304 to a browser that has the file already. It asks each time, so an update of the service
        shows at once."""
        if any(tag.value in (self.tag, "*") for tag in request.if_none_match or ()):
            response = web.Response(status=304)
        else:
            response = web.Response(body=self.body, content_type=self.content_type, charset=self.charset)
        response.etag = ETag(self.tag)
        response.headers["Cache-Control"] = "no-cache"
        return response


def asset(name: str, body: bytes) -> Asset:
    """The asset for a file with this name."""
    suffix = Path(name).suffix
    return Asset(
        name=name,
        body=body,
        content_type=_TYPES[suffix],
        charset="utf-8" if suffix in _TEXT else None,
        tag=hashlib.sha256(body).hexdigest()[:20],
    )


def load(folder: Path = _FOLDER) -> list[Asset]:
    """All files of the page. Blocks while it reads them."""
    return [
        asset(path.name, path.read_bytes())
        for path in sorted(folder.iterdir())
        if path.suffix in _TYPES and path.is_file()
    ]
