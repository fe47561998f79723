# SPDX-License-Identifier: MIT
"""The size of a stream's frames, from the parameter sets of its key frames: nothing is decoded for it."""

from __future__ import annotations

import io

import av
from av.video.stream import VideoStream

from valkka_async.camera.mp4 import nal
from valkka_async.camera.source.source import VideoPacket

_CODECS = {"h264": nal.H264, "hevc": nal.H265}


class Geometry:
    """Looks at the packets of one stream of H.264 or H.265; of others it knows nothing."""

    def __init__(self, stream: VideoStream) -> None:
        context = stream.codec_context
        self._name = context.codec.canonical_name
        self._codec = _CODECS.get(self._name)
        self._lengths = nal.length_size(context.extradata or b"", self._codec) if self._codec else 0
        self._sets: list[bytes] = []  # those of the latest key frame that had any

    def look(self, packet: VideoPacket) -> tuple[int, int] | None:
        """(width, height), where a key frame brings other parameter sets than the one before."""
        if self._codec is None or not packet.is_keyframe:
            return None
        sets, slice_ = nal.opening(bytes(packet), self._codec, self._lengths)
        if not sets or not slice_ or sets == self._sets:
            return None
        self._sets = sets
        try:
            with av.open(io.BytesIO(nal.annexb([*sets, slice_])), format=self._name) as opening:
                context = opening.streams.video[0].codec_context
                size = context.width, context.height
        except (av.error.FFmpegError, IndexError):  # damaged on the way
            return None
        return size if all(size) else None
