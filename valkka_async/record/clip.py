# SPDX-License-Identifier: MIT
"""A range of time as one MP4, made of recordings' fragments as they are: nothing is decoded or encoded.

It is fragmented MP4, for files, <video> and Media Source Extensions alike. Its length is known before it is
read, and so is where each byte comes from: fragments keep their sizes, and what is changed in one, its times
and number, depends on nothing but the file that it is in. So any range of bytes can be made by itself, and a
clip of a day takes no more memory than one of a minute.

It begins with the key frame at or before its beginning. Pauses between files of up to a minute are
pauses in it too; longer ones are left out.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from valkka_async.camera.mp4 import boxes, edits, sound
from valkka_async.camera.mp4.boxes import Box, CutOff
from valkka_async.errors import ValkkaError
from valkka_async.record import contents as files
from valkka_async.record.contents import Contents, Mark

PAUSE_NS = 60_000_000_000  # between files, which is kept
MOST_MARKS = 500_000  # places in the files of a clip, two seconds apart or more: they are in memory
_JOINED_NS = 250_000_000  # a smaller one is none
_LEAD = 2  # s by which sound may come later than its picture
_HEADS = 64 << 10  # bytes: a moof box is much shorter
_CHUNK = 1 << 20
_HEADER = struct.Struct(">I4s")
_REFERENCES = 0xFFFF  # in a sidx box
_SPARSE = 16  # of so many places one, where there would be too many
_LARGEST = 1 << 31  # bytes that one of them stands for
_LONGEST = 1 << 32  # ticks of one: 13 hours
_FILE_BITS = 20  # of fragments' numbers are counted in a file


class ClipCause(StrEnum):
    """Why there is no clip."""

    EMPTY = "empty"  # nothing was recorded then
    CHANGED = "changed"  # the codec or the size of the picture changes within
    LONG = "long"  # more than fits into one
    GONE = "gone"  # its files have been deleted meanwhile


class ClipError(ValkkaError):
    """There is no clip. `parts`, with CHANGED: ranges of which there are clips, (from, to) in Unix ns."""

    def __init__(self, cause: ClipCause, text: str, parts: tuple[tuple[int, int], ...] = ()) -> None:
        super().__init__(text)
        self.cause = cause
        self.parts = parts


@dataclass(frozen=True, slots=True)
class _Piece:
    """Of one file: fragments, as they are there from `begin` to `end`. Times are in ticks of its film, where
    the picture is `later` than its decode times."""

    path: Path
    begin: int
    end: int
    later: int
    shift: int  # from the film's times to the clip's
    number: int  # of this piece
    marks: tuple[tuple[int, int], ...]  # offsets in the file and times, the beginning first
    until: int  # where the next frame would be


class Clip:
    """A range of time of one camera. `size` in bytes; `begin_ns` and `end_ns` are of what is really in it,
    `tag` is another one for other contents. Made by plan()."""

    def __init__(self, init: bytes, pieces: Sequence[_Piece], begin_ns: int, end_ns: int) -> None:
        self.begin_ns = begin_ns
        self.end_ns = end_ns
        self._head = _head(init, pieces)
        self._pieces = pieces
        self.size = len(self._head) + sum(piece.end - piece.begin for piece in pieces)
        about = [(str(one.path), one.begin, one.end, one.later, one.shift) for one in pieces]
        self.tag = hashlib.sha256(repr((about, init)).encode()).hexdigest()[:32]

    def read(self, begin: int = 0, end: int | None = None) -> Generator[bytes, None, None]:
        """The bytes from one place to another, in blocks of up to about a megabyte. Blocks. Raises ClipError,
        if files are gone meanwhile, and OSError."""
        end = self.size if end is None else min(end, self.size)
        if begin < len(self._head):
            yield self._head[begin : min(end, len(self._head))]
        at = len(self._head)
        for piece in self._pieces:
            size = piece.end - piece.begin
            if at < end and begin < at + size:
                yield from _cut(_read(piece, max(0, begin - at)), at, begin, end)
            at += size


def bounded(sources: Iterable[tuple[Path, Contents]]) -> Iterator[tuple[Path, Contents]]:
    """As long as there is room for them in one clip. Raises ClipError."""
    marks = 0
    for path, contents in sources:
        marks += len(contents.marks)
        if marks > MOST_MARKS:
            raise ClipError(ClipCause.LONG, "this is more than a clip can be: ask for less")
        yield path, contents


def plan(sources: Iterable[tuple[Path, Contents]], from_ns: int, to_ns: int) -> Clip:
    """The clip of a range, of files in their order. Blocks; reads little. Raises ClipError, OSError."""
    pieces: list[_Piece] = []
    init, digest = b"", ""
    begin_ns = end_ns = 0
    parts: list[list[int]] = []
    for path, contents in bounded(sources):
        if contents.end_ns <= from_ns or contents.begin_ns >= to_ns or not contents.marks:
            continue
        if any(begin <= from_ns and to_ns <= end for begin, end in contents.gaps):
            continue
        if parts and contents.init != digest:
            parts.append([max(from_ns, contents.begin_ns), 0])
        elif not parts:
            parts.append([from_ns, 0])
        parts[-1][1] = min(to_ns, contents.end_ns)
        digest = contents.init
        if len(parts) > 1:
            continue
        try:
            fd = os.open(path, files.READING)
        except OSError as e:
            if e.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):  # gone, or something else in its place
                continue
            raise
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                continue
            init = init or edits.without_picture_later(files.init_segment(fd))[0]
            found = _piece(fd, path, contents, from_ns, to_ns, len(pieces))
        except ValueError:  # damaged since it was looked at: the others are worth having
            continue
        finally:
            os.close(fd)
        if found is None:
            continue
        piece, first_ns, last_ns = found
        if pieces:
            pause = first_ns - end_ns
            kept = pause if _JOINED_NS < pause <= PAUSE_NS else 0
            place = pieces[-1].until + pieces[-1].shift + kept * contents.timescale // 1_000_000_000
            # Its sound may begin earlier than its picture, and cannot before the clip.
            piece = replace(piece, shift=max(place - piece.marks[0][1], piece.shift))
        else:
            begin_ns = first_ns
        pieces.append(piece)
        end_ns = last_ns
    if len(parts) > 1:
        raise ClipError(
            ClipCause.CHANGED,
            "the codec or the size of the picture changes in this time: ask for less, or for its parts",
            tuple((a, b) for a, b in parts),
        )
    if not pieces:
        raise ClipError(ClipCause.EMPTY, "nothing was recorded in this time")
    if sum(len(piece.marks) for piece in pieces) > _REFERENCES:  # a day and a half
        pieces = [replace(piece, marks=piece.marks[::_SPARSE]) for piece in pieces]
    return Clip(init, pieces, begin_ns, end_ns)


def _piece(
    fd: int, path: Path, contents: Contents, from_ns: int, to_ns: int, number: int
) -> tuple[_Piece, int, int] | None:
    """What is wanted of a file, as if it began the clip; and when it begins and ends. None: nothing."""
    size = min(contents.size, os.fstat(fd).st_size)
    marks = [mark for mark in contents.marks if mark.offset < size]
    if not marks:
        return None
    first = marks[0]
    if from_ns > contents.begin_ns:
        first = _key_before(fd, contents, marks, size, from_ns)
    end, until, end_ns = size, contents.end, contents.end_ns
    if to_ns < contents.end_ns or size < contents.size or contents.size == 0:
        after = [mark for mark in marks if mark.ns <= to_ns] or [first]
        last = max(after[-1], first)
        end, until, end_ns = last.offset, last.ticks, last.ns
        # Up to the next mark, which is of later: times of the film do not know of a clock that was set.
        limit = next((mark.offset for mark in marks if mark.offset > last.offset), size)
        for one in files.fragments(fd, last.offset, limit):
            ticks = one.about.decode + contents.later
            ns = last.ns + (ticks - last.ticks) * 1_000_000_000 // contents.timescale
            if ns >= to_ns and one.begin > first.offset:
                break
            lasts = one.about.duration * 1_000_000_000 // contents.timescale
            end, until, end_ns = one.end, ticks + one.about.duration, ns + lasts
        if end <= first.offset:
            return None
    inside = [(mark.offset, mark.ticks) for mark in marks if first.offset < mark.offset < end]
    sound_begin = _sound_begin(fd, contents, first, end)
    if sound_begin is None:
        return None
    shift = -min(first.ticks, sound_begin)
    places = ((first.offset, first.ticks), *inside)
    return _Piece(path, first.offset, end, contents.later, shift, number, places, until), first.ns, end_ns


def _key_before(fd: int, contents: Contents, marks: list[Mark], size: int, from_ns: int) -> Mark:
    """The key frame at or before a time. Not each is marked."""
    before = [mark for mark in marks if mark.ns <= from_ns]
    mark = before[-1] if before else marks[0]
    after = next((one.offset for one in marks if one.offset > mark.offset), size)
    best = mark
    for one in files.fragments(fd, mark.offset, after):
        ticks = one.about.decode + contents.later
        ns = mark.ns + (ticks - mark.ticks) * 1_000_000_000 // contents.timescale
        if ns > from_ns:
            break
        if one.about.key:
            best = Mark(one.begin, ns, ticks)
    return best


def _sound_begin(fd: int, contents: Contents, first: Mark, end: int) -> int | None:
    """When the sound begins that goes with a picture. It comes a moment later, perhaps in other fragments.
    The picture's own time: there is none; None: there is no fragment."""
    found = None
    for one in files.fragments(fd, first.offset, end):
        found = first.ticks
        later = one.about.decode + contents.later - first.ticks
        if later > _LEAD * contents.timescale:
            break
        data = os.pread(fd, min(one.end - one.begin, _HEADS), one.begin)
        span = sound.span(data[boxes.find(data, b"moof").begin - 8 :])
        if span is not None:
            return span[0]
        if contents.codec and "," not in contents.codec:
            break
    return found


