# SPDX-License-Identifier: MIT
"""What a stream's parameter sets say of its frames: their size and order. Nothing is decoded for it."""

from __future__ import annotations

import io
from typing import NamedTuple

import av
from av.video.stream import VideoStream

from valkka_async.camera.mp4 import nal
from valkka_async.camera.source.packet import VideoPacket


class Said(NamedTuple):
    """What parameter sets say."""

    size: tuple[int, int]  # width, height
    reorder: int  # so many frames at most are decoded before one that is shown before them


class Geometry:
    """Looks at the packets of one stream of H.264 or H.265; of others it knows nothing."""

    def __init__(self, stream: VideoStream) -> None:
        context = stream.codec_context
        self._name = context.codec.canonical_name
        self._codec = nal.CODECS.get(self._name)
        extradata = context.extradata or b""
        self._lengths = nal.length_size(extradata, self._codec) if self._codec else 0
        self._known = nal.sets_in_extradata(extradata, self._codec) if self._codec else []
        self._sets: list[bytes] = []  # those of the latest key frame that had any

    def look(self, packet: VideoPacket) -> Said | None:
        """What is said of a key frame: the first, or one with other parameter sets than the one before it."""
        if self._codec is None:
            return None
        sets, slice_ = nal.opening(bytes(packet), self._codec, self._lengths)
        sets = sets or self._sets or self._known
        if not sets or not slice_ or sets == self._sets:
            return None
        self._sets = sets
        try:
            with av.open(io.BytesIO(nal.annexb([*sets, slice_])), format=self._name) as opening:
                context = opening.streams.video[0].codec_context
                said = Said((context.width, context.height), context.reorder_depth)
        except (av.error.FFmpegError, IndexError):  # damaged on the way
            return None
        return said if all(said.size) else None
