# SPDX-License-Identifier: MIT
"""The boxes of fragmented MP4 (ISO/IEC 14496-12): made, found, changed in place. No PyAV here.

A fragment is a moof box (when and how to show the samples) and an mdat box (the samples). Ours have one
sample each and look alike, so that one struct has room for all that comes before the sample.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

CARRIED = frozenset(("h264", "hevc", "av1", "vp9", "mpeg4", "mjpeg"))  # codecs, as FFmpeg calls them

_HEADER = struct.Struct(">I4s")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")

_MOOF = struct.Struct(
    ">I4s"  # moof
    "I4sII"  # mfhd: sequence number
    "I4s"  # traf
    "I4sII"  # tfhd: track
    "I4sIQ"  # tfdt: decode time, 64 bits
    "I4sIIIIIIi"  # trun: samples, offset of the data, and for each sample duration, size, flags, offset
    "I4s"  # mdat, whose contents follow
)
_MOOF_BYTES = _MOOF.size - 8
_BASE_IS_MOOF = 0x020000  # tfhd: offsets count from the moof box, which may lie anywhere
# trun, version 1 (signed composition offsets): offset, and duration, size, flags, offset of each sample
_TRUN = 0x01000F01
_TRUN_AT = 68  # where that box is in a fragment made here, with sound or without
_PRFT = struct.Struct(">I4sIIQQ")  # prft: track, time as NTP has it, time of the media
_NTP = 2_208_988_800  # s from 1900 to 1970
# The sample depends on no other; or it does, and cannot be started with.
_KEY, _DELTA = 0x02000000, 0x01010000


class Box(NamedTuple):
    """Where a box's contents are."""

    kind: bytes
    begin: int
    end: int


class CutOff(ValueError):
    """A box is not there, or not as long as it says."""


def box(kind: bytes, *content: bytes) -> bytes:
    """A box with this content."""
    data = b"".join(content)
    return _HEADER.pack(len(data) + 8, kind) + data


def fragment(
    sequence: int, decode_time: int, offset: int, duration: int, key: bool, size: int, *, track: int = 1
) -> bytes:
    """All of a fragment with one sample of `size` bytes, but for these bytes, which follow.

    Times are in units of the track's timescale; the sample is shown at decode_time + offset. `sequence`
    is a number that rises from fragment to fragment.
    """
    return _MOOF.pack(
        *(_MOOF_BYTES, b"moof"),
        *(16, b"mfhd", 0, sequence & 0xFFFFFFFF),
        *(80, b"traf"),
        *(16, b"tfhd", _BASE_IS_MOOF, track),
        *(20, b"tfdt", 0x01000000, decode_time),
        *(36, b"trun", _TRUN, 1, _MOOF.size, duration, size, _KEY if key else _DELTA, offset),
        *(size + 8, b"mdat"),
    )


def boxes(data: bytes | bytearray, begin: int = 0, end: int | None = None) -> Iterator[Box]:
    """The boxes in a part of `data`, one after the other. Raises CutOff when the last one is incomplete."""
    end = len(data) if end is None else end
    while begin < end:
        if end - begin < 8:
            raise CutOff("the last box is cut off")
        size, kind = _HEADER.unpack_from(data, begin)
        head = 8
        if size == 1 and end - begin >= 16:
            (size,) = _U64.unpack_from(data, begin + 8)
            head = 16
        elif size == 0:  # to the end
            size = end - begin
        if not head <= size <= end - begin:
            raise CutOff(f"a box of {size} bytes in {end - begin}")
        yield Box(kind, begin + head, begin + size)
        begin += size


def find(data: bytes | bytearray, *path: bytes) -> Box:
    """The first box at a path such as b"moov", b"trak", b"mdia". Raises CutOff if there is none."""
    begin, end = 0, len(data)
    for kind in path:
        for box in boxes(data, begin, end):
            if box.kind == kind:
                begin, end = box.begin, box.end
                break
        else:
            raise CutOff(f"no {kind.decode('latin-1')} box")
    return Box(path[-1], begin, end)


def sound_track(init_segment: bytes) -> Box | None:
    """The track of sound; None: there is none. Raises CutOff."""
    moov = find(init_segment, b"moov")
    for box in boxes(init_segment, moov.begin, moov.end):
        if box.kind != b"trak":
            continue
        for media in boxes(init_segment, box.begin, box.end):
            inner = boxes(init_segment, media.begin, media.end) if media.kind == b"mdia" else ()
            for one in inner:
                if one.kind == b"hdlr" and init_segment[one.begin + 8 : one.begin + 12] == b"soun":
                    return box
    return None


def sample_entry(init_segment: bytes) -> Box:
    """The first sample entry (avc1, hvc1 ...) of the first track. Raises CutOff."""
    return _entry(init_segment, find(init_segment, b"moov", b"trak"))


