# SPDX-License-Identifier: MIT
"""A unit on its way between hosts <-> bytes: an access unit, a message of metadata, or a raw frame.

First its description, of a fixed size; then the frame's own metadata, as JSON, if it has any; the header (the
codec's parameter sets, at key frames alone; of a raw frame its geometry); and the unit. Times are the
sender's. (Not an attachment of Zenoh's: making one and taking it apart costs 3 us.)
"""

from __future__ import annotations

import json
import struct
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final, NamedTuple

from valkka_async.link.faults import Fault, UnitError
from valkka_async.link.geometry import RAW
from valkka_async.link.keys import Content
from valkka_async.ring.formats import FrameFormat

MAX_BYTES = 32 << 20  # of a payload: an intra-coded frame of 8K takes less, and a raw one of 4K as rgba
MAX_DATA = MAX_BYTES - (64 << 10)  # of the unit in it
_META_BYTES = 3800  # a frame's have 4096, and the reading host adds to them
METADATA: FrameFormat = "bytes"  # their format
_CODES: dict[int, FrameFormat] = {1: "h264", 2: "h265", 3: "jpeg", 4: METADATA}
_CODES |= dict(enumerate(RAW, 16))
_NUMBERS = {format: code for code, format in _CODES.items()}
_KEY, _PTS, _DTS, _DURATION, _BASE = 1, 2, 4, 8, 16
_STRUCT = struct.Struct("<BBHIIIQqqqqII")
EXPORTED: tuple[FrameFormat, ...] = ("h264", "h265", "jpeg")  # of cameras
FORMATS: Final = {Content.CAMERA: EXPORTED, Content.METADATA: (METADATA,), Content.RAW: RAW}
METADATA_BYTES = 64 << 10  # of one message of metadata, at most


class Unit(NamedTuple):
    """``stream`` counts the sender's readings of a ring, each of which begins anew; ``seq`` the frames of
    that ring, whether they are sent or not."""

    stream: int
    seq: int
    format: FrameFormat
    key: bool
    timestamp_ns: int
    pts: int | None = None
    dts: int | None = None
    duration: int | None = None
    time_base: Fraction | None = None
    skipped: int = 0  # frames before this one that were left out on purpose, so far
    meta: dict[str, Any] | None = None


# Cameras have few time bases, and a Fraction takes longer to make than all else of a unit.
_base = lru_cache(64)(Fraction)


def encode(unit: Unit, header: bytes, data: bytes | memoryview) -> bytes:
    """What is sent."""
    stream, seq, format, key, timestamp_ns, pts, dts, duration, base, skipped, meta = unit
    flags = _KEY if key else 0
    above = below = 0
    if pts is None:
        pts = 0
    else:
        flags |= _PTS
    if dts is None:
        dts = 0
    else:
        flags |= _DTS
    if duration is None:
        duration = 0
    else:
        flags |= _DURATION
    if base is not None:
        flags |= _BASE
        above, below = base.numerator, base.denominator
    more = b""
    if meta:
        more = json.dumps(meta, separators=(",", ":"), ensure_ascii=False).encode()
        if len(more) > _META_BYTES:
            more = b""
    description = _STRUCT.pack(
        _NUMBERS[format],
        flags,
        len(more),
        len(header),
        stream,
        skipped,
        seq,
        timestamp_ns,
        pts,
        dts,
        duration,
        above,
        below,
    )
    return b"".join((description, more, header, data))


def number(payload: bytes) -> tuple[int, int] | None:
    """Its stream and seq, whatever else is wrong with it. None: it has none."""
    if len(payload) < _STRUCT.size:
        return None
    fields = _STRUCT.unpack_from(payload)
    return fields[4], fields[6]


def decode(payload: bytes) -> tuple[Unit, bytes, memoryview]:
    """The unit, the stream's header, and the data. Raises UnitError."""
    try:
        fields = _STRUCT.unpack_from(payload)
    except struct.error:
        raise UnitError(Fault.DESCRIPTION, "an access unit without its description") from None
    code, flags, more, header, stream, skipped, seq, timestamp_ns, pts, dts, duration, above, below = fields
    format = _CODES.get(code)
    begin = _STRUCT.size + more + header
    if format is None or begin >= len(payload) or len(payload) > MAX_BYTES or more > _META_BYTES:
        raise UnitError(Fault.DESCRIPTION, "an access unit whose description cannot be")
    if timestamp_ns < 0 or (flags & _BASE and not (0 < above < 1 << 31 and 0 < below < 1 << 31)):
        raise UnitError(Fault.DESCRIPTION, "an access unit whose times cannot be")
    meta = None
    if more:
        try:
            meta = json.loads(payload[_STRUCT.size : _STRUCT.size + more])
        except (ValueError, RecursionError):
            raise UnitError(Fault.DESCRIPTION, "an access unit whose metadata is not JSON") from None
        if not isinstance(meta, dict):
            raise UnitError(Fault.DESCRIPTION, "an access unit whose metadata is no object")
    return (
        Unit(
            stream,
            seq,
            format,
            bool(flags & _KEY),
            timestamp_ns,
            pts if flags & _PTS else None,
            dts if flags & _DTS else None,
            duration if flags & _DURATION else None,
            _base(above, below) if flags & _BASE else None,
            skipped,
            meta,
        ),
        payload[begin - header : begin],
        memoryview(payload)[begin:],
    )
