# SPDX-License-Identifier: MIT
"""How a camera is, as data that any process can read. No PyAV here.

Programs decide by `state` and `cause`; `reason` is a text for people.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from valkka_async.camera.source.secrets import parse
from valkka_async.camera.spec import CameraSpec
from valkka_async.errors import (
    CameraAuthError,
    CameraEndedError,
    CameraFormatError,
    CameraNotFoundError,
    CameraOpenError,
    CameraTimeoutError,
    ConnectError,
    RingMemoryError,
)


class CameraState(StrEnum):
    """What a camera is doing. The camera alone decides it; everybody else shows it."""

    CONNECTING = "connecting"  # opening, or open and without a packet yet
    LIVE = "live"
    STALLED = "stalled"  # connected, but nothing has come for a while
    WAITING = "waiting"  # for the next attempt
    STOPPED = "stopped"  # closed, or at the end of what it was to play
    FAILED = "failed"  # refused (password, path) or undecodable: tried again, but seldom


if TYPE_CHECKING:
    # A StrEnum may equal any string. Of these a type checker knows better, and finds `state == "lvie"`.
    AnyState: TypeAlias = Literal[
        CameraState.CONNECTING,
        CameraState.LIVE,
        CameraState.STALLED,
        CameraState.WAITING,
        CameraState.STOPPED,
        CameraState.FAILED,
    ]
else:
    AnyState = CameraState


class Cause(StrEnum):
    """Why there are no frames."""

    AUTH = "auth"  # the source refuses the user or the password
    NOT_FOUND = "not_found"  # it has no such stream or file
    UNREACHABLE = "unreachable"  # it cannot be opened: no host, no route, connection refused
    TIMEOUT = "timeout"  # it does not answer, or has stopped sending
    FORMAT = "format"  # it sends nothing that can be decoded as video
    ENDED = "ended"  # a live stream ended
    RING = "ring"  # one of the camera's rings cannot be served: its name is taken, there is no memory
    WORKER = "worker"  # the worker process ended: see its WorkerStatus
    INTERNAL = "internal"  # anything else; the log says more


_CAUSES: tuple[tuple[type[Exception], Cause], ...] = (
    (CameraAuthError, Cause.AUTH),
    (CameraNotFoundError, Cause.NOT_FOUND),
    (CameraOpenError, Cause.UNREACHABLE),
    (CameraTimeoutError, Cause.TIMEOUT),
    (CameraFormatError, Cause.FORMAT),
    (CameraEndedError, Cause.ENDED),
    (ConnectError, Cause.RING),
    (RingMemoryError, Cause.RING),
)


def cause_of(error: BaseException) -> Cause:
    """The cause that an exception stands for."""
    return next((cause for kind, cause in _CAUSES if isinstance(error, kind)), Cause.INTERNAL)


@dataclass(frozen=True, slots=True)
class OutputStatus:
    """One of a camera's rings. Counts are of frames, since the camera was started."""

    name: str  # the ring's, to connect to
    format: str  # as in Output
    readers: int  # connected now
    published: int  # into the ring
    dropped: int  # not published: no free slot, as readers held them all, or no memory
    skipped: int  # left out by ``fps``


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """How a camera is, in its own words. Times are Unix nanoseconds, 0: never."""

    SCHEMA: ClassVar[int] = 1

    name: str  # the camera's
    pid: int  # of the process that it is in; 0: of none yet
    url: str  # without credentials
    state: AnyState
    cause: Cause | None  # of the last trouble; None once frames come again
    reason: str  # the same in words, for people; "" with None
    since_ns: int  # when it came into this state
    attempts: int  # to connect
    reconnects: int  # attempts that gave frames, after the first
    retry_in: float | None  # seconds to the next attempt, if it waits for one
    codec: str  # as FFmpeg calls it, "h264", "hevc", "mjpeg"; "raw video"; "": not known yet
    width: int  # of the camera's frames, in pixels; 0: not known yet
    height: int  # the same
    fps: float  # of the last seconds, as received
    key_interval: float  # seconds between the last key frames; 0: not known yet
    packets: int  # received
    decoded: int  # frames
    errors: int  # packets that could not be decoded or muxed
    last_packet_ns: int  # when it came
    cpu_s: float  # CPU seconds of the camera's thread
    outputs: tuple[OutputStatus, ...]  # its rings


def before_start(
    spec: CameraSpec,
    state: CameraState = CameraState.CONNECTING,
    cause: Cause | None = None,
    reason: str = "",
    *,
    pid: int = 0,
    since_ns: int | None = None,
    retry_in: float | None = None,
) -> CameraStatus:
    """The status of a camera that does not run: not yet, or because it cannot be started."""
    return CameraStatus(
        name=spec.name,
        pid=pid,
        url=parse(spec.url).shown,
        state=state,
        cause=cause,
        reason=reason,
        since_ns=time.time_ns() if since_ns is None else since_ns,
        attempts=0,
        reconnects=0,
        retry_in=retry_in,
        codec="",
        width=0,
        height=0,
        fps=0.0,
        key_interval=0.0,
        packets=0,
        decoded=0,
        errors=0,
        last_packet_ns=0,
        cpu_s=0.0,
        outputs=tuple(OutputStatus(o.name, o.format, 0, 0, 0, 0) for o in spec.outputs),
    )