def _entry(data: bytes, track: Box) -> Box:
    inside = data[track.begin : track.end]
    table = find(inside, b"mdia", b"minf", b"stbl", b"stsd")
    for entry in boxes(inside, table.begin + 8, table.end):  # behind version, flags and the number of them
        return Box(entry.kind, track.begin + entry.begin, track.begin + entry.end)
    raise CutOff("an empty stsd box")


def codec_string(init_segment: bytes) -> str:
    """What browsers call the codecs of fragmented MP4 (RFC 6381): "avc1.64001f", "hvc1.1.6.L93.B0"; with
    sound, "avc1.64001f,mp4a.40.2" or "avc1.64001f,opus".

    ``init_segment`` is ftyp and moov, which a client or reader of an output "fmp4" has in ``header``
    once a frame has come. Raises ValueError if it is cut off, or of a codec that is none of an output "fmp4".
    """
    picture, sound = _picture_string(init_segment), sound_about(init_segment)
    return picture if sound is None else f"{picture},{sound.codec}"


class SoundAbout(NamedTuple):
    """A track of sound."""

    codec: str  # as browsers call it
    rate: int  # samples per second
    channels: int


def sound_about(init_segment: bytes) -> SoundAbout | None:
    """What there is of sound; None: nothing. Raises ValueError as codec_string()."""
    track = sound_track(init_segment)
    if track is None:
        return None
    entry = _entry(init_segment, track)
    if entry.end < entry.begin + 28:
        raise CutOff("a sample entry that is too short")
    (channels,), (rate,) = (
        _U16.unpack_from(init_segment, entry.begin + 16),
        _U16.unpack_from(init_segment, entry.begin + 24),
    )
    return SoundAbout(_sound_string(init_segment, entry), int(rate), int(channels))


def _sound_string(init_segment: bytes, entry: Box) -> str:
    if entry.kind == b"Opus":
        return "opus"
    begin = entry.begin + 28  # behind the fields that all audio sample entries have: 14496-12, 12.2.3
    for box in boxes(init_segment, begin, entry.end):
        config = _audio_config(init_segment[box.begin : box.end]) if box.kind == b"esds" else b""
        if len(config) >= 2:
            first = int.from_bytes(config[:2], "big")
            kind = first >> 11
            return f"mp4a.40.{32 + (first >> 5 & 0x3F) if kind == 31 else kind}"
    raise ValueError(f"no codec string is known for {entry.kind!r}")


def _audio_config(esds: bytes) -> bytes:
    """The DecoderSpecificInfo of an ES descriptor (14496-1, 7.2.6)."""
    at, end = 4, len(esds)
    while at + 2 <= end:
        tag, at = esds[at], at + 1
        size = 0
        while at < end:  # seven bits in each byte
            size, more, at = size << 7 | esds[at] & 0x7F, esds[at] & 0x80, at + 1
            if not more:
                break
        if tag == 3:
            at += 3
        elif tag == 4:
            at += 13
        elif tag == 5:
            return esds[at : at + size]
        else:
            at += size
    return b""


def _picture_string(init_segment: bytes) -> str:
    entry = sample_entry(init_segment)
    begin = entry.begin + 78  # behind the fields that all visual sample entries have: 14496-12, 12.1.3
    for box in boxes(init_segment, begin, entry.end):
        data = init_segment[box.begin : box.end]
        if box.kind == b"avcC" and len(data) >= 4:
            return f"{entry.kind.decode('latin-1')}.{data[1:4].hex()}"
        if box.kind == b"hvcC" and len(data) >= 13:
            return f"{entry.kind.decode('latin-1')}.{_hevc_profile(data)}"
        if box.kind == b"av1C" and len(data) >= 3 and data[0] == 0x81:  # marker and version
            depth = 10 if data[2] & 0x40 else 8
            return f"av01.{data[1] >> 5}.{data[1] & 0x1F:02}{'HM'[not data[2] & 0x80]}.{depth:02}"
        if box.kind == b"vpcC" and len(data) >= 7:
            return f"vp09.{data[4]:02}.{data[5]:02}.{data[6] >> 4:02}"
        if box.kind == b"esds":  # of MPEG-4 and Motion JPEG, which browsers do not play
            return "mp4v"
    raise ValueError(f"no codec string is known for {entry.kind!r}")


def _hevc_profile(hvcc: bytes) -> str:
    """ISO/IEC 14496-15, annex E.3: profile, compatibility, tier and level, constraints."""
    space, tier, profile = hvcc[1] >> 6, hvcc[1] >> 5 & 1, hvcc[1] & 0x1F
    (compatible,) = _U32.unpack_from(hvcc, 2)
    reverse = int(f"{compatible:032b}"[::-1], 2)
    parts = [f"{('', 'A', 'B', 'C')[space]}{profile}", f"{reverse:X}", f"{'LH'[tier]}{hvcc[12]}"]
    parts += [f"{byte:X}" for byte in hvcc[6:12].rstrip(b"\x00")]
    return ".".join(parts)


