# SPDX-License-Identifier: MIT
"""How a camera is, as data that any process can read. No PyAV here.

Programs decide by `state` and `cause`; `reason` is a text for people.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from valkka_async.camera.source.secrets import parse
from valkka_async.camera.spec import CameraSpec
from valkka_async.errors import (
    CameraAuthError,
    CameraBusyError,
    CameraEndedError,
    CameraFormatError,
    CameraNotFoundError,
    CameraOpenError,
    CameraRefusedError,
    CameraTimeoutError,
    ConnectError,
    RingMemoryError,
)


class CameraState(StrEnum):
    """What a camera is doing, or one of its streams. The camera alone decides it; everybody else shows it."""

    CONNECTING = "connecting"  # opening, or open and without a packet yet
    LIVE = "live"
    STALLED = "stalled"  # connected, but nothing has come for a while
    WAITING = "waiting"  # for the next attempt
    IDLE = "idle"  # not connected, as its outputs have no readers, and it is connected on demand
    STOPPED = "stopped"  # closed, or at the end of what it was to play
    FAILED = "failed"  # refused (password, path) or undecodable: tried again, but seldom


if TYPE_CHECKING:
    # A StrEnum may equal any string. Of these a type checker knows better, and finds `state == "lvie"`.
    AnyState: TypeAlias = Literal[
        CameraState.CONNECTING,
        CameraState.LIVE,
        CameraState.STALLED,
        CameraState.WAITING,
        CameraState.IDLE,
        CameraState.STOPPED,
        CameraState.FAILED,
    ]
else:
    AnyState = CameraState


class Cause(StrEnum):
    """Why there are no frames."""

    AUTH = "auth"  # the source refuses the user or the password
    NOT_FOUND = "not_found"  # it has no such stream or file
    BUSY = "busy"  # it has too many viewers, or another trouble of its own
    REFUSED = "refused"  # it refuses the request: another transport, path or setting is needed
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
    (CameraBusyError, Cause.BUSY),
    (CameraRefusedError, Cause.REFUSED),
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


class CameraWarning(StrEnum):
    """What works, but not as well as it could."""

    SLOW_PIXELS = "slow_pixels"  # the short way to a ring's memory is not taken: see WARNINGS
    NO_KEY_FRAME = "no_key_frame"  # none has come that one could begin at
    BEHIND = "behind"  # frames come faster than they are decoded, and some are left out


# In words, for people: what it is, and what it costs (benchmarks/convert.py).
WARNINGS = {
    CameraWarning.SLOW_PIXELS: (
        "pixels go the long way, which costs 1.2 (rgb24) to 1.6 (nv12) times the CPU for converting; "
        "`valkka-async doctor` says why"
    ),
    CameraWarning.NO_KEY_FRAME: (
        "the camera has sent no key frame since it was connected, so there is nothing that could be decoded: "
        "set its key-frame interval (I-frame, GOP) to some seconds"
    ),
    CameraWarning.BEHIND: (
        "frames come faster than this machine decodes and converts them, and some are left out: use the "
        "camera's small stream, `fps`, `key_frames`, `thread_count` or `hwaccel`"
    ),
}


class SoundState(StrEnum):
    """What becomes of a camera's sound."""

    OFF = "off"  # not asked for: audio is False, or there is no output "fmp4"
    NONE = "none"  # the camera has none, as far as is known
    IDLE = "idle"  # it comes, and there is no reader for it
    LIVE = "live"
    SILENT = "silent"  # the camera has announced it, and nothing has come for a while
    REFUSED = "refused"  # the camera refuses to send it along, and sends the picture alone
    UNSUPPORTED = "unsupported"  # it is coded in a way that is not known here
    BROKEN = "broken"  # what comes cannot be decoded


if TYPE_CHECKING:
    AnySound: TypeAlias = Literal[
        SoundState.OFF,
        SoundState.NONE,
        SoundState.IDLE,
        SoundState.LIVE,
        SoundState.SILENT,
        SoundState.REFUSED,
        SoundState.UNSUPPORTED,
        SoundState.BROKEN,
    ]
