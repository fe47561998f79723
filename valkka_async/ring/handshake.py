# SPDX-License-Identifier: MIT
"""Messages between server and reader, as bytes. No I/O.

One datagram of a SEQPACKET socket is one message. Each begins with the same 20 bytes, whatever the
version, so that two builds that do not fit can still tell each other so::

    reader -> server   HELLO    policy, max_leases            STATS    (nothing)
    server -> reader   WELCOME  pid, start_seq, generation    + descriptors: lease page, bell
                       RING     generation, size              + descriptor: the ring
                       BYE      the server is being closed
                       REFUSED  why, as text                  REPORT   JSON, the answer to STATS
                       BUSY     why, as text: try again
    reader -> server   ACK      generation of the RING that was mapped
                       ROOM     a slot was given back, and the server was waiting for one

The server has only a few RINGs unacknowledged with each reader, so one that never looks at its socket
does not cost a message and a descriptor for each new ring.
"""

from __future__ import annotations

import enum
import json
import struct
from dataclasses import dataclass
from typing import Any

from valkka_async.errors import ProtocolError
from valkka_async.ring._shm import LAYOUT, VERSION

MAX_BYTES = 16384
_MAGIC = b"valkka\x00\x01"
_PREFIX = struct.Struct("<8sIII")  # magic, version, layout, kind
_HELLO = struct.Struct("<II")
_WELCOME = struct.Struct("<QQQ")
_RING = struct.Struct("<QQ")
_ACK = struct.Struct("<Q")


class Kind(enum.IntEnum):
    HELLO = 1
    STATS = 2
    WELCOME = 3
    RING = 4
    BYE = 5
    REFUSED = 6
    REPORT = 7
    ACK = 8
    ROOM = 9
    BUSY = 10


@dataclass(frozen=True, slots=True)
class Hello:
    policy: int
    max_leases: int


@dataclass(frozen=True, slots=True)
class Stats:
    pass


@dataclass(frozen=True, slots=True)
class Welcome:
    pid: int
    start_seq: int
    generation: int


@dataclass(frozen=True, slots=True)
class Ring:
    generation: int
    size: int


@dataclass(frozen=True, slots=True)
class Bye:
    pass


@dataclass(frozen=True, slots=True)
class Refused:
    reason: str


@dataclass(frozen=True, slots=True)
class Busy:
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ack:
    generation: int


@dataclass(frozen=True, slots=True)
class Room:
    pass


Message = Hello | Stats | Welcome | Ring | Bye | Refused | Busy | Report | Ack | Room


def encode(message: Message) -> bytes:
    """A message as the bytes of one datagram."""
    match message:
        case Hello(policy, max_leases):
            kind, body = Kind.HELLO, _HELLO.pack(policy, max_leases)
        case Stats():
            kind, body = Kind.STATS, b""
        case Welcome(pid, start_seq, generation):
            kind, body = Kind.WELCOME, _WELCOME.pack(pid, start_seq, generation)
        case Ring(generation, size):
            kind, body = Kind.RING, _RING.pack(generation, size)
        case Bye():
            kind, body = Kind.BYE, b""
        case Refused(reason) | Busy(reason):
            kind = Kind.REFUSED if isinstance(message, Refused) else Kind.BUSY
            body = reason.encode()[: MAX_BYTES - _PREFIX.size]
        case Report(values):
            kind, body = Kind.REPORT, json.dumps(values).encode()
        case Ack(generation):
            kind, body = Kind.ACK, _ACK.pack(generation)
        case Room():
            kind, body = Kind.ROOM, b""
    return _PREFIX.pack(_MAGIC, VERSION, LAYOUT, kind) + body


def decode(data: bytes) -> Message:
    """The message in one datagram. Raises ProtocolError for anything else, whatever the bytes are."""
    if len(data) < _PREFIX.size or not data.startswith(_MAGIC):
        raise ProtocolError("what answers there is not valkka-async")
    _, version, layout, kind = _PREFIX.unpack_from(data)
    if (version, layout) != (VERSION, LAYOUT):
        raise ProtocolError(
            f"the other side has version {version} (layout {layout}) of the frame ring, this side version "
            f"{VERSION} (layout {LAYOUT}): install the same valkka-async on both"
        )
    body = data[_PREFIX.size :]
    try:
        match kind:
            case Kind.HELLO:
                return Hello(*_HELLO.unpack(body))
            case Kind.STATS:
                return Stats()
            case Kind.WELCOME:
                return Welcome(*_WELCOME.unpack(body))
            case Kind.RING:
                return Ring(*_RING.unpack(body))
            case Kind.BYE:
                return Bye()
            case Kind.REFUSED:
                return Refused(body.decode(errors="replace"))
            case Kind.BUSY:
                return Busy(body.decode(errors="replace"))
            case Kind.REPORT:
                values = json.loads(body)
                if isinstance(values, dict):
                    return Report(values)
            case Kind.ACK:
                return Ack(*_ACK.unpack(body))
            case Kind.ROOM:
                return Room()
    except (struct.error, ValueError, RecursionError):
        pass
    raise ProtocolError(f"a message of kind {kind} and {len(body)} bytes makes no sense")
