# SPDX-License-Identifier: MIT
"""What a camera's refusal means and what helps: one table by the status of RTSP and HTTP."""

from __future__ import annotations

import errno
import re

import av.error

from valkka_async.camera.source.secrets import ENCODE, Address
from valkka_async.errors import (
    CameraAuthError,
    CameraBusyError,
    CameraEndedError,
    CameraError,
    CameraNotFoundError,
    CameraRefusedError,
)

REDIRECTS = 310  # too many of them; no status of either protocol, but one that browsers speak of
_OTHER_CLIENT, _SERVER = 499, 599  # stand for all that FFmpeg does not tell apart

_BUSY = (
    "it has as many viewers as it can serve: close others, wait until it forgets those that went away, or "
    "raise its limit of connections"
)
_TABLE: dict[int, tuple[type[CameraError], str]] = {
    400: (
        CameraRefusedError,
        "it does not understand the request: check the path and what follows it, or try transport={other!r}",
    ),
    403: (
        CameraAuthError,
        "it forbids this: give the user the right to view, use another user, or allow this machine's address",
    ),
    404: (CameraNotFoundError, "there is no such stream or file; check the path"),
    405: (CameraRefusedError, "it does not allow to play this path; use another path of the camera"),
    406: (CameraRefusedError, "it has no stream of a kind that is understood here; check its codec settings"),
    407: (CameraAuthError, "a proxy on the way wants a password; connect to the camera without it"),
    408: (CameraBusyError, "it gave up waiting; the network is slow, or the camera is at its limit"),
    410: (CameraNotFoundError, "the stream is no longer there; check the path"),
    415: (CameraRefusedError, "it has no stream of a kind that is understood here; check its codec settings"),
    429: (CameraBusyError, "it was asked too often; raise poll or retry_max"),
    453: (CameraBusyError, _BUSY),
    454: (CameraEndedError, "it has lost the session; it was restarted, or closes sessions early"),
    455: (CameraRefusedError, "it does not play in its present state; restart it, or check its settings"),
    459: (CameraRefusedError, "it plays its streams only together; use a path of one stream"),
    461: (CameraRefusedError, "it does not do transport={transport!r}; use transport={other!r}"),
    551: (CameraRefusedError, "it lacks something of RTSP that is needed; update its firmware"),
    501: (CameraRefusedError, "it lacks something that is needed; check the path, or update its firmware"),
    503: (CameraBusyError, _BUSY),
    505: (CameraRefusedError, "it speaks another version of the protocol; use another address of the camera"),
    REDIRECTS: (CameraRefusedError, "it redirects again and again; give the address to which it should lead"),
    _OTHER_CLIENT: (CameraBusyError, f"it refuses the request: it has no video at this path, or {_BUSY}"),
    _SERVER: (CameraBusyError, f"the fault is the camera's; perhaps {_BUSY}"),
}
_STATUS = re.compile(r"(?:method \w+ failed: |HTTP error )(\d{3})\b")


def refusal(status: int, where: Address, transport: str) -> CameraError:
    """The exception for a status that is no success."""
    if status == 401:
        return CameraAuthError(f"{where}: {_unauthorized(where)}")
    kind, text = _TABLE.get(status) or _TABLE[_SERVER if status >= 500 else _OTHER_CLIENT]
    other = "udp" if transport == "tcp" else "tcp"
    number = "" if status in (REDIRECTS, _OTHER_CLIENT, _SERVER) else f" ({status})"
    return kind(f"{where}: cannot be opened{number}: {text.format(transport=transport, other=other)}")


def status_of(error: Exception | None, lines: list[str]) -> int | None:
    """The status with which a camera has refused, as far as FFmpeg tells. `lines`: what it has logged."""
    said = [int(match[1]) for line in lines if (match := _STATUS.search(line)) is not None]
    if not isinstance(error, av.error.HTTPError | av.error.HTTPClientError):
        # FFmpeg has tried all transports that it was allowed.
        refused = isinstance(error, OSError) and error.errno == errno.EPROTONOSUPPORT
        return 461 if refused else None
    if said:
        return said[-1]
    for kind, status in _KINDS:
        if isinstance(error, kind):
            return status
    return _OTHER_CLIENT


_KINDS: list[tuple[type[Exception], int]] = [
    (av.error.HTTPBadRequestError, 400),
    (av.error.HTTPUnauthorizedError, 401),
    (av.error.HTTPForbiddenError, 403),
    (av.error.HTTPNotFoundError, 404),
    (av.error.HTTPTooManyRequestsError, 429),
    (av.error.HTTPServerError, _SERVER),
]


def _unauthorized(where: Address) -> str:
    if "@" not in where.url:
        return f"wants a user and a password: {where.scheme}://user:password@..."
    return (
        f"refuses the user or the password (401). In an address, {ENCODE}. If they are right, the camera may "
        "insist on a digest of SHA-256, which FFmpeg does not speak: set it to digest with MD5, or to basic"
    )
