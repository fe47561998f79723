# SPDX-License-Identifier: MIT
"""Frames of a ring, whatever their format, as one image file."""

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
    "yuv420p": "yuv420p", "gray16": "gray16le",
}  # fmt: skip
_PACKETS = {"h264": "h264", "h265": "hevc"}
# Best first: what costs least, and has all pixels.
FORMATS = ("jpeg", *PIXELS, "fmp4", *_PACKETS, "packets")
_QUALITY = 90
_TICK = Fraction(1, 25)
_PNG = {"gray": "gray", "rgba": "rgba", "bgra": "rgba", "gray16le": "gray16be"}  # the others become rgb24


def from_pixels(array: NDArray[Any], format: str) -> VideoFrame:
    """An image from pixels; the array is copied. The ring does not tell the colour space of nv12 and yuv420p:
    BT.601 in limited range is assumed, as OpenCV does."""
    return VideoFrame.from_ndarray(np.ascontiguousarray(array), format=PIXELS[format])


def is_stream(format: str) -> bool:
    """Whether its frames can be decoded only together, from a key frame on."""
    return format == "fmp4" or format in _PACKETS


def decode(format: str, header: bytes, frames: Sequence[bytes]) -> VideoFrame:
    """The newest image of a key frame and the frames after it; `header` is the ring's. A JPEG is a key frame.

    Raises CameraFormatError.
    """
    try:
        if format == "fmp4":
            with av.open(io.BytesIO(header + b"".join(frames)), "r", format="mp4") as source:
                images = list(source.decode(video=0))
        else:
            context: Any = av.CodecContext.create(_PACKETS.get(format, "mjpeg"), "r")
            context.thread_count = 1
            if header:
                context.extradata = header
            images = [image for data in frames for image in context.decode(Packet(data))]
            images += context.decode(None)
    except (av.error.FFmpegError, IndexError) as e:
        # Not str(e), which has FFmpeg's last log line, of whichever thread.
        reason = getattr(e, "strerror", None) or type(e).__name__
        raise CameraFormatError(f"these {format} frames cannot be decoded ({reason})") from None
    if not images:
        raise CameraFormatError(f"there is no image in these {format} frames")
    newest: VideoFrame = images[-1]
    return newest


def as_jpeg(image: VideoFrame, quality: int | None) -> bytes:
    """Raises CameraFormatError."""
    return JpegEncoder(quality or _QUALITY).encode(image)


def as_png(image: VideoFrame) -> bytes:
    """The pixels unchanged, except that YUV becomes RGB. Raises CameraFormatError."""
    pixels = _PNG.get(image.format.name, "rgb24")
    try:
        frame = VideoReformatter().reformat(image, format=pixels, threads=1)
        context: VideoCodecContext = av.CodecContext.create("png", "w")
        context.width, context.height, context.pix_fmt = frame.width, frame.height, pixels
        context.time_base = _TICK
        context.thread_count = 1
        frame.pts = 0
        packets = [*context.encode(frame), *context.encode(None)]
    except (av.error.FFmpegError, ValueError) as e:
        reason = getattr(e, "strerror", None) or type(e).__name__
        raise CameraFormatError(
            f"a {image.width}x{image.height} image in {image.format.name} cannot be written as PNG ({reason})"
        ) from None
    return b"".join(bytes(packet) for packet in packets)
