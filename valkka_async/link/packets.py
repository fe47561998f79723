# SPDX-License-Identifier: MIT
"""Frames of HOST/CAMERA/packets, as FFmpeg wants them. For the importing worker alone."""

from __future__ import annotations

from typing import Any, cast

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

from valkka_async.link.receiver import META
from valkka_async.ring.frame import Frame

CODECS = {"h264": "h264", "h265": "hevc", "jpeg": "mjpeg"}  # our name of a format: FFmpeg's


def context(format: str, header: bytes) -> VideoCodecContext:
    """To decode frames of this format, in a ring with this header."""
    made = cast("VideoCodecContext", av.CodecContext.create(CODECS[format], "r"))
    if header:
        made.extradata = header
    return made


def packet(frame: Frame) -> Any:
    """A copy of it."""
    made: Any = Packet(bytes(frame.data))
    made.pts, made.dts = frame.pts, frame.dts
    made.is_keyframe = frame.key
    if frame.duration is not None:
        made.duration = frame.duration
    if frame.time_base is not None:
        made.time_base = frame.time_base
    return made


def is_after_loss(frame: Frame) -> bool:
    """Are frames missing before this one, here or on the way?"""
    link = frame.meta.get(META)
    return frame.dropped > 0 or (isinstance(link, dict) and bool(link.get("lost")))
