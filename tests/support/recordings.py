# SPDX-License-Identifier: MIT
"""Recordings without cameras: files as a Recorder writes them, by a clock of their own."""

from __future__ import annotations

import functools
import io
import os
import tempfile
from pathlib import Path
from typing import Self

from valkka_async.camera.mp4 import boxes, edits, sound
from valkka_async.camera.mp4.fragments import Fragment, Muxer, Timeline
from valkka_async.record.contents import Contents
from valkka_async.record.disk import Journal

from . import footage
from .playback import packets

GOP = 10  # frames, at 25 per second
STEP = 3600  # ticks of a frame
STEP_NS = 40_000_000


def with_sound() -> tuple[bytes, list[Fragment]]:
    """A film whose sound comes two frames later than its picture, in each second fragment from the third."""
    init, fragments = film()
    heard = []
    for number, one in enumerate(fragments):
        if number >= 3 and number % 2:
            apart = sound.bare(one.data)
            at = apart.decode_time - 2 * STEP
            pieces = [sound.Piece(at + n * STEP, STEP, b"sound") for n in range(2)]
            one = one._replace(data=apart.having(pieces).whole())
        heard.append(one)
    return sound.with_sound(init, sound.SoundFormat("aac", 16000, 1, b"\x14\x08")), heard


@functools.cache
def film(width: int = 160) -> tuple[bytes, list[Fragment]]:
    """An init segment, and a hundred fragments."""
    with tempfile.TemporaryDirectory() as folder:
        clip = footage.encode(Path(folder) / f"{width}.h264", (width, 96), 100, gop=GOP)
        muxer, fragments = None, list[Fragment]()
        for stream, packet in packets(clip):
            muxer = muxer or Muxer(stream, Timeline(0))
            fragments += muxer.mux(packet, 0)
        assert muxer is not None
        return muxer.init_segment, fragments


def head() -> bytes:
    return film()[0]


def _made(path: Path) -> io.FileIO:
    """As a Disk does: others remove folders that are empty."""
    while True:
        try:
            path.parent.mkdir(parents=True)
        except FileExistsError:
            pass
        try:
            return path.open("xb", buffering=0)
        except FileNotFoundError:
            continue


class Writer:
    """Writes one file, frame by frame. `silent`: without times of day, as another program's. `later`: seconds
    by which the picture begins later than the file. `media`: as film() gives it."""

    def __init__(
        self,
        path: Path,
        begin_ns: int,
        *,
        width: int = 160,
        journal: Journal | None = None,
        silent: bool = False,
        later: float = 0.0,
        media: tuple[bytes, list[Fragment]] | None = None,
    ) -> None:
        init, self._fragments = media or film(width)
        init, _ = edits.with_picture_later(init, round(later * 90000))
        self._file = _made(path)
        self._path = path
        self._ns, self._ticks, self._number = begin_ns, 0, 0
        self._journal = journal
        self._silent = silent
        self.contents = Contents.of(init)
        self._file.write(init)
        self.sizes: list[int] = []

    def frames(self, count: int) -> Self:
        """The next ones, 25 per second."""
        for _ in range(count):
            data = bytearray(self._fragments[self._number % len(self._fragments)].data)
            key = self._number % GOP == 0
            boxes.move(data, self._number + 1, boxes.decode_time(data) - self._ticks)
            mark = self.contents.marks_next(self._ns, key)
            if mark and not self._silent:
                data = bytearray(boxes.reference_time(self._ticks, self._ns) + data)
            self.contents.add(len(data), self._ns, self._ticks, STEP, mark)
            self._file.write(data)
            self.sizes.append(self.contents.size)
            if self._number == 0 and self._journal is not None:
                self._journal.begun(self._path, self.contents)
            self._number += 1
            self._ns += STEP_NS
            self._ticks += STEP
        return self

    def pause(self, seconds: float) -> Self:
        """Without frames; the next one is a key frame."""
        self._ns += int(seconds * 1e9)
        self._ticks += int(seconds * 90000)
        self._number += -self._number % GOP
        return self

    def set_clock(self, seconds: float) -> Self:
        """Forward, or back."""
        self._ns += int(seconds * 1e9)
        return self

    def complete(self) -> Contents:
        self._file.write(self.contents.trailer())
        return self.leave()

    def leave(self) -> Contents:
        """As a recorder that was killed."""
        self._file.close()
        os.utime(self._path)
        if self._journal is not None:
            self._journal.ended(self._path, self.contents)
        return self.contents
