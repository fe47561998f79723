# SPDX-License-Identifier: MIT
"""What is remembered of a stream, so that a new reader sees something soon."""

from __future__ import annotations

from dataclasses import dataclass

from av.video.stream import VideoStream

from valkka_async.camera.mp4 import nal
from valkka_async.camera.source.packet import VideoPacket
from valkka_async.camera.source.sendertime import Stamp
from valkka_async.camera.source.sets import ParameterSets

_PACKETS = 1500
_BYTES = 32 << 20


@dataclass(slots=True)
class _Point:
    """One from which frames are refreshed bit by bit."""

    place: int  # among the packets
    left: int  # so many frames that others need, until all is well


class Gop:
    """The packets since the newest key frame. With intra refresh, where key frames only begin to be some,
    those since the newest one from which all is well by now."""

    def __init__(self, stream: VideoStream, sets: ParameterSets) -> None:
        self.packets: list[tuple[VideoPacket, Stamp]] | None = []  # None: they were too many
        self.refresh = 0  # packets from a key frame until all is well, or at least so many; 0: at once
        self._bytes = 0
        self._points: list[_Point] = []
        self._sets = sets
        self._nal = nal.CODECS.get(stream.codec_context.codec.canonical_name)
        self._lengths = nal.length_size(stream.codec_context.extradata or b"", self._nal) if self._nal else 0

    @property
    def leads(self) -> bool:
        """Is it enough to see the frame that comes next?"""
        return self.packets is not None and not (self._points and self._points[0].place == 0)

    @property
    def outgrown(self) -> bool:
        """Are they too many to be remembered? A decoder is kept up with them instead."""
        return self.packets is not None and (len(self.packets) > _PACKETS or self._bytes > _BYTES)

    def is_needed(self, packet: VideoPacket) -> bool:
        """May other frames need this one?"""
        return self._nal is None or nal.is_needed(bytes(packet), self._nal, self._lengths)

    def begin(self, packet: VideoPacket) -> int:
        """A key frame comes, after which all is well in so many frames; it has yet to be added."""
        count = 0
        if self._nal is not None:
            count = nal.frames_to_recover(bytes(packet), self._nal, self._lengths)
            count = min(count, self._sets.most_frames, _PACKETS)
        if not count or self.packets is None:
            self.packets, self._points, self._bytes = [], [], 0
        self.refresh = max(self.refresh, count) if count else 0
        if count:
            self._points.append(_Point(len(self.packets), count))
        return count

    def add(self, packet: VideoPacket, stamp: Stamp) -> bool:
        """The next packet. Returns whether less than before leads to it."""
        if self.packets is None or not (self.packets or packet.is_keyframe):
            return False
        self._bytes += packet.size
        self.packets.append((packet, stamp))
        return bool(self._points) and self.is_needed(packet) and self._forget(self.packets)

    def _forget(self, packets: list[tuple[VideoPacket, Stamp]]) -> bool:
        """What was before a point from which all is well with the newest packet, if there is one."""
        well = None
        for point in self._points:
            if point.place < len(packets) - 1:
                point.left -= 1
                well = point if point.left <= 0 else well
        if well is None:
            return False
        begin, self.refresh = well.place, len(packets) - 1 - well.place
        self._points = self._points[self._points.index(well) + 1 :]
        for point in self._points:
            point.place -= begin
        self._bytes -= sum(packet.size for packet, _ in packets[:begin])
        del packets[:begin]
        return True
