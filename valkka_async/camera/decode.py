# SPDX-License-Identifier: MIT
"""Packets to pictures, each with the arrival time of the packet it came in."""

from __future__ import annotations

from collections import deque

import av
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .source import VideoPacket

_HELD_BACK = 64  # more packets than any decoder holds back (16 reference frames, one per thread)


class Decoder:
    """Decodes one stream. `errors` counts the packets that could not be decoded."""

    def __init__(self, stream: VideoStream, thread_count: int) -> None:
        context = stream.codec_context
        context.thread_count = thread_count
        if thread_count != 1:
            context.thread_type = "AUTO"
        self.errors = 0
        # Decoders give pictures in display order, some packets later: (pts, arrival) of the latest ones.
        self._arrivals: deque[tuple[int | None, int]] = deque(maxlen=_HELD_BACK)

    def decode(self, packet: VideoPacket, arrival_ns: int) -> list[tuple[VideoFrame, int]]:
        """The pictures that this packet brings out of the decoder, with their arrival times."""
        if packet.size:
            self._arrivals.append((packet.pts, arrival_ns))
        try:
            frames = packet.decode()
        except av.error.EOFError:
            return []
        except av.error.FFmpegError:
            self.errors += 1
            return []
        return [(frame, self._arrival(frame.pts, arrival_ns)) for frame in frames]

    def _arrival(self, pts: int | None, default: int) -> int:
        for known, arrival_ns in reversed(self._arrivals):
            if known == pts:
                return arrival_ns
        return default