def frame_size(init_segment: bytes) -> tuple[int, int]:
    """(width, height) in pixels, from the sample entry. Raises CutOff."""
    entry = sample_entry(init_segment)
    if entry.end - entry.begin < 78:
        raise CutOff("a sample entry that is too short")
    (width,), (height,) = (
        _U16.unpack_from(init_segment, entry.begin + 24),
        _U16.unpack_from(init_segment, entry.begin + 26),
    )
    return width, height


def timescale(init_segment: bytes) -> int:
    """Units per second of the first track's times. Raises CutOff."""
    box = find(init_segment, b"moov", b"trak", b"mdia", b"mdhd")
    at = box.begin + (20 if init_segment[box.begin] else 12)  # 64-bit times in version 1
    if box.end < at + 4:
        raise CutOff("an mdhd box that is too short")
    (scale,) = _U32.unpack_from(init_segment, at)
    if not scale:
        raise CutOff("a track without a timescale")
    return int(scale)


def decode_time(data: bytes | bytearray) -> int:
    """When the first sample of a fragment is to be decoded. Raises CutOff."""
    box = find(data, b"moof", b"traf", b"tfdt")
    return _read_time(data, box)


class About(NamedTuple):
    """What a fragment says of its first sample. Times are in the track's units."""

    sequence: int
    decode: int
    duration: int  # 0: it does not say
    key: bool  # True as well where it does not say


def about(data: bytes | bytearray) -> About:
    """What a fragment, of which the moof box is there, says. Raises CutOff."""
    made_here = data[_TRUN_AT + 4 : _TRUN_AT + 12] == b"trun\x01\0\x0f\1"
    if made_here and len(data) >= _MOOF.size:  # made here: quickly
        fields = _MOOF.unpack_from(data)
        return About(fields[5], fields[15], fields[21], fields[23] == _KEY)
    (sequence,) = _U32.unpack_from(data, find(data, b"moof", b"mfhd").begin + 4)
    return About(int(sequence), decode_time(data), 0, True)


def reference_time(media_time: int, unix_ns: int) -> bytes:
    """A box (ISO/IEC 14496-12, 8.16.5) to stand before a fragment: when its first sample was taken."""
    seconds, rest = divmod(unix_ns, 1_000_000_000)
    ntp = ((seconds + _NTP) & 0xFFFFFFFF) << 32 | (rest << 32) // 1_000_000_000
    return _PRFT.pack(_PRFT.size, b"prft", 0x01000000, 1, ntp, media_time)


def read_reference_time(data: bytes | bytearray, at: int = 0) -> tuple[int, int] | None:
    """(media time, Unix ns) of such a box, with its header at `at`; None: it is another. Times are those of
    1968 to 2104. Raises CutOff."""
    if len(data) < at + _PRFT.size:
        raise CutOff("a prft box that is too short")
    size, kind, flags, _, ntp, media_time = _PRFT.unpack_from(data, at)
    if (size, kind, flags >> 24) != (_PRFT.size, b"prft", 1):
        return None
    seconds = (ntp >> 32) + (1 << 32 if ntp >> 63 == 0 else 0) - _NTP
    return int(media_time), seconds * 1_000_000_000 + ((ntp & 0xFFFFFFFF) * 1_000_000_000 + (1 << 31) >> 32)


def set_media_time(data: bytearray, at: int, media_time: int) -> None:
    """Change the time of a prft box, with its header at `at`. In place."""
    _U64.pack_into(data, at + 24, media_time)


def move(data: bytearray, sequence: int, base: int, later: int = 0, moof: Box | None = None) -> None:
    """Give a fragment a sequence number, and its decode times a new zero: `base` becomes 0, for the picture
    `base` + `later`. In place. `moof`: where in `data` it is; by default the first.

    Raises CutOff, and ValueError for a time before that.
    """
    moof = find(data, b"moof") if moof is None else moof
    base += later
    for box in boxes(data, moof.begin, moof.end):
        if box.kind == b"mfhd":
            _U32.pack_into(data, box.begin + 4, sequence & 0xFFFFFFFF)
        elif box.kind == b"traf":
            for inner in boxes(data, box.begin, box.end):
                if inner.kind == b"tfdt":
                    time = _read_time(data, inner) - base
                    if time < 0:
                        raise ValueError("a fragment from before the beginning")
                    (_U64 if data[inner.begin] else _U32).pack_into(data, inner.begin + 4, time)
            base, later = base - later, 0  # behind the picture's there is the sound's


def _read_time(data: bytes | bytearray, tfdt: Box) -> int:
    wide = data[tfdt.begin] if tfdt.end > tfdt.begin else 0
    if tfdt.end - tfdt.begin < (12 if wide else 8):
        raise CutOff("a tfdt box that is too short")
    (time,) = (_U64 if wide else _U32).unpack_from(data, tfdt.begin + 4)
    return int(time)
