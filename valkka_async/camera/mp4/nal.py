# SPDX-License-Identifier: MIT
"""NAL units: what the packets of H.264 and H.265 are made of. No PyAV here.

A packet carries them behind start codes (Annex B of ITU-T H.264 and H.265: RTSP, MPEG-TS, raw streams) or,
each behind its length, as MP4 and Matroska have them (ISO/IEC 14496-15). The stream's extradata tells which.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_START = b"\x00\x00\x01"
# Of the first slice: its header, with room to spare. FFmpeg reads the size of frames no sooner than there.
_HEAD = 256


class Codec(NamedTuple):
    """Where the two standards differ. `sets` and `slices` are types of units."""

    shift: int  # of the type in a unit's first byte
    mask: int
    sets: tuple[int, ...]
    slices: range
    size_at: int  # where extradata in the manner of MP4 (avcC, hvcC) says how long the lengths are


H264 = Codec(0, 0x1F, (7, 8), range(1, 6), 4)  # SPS, PPS
H265 = Codec(1, 0x3F, (32, 33, 34), range(0, 32), 21)  # VPS, SPS, PPS


class Opening(NamedTuple):
    """How a packet begins."""

    sets: list[bytes]  # parameter sets before the first slice, without padding
    slice: bytes  # the beginning of the first slice; b"": there is none


def units(data: bytes, length_size: int) -> Iterator[tuple[int, int]]:
    """Where each unit of a packet begins and ends. `length_size` is 0 for start codes, else the number of
    bytes of a length. A unit that would reach beyond the packet's end is left out."""
    if length_size:
        at = 0
        while (begin := at + length_size) <= len(data):
            at = begin + int.from_bytes(data[at:begin], "big")
            if begin < at <= len(data):
                yield begin, at
        return
    at = data.find(_START)
    while at >= 0:
        begin = at + 3
        at = data.find(_START, begin)
        end = at if at >= 0 else len(data)
        while end > begin and not data[end - 1]:  # a zero is the next start code's, or padding
            end -= 1
        if end > begin:
            yield begin, end


def opening(data: bytes, codec: Codec, length_size: int) -> Opening:
    """A packet up to its first slice."""
    sets = []
    for begin, end in units(data, length_size):
        kind = data[begin] >> codec.shift & codec.mask
        if kind in codec.sets:
            sets.append(data[begin:end].rstrip(b"\x00"))
        elif kind in codec.slices:
            return Opening(sets, data[begin : min(end, begin + _HEAD)])
    return Opening(sets, b"")


def annexb(parts: list[bytes]) -> bytes:
    """Units behind start codes."""
    return b"".join([_START + part for part in parts])


def length_size(extradata: bytes, codec: Codec) -> int:
    """How the packets of a stream are made up, as units() wants it."""
    if len(extradata) < codec.size_at + 2 or extradata[0] != 1:  # Annex B begins with a zero
        return 0
    return (extradata[codec.size_at] & 3) + 1


def sets_in_extradata(extradata: bytes, codec: Codec) -> list[bytes]:
    """The parameter sets in a stream's extradata, in the manner of Annex B or of MP4; without padding."""
    if not length_size(extradata, codec):
        found = [extradata[begin:end] for begin, end in units(extradata, 0)]
    elif codec is H264:
        # 14496-15, 5.3.3.1.2: some SPS behind their number, some PPS behind theirs
        found, at = _counted(extradata, 6, extradata[5] & 0x1F)
        found += _counted(extradata, at + 1, extradata[at] if at < len(extradata) else 0)[0]
    else:
        # 14496-15, 8.3.3.1.2: arrays; each has a type, a number, and so many units
        found, at = [], 23
        for _ in range(extradata[22]):
            more, at = _counted(extradata, at + 3, int.from_bytes(extradata[at + 1 : at + 3], "big"))
            found += more
    return [unit for unit in found if unit and unit[0] >> codec.shift & codec.mask in codec.sets]


def _counted(data: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    """`count` units, each behind two bytes of length; and where the last of them ends."""
    found = []
    for _ in range(count):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        found.append(data[at + 2 : end].rstrip(b"\x00"))
        at = end
    return found, at
