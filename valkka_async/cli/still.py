# SPDX-License-Identifier: MIT
"""Frames of a ring, whatever their format, as one picture file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from valkka_async.camera.pixels.jpeg import JpegEncoder
from valkka_async.errors import CameraFormatError

# Our name of a pixel format: FFmpeg's.
PIXELS = {
    "rgb24": "rgb24", "bgr24": "bgr24", "rgba": "rgba", "bgra": "bgra", "gray8": "gray", "nv12": "nv12",
    "yuv420p": "yuv420p",
}  # fmt: skip
_PACKETS = {"h264": "h264", "h265": "hevc"}
# Best first: where there is a choice, what costs least and has the whole picture.
FORMATS = ("jpeg", *PIXELS, "fmp4", *_PACKETS, "packets")
_QUALITY = 90
_TICK = Fraction(1, 25)
_PNG = {"gray": "gray", "rgba": "rgba", "bgra": "rgba"}  # the others become rgb24


def from_pixels(array: NDArray[np.uint8], format: str) -> VideoFrame:
    """A picture of pixels; the array is copied. The ring does not tell the colours of nv12 and yuv420p:
    they are taken for BT.601 in limited range, as OpenCV takes them."""
    return VideoFrame.from_ndarray(np.ascontiguousarray(array), format=PIXELS[format])


def is_stream(format: str) -> bool:
    """Do its frames make pictures only together, from a key frame on?"""
    return format == "fmp4" or format in _PACKETS


def decode(format: str, header: bytes, frames: Sequence[bytes]) -> VideoFrame:
    """The newest picture of a key frame and those after it; `header` is the ring's. A JPEG is a key frame.

    Raises CameraFormatError.
    """
    try:
        if format == "fmp4":
            with av.open(io.BytesIO(header + b"".join(frames)), "r", format="mp4") as source:
                pictures = list(source.decode(video=0))
        else:
            context: Any = av.CodecContext.create(_PACKETS.get(format, "mjpeg"), "r")
            context.thread_count = 1
            if header:
                context.extradata = header
            pictures = [picture for data in frames for picture in context.decode(Packet(data))]
            pictures += context.decode(None)
    except (av.error.FFmpegError, IndexError) as e:
        # Not str(e), which has FFmpeg's last log line, of whichever thread.
        reason = getattr(e, "strerror", None) or type(e).__name__
        raise CameraFormatError(f"these {format} frames cannot be decoded ({reason})") from None
    if not pictures:
        raise CameraFormatError(f"there is no picture in these {format} frames")
    newest: VideoFrame = pictures[-1]
    return newest


def as_jpeg(picture: VideoFrame, quality: int | None) -> bytes:
    """Raises CameraFormatError."""
    return JpegEncoder(quality or _QUALITY).encode(picture)


def as_png(picture: VideoFrame) -> bytes:
    """The pixels as they are, but for YUV, which becomes RGB. Raises CameraFormatError."""
    pixels = _PNG.get(picture.format.name, "rgb24")
    try:
        frame = VideoReformatter().reformat(picture, format=pixels, threads=1)
        context: VideoCodecContext = av.CodecContext.create("png", "w")
        context.width, context.height, context.pix_fmt = frame.width, frame.height, pixels
        context.time_base = _TICK
        context.thread_count = 1
        frame.pts = 0
        packets = [*context.encode(frame), *context.encode(None)]
    except (av.error.FFmpegError, ValueError) as e:
        reason = getattr(e, "strerror", None) or type(e).__name__
        raise CameraFormatError(
            f"a {picture.width}x{picture.height} picture in {picture.format.name} cannot be made a PNG "
            f"({reason})"
        ) from None
    return b"".join(bytes(packet) for packet in packets)
