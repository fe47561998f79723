# SPDX-License-Identifier: MIT
"""Raw frames on their way to a reading host, which acknowledges each. What lies in the buffers of a slow line
delays cameras on the same line, so no more is sent than this.

A frame leaves the line free some time before its acknowledgement is here: a way there and back before. That
is when the next one may go, so a long line is used as a short one is. How long that way is, is known from
other questions. It is taken for as short as it ever was, and one more frame may be under way for each that
came as soon as the quickest ones did; when one takes longer, as it waited on the line, one goes at a time.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

_BYTES = 1 << 20  # under way at once, or one frame, however large
_FRAMES = 16
_AHEAD = 8  # of any size, on a long line, and
_AHEAD_BYTES = 32 << 20
_QUEUED = 1.25  # of the shortest time: a frame that took longer has waited
_LEAST = 1e-6  # s
_FORGETS = 1.01  # by which that time grows with each frame, as lines change
_PATIENCE = 2.0  # s after which what was not acknowledged is taken for lost, by the line or an older host
_ACK = struct.Struct("<IQ")


def acknowledgement(stream: int, seq: int) -> bytes:
    """That this frame has come, and with it all before."""
    return _ACK.pack(stream, seq)


class _Sent(NamedTuple):
    seq: int
    size: int
    at: float


class Window:
    """Of one reading of a ring. From any thread. `way`: seconds of the quickest way there and back so far; 0:
    not known."""

    def __init__(self, stream: int, way: Callable[[], float] = lambda: 0.0) -> None:
        self._stream = stream
        self._way = way
        self._line = 0.0  # s for which the last frame that has come kept the line,
        self._size = 0  # which had so many bytes; 0: none has come
        self._shortest = 0.0  # s for a byte, from here to its acknowledgement
        self._ahead = 1  # so many may be under way
        self._lock = threading.Lock()
        self._sent: deque[_Sent] = deque()

    def admits(self, size: int, now: float) -> bool:
        """May a frame of so many bytes be sent?"""
        with self._lock:
            if self._sent and now - self._sent[-1].at > _PATIENCE:
                self._sent.clear()
            if not self._sent:
                return True
            under_way = sum(one.size for one in self._sent) + size
            if len(self._sent) < _FRAMES and under_way <= _BYTES:
                return True
            free_at = self._free_at()
            return free_at is not None and free_at <= now and under_way <= _AHEAD_BYTES

    def _free_at(self) -> float | None:
        """When the line is free of all that is under way, by the last frame that has come. None: it is not
        known, or no more may be under way."""
        newest = self._sent[-1]
        if not self._size or len(self._sent) >= self._ahead:
            return None
        return newest.at + self._line * max(1.0, newest.size / self._size)

    def note(self, seq: int, size: int, now: float) -> None:
        """It is sent."""
        with self._lock:
            self._sent.append(_Sent(seq, size, now))

    def touch(self, now: float) -> None:
        """The newest has only now left this host."""
        with self._lock:
            if self._sent:
                newest = self._sent.pop()
                self._sent.append(_Sent(newest.seq, newest.size, now))

    def due(self) -> float | None:
        """When to look again whether it has opened (monotonic). None: it is open for any frame."""
        with self._lock:
            if not self._sent:
                return None
            last = self._sent[-1].at + _PATIENCE
            return min(last, self._free_at() or last)

    def acknowledge(self, data: bytes, now: float) -> int:
        """What the reading host says. How many frames have come; 0, too, if no such one is under way."""
        if len(data) != _ACK.size:
            return 0
        stream, seq = _ACK.unpack(data)
        with self._lock:
            if stream != self._stream or all(one.seq != seq for one in self._sent):
                return 0
            before = len(self._sent)
            while self._sent and self._sent[0].seq <= seq:
                came = self._sent.popleft()
            self._learn(max(_LEAST, now - came.at), came.size)
            return before - len(self._sent)

    def _learn(self, took: float, size: int) -> None:
        way, rate = self._way(), took / size
        self._line, self._size = max(took - way, took / _AHEAD), size
        self._shortest = min(rate, self._shortest * _FORGETS or rate)
        if way <= 0 or rate > self._shortest * _QUEUED:
            self._ahead = 1
        else:
            self._ahead = min(self._ahead + 1, _AHEAD)
