# SPDX-License-Identifier: MIT
"""How a camera is, as data that any process can read. No PyAV here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

CONNECTING = "connecting"  # opening, or open and without a packet yet
LIVE = "live"
STALLED = "stalled"  # connected, but nothing has come for a while
WAITING = "waiting"  # for the next attempt; `reason` says why the last one ended
STOPPED = "stopped"  # closed, or at the end of what it was to play
FAILED = "failed"  # refused (password, path) or undecodable: tried again, but seldom; `reason` says why

STATES = (CONNECTING, LIVE, STALLED, WAITING, STOPPED, FAILED)


@dataclass(frozen=True, slots=True)
class OutputStatus:
    """One of a camera's rings. Counts are since the camera was started.

    A frame is published, or dropped (no free slot: readers hold them all), or skipped (by ``fps``).
    """

    name: str
    format: str
    readers: int
    published: int
    dropped: int
    skipped: int


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """How a camera is. Times are Unix nanoseconds, 0: never."""

    name: str
    url: str  # without credentials
    state: str
    reason: str  # of the last trouble; "" once frames come again
    since_ns: int  # when it came into this state
    attempts: int  # to connect
    reconnects: int  # attempts that gave frames, after the first
    retry_in: float | None  # seconds to the next attempt, if it waits for one
    codec: str
    width: int
    height: int
    fps: float  # of the last seconds, as received
    key_interval: float  # seconds between the last key frames; 0: not known yet
    packets: int
    decoded: int
    errors: int  # packets that could not be decoded or muxed
    last_packet_ns: int
    cpu_s: float  # processor seconds of the camera's thread
    outputs: tuple[OutputStatus, ...]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CameraStatus:
        """What dataclasses.asdict() made, perhaps by way of JSON, perhaps by another version."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name != "outputs"}
        return cls(outputs=tuple(OutputStatus(**output) for output in values["outputs"]), **known)
