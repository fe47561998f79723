# SPDX-License-Identifier: MIT
"""What is in a recording's file: when it was taken, where its key frames are, and where frames are missing.

The file itself has all of it, so that an index that is lost is made again from the files:

- Before a key frame, every two seconds or so, a prft box says when it was taken.
- A file that was completed ends with an mfra box, by which players seek, too. A box of ours in there is the
  record. Two short reads bring it.
- One whose recorder was killed has none. Then its fragments are read, up to the last whole one. They do not
  say for which events it was made.
- One of a clock that was not set ends when it was last changed, by which an Archive tells it, once it is set.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar, NamedTuple

from valkka_async import typed
from valkka_async.camera.mp4 import boxes, edits
from valkka_async.camera.mp4.boxes import CutOff
from valkka_async.errors import DataError

GAP_NS = 2_000_000_000  # without a frame, beyond the last one's duration: a gap
CLOCK_SET_NS = 1_577_836_800_000_000_000  # 2020: a clock that says less has not been set since it began
MARK_NS = 2_000_000_000  # from one marked key frame to the next, at least
_EVENT_NS = 1_000_000_000  # from one event to the next: programs may tell of one many times
_OURS = bytes.fromhex("0f0b8e0a5c5d4b0f9a3e6d3d2f6a7c11")  # a uuid box: the record of such a file
_INIT_MAX = 1 << 20
_TAIL_MAX = 64 << 20
READING = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe would be waited for
_MOOF_MAX = 16 << 20  # a fragment is a frame: some 100 bytes are usual
_MOST = 1 << 62  # of ticks and ns: sums of two are 64 bits
_LOOK = 256  # bytes of a fragment that are looked at first
_HEADER = struct.Struct(">I4s")
_MFRO = struct.Struct(">I4sII")


class Mark(NamedTuple):
    """A key frame with which playing can begin."""

    offset: int  # in the file
    ns: int  # when it was taken, Unix
    ticks: int  # its decode time in the film


@dataclass(slots=True)
class Contents:
    """What is in a file so far. Times of day are Unix ns; ticks are units of the file's timescale, in the
    film: where the picture is `later` than its decode times."""

    init_bytes: int  # of the init segment, which begins it
    init: str  # tells init segments apart, but for `later`
    later: int
    codec: str  # as browsers call it; "": they do not
    width: int
    height: int
    timescale: int
    begin_ns: int = 0
    end_ns: int = 0  # when the last frame is over
    first: int = 0  # ticks: the first frame's decode time
    end: int = 0  # ticks: where the next one would be
    size: int = 0  # bytes up to the end of the last fragment
    marks: list[Mark] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)  # from and to, ns
    events: list[int] = field(default_factory=list)  # when what it was made for happened, ns

    @classmethod
    def of(cls, init_segment: bytes) -> Contents:
        """Of a file that begins with this. Raises ValueError."""
        try:
            codec = boxes.codec_string(init_segment)
            width, height = boxes.frame_size(init_segment)
        except ValueError:  # what another program makes
            codec, width, height = "", 0, 0
        plain, later = edits.without_picture_later(init_segment)
        digest = hashlib.sha256(plain).hexdigest()[:16]
        size = len(init_segment)
        return cls(size, digest, later, codec, width, height, boxes.timescale(init_segment), size=size)

    def marks_next(self, ns: int, key: bool) -> bool:
        """Is a frame that was taken then to be marked, with a prft box before it?"""
        return key and (not self.marks or ns - self.marks[-1].ns >= MARK_NS)

    def add(self, size: int, ns: int, decode: int, duration: int, mark: bool) -> None:
        """The next fragment, with what stands before it. `decode` and `duration` are in ticks; `mark`: as
        marks_next() said."""
        lasts = duration * 1_000_000_000 // self.timescale
        decode += self.later
        if not self.begin_ns:
            self.begin_ns, self.first = ns, decode
        elif ns - self.end_ns > GAP_NS:
            self.gaps.append((self.end_ns, ns))
        if mark:
            self.marks.append(Mark(self.size, ns, decode))
        self.end_ns = max(self.end_ns, ns + lasts)  # a clock that is set back does not take us along
        self.end = decode + duration
        self.size += size

    def happened(self, ns: int) -> None:
        """What it is made for happened then."""
        if not self.events or ns - self.events[-1] >= _EVENT_NS:
            self.events.append(ns)

    @property
    def whole_size(self) -> int:
        """Of the file, if it is completed with the next GOP: at most, more or less."""
        return self.size + 512 + 80 * (len(self.marks) + 1) + 48 * len(self.gaps) + 24 * len(self.events)

    def trailer(self) -> bytes:
        """The mfra box that completes the file."""
        entries = b"".join(
            struct.pack(">QQBBB", one.ticks - self.later, one.offset, 1, 1, 1) for one in self.marks
        )
        table = boxes.box(b"tfra", struct.pack(">IIII", 1 << 24, 1, 0, len(self.marks)), entries)
        ours = boxes.box(b"uuid", _OURS, dumps(self).encode())
        size = 8 + len(table) + len(ours) + _MFRO.size
        return boxes.box(b"mfra", table, ours, _MFRO.pack(_MFRO.size, b"mfro", 0, size))


@dataclass(frozen=True, slots=True)
class _Record:
    """Contents, as their text is checked."""

    SCHEMA: ClassVar[int] = 2

    init_bytes: int
    init: str
    later: int
    codec: str
    width: int
    height: int
    timescale: int
    begin_ns: int
    end_ns: int
    first: int
    end: int
    size: int
    marks: tuple[tuple[int, int, int], ...]
    gaps: tuple[tuple[int, int], ...]
    events: tuple[int, ...]


def dumps(contents: Contents) -> str:
    """As JSON, on a line."""
    plain = {one.name: getattr(contents, one.name) for one in fields(Contents)}
    return json.dumps({"schema": _Record.SCHEMA} | plain, separators=(",", ":"))


def loads(text: str | bytes) -> Contents:
    """Raises DataError, also for what cannot be true."""
    record = typed.loads(_Record, text)
    plain = {one.name: getattr(record, one.name) for one in fields(Contents)}
    plain |= {"marks": [Mark(*mark) for mark in record.marks], "gaps": list(record.gaps)}
    plain["events"] = list(record.events)
    contents = Contents(**plain)
    _check(contents)
    places = [0, contents.init_bytes - 1, *(mark.offset for mark in contents.marks), contents.size]
    if contents.timescale < 1 or not all(a < b for a, b in zip(places, places[1:], strict=False)):
        raise DataError("Contents: places that are not in order")
    return contents


def _check(contents: Contents) -> None:
    """Raises DataError for what neither the index nor a clip can hold: of a damaged file."""
    numbers = [one for one in (getattr(contents, each.name) for each in fields(Contents)) if type(one) is int]
    pairs = (*contents.marks, *contents.gaps)
    if not all(
        -_MOST < number < _MOST
        for number in (*numbers, *contents.events, *(n for pair in pairs for n in pair))
    ):
        raise DataError("Contents: a number that is too large")
    if not f"{contents.init}{contents.codec}".isascii():
        raise DataError("Contents: a codec that is none")


# ------------------------------------------------------------------------------------------- files


def read(path: Path) -> Contents:
    """What is in a file. Blocks; reads two short pieces of one that was completed, and else all fragments'
    heads. Raises OSError, and ValueError for one that is no recording."""
    fd = os.open(path, READING)
    try:
        status = os.fstat(fd)
        contents = _read_trailer(fd, status.st_size)
        if contents is None:
            contents = _scan(fd, status.st_mtime_ns)
            _check(contents)
        if contents.end_ns < CLOCK_SET_NS <= status.st_mtime_ns:
            _end_at(contents, status.st_mtime_ns)
        return contents
    finally:
        os.close(fd)


def end_at(path: Path, ns: int) -> None:
    """Have a file of a clock that was not set say so, unless it does. Raises OSError."""
    if os.stat(path).st_mtime_ns < CLOCK_SET_NS:
        os.utime(path, ns=(ns, ns))
        if os.stat(path).st_mtime_ns < CLOCK_SET_NS:
            raise OSError(errno.ENOTSUP, "its file system keeps no times", str(path))


def is_begun(path: Path) -> bool:
    """Has a recorder begun this file, of which read() makes nothing? Then it has the head of fragmented MP4
    as FFmpeg writes it, or a part of that. Blocks. Raises OSError."""
    fd = os.open(path, READING)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return False
        data = os.pread(fd, _INIT_MAX, 0)
    finally:
        os.close(fd)
    if data[4:12] != b"ftypiso5":  # which films that are not in fragments do not have
        return False
    (at,) = struct.unpack_from(">I", data)
    if at < 12 or at + 8 > len(data):  # the rest is missing
        return bool(at >= 12)
    size, kind = _HEADER.unpack_from(data, at)
    return bool(kind == b"moov" and (at + size > len(data) or b"mvex" in data[at : at + size]))


def init_segment(fd: int) -> bytes:
    """The init segment of an open file. Raises OSError, ValueError."""
    at, kinds = 0, list[bytes]()
    while kinds[-1:] != [b"moov"]:
        head = os.pread(fd, 8, at)
        if len(head) < 8:
            raise CutOff("no moov box")
        size, kind = _HEADER.unpack(head)
        if not 8 <= size <= _INIT_MAX - at or len(kinds) > 8:
            raise CutOff("an init segment that is none")
        kinds.append(kind)
        at += size
    data = os.pread(fd, at, 0)
    if len(data) < at or kinds[0] != b"ftyp":
        raise CutOff("an init segment that is cut off")
    return data


def _read_trailer(fd: int, size: int) -> Contents | None:
    """None: it was not completed."""
    if size < _MFRO.size:
        return None
    _, kind, _, length = _MFRO.unpack(os.pread(fd, _MFRO.size, size - _MFRO.size).rjust(_MFRO.size, b"\0"))
    if kind != b"mfro" or not 8 <= length <= min(size, _TAIL_MAX):
        return None
    tail = os.pread(fd, length, size - length)
    try:
        mfra = boxes.find(tail, b"mfra")
        for one in boxes.boxes(tail, mfra.begin, mfra.end):
            if one.kind == b"uuid" and tail[one.begin : one.begin + 16] == _OURS:
                contents = loads(tail[one.begin + 16 : one.end])
                return contents if contents.size == size - length else None
    except ValueError:  # DataError and CutOff are
        pass
    return None


def _scan(fd: int, mtime_ns: int) -> Contents:
    """By all its fragments."""
    init = init_segment(fd)
    contents = Contents.of(init)
    found = list(fragments(fd, len(init), os.fstat(fd).st_size))
    if not found:
        raise CutOff("no fragment")
    said = next((one.reference for one in found if one.reference is not None), None)
    # Where nobody said when, times are right but for a shift.
    known = (found[0].about.decode, mtime_ns) if said is None else said
    for fragment in found:
        about = fragment.about
        known = fragment.reference or known
        ns = known[1] + (about.decode - known[0]) * 1_000_000_000 // contents.timescale
        mark = contents.marks_next(ns, about.key)
        contents.add(fragment.end - fragment.begin, ns, about.decode, about.duration, mark)
    if not contents.marks:
        raise CutOff("no key frame")
    if said is None:
        _end_at(contents, mtime_ns)
    return contents


def _end_at(contents: Contents, ns: int) -> None:
    shift = contents.end_ns - ns
    contents.begin_ns -= shift
    contents.end_ns -= shift
    contents.marks = [Mark(mark.offset, mark.ns - shift, mark.ticks) for mark in contents.marks]
    contents.gaps = [(a - shift, b - shift) for a, b in contents.gaps]
    contents.events = [at - shift for at in contents.events]


class Fragment(NamedTuple):
    """Where one is in a file: from its prft box, if it has one, to the end of its mdat box."""

    begin: int
    end: int
    about: boxes.About
    reference: tuple[int, int] | None  # ticks and Unix ns


def fragments(fd: int, begin: int, end: int) -> Iterator[Fragment]:
    """All whole ones in a part of a file, one after the other. Raises OSError."""
    at = start = begin
    about: boxes.About | None = None
    reference: tuple[int, int] | None = None
    while at + 8 <= end:
        data = os.pread(fd, _LOOK, at)
        if len(data) < 8:
            break
        size, kind = _HEADER.unpack_from(data)
        if size == 1 and len(data) >= 16:
            (size,) = struct.unpack_from(">Q", data, 8)
        if size < 8 or at + size > end or (kind == b"moof" and size > _MOOF_MAX):
            break
        try:
            if kind == b"moof":
                about = boxes.about(data if size <= len(data) else os.pread(fd, size, at))
            elif kind == b"prft":
                reference = boxes.read_reference_time(data)
        except CutOff:
            break
        at += size
        if kind == b"mdat" and about is not None:
            yield Fragment(start, at, about, reference)
            start, about, reference = at, None, None
        elif kind not in (b"moof", b"prft"):
            start = at
