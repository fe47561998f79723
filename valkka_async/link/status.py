# SPDX-License-Identifier: MIT
"""How a link is, as data that any process can read. No Zenoh here.

Programs decide by `state` and `cause`; `reason` is a text for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from valkka_async.link.faults import Fault


class PeerState(StrEnum):
    """How another host is, seen from here."""

    CONNECTING = "connecting"  # it was not there yet
    LIVE = "live"
    AWAY = "away"  # it was there: the cable, the machine, or its link


class PeerCause(StrEnum):
    """Why it is not live, or what is wrong although it is."""

    UNREACHABLE = "unreachable"  # its endpoint refuses, or nothing answers there
    FOREIGN = "foreign"  # something else answers there, or it refuses our certificate
    SILENT = "silent"  # it has said nothing for longer than the lease
    VERSION = "version"  # it speaks another version
    TWICE = "twice"  # two hosts have this name


class Level(IntEnum):
    """What is sent to a host whose limit does not reach for all."""

    ALL = 0
    KEYS = 1  # key frames alone
    SMALLER = 2  # the sub stream of cameras that have one, and key frames of the others, as far as they fit


if TYPE_CHECKING:
    AnyPeerState: TypeAlias = Literal[PeerState.CONNECTING, PeerState.LIVE, PeerState.AWAY]
else:
    AnyPeerState = PeerState


@dataclass(frozen=True, slots=True)
class ImportStatus:
    """A camera of another host, or a ring of metadata or raw frames. Counts since its ring was made here."""

    name: str  # HOST/CAMERA, to connect to
    codec: str  # h264, h265, jpeg, or the format of a ring that is no camera's; "": not known yet
    wanted: bool  # somebody reads it here
    received: int
    bytes: int
    lost: int  # on the way, or here: its ring did not take them
    left_out: int  # after a loss, up to the next key frame
    limited: int  # left out by its host for max_rate, raw ones for a slow line
    refused: int  # were no units
    restarts: int
    failed: int  # that came whole, and could not be decoded or muxed here
    fault: Fault | None  # of the newest one that was refused, failed, or was lost here
    reason: str  # why it has no ring; ""


@dataclass(frozen=True, slots=True)
class ExportStatus:
    """A camera of ours, or a ring of metadata or raw frames, that another host reads now."""

    name: str
    ring: str  # that it is read from: that of a smaller stream, when max_rate does not reach
    sent: int  # units
    bytes: int
    limited: int  # left out for max_rate, raw ones for a slow line, or too large for a link
    raw: bool
    acknowledged: int  # raw frames that it says it has got
    rate: float | None  # bytes per second of raw frames, with those that are left out; None: not known


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """Another host. Times are Unix nanoseconds."""

    name: str
    connect: tuple[str, ...]  # where this host looks for it
    state: AnyPeerState
    cause: PeerCause | None
    reason: str
    since_ns: int
    epoch: str  # of the life that is read, a number at random; "": none was there yet
    clock_offset_ns: int | None  # what its clock shows less what ours does; None: not known
    clock_error_ns: int | None  # this is right within so much
    level: int  # a Level: what is sent to it, by its max_rate
    decoder_pid: int  # of the process that decodes its cameras; 0: there is none now
    decoder_restarts: int
    imports: tuple[ImportStatus, ...]
    exports: tuple[ExportStatus, ...]


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """This host's link."""

    SCHEMA: ClassVar[int] = 4

    host: str
    pid: int
    safe: bool  # TLS of both sides; else this machine alone
    files: tuple[str, ...]  # its certificate, the key and the authority's certificate; () if it is not safe
    reason: str  # another host has our name; ""
    offered: tuple[str, ...]  # cameras and rings that some host may read,
    raw: tuple[str, ...]  # and which of them are raw frames
    peers: tuple[PeerStatus, ...]
