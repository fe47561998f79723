# SPDX-License-Identifier: MIT
"""The last seconds of a ring in memory, for recordings that begin before what they are made for."""

from __future__ import annotations

import time
from collections import deque
from fractions import Fraction
from typing import NamedTuple


class Piece(NamedTuple):
    """A fragment as the ring had it."""

    data: bytearray
    key: bool
    dropped: int  # frames that were lost before it
    dts: int
    time_base: Fraction
    timestamp_ns: int
    init_segment: bytes


class Held:
    """Pieces of the last `seconds`, from a key frame on, of `max_bytes` at most: then the oldest GOPs go, and
    at last all of them."""

    def __init__(self, seconds: float, max_bytes: int) -> None:
        self.newest_ns: int | None = None  # when the newest piece was taken, Unix
        self.newest_at: float | None = None  # when it was added, monotonic
        self._ns = int(seconds * 1e9)
        self._max_bytes = max_bytes
        self._bytes = 0
        self._pieces: deque[Piece] = deque()
        self._keys: deque[int] = deque()  # when the key frames among them were taken

    def __len__(self) -> int:
        return len(self._pieces)

    def add(self, piece: Piece) -> None:
        """Hold this one, too. What came before lost frames is of no use for what comes after."""
        if piece.dropped:
            self.clear()
        if not piece.key and not self._pieces:
            return
        self.newest_ns, self.newest_at = piece.timestamp_ns, time.monotonic()
        self._pieces.append(piece)
        self._bytes += len(piece.data)
        if piece.key:
            self._keys.append(piece.timestamp_ns)
        while len(self._keys) > 1 and (
            self._keys[1] <= piece.timestamp_ns - self._ns or self._bytes > self._max_bytes
        ):
            self._drop_gop()
        if self._bytes > self._max_bytes:
            self.clear()

    def take(self, since_ns: int) -> list[Piece]:
        """All from the key frame at or before then; nothing is held any more."""
        while len(self._keys) > 1 and self._keys[1] <= since_ns:
            self._drop_gop()
        pieces = list(self._pieces)
        self.clear()
        return pieces

    def clear(self) -> None:
        """Hold nothing."""
        self._pieces.clear()
        self._keys.clear()
        self._bytes = 0

    def _drop_gop(self) -> None:
        self._keys.popleft()
        while True:
            self._bytes -= len(self._pieces.popleft().data)
            if self._pieces[0].key:
                return
