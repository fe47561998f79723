# SPDX-License-Identifier: MIT
"""Packets to frames, each with what was known of the packet it came in."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import av
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from valkka_async.camera.source.source import VideoPacket

T = TypeVar("T")

_HELD_BACK = 64  # more packets than any decoder holds back (16 reference frames, one per thread)


class Decoder(Generic[T]):
    """Decodes one stream. `errors` counts the packets that could not be decoded.

    Each packet comes with a stamp (its arrival time, say), and each frame leaves with its packet's.
    """

    def __init__(self, stream: VideoStream, thread_count: int) -> None:
        self._context = stream.codec_context
        self._context.thread_count = thread_count
        if thread_count != 1:
            self._context.thread_type = "AUTO"
        self.errors = 0
        # Decoders give frames in display order, some packets later: (pts, stamp) of the latest ones.
        self._stamps: deque[tuple[int | None, T]] = deque(maxlen=_HELD_BACK)

    def decode(self, packet: VideoPacket, stamp: T) -> list[tuple[VideoFrame, T]]:
        """The frames that this packet brings out of the decoder, with their stamps."""
        if packet.size:
            self._stamps.append((packet.pts, stamp))
        try:
            frames = packet.decode()
        except av.error.EOFError:
            return []
        except av.error.FFmpegError:
            self.errors += 1
            return []
        return [(frame, self._stamp(frame.pts, stamp)) for frame in frames]

    def decode_alone(self, packet: VideoPacket, stamp: T) -> list[tuple[VideoFrame, T]]:
        """A key frame, now: without the frames around it the decoder would hold it back."""
        frames = self.decode(packet, stamp)
        try:
            frames += [(frame, stamp) for frame in self._context.decode(None)]
        except av.error.FFmpegError:
            pass  # nothing was held back
        self.reset()
        return frames

    def reset(self) -> None:
        """Packets were left out: the next one is a key frame."""
        self._context.flush_buffers()
        self._stamps.clear()

    def _stamp(self, pts: int | None, default: T) -> T:
        for known, stamp in reversed(self._stamps):
            if known == pts:
                return stamp
        return default
