# SPDX-License-Identifier: MIT
"""Sound in fragmented MP4: its track in the init segment, its samples in the fragments, and both without it.
No PyAV here.

Its times are in the units of the picture (TIMESCALE), so that one shift moves both.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from valkka_async.camera.mp4 import boxes
from valkka_async.camera.mp4.boxes import Box, CutOff, find, sound_track
from valkka_async.camera.mp4.timeline import TIMESCALE

_U32 = struct.Struct(">I")
_FULL = bytes(4)  # version 0, no flags
_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_UNDETERMINED = 0x55C4  # the language "und", packed
_OPUS_HEAD = struct.Struct("<8sBBHIhB")  # RFC 7845, 5.1
# moof and mfhd; then the picture's traf: tfhd, tfdt, trun of one sample
_HEAD = struct.Struct(">I4s I4sII")
_PICTURE = struct.Struct(">I4s I4sII I4sIQ I4sIIIIIIi")
# the sound's: tfhd with flags for all samples, tfdt, trun, whose samples (duration, size) follow
_SOUND = struct.Struct(">I4s I4sIII I4sIQ I4sIII")
_BASE_IS_MOOF, _AND_FLAGS = 0x020000, 0x020020  # of tfhd
_TRUN_PICTURE, _TRUN_SOUND = 0x01000F01, 0x00000301
_KEY, _DELTA = 0x02000000, 0x01010000  # a sample depends on no other; or it does
_PICTURE_TRACK, _SOUND_TRACK = 1, 2

Data: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """How sound is coded. `config` is what its decoder has to know: of "aac" the AudioSpecificConfig (ISO/IEC
    14496-3), of "opus" the OpusHead (RFC 7845), b"" for the plain one."""

    codec: str
    rate: int  # samples per second
    channels: int
    config: bytes = b""

    @property
    def codec_string(self) -> str:
        """What browsers call it (RFC 6381)."""
        if self.codec == "opus":
            return "opus"
        first = int.from_bytes(self.config[:2].ljust(2, b"\0"), "big")
        kind = first >> 11
        return f"mp4a.40.{32 + (first >> 5 & 0x3F) if kind == 31 else kind}"


class Piece(NamedTuple):
    """A sample of sound, placed. Times in units of 1/TIMESCALE s."""

    at: int
    duration: int
    data: bytes


def with_sound(init_segment: bytes, sound: SoundFormat) -> bytes:
    """The init segment of a picture, with a track of sound. Raises CutOff."""
    made = []
    for box in boxes.boxes(init_segment):
        data = init_segment[box.begin : box.end]
        made.append(boxes.box(box.kind, _moov(data, sound) if box.kind == b"moov" else data))
    return b"".join(made)


def _moov(data: bytes, sound: SoundFormat) -> bytes:
    parts: list[bytes] = []
    last = 0
    for box in boxes.boxes(data):
        content = data[box.begin : box.end]
        if box.kind == b"mvhd":
            content = content[:-4] + _U32.pack(_SOUND_TRACK + 1)  # the next track's number
        elif box.kind == b"mvex":
            content += boxes.box(b"trex", _FULL, struct.pack(">5I", _SOUND_TRACK, 1, 0, 0, 0))
        parts.append(boxes.box(box.kind, content))
        if box.kind == b"trak":
            last = len(parts)
    parts.insert(last, _trak(sound))
    return b"".join(parts)


def _trak(sound: SoundFormat) -> bytes:
    """ISO/IEC 14496-12, clause 8."""
    times = struct.pack(">II", 0, 0)  # when it was made, and changed
    header = boxes.box(
        b"tkhd",
        struct.pack(">I", 3),  # enabled, in the movie
        times,
        struct.pack(">IIIQ", _SOUND_TRACK, 0, 0, 0),
        struct.pack(">hhhH", 0, 1, 0x0100, 0),  # layer, alternate group, full volume
        _MATRIX,
        struct.pack(">II", 0, 0),
    )
    about = boxes.box(b"mdhd", _FULL, times, struct.pack(">IIHH", TIMESCALE, 0, _UNDETERMINED, 0))
    handler = boxes.box(b"hdlr", _FULL, struct.pack(">I4s", 0, b"soun"), bytes(12), b"SoundHandler\0")
    here = boxes.box(b"dref", _FULL, _U32.pack(1), boxes.box(b"url ", struct.pack(">I", 1)))
    table = boxes.box(
        b"stbl",
        boxes.box(b"stsd", _FULL, _U32.pack(1), _entry(sound)),
        *(boxes.box(kind, _FULL, _U32.pack(0)) for kind in (b"stts", b"stsc")),
        boxes.box(b"stsz", _FULL, struct.pack(">II", 0, 0)),
        boxes.box(b"stco", _FULL, _U32.pack(0)),
    )
    media = boxes.box(
        b"minf", boxes.box(b"smhd", _FULL, struct.pack(">hH", 0, 0)), boxes.box(b"dinf", here), table
    )
    return boxes.box(b"trak", header, boxes.box(b"mdia", about, handler, media))


def _entry(sound: SoundFormat) -> bytes:
    rate = 48000 if sound.codec == "opus" else sound.rate
    fields = struct.pack(">6xHQHHHHI", 1, 0, sound.channels, 16, 0, 0, rate << 16 if rate < 1 << 16 else 0)
    if sound.codec == "opus":
        return boxes.box(b"Opus", fields, boxes.box(b"dOps", _dops(sound)))
    return boxes.box(b"mp4a", fields, boxes.box(b"esds", _FULL, _esds(sound.config)))


def _esds(config: bytes) -> bytes:
    """ISO/IEC 14496-1, 7.2.6.5: an ES descriptor, of AAC."""
    decoder = struct.pack(">BBBHII", 0x40, 0x15, 0, 0, 0, 0) + _descriptor(5, config)
    return _descriptor(3, struct.pack(">HB", 0, 0) + _descriptor(4, decoder) + _descriptor(6, b"\x02"))


def _descriptor(tag: int, content: bytes) -> bytes:
    length = [len(content) >> 7 * place & 0x7F | 0x80 for place in (3, 2, 1)]
    return bytes([tag, *(length if len(content) > 0x7F else ()), len(content) & 0x7F]) + content


def _dops(sound: SoundFormat) -> bytes:
    """Encapsulation of Opus in ISO base media, 4.3.2: OpusHead with its numbers the other way round."""
    skip, rate, gain, family, rest = 0, 48000, 0, 0, b""
    channels = sound.channels
    if len(sound.config) >= _OPUS_HEAD.size:
        _, _, channels, skip, rate, gain, family = _OPUS_HEAD.unpack_from(sound.config)
        rest = sound.config[_OPUS_HEAD.size :] if family else b""
    return struct.pack(">BBHIhB", 0, channels, skip, rate, gain, family) + rest


def fragment(
    sequence: int,
    decode_time: int,
    offset: int,
    duration: int,
    key: bool,
    size: int,
    pieces: Sequence[Piece],
) -> bytes:
    """As boxes.fragment(), with the pieces of sound, whose data follow the picture's. Raises CutOff for times
    that there cannot be."""
    if any(not 0 <= one.at < 1 << 63 for one in (pieces[0], pieces[-1])):
        raise CutOff("sound at no time")
    lasting = [later.at - one.at for one, later in zip(pieces, pieces[1:], strict=False)]
    if any(not 0 <= lasts < 1 << 32 for lasts in lasting):
        raise CutOff("sound that lasts too long")
    table = b"".join(
        struct.pack(">II", duration, len(one.data))
        for one, duration in zip(pieces, [*lasting, pieces[-1].duration], strict=True)
    )
    sound = _SOUND.size + len(table)
    moof = _HEAD.size + _PICTURE.size + sound
    picture = _PICTURE.pack(
        *(_PICTURE.size, b"traf"),
        *(16, b"tfhd", _BASE_IS_MOOF, _PICTURE_TRACK),
        *(20, b"tfdt", 0x01000000, decode_time),
        *(36, b"trun", _TRUN_PICTURE, 1, moof + 8, duration, size, _KEY if key else _DELTA, offset),
    )
    beside = _SOUND.pack(
        *(sound, b"traf"),
        *(20, b"tfhd", _AND_FLAGS, _SOUND_TRACK, _KEY),
        *(20, b"tfdt", 0x01000000, pieces[0].at),
        *(20 + len(table), b"trun", _TRUN_SOUND, len(pieces), moof + 8 + size),
    )
    data = size + sum(len(one.data) for one in pieces)
    head = _HEAD.pack(moof, b"moof", 16, b"mfhd", 0, sequence & 0xFFFFFFFF)
    return b"".join((head, picture, beside, table, struct.pack(">I4s", data + 8, b"mdat")))


class Parts(NamedTuple):
    """A fragment with sound, taken apart."""

    sequence: int
    decode_time: int
    offset: int
    duration: int
    key: bool
    picture: memoryview
    pieces: list[Piece]

    def having(self, pieces: list[Piece]) -> Parts:
        """The same with other sound."""
        return self._replace(pieces=pieces)

    def whole(self) -> bytes:
        """The fragment that they make."""
        about = self[:5]
        if not self.pieces:
            return b"".join((boxes.fragment(*about, len(self.picture)), self.picture))
        head = fragment(*about, len(self.picture), self.pieces)
        return b"".join((head, self.picture, *(piece.data for piece in self.pieces)))


def parts(data: Data) -> Parts | None:
    """The parts of a fragment with sound that was made here; None: it is none, or has no sound. Raises
    CutOff."""
    table = _table(data)
    if table is None:
        return None
    at, count = table
    begin = _SOUND.unpack_from(data, _HEAD.size + _PICTURE.size)[10]
    view = memoryview(data)
    sequence = _HEAD.unpack_from(data)[-1]
    fields = _PICTURE.unpack_from(data, _HEAD.size)
    decode, duration, size, flags, offset = fields[9], *fields[-4:]
    place = at + 8 * count + 8
    picture = view[place : place + size]
    place += size
    pieces = []
    for lasts, length in struct.iter_unpack(">II", view[at : at + 8 * count]):
        pieces.append(Piece(begin, lasts, bytes(view[place : place + length])))
        begin, place = begin + lasts, place + length
    if place != len(data):
        raise CutOff("sound that is cut off")
    return Parts(sequence, decode, offset, duration, flags == _KEY, picture, pieces)


def bare(data: Data) -> Parts:
    """The parts of a fragment without sound. Raises CutOff if it was not made here."""
    at = _HEAD.size + _PICTURE.size
    if len(data) < at + 8:
        raise CutOff("a fragment that is too short")
    head, fields = _HEAD.unpack_from(data), _PICTURE.unpack_from(data, _HEAD.size)
    decode, duration, size, flags, offset = fields[9], *fields[-4:]
    if head[0] != at or fields[11] != b"trun" or len(data) != at + 8 + size:
        raise CutOff("a fragment that was not made here")
    return Parts(head[-1], decode, offset, duration, flags == _KEY, memoryview(data)[at + 8 :], [])


def _table(data: Data) -> tuple[int, int] | None:
    """Where the durations and sizes of a fragment's sound are, and how many."""
    at = _HEAD.size + _PICTURE.size
    if len(data) < at + _SOUND.size:
        return None
    fields = _SOUND.unpack_from(data, at)
    picture = _PICTURE.unpack_from(data, _HEAD.size)
    if (picture[0], picture[1], picture[11]) != (_PICTURE.size, b"traf", b"trun") or fields[1] != b"traf":
        return None
    count = fields[14]
    if (fields[4:6], fields[12]) != ((_AND_FLAGS, _SOUND_TRACK), b"trun") or count < 1:
        return None
    end = at + _SOUND.size + 8 * count
    if _HEAD.unpack_from(data)[0] != end or len(data) < end + 8:
        raise CutOff("a fragment whose sound is not as long as it says")
    return at + _SOUND.size, count


