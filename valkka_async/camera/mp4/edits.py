# SPDX-License-Identifier: MIT
"""Edit lists (ISO/IEC 14496-12, 8.6.6) in init segments: a film's picture begins later than its times say,
because its sound begins first. All other times of the picture follow from its first."""

from __future__ import annotations

import struct

from valkka_async.camera.mp4 import boxes
from valkka_async.camera.mp4.boxes import CutOff, find

_U32 = struct.Struct(">I")
_FULL = b"\0\0\0\0"  # version and flags
_EDITS = struct.Struct(">I IiI IiI")  # how many; and of each how long, from where, at which speed
_SPEED = 1 << 16


def with_picture_later(init_segment: bytes, ticks: int) -> tuple[bytes, int]:
    """An init segment which says that the picture begins so much later than its times do, as far as that can
    be said in it; and how far that is. Ticks are of the picture's timescale. Raises CutOff."""
    scale, movie_scale = boxes.timescale(init_segment), _movie_scale(init_segment)
    units = ticks * movie_scale // scale
    if not units:
        return init_segment, 0
    # Nothing for so long, and then all of it.
    edits = _EDITS.pack(2, units, -1, _SPEED, 0, 0, _SPEED)
    made = _with(init_segment, boxes.box(b"edts", boxes.box(b"elst", _FULL, edits)))
    return made, units * scale // movie_scale


def without_picture_later(init_segment: bytes) -> tuple[bytes, int]:
    """The one of which with_picture_later() has made this, and how much later it says; 0: it was not made
    there. Raises CutOff."""
    try:
        elst = find(init_segment, b"moov", b"trak", b"edts", b"elst")
    except CutOff:
        return init_segment, 0
    if elst.end - elst.begin != len(_FULL) + _EDITS.size:
        return init_segment, 0
    count, units, begin, *rest = _EDITS.unpack_from(init_segment, elst.begin + len(_FULL))
    if (count, begin, rest) != (2, -1, [_SPEED, 0, 0, _SPEED]):
        return init_segment, 0
    return _with(init_segment, b""), units * boxes.timescale(init_segment) // _movie_scale(init_segment)


def _movie_scale(init_segment: bytes) -> int:
    header = find(init_segment, b"moov", b"mvhd")
    (scale,) = _U32.unpack_from(init_segment, header.begin + (20 if init_segment[header.begin] else 12))
    if not scale:
        raise CutOff("a film without a timescale")
    return int(scale)


def _with(init_segment: bytes, edts: bytes) -> bytes:
    """The same with these edits of its first track, in place of others."""
    made = []
    for one in boxes.boxes(init_segment):
        data = init_segment[one.begin : one.end]
        made.append(boxes.box(one.kind, _moov(data, edts) if one.kind == b"moov" else data))
    return b"".join(made)


def _moov(data: bytes, edts: bytes) -> bytes:
    made, first = [], True
    for one in boxes.boxes(data):
        content = data[one.begin : one.end]
        if one.kind == b"trak" and first:
            first = False
            parts = [(part.kind, content[part.begin : part.end]) for part in boxes.boxes(content)]
            content = b"".join(
                boxes.box(kind, part) + (edts if kind == b"tkhd" else b"")
                for kind, part in parts
                if kind != b"edts"
            )
        made.append(boxes.box(one.kind, content))
    return b"".join(made)
