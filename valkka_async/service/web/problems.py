# SPDX-License-Identifier: MIT
"""Errors over HTTP: one shape for all of them, RFC 9457's (application/problem+json).

    {"status": 404, "title": "Not Found", "code": "camera", "detail": "there is no camera x"}

``code`` is ours, for programs to decide by; ``detail`` is for people, and may be reworded at any time. There
is no ``type``, which means "about:blank": the status says what it is, and ``code`` which case of it. A
problem may have more members, which its code names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus

from aiohttp import hdrs, web

from valkka_async import typed

CONTENT_TYPE = "application/problem+json"
# In the response, for those who show it in another way.
TITLE = web.ResponseKey("title", str)
DETAIL = web.ResponseKey("detail", str)


class Code(StrEnum):
    """What is wrong with a request, or why it cannot be answered."""

    REQUEST = "request"  # it is none, or its body or query is not what it should be
    TIME = "time"  # of `from`, `to` or `at`
    WIDTH = "width"  # of a picture
    TOKEN = "token"  # it has none, or a wrong one, or a session that is over
    HOST = "host"  # without a token only this machine's own names are answered
    ORIGIN = "origin"  # it comes from another site's page
    HEADER = "header"  # what changes something has X-Requested-With
    PATH = "path"  # there is no such address
    CAMERA = "camera"  # there is no such camera
    RING = "ring"  # the camera has no ring for this
    EMPTY = "empty"  # nothing was recorded then
    LONG = "long"  # more than fits into a clip
    GONE = "gone"  # what was recorded is not there any more
    METHOD = "method"  # the address has other methods, which Allow names
    LATE = "late"  # the rest of it did not come
    REFUSED = "refused"  # the camera is not such that this can be done
    CHANGED = "changed"  # codec or size changes within the clip; `parts` can be had
    SIZE = "size"  # its body is too large
    RANGE = "range"  # there are no such bytes
    FORMAT = "format"  # no picture can be made of it
    UPGRADE = "upgrade"  # this is for WebSockets
    BUSY = "busy"  # too many at once; Retry-After says when to try again
    GUESSES = "guesses"  # too many wrong tokens
    INTERNAL = "internal"  # a bug of ours; the log has it
    FRAME = "frame"  # the camera gives no frame
    STARTING = "starting"  # recordings are still being looked through
    DISK = "disk"  # recordings cannot be read
    STOPS = "stops"  # the service ends


STATUS = {
    Code.REQUEST: 400,
    Code.TIME: 400,
    Code.WIDTH: 400,
    Code.LONG: 400,
    Code.TOKEN: 401,
    Code.HOST: 403,
    Code.ORIGIN: 403,
    Code.HEADER: 403,
    Code.PATH: 404,
    Code.CAMERA: 404,
    Code.RING: 404,
    Code.EMPTY: 404,
    Code.GONE: 404,
    Code.METHOD: 405,
    Code.LATE: 408,
    Code.REFUSED: 409,
    Code.CHANGED: 409,
    Code.SIZE: 413,
    Code.RANGE: 416,
    Code.FORMAT: 422,
    Code.UPGRADE: 426,
    Code.BUSY: 429,
    Code.GUESSES: 429,
    Code.INTERNAL: 500,
    Code.FRAME: 503,
    Code.STARTING: 503,
    Code.DISK: 503,
    Code.STOPS: 503,
}


@dataclass(frozen=True, slots=True)
class Part:
    """A range of time that can be had as one clip; Unix ns."""

    from_ns: int
    to_ns: int


@dataclass(frozen=True, slots=True)
class Problem:
    """What the responses have; `parts` if the code is "changed" alone."""

    status: int
    title: str
    code: Code
    detail: str
    parts: tuple[Part, ...]


def problem(code: Code, detail: str, parts: Iterable[Part] = (), **headers: str) -> web.Response:
    """A response. ``Retry_After="1"`` is the header Retry-After."""
    status = STATUS[code]
    title = HTTPStatus(status).phrase
    data = typed.encode(Problem(status, title, code, detail, tuple(parts)))
    if not data["parts"]:
        del data["parts"]
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = web.json_response(data, status=status, headers=named, content_type=CONTENT_TYPE)
    response[TITLE], response[DETAIL] = title, detail
    return response


def explained(error: web.HTTPException) -> web.Response:
    """The response for what aiohttp refuses by itself: nothing of the request is repeated."""
    code = _CODES.get(error.status, Code.REQUEST if error.status < 500 else Code.INTERNAL)
    answer = problem(code, _DETAILS.get(code, "this is not a request"))
    if hdrs.ALLOW in error.headers:
        answer.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    return answer


_CODES = {404: Code.PATH, 405: Code.METHOD, 413: Code.SIZE}
_DETAILS = {
    Code.PATH: "there is nothing at this address",
    Code.METHOD: "this address does not have this method",
    Code.SIZE: "the request's body is too large",
    Code.INTERNAL: "internal error; the service's log has it",
}