def span(data: Data) -> tuple[int, int] | None:
    """When the sound of a fragment made here begins and ends; None: it has none. Raises CutOff."""
    table = _table(data)
    if table is None:
        return None
    begin = _SOUND.unpack_from(data, _HEAD.size + _PICTURE.size)[10]
    durations = struct.unpack_from(f">{2 * table[1]}I", data, table[0])[::2]
    return begin, begin + sum(durations)


def fragment_without(data: Data) -> bytes:
    """A fragment made here, without its sound. Raises CutOff."""
    apart = parts(data)
    return bytes(data) if apart is None else apart.having([]).whole()


def init_without(init_segment: bytes) -> bytes:
    """An init segment without its sound. Raises CutOff."""
    track = sound_track(init_segment)
    if track is None:
        return init_segment
    made = []
    for box in boxes.boxes(init_segment):
        data = init_segment[box.begin : box.end]
        if box.kind == b"moov":
            data = _only_picture(init_segment, box, track)
        made.append(boxes.box(box.kind, data))
    return b"".join(made)


def _only_picture(data: bytes, moov: Box, track: Box) -> bytes:
    header = find(data[track.begin : track.end], b"tkhd")
    number = data[track.begin + header.begin + 12 : track.begin + header.begin + 16]
    parts = []
    for box in boxes.boxes(data, moov.begin, moov.end):
        content = data[box.begin : box.end]
        if box.begin == track.begin:
            continue
        if box.kind == b"mvex":
            defaults = [(one, content[one.begin : one.end]) for one in boxes.boxes(content)]
            content = b"".join(
                boxes.box(one.kind, inner)
                for one, inner in defaults
                if one.kind != b"trex" or inner[4:8] != number
            )
        parts.append(boxes.box(box.kind, content))
    return b"".join(parts)
