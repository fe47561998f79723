# SPDX-License-Identifier: MIT
"""Counts, rates and intervals of what comes from a camera."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque

from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from valkka_async.camera.source.packet import VideoPacket
from valkka_async.camera.source.source import codec_name
from valkka_async.rates import EventRate

_TOLD = 10.0  # s for which frames that were left out are told


class Meter:
    """Fed by the camera's thread; its attributes may be read from any."""

    def __init__(self) -> None:
        self.packets = 0
        self.decoded = 0
        self.errors = 0
        self.last_packet_ns = 0  # Unix
        self.last_packet = 0.0  # monotonic
        self.key_interval = 0.0
        self.clock_disagrees = False  # the stream's, with arrival
        self.keyless = False  # frames are wanted, and there was no key frame to begin at
        self.early = False  # the newest packet came as soon as its last bytes were here
        self.left_out = -math.inf  # monotonic: when a frame was, as what decodes was behind
        self.pause = 0.0  # s between snapshots, if that is what comes
        self.codec = ""
        self.size = (0, 0)  # width, height of the frames, as seen or as the stream says
        self._rate = EventRate()
        self._key: float | None = None
        self._intervals: deque[float] = deque(maxlen=3)

    def begin(self, stream: VideoStream) -> None:
        """A new connection: what was before says nothing of it."""
        self.codec = codec_name(stream)
        self.size = (stream.codec_context.width, stream.codec_context.height)
        self._rate.clear()
        self._intervals.clear()
        self._key = None
        self.key_interval = 0.0
        self.early = self.keyless = False

    def take(self, packet: VideoPacket, seconds: float) -> None:
        """Count a packet, whose time on the stream's clock is `seconds`."""
        self.packets += 1
        self.last_packet_ns = time.time_ns()
        self.last_packet = now = time.monotonic()
        self._rate.note(now)
        if packet.is_keyframe:
            if self._key is not None and seconds > self._key:
                self._intervals.append(seconds - self._key)
                self.key_interval = statistics.median(self._intervals)
            self._key = seconds

    def show(self, frame: VideoFrame) -> None:
        """Count a decoded frame."""
        self.decoded += 1
        self.size = (frame.width, frame.height)

    @property
    def behind(self) -> bool:
        """Are frames left out, or were they a moment ago, because they came faster than they are decoded?"""
        return time.monotonic() - self.left_out < _TOLD

    @property
    def fps(self) -> float:
        """Frames per second, of the last seconds; 0.0: not known, or nothing comes."""
        return self._rate.rate(time.monotonic()) or 0.0
