# SPDX-License-Identifier: MIT
"""One time axis that only rises, for all that a camera sends, however often it is connected again.

What comes in: presentation and decode times that can be missing, repeat, jump when the camera sets its
clock, and begin again with each connection. What players need instead:

- Decode times that rise from sample to sample: everywhere.
- No step between two decode times of more than twice the duration of the first sample: a browser takes a
  larger one for a discontinuity and shows nothing before the next key frame (Media Source Extensions,
  coded frame processing). So a pause in the stream goes into the presentation times at once, into the
  decode times little by little.

A sample's duration has to be said before the next one is there, unless all are held back by one frame. It
is an estimate here: as long as the longest of late, which costs nothing, since the next sample says when it
begins.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable
from typing import NamedTuple

TIMESCALE = 90000  # units per second, as in RTP

_FAR = 10 * TIMESCALE  # a larger step ahead has to be as long on our clock, or else the camera's jumped
_BACK = TIMESCALE  # a smaller step back is a matter of order and not of clocks
_SLACK = 2 * TIMESCALE  # how far the two clocks may be apart over a long step
_SHORTEST = TIMESCALE // 1000
_WINDOW = 2 * TIMESCALE  # over one to two of which the least lateness is taken


class Place(NamedTuple):
    """Where a sample is on the axis, in units of 1/TIMESCALE s. `decode` rises strictly."""

    decode: int
    shown: int
    duration: int


class _Lateness:
    """How much later samples come than they are on the axis, over all streams.

    The first sample of a stream comes late: it lies in a socket until the connection is open. Were the next
    stream put where the first sample comes, seen from the last, the axis would run ahead a little more with
    each. So this lateness is that of the first stream, and changes only as far as it does within a stream,
    whose clock may be slow or fast.
    """

    def __init__(self) -> None:
        self.value: int | None = None
        self._began: int | None = None  # when the stream did
        self._early = self._before = self._recent = self._since = 0

    def note(self, now: int, at: int) -> None:
        """A sample is at `at`, and has come now."""
        late = now - at
        if self._began is None:
            self._began = self._since = now
            self._early = self._before = self._recent = late
        if now - self._since > _WINDOW:
            self._before, self._recent, self._since = self._recent, late, now
        self._recent = min(self._recent, late)
        if now - self._began <= _WINDOW:
            self._early = min(self._early, late)

    def end(self) -> None:
        """The stream is over."""
        if self._began is None:
            return
        if self.value is None:
            self.value = self._early
        if self._since - self._began > _WINDOW:
            self.value += min(self._before, self._recent) - self._early
        self._began = None


class Timeline:
    """The axis of one output. It begins at `start`, by default at the time of CLOCK_MONOTONIC: then the
    axis of a restarted process goes on where its predecessor's would be now.

    Its streams follow each other: begin(), then place() for each sample.
    """

    def __init__(self, start: int | None = None, *, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        now = self._now()
        self._sequence = 0
        self._last = (now if start is None else start) - 1  # the latest decode time given out
        self._end = self._last + 1  # when what was given out has been shown
        self._seen = now  # when the latest sample came, by our clock
        self._offset = 0  # from the stream's times to ours
        self._newest: int | None = None  # the stream's latest decode time; None: it begins
        self._guessed = False  # the stream's first presentation time was missing
        self._step = 0  # what a frame takes, as far as is known
        self._measured = False  # it was seen, and not only said
        self._reorder = 0
        self._recent: list[int] = []  # the stream's latest times of being shown, sorted
        self._empty = True
        self._lateness = _Lateness()

    def _now(self) -> int:
        return self._clock_ns() * TIMESCALE // 1_000_000_000

    @property
    def offset(self) -> int:
        """From the stream's times to those that are given out."""
        return self._offset

    def next_sequence(self) -> int:
        """A number for the next fragment."""
        self._sequence += 1
        return self._sequence

    def begin(self, step: int, reorder: int) -> None:
        """A stream begins whose frames take `step` units, most likely, and are shown up to `reorder`
        frames after they are decoded."""
        self._step = max(_SHORTEST, step)
        self._measured = False
        self._reorder = reorder
        self._recent = []
        self._newest = None
        self._guessed = False
        self._lateness.end()

    def place(self, shown: int | None, decode: int | None) -> Place:
        """Put the stream's next sample, with its own times as far as it has any, on the axis."""
        now = self._now()
        passed, self._seen = max(0, now - self._seen), now
        if self._guessed and shown is not None:
            self._check_guess(shown)
        shown, decode = self._complete(shown, decode)

        limit = self._last + self._step * 19 // 10  # of the decode time: less than 2, for rounding
        step = 0 if self._newest is None else decode - self._newest
        if self._newest is None or step < -_BACK or step > max(_FAR, passed + _SLACK):
            # Behind everything, by the time that has passed here.
            begin = self._end if self._empty else max(self._end, self._last + max(self._step, passed))
            if self._newest is None:
                if self._lateness.value is not None:
                    begin = max(self._end, now - self._lateness.value)
                limit = begin
            else:
                self._lateness.end()
            self._offset = begin - decode
            self._newest = decode
            self._recent = [shown] if self._reorder else []
        else:
            self._newest = max(self._newest, decode)
            if step > 0:
                shorter = self._step - self._step // 16 if self._measured else _SHORTEST
                self._step = max(shorter, min(step, 2 * self._step), _SHORTEST)
                self._measured = True

        at, due = shown + self._offset, decode + self._offset
        self._lateness.note(now, due)
        due = min(due, at)
        if limit < due <= limit + _FAR:
            due = limit
        due = max(due, self._last + 1)
        if not -_FAR <= at - due <= 2 * _FAR:  # nonsense, which would not fit into a box either
            at = due + self._reorder * self._step
        self._last, self._empty = due, False
        self._end = max(self._end, max(at, due) + self._step)
        return Place(due, at, self._step)

    def _complete(self, shown: int | None, decode: int | None) -> tuple[int, int]:
        """Both times, where at least one may be missing."""
        ahead = self._reorder * self._step
        if shown is None:
            if decode is not None:
                shown = decode + ahead
            elif self._newest is not None:
                shown = self._newest + self._step + ahead
            else:  # FFmpeg gives the first frame over RTSP no time, but counts from it.
                self._guessed = True
                shown = 0
        bisect.insort(self._recent, shown)
        missing = self._reorder + 1 - len(self._recent)
        if decode is None:
            # Of the frames that can still be in the decoder, the one to be shown first is shown now.
            decode = self._recent[0] - missing * self._step
        if not missing:
            del self._recent[0]
        return shown, decode

    def _check_guess(self, shown: int) -> None:
        """The second frame has a time. Was the first one's 0?"""
        assert self._newest is not None
        self._guessed = False
        ahead = self._reorder * self._step
        if not 0 < shown <= ahead + 2 * self._step:
            first = shown - self._step
            self._offset -= first
            self._newest += first
            self._recent = [first] if self._reorder else []
