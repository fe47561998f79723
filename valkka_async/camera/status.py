# SPDX-License-Identifier: MIT
"""How a camera is, as data that any process can read. No PyAV here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any


class CameraState(StrEnum):
    """What a camera is doing. The camera alone decides it; everybody else shows it."""

    CONNECTING = "connecting"  # opening, or open and without a packet yet
    LIVE = "live"
    STALLED = "stalled"  # connected, but nothing has come for a while
    WAITING = "waiting"  # for the next attempt; `reason` says why the last one ended
    STOPPED = "stopped"  # closed, or at the end of what it was to play
    FAILED = "failed"  # refused (password, path) or undecodable: tried again, but seldom; `reason` says why


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
    """How a camera is. Times are Unix nanoseconds, 0: never.

    Its ``state`` is "connecting" (opening, or open and without a packet yet), "live", "stalled" (connected,
    but nothing has come for a while), "waiting" (for the next attempt), "failed" (refused, or undecodable:
    tried again, but seldom) or "stopped" (closed, or at the end of what it was to play).
    """

    name: str  # the camera's
    url: str  # without credentials
    state: CameraState
    reason: str  # of the last trouble; "" once frames come again
    since_ns: int  # when it came into this state
    attempts: int  # to connect
    reconnects: int  # attempts that gave frames, after the first
    retry_in: float | None  # seconds to the next attempt, if it waits for one
    codec: str  # as FFmpeg calls it, "h264", "hevc", "mjpeg"; "raw video"; "": not known yet
    width: int  # of the camera's pictures, in pixels; 0: not known yet
    height: int  # the same
    fps: float  # of the last seconds, as received
    key_interval: float  # seconds between the last key frames; 0: not known yet
    packets: int  # received
    decoded: int  # pictures
    errors: int  # packets that could not be decoded or muxed
    last_packet_ns: int  # when it came
    cpu_s: float  # processor seconds of the camera's thread
    outputs: tuple[OutputStatus, ...]  # its rings

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CameraStatus:
        """What dataclasses.asdict() made, perhaps by way of JSON, perhaps by another version."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name != "outputs"}
        known["state"] = CameraState(known["state"])
        return cls(outputs=tuple(OutputStatus(**output) for output in values["outputs"]), **known)
