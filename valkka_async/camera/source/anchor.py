# SPDX-License-Identifier: MIT
"""Times over RTSP that go on when FFmpeg moves them.

With several streams FFmpeg relates their times when the first report of the sender comes (RTCP), some seconds
after the beginning: the picture's then jump by what the two began apart. Where RTP's own times are seen
(units.py) that is undone exactly. Elsewhere one step is guessed, and the others follow it.
"""

from __future__ import annotations

from valkka_async.camera.source.packet import VideoPacket

_UNCLEAR = 4  # packets among which their times are moved


class Anchor:
    """Of one connection's picture."""

    def __init__(self) -> None:
        self._reported = 0  # packets since there was a report
        self._moved = 0
        self._newest: int | None = None
        self._step = 0  # between the latest two

    def hold(self, packet: VideoPacket) -> None:
        """Give the next packet the times that go on."""
        if packet.pts is None:
            return
        # FFmpeg's parser puts the report beside the frame before, or the one behind.
        self._reported += self._reported > 0 or packet.has_sidedata("prft")
        if 0 < self._reported < _UNCLEAR and self._newest is not None:
            self._moved = self._newest + self._step - packet.pts
        if self._moved:
            packet.pts += self._moved
            packet.dts = packet.dts + self._moved if packet.dts is not None else None
        if self._newest is not None and packet.pts > self._newest:
            self._step = packet.pts - self._newest
        self._newest = packet.pts
