# SPDX-License-Identifier: MIT
"""Fragments for a browser that plays sound: what is missing of the sound is silence.

A browser plays what it has of both, and waits for the one that it lacks. So the picture of a camera whose
sound pauses would stand still. In rings and recordings a pause is a pause.
"""

from __future__ import annotations

from valkka_async.camera.mp4 import boxes, sound
from valkka_async.camera.mp4.sound import Piece
from valkka_async.camera.mp4.timeline import TIMESCALE

_LATEST = TIMESCALE // 2  # how late sound may be; then there is silence in its place ...
_MOST = 3 * TIMESCALE  # ... and at most, of a camera whose sound is always late
_LONGEST = (
    60 * TIMESCALE
)  # of silence that is made at once; where more is missing, the picture is missing, too
_AHEAD = 3 * TIMESCALE  # of the picture: sound that is further is not there, its time is wrong
_HOLE = TIMESCALE // 50  # a shorter one does not make a browser wait
_AAC = 1024  # samples in a packet
# A packet of silence of AAC-LC, whatever its rate, by channels; and of Opus, of 20 ms
_SILENT_AAC = {1: bytes.fromhex("00c800802380"), 2: bytes.fromhex("210049900219002380")}
_SILENT_OPUS = {1: bytes.fromhex("f8fffe"), 2: bytes.fromhex("fcfffe")}


class SoundFill:
    """Of the fragments behind one init segment, in their order."""

    def __init__(self, init_segment: bytes) -> None:
        self._silence, self._lasts = _silence(init_segment)
        self._end: int | None = None  # of the sound so far
        self._latest = _LATEST

    def fill(self, data: bytes, shown: int) -> bytes:
        """A fragment whose picture is shown at `shown`, with all the sound that a browser needs by then.
        Raises ValueError for one that was not made here."""
        apart = sound.parts(data)
        if not self._silence:
            return data
        pieces = [] if apart is None else apart.pieces
        # Packets with a wrong time happen, and cost no more than themselves.
        pieces = [piece for piece in pieces if piece.at < shown + _AHEAD]
        if self._end is None or self._end > shown + _AHEAD:
            self._end = min([shown, *(piece.at for piece in pieces[:1])])
        made: list[Piece] = []
        for piece in pieces:
            if piece.at < self._end - _HOLE:
                # There was silence in its place. It is to have more time from now on.
                if shown - piece.at < _MOST:
                    self._latest = min(_MOST, max(self._latest, shown - piece.at + _LATEST))
                continue
            if piece.at > self._end + _HOLE:
                self._add(made, piece.at)
            piece = Piece(max(piece.at, self._end), piece.duration, piece.data)
            made.append(piece)
            self._end = piece.at + piece.duration
        if self._end < shown - self._latest:
            self._add(made, shown - self._latest // 2)
        if made == pieces:
            return data
        if apart is None:
            apart = sound.bare(data)
        return apart.having(made).whole()

    def _add(self, made: list[Piece], end: int) -> None:
        assert self._end is not None
        self._end = max(self._end, end - _LONGEST)
        while self._end < end - _HOLE:
            lasts = min(self._lasts, end - self._end)  # or what follows would be too late for its place
            made.append(Piece(self._end, lasts, self._silence))
            self._end += lasts


def _silence(init_segment: bytes) -> tuple[bytes, int]:
    """A packet of silence as this sound is coded, and how long it lasts; b"": none is known."""
    about = boxes.sound_about(init_segment)
    if about is None:
        return b"", 0
    if about.codec == "opus":
        return _SILENT_OPUS.get(about.channels, b""), TIMESCALE // 50
    if about.codec != "mp4a.40.2" or not about.rate:
        return b"", 0
    return _SILENT_AAC.get(about.channels, b""), _AAC * TIMESCALE // about.rate
