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
_FARTHEST = 65535  # frames to recover (D.2.8; in H.265, D.3.8, signed)


class Codec(NamedTuple):
    """Where the two standards differ. `sets`, `slices`, `keys`, `sei` and `after` are types of units."""

    shift: int  # of the type in a unit's first byte
    mask: int
    sets: tuple[int, ...]
    sps: int  # the one of them that says how frames are made
    slices: range
    size_at: int  # where extradata in the manner of MP4 (avcC, hvcC) says how long the lengths are
    header: int  # bytes before what a unit says
    keys: range  # slices of frames at which decoding can begin
    sei: int  # what is said of the slices that follow
    after: tuple[int, ...]  # what ends an access unit, where others begin the next one


H264 = Codec(0, 0x1F, (7, 8), 7, range(1, 6), 4, 1, range(5, 6), 6, (10, 11, 12))  # SPS, PPS; IDR
# VPS, SPS, PPS; IRAP
H265 = Codec(1, 0x3F, (32, 33, 34), 33, range(0, 32), 21, 2, range(16, 24), 39, (36, 37, 38, 40))


CODECS = {"h264": H264, "hevc": H265}  # by FFmpeg's names


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


def begins_picture(data: bytes, begin: int, codec: Codec) -> bool:
    """Is this slice the first one of a picture: a frame, or one of its fields?"""
    kind = data[begin] >> codec.shift & codec.mask
    if kind not in codec.slices or (codec is H264 and kind in (3, 4)):  # parts B and C of a slice
        return False
    at = begin + codec.header
    # first_mb_in_slice is 0, first_slice_segment_in_pic_flag is 1: the first bit in either case
    return at < len(data) and data[at] > 127


def is_recovery_point(unit: bytes, codec: Codec) -> bool:
    """Is this SEI the message that all is well so many frames from here? FFmpeg calls what follows a key
    frame, in H.264."""
    return _recovery(unit, codec) is not None


def frames_to_recover(data: bytes, codec: Codec, length_size: int) -> int:
    """After how many frames all is well, if one begins to decode with this packet, which is a key frame; 0:
    at once. An encoder that refreshes its frames bit by bit (intra refresh) has no others."""
    count = 0
    for begin, end in units(data, length_size):
        kind = data[begin] >> codec.shift & codec.mask
        if kind in codec.keys:
            return 0
        if kind == codec.sei and (said := _recovery(data[begin:end], codec)) is not None:
            count = said
    return count


def is_needed(data: bytes, codec: Codec, length_size: int) -> bool:
    """May others need this packet's frame? In H.264, where frames are counted by these alone (frame_num); in
    H.265 they are counted as they are shown."""
    slice_ = opening(data, codec, length_size).slice
    return codec is not H264 or (bool(slice_) and bool(slice_[0] & 0x60))


def _recovery(unit: bytes, codec: Codec) -> int | None:
    """The count of frames in an SEI's recovery point. None: it has none."""
    data = unit.replace(b"\0\0\3", b"\0\0")
    at = codec.header
    while at + 2 < len(data):  # the last byte ends it
        values = []
        for _ in range(2):  # the message's type and size, in as many bytes as they need
            value = 0
            while at < len(data) and data[at] == 255:
                value += 255
                at += 1
            values.append(value + (data[at] if at < len(data) else 0))
            at += 1
        if values[0] == 6:
            number = _exp_golomb(data[at : at + values[1]])
            if number > _FARTHEST:  # FFmpeg does not believe it either
                return None
            return number if codec is H264 else max(0, (number + 1) // 2 if number % 2 else -number // 2)
        at += values[1]
    return None


def _exp_golomb(data: bytes) -> int:
    """The number at the beginning, ue(v) of 9.1 in H.264; se(v) of H.265 is made of it."""
    bits = "".join(f"{byte:08b}" for byte in data[:8])
    zeros = len(bits) - len(bits.lstrip("0"))
    return int(bits[zeros : 2 * zeros + 1] or "1", 2) - 1


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