else:
    AnySound = SoundState


@dataclass(frozen=True, slots=True)
class SoundStatus:
    """A camera's sound, which outputs of "fmp4" carry. Counts are since the camera was started."""

    state: AnySound
    codec: str  # as FFmpeg calls it: "aac", "opus", "pcm_alaw"; "": none, or not known
    rate: int  # samples per second that the camera sends; 0: none, or not known
    channels: int  # the same
    carried: str  # as what it is in fragments, as browsers call it: "mp4a.40.2", "opus"; "": it is not
    packets: int  # received
    errors: int  # packets that could not be decoded


def no_sound(*, asked: bool = False) -> SoundStatus:
    """That of a stream that has none, or does not have it yet."""
    return SoundStatus(SoundState.NONE if asked else SoundState.OFF, "", 0, 0, "", 0, 0)


@dataclass(frozen=True, slots=True)
class OutputStatus:
    """One of a camera's rings. Counts are of frames, since the camera was started."""

    name: str  # the ring's, to connect to
    format: str  # as in Output
    stream: str  # that it is made of: its name in `CameraStatus.streams`
    readers: int  # connected now
    published: int  # into the ring
    dropped: int  # not published: no free slot, as readers held them all, or no memory
    skipped: int  # left out by ``fps``, or as decoding was behind (`CameraWarning.BEHIND`)
    backlog: int  # frames since the newest key frame, retained for readers that come late
    backlog_outgrown: bool  # the GOP is too long for that: its ring needs more slots


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """How one stream of a camera is: a connection, and what comes of it. Times are Unix nanoseconds, 0:
    never."""

    name: str  # as in `streams`; "": that of a camera with a `url`
    url: str  # without credentials
    state: AnyState
    cause: Cause | None  # of the last trouble; None once frames come again
    reason: str  # the same in words, for people; "" with None
    since_ns: int  # when it came into this state
    retry_in: float | None  # seconds to the next attempt, if it waits for one
    attempts: int  # to connect
    reconnects: int  # attempts that gave frames, after the first
    codec: str  # as FFmpeg calls it, "h264", "hevc", "mjpeg"; "raw video"; "": not known yet
    width: int  # of the frames, in pixels; 0: not known yet
    height: int  # the same
    fps: float  # of the last seconds, as received; 0: nothing comes, or it is not known yet
    key_interval: float  # seconds between the last key frames; 0: not known yet
    clock_disagrees: (
        bool  # the stream's, with arrival, which is the time then for limits, rates and recordings
    )
    early: bool  # the newest frame was there with its last bytes, and not when the next one began
    packets: int  # received
    decoded: int  # frames
    errors: int  # packets that could not be decoded or muxed
    last_packet_ns: int  # when it came
    cpu_s: float  # CPU seconds of the stream's thread
    sound: SoundStatus


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """How a camera is, in its own words. `state`, `cause`, `reason`, `since_ns` and `retry_in` are those of
    the stream that needs attention most; of several streams, `reason` begins with its name."""

    SCHEMA: ClassVar[int] = 4

    name: str  # the camera's
    pid: int  # of the process that it is in; 0: of none yet
    state: AnyState
    cause: Cause | None  # of the last trouble; None once frames come again
    reason: str  # the same in words, for people; "" with None
    since_ns: int  # when it came into this state
    retry_in: float | None  # seconds to the next attempt, if it waits for one
    warnings: tuple[CameraWarning, ...]  # what could be better, now
    streams: tuple[StreamStatus, ...]  # at least one; the main one first
    outputs: tuple[OutputStatus, ...]  # its rings

    def stream(self, name: str) -> StreamStatus | None:
        """The stream of that name; None: there is none."""
        return next((stream for stream in self.streams if stream.name == name), None)

    def stream_of(self, ring: str) -> StreamStatus | None:
        """The stream of which this ring is made; None: the camera has no such ring."""
        return next((self.stream(output.stream) for output in self.outputs if output.name == ring), None)

    @property
    def url(self) -> str:
        """Of the main stream, without credentials."""
        return self.streams[0].url

    @property
    def codec(self) -> str:
        """Of the main stream."""
        return self.streams[0].codec

    @property
    def width(self) -> int:
        """Of the main stream, in pixels."""
        return self.streams[0].width

    @property
    def height(self) -> int:
        """Of the main stream, in pixels."""
        return self.streams[0].height

    @property
    def fps(self) -> float:
        """Of the main stream."""
        return self.streams[0].fps

    @property
    def key_interval(self) -> float:
        """Of the main stream, in seconds."""
        return self.streams[0].key_interval

    @property
    def clock_disagrees(self) -> bool:
        """That of any stream."""
        return any(stream.clock_disagrees for stream in self.streams)

    @property
    def early(self) -> bool:
        """Of the main stream."""
        return self.streams[0].early

    @property
    def sound(self) -> SoundStatus:
        """Of the main stream."""
        return self.streams[0].sound

    @property
    def attempts(self) -> int:
        """Of all streams."""
        return sum(stream.attempts for stream in self.streams)

    @property
    def reconnects(self) -> int:
        """Of all streams."""
        return sum(stream.reconnects for stream in self.streams)

    @property
    def packets(self) -> int:
        """Of all streams."""
        return sum(stream.packets for stream in self.streams)

    @property
    def decoded(self) -> int:
        """Of all streams."""
        return sum(stream.decoded for stream in self.streams)

    @property
    def errors(self) -> int:
        """Of all streams."""
        return sum(stream.errors for stream in self.streams)

    @property
    def last_packet_ns(self) -> int:
        """Of any stream."""
        return max(stream.last_packet_ns for stream in self.streams)

    @property
    def cpu_s(self) -> float:
        """Of all streams."""
        return round(sum(stream.cpu_s for stream in self.streams), 3)