# ------------------------------------------------------------------------------------------ bytes


def _head(init: bytes, pieces: Sequence[_Piece]) -> bytes:
    """The init segment, with how long it takes; and a table of where can be begun, for players that seek."""
    end = pieces[-1].until + pieces[-1].shift
    times = [ticks + piece.shift for piece in pieces for _, ticks in piece.marks] + [end]
    sizes = []
    for piece in pieces:
        offsets = [offset for offset, _ in piece.marks] + [piece.end]
        sizes += [b - a for a, b in zip(offsets, offsets[1:], strict=False)]
    scale = boxes.timescale(init)
    head = _with_duration(init, end, scale)
    lasting = max(later - time for time, later in zip(times, times[1:], strict=False))
    if len(sizes) > _REFERENCES or max(sizes) >= _LARGEST or lasting >= _LONGEST:
        return head
    entries = b"".join(
        struct.pack(">III", size, max(0, later - time), 0x90000000)  # each begins with a key frame
        for size, time, later in zip(sizes, times, times[1:], strict=False)
    )
    about = struct.pack(">IIIQQHH", 1 << 24, 1, scale, times[0], 0, 0, len(sizes))
    return head + boxes.box(b"sidx", about, entries)


def _with_duration(init: bytes, ticks: int, scale: int) -> bytes:
    made = []
    for one in boxes.boxes(init):
        content = init[one.begin : one.end]
        if one.kind == b"moov":
            header = boxes.find(content, b"mvhd")
            at = header.begin + (20 if content[header.begin] else 12)
            (movie_scale,) = struct.unpack_from(">I", content, at)
            lasts_ticks = min(max(0, ticks) * movie_scale // scale, (1 << 64) - 1)
            lasts = boxes.box(b"mehd", struct.pack(">IQ", 1 << 24, lasts_ticks))
            parts = []
            for inner in boxes.boxes(content):
                data = content[inner.begin : inner.end]
                parts.append(boxes.box(inner.kind, lasts + data if inner.kind == b"mvex" else data))
            content = b"".join(parts)
        made.append(boxes.box(one.kind, content))
    return b"".join(made)


def _read(piece: _Piece, skip: int) -> Iterator[tuple[int, bytearray]]:
    """Blocks of a piece, each with its place in it, with their fragments' times and numbers changed, from at
    or before `skip` on."""
    at = max(offset for offset, _ in piece.marks if offset - piece.begin <= skip)
    try:
        fd = os.open(piece.path, files.READING)
    except FileNotFoundError:
        raise ClipError(ClipCause.GONE, f"{piece.path} has been deleted") from None
    try:
        inside = 0  # bytes of a box that were not in the block before
        while at < piece.end:
            data = bytearray(os.pread(fd, min(_CHUNK, piece.end - at), at))
            if not data:
                raise ClipError(ClipCause.GONE, f"{piece.path} is shorter than it was")
            used, inside = _change(data, inside, piece)
            if used == 0:
                raise CutOff(f"{piece.path} has a box that is too large")
            yield at - piece.begin, data[:used]
            at += used
    finally:
        os.close(fd)


def _change(data: bytearray, inside: int, piece: _Piece) -> tuple[int, int]:
    """Change what is whole in a block; up to where that is, and how much of the last box is still to come."""
    at = min(inside, len(data))
    left = inside - at
    while at + 8 <= len(data):
        size, kind = _HEADER.unpack_from(data, at)
        if size < 8:
            raise CutOff(f"{piece.path} has a box that is none")
        end = at + size
        if end > len(data):
            if kind in (b"moof", b"prft"):
                break
            return len(data), end - len(data)
        if kind == b"moof" and size >= 24:
            found = Box(kind, at + 8, end)
            (number,) = struct.unpack_from(">I", data, at + 20)
            boxes.move(data, (piece.number + 1 << _FILE_BITS) + number, -piece.shift, -piece.later, found)
        elif kind == b"prft" and (time := boxes.read_reference_time(data, at)) is not None:
            boxes.set_media_time(data, at, max(0, time[0] + piece.later + piece.shift))
        at = end
    return at, left


def _cut(blocks: Iterable[tuple[int, bytearray]], base: int, begin: int, end: int) -> Iterator[bytes]:
    """What is between two places, of blocks that have theirs from `base` on."""
    for offset, block in blocks:
        at = base + offset
        if at >= end:
            return
        if at + len(block) > begin:
            yield bytes(block[max(0, begin - at) : end - at])
