# SPDX-License-Identifier: MIT
"""Sound that waits for the fragment of its time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from valkka_async.camera.mp4.sound import Piece, SoundFormat
from valkka_async.camera.mp4.timeline import TIMESCALE

_WAITING = 4096  # samples at most
_AHEAD = 60 * TIMESCALE  # what is further ahead of the picture is of another axis
_OVERLAP = TIMESCALE // 200  # by which a sample may begin before the end of the one before it


class Sample(Protocol):
    """A sample of sound, in seconds on the picture's axis."""

    @property
    def at(self) -> float: ...

    @property
    def duration(self) -> float: ...

    @property
    def data(self) -> bytes: ...


class SoundQueue:
    """Of one output, over all its connections: what it has given out rises as the output's timeline does."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=_WAITING)
        self._format: SoundFormat | None = None
        self._end = 0  # of what was given out
        self._before: int | None = None  # when the last sample was, before it was moved

    def put(self, samples: Iterable[Sample], format: SoundFormat | None) -> None:
        """These come next, and are coded like this."""
        if format != self._format:
            self._samples.clear()
            self._format = format
        self._samples.extend(samples)

    def begin(self, at: int | None = None) -> None:
        """What comes next does not follow what was before. `at`: there is no picture before that."""
        self._before = None
        if at is None:
            self._samples.clear()
        else:
            self._end = max(self._end, at)

    def due(self, format: SoundFormat, end: int, offset: int) -> list[Piece]:
        """What is coded like this and begins before `end`, on a timeline that is `offset` from the picture's
        axis."""
        pieces: list[Piece] = []
        while self._samples and self._format == format:
            sample = self._samples[0]
            at = round(sample.at * TIMESCALE) + offset
            if end <= at < end + _AHEAD:
                break
            self._samples.popleft()
            if at >= end or at < self._end - _OVERLAP:
                continue
            lasts = round(sample.duration * TIMESCALE)
            # It ends where the next one begins, which is a little sooner than it says if that was so before.
            step = 0 if self._before is None else at - self._before
            self._before = at
            at = max(at, self._end)
            if lasts // 2 < step < lasts:
                lasts = step
            self._end = at + lasts
            pieces.append(Piece(at, lasts, sample.data))
        return pieces
