# SPDX-License-Identifier: MIT
"""Raw frames on their way to a reading host, which acknowledges each. What lies in the buffers of a slow line
delays cameras on the same line, so no more is sent than this."""

from __future__ import annotations

import struct
import threading
from collections import deque
from typing import NamedTuple

_BYTES = 1 << 20  # under way at once, or one frame, however large
_FRAMES = 16
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
    """Of one reading of a ring. From any thread."""

    def __init__(self, stream: int) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._sent: deque[_Sent] = deque()

    def admits(self, size: int, now: float) -> bool:
        """May a frame of so many bytes be sent?"""
        with self._lock:
            if self._sent and now - self._sent[-1].at > _PATIENCE:
                self._sent.clear()
            under_way = sum(one.size for one in self._sent)
            return not self._sent or (len(self._sent) < _FRAMES and under_way + size <= _BYTES)

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
        """When it opens at the latest (monotonic). None: it is open for any frame."""
        with self._lock:
            return self._sent[-1].at + _PATIENCE if self._sent else None

    def acknowledge(self, data: bytes) -> int:
        """What the reading host says. How many frames have come; 0, too, if no such one is under way."""
        if len(data) != _ACK.size:
            return 0
        stream, seq = _ACK.unpack(data)
        with self._lock:
            if stream != self._stream or all(one.seq != seq for one in self._sent):
                return 0
            before = len(self._sent)
            while self._sent and self._sent[0].seq <= seq:
                self._sent.popleft()
            return before - len(self._sent)