# What needs attention comes first.
_URGENCY = (
    CameraState.FAILED,
    CameraState.WAITING,
    CameraState.STALLED,
    CameraState.CONNECTING,
    CameraState.LIVE,
    CameraState.IDLE,
    CameraState.STOPPED,
)


def of_streams(
    name: str,
    pid: int,
    streams: Iterable[StreamStatus],
    warnings: Iterable[CameraWarning],
    outputs: Iterable[OutputStatus],
) -> CameraStatus:
    """A camera's status from those of its streams; nothing else decides it.

    The camera is in the state of the stream that needs attention most. So "live" says that all streams are
    live but for those that nobody wants now.
    """
    several = tuple(streams)
    one = min(several, key=lambda stream: _URGENCY.index(stream.state))
    return CameraStatus(
        name=name,
        pid=pid,
        state=one.state,
        cause=one.cause,
        reason=f"{one.name}: {one.reason}" if one.reason and len(several) > 1 else one.reason,
        since_ns=one.since_ns,
        retry_in=one.retry_in,
        warnings=tuple(dict.fromkeys(warnings)),
        streams=several,
        outputs=tuple(outputs),
    )


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
    since_ns = time.time_ns() if since_ns is None else since_ns
    streams = tuple(
        StreamStatus(
            name=name,
            url=parse(part.url).shown,
            state=state,
            cause=cause,
            reason=reason,
            since_ns=since_ns,
            retry_in=retry_in,
            attempts=0,
            reconnects=0,
            codec="",
            width=0,
            height=0,
            fps=0.0,
            key_interval=0.0,
            clock_disagrees=False,
            early=False,
            packets=0,
            decoded=0,
            errors=0,
            last_packet_ns=0,
            cpu_s=0.0,
            sound=no_sound(asked=part.asks_for_sound),
        )
        for name, part in spec.parts().items()
    )
    outputs = tuple(
        OutputStatus(o.name, o.format, o.stream or "", 0, 0, 0, 0, 0, False) for o in spec.outputs
    )
    # What hinders its start concerns the camera, and no stream.
    return CameraStatus(spec.name, pid, state, cause, reason, since_ns, retry_in, (), streams, outputs)
