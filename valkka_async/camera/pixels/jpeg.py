# SPDX-License-Identifier: MIT
"""av.VideoFrame -> a JPEG, with FFmpeg's encoder.

A JPEG says nothing about its colours: everybody takes it for BT.601 in full range. So frames are converted
to that first, from whatever they say they are; frames that say nothing are taken for BT.601 in limited
range, as frame.to_ndarray() does. Colour has half the resolution (4:2:0), as cameras have it.

Two things about the encoder. It ignores a fixed `qscale` (FFmpeg takes that from AVFrame.quality, which
PyAV does not set), but stays between `qmin` and `qmax`. And it refuses frames whose times do not rise, as
they do not when a stream begins again; so it gets a count instead of the time.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, cast

import av
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from valkka_async.camera.source.rational import fraction
from valkka_async.errors import CameraFormatError

_PIXELS = "yuv420p"
_TICK = Fraction(1, 25)
_COARSEST = 31  # of FFmpeg's quantisers, which begin at 1
_LARGEST = 16384  # pixels on a side, as for all outputs


class JpegEncoder:
    """Encodes frames, in one size (w, h) if that is given, else each in its own. For one thread.

    `quality` is 1 to 100 and means what it does in libjpeg (OpenCV, Pillow): sizes and losses are alike,
    but there are only 31 steps, of which 80 and 50 are the 3rd and the 8th: above 90 all are the same, as
    are all below 13.

    Raises ValueError for a quality or a size that cannot be.
    """

    def __init__(self, quality: int = 80, size: tuple[int, int] | None = None) -> None:
        if not 1 <= quality <= 100:
            raise ValueError(f"quality is 1 to 100, not {quality!r}")
        if size is not None and (
            len(size) != 2 or not all(isinstance(n, int) and 0 < n <= _LARGEST for n in size)
        ):
            raise ValueError(f"size must be (width, height) in pixels, not {size!r}")
        self.quality = quality
        self.size = size
        self._quantiser = str(quantiser(quality))
        self._reformatter = VideoReformatter()
        self._context: VideoCodecContext | None = None
        self._count = 0

    def encode(self, frame: VideoFrame) -> bytes:
        """The frame as a JPEG. The frame is left as it was. Lets the GIL go.

        A frame in the memory of a graphics card is fetched from there. Raises CameraFormatError when
        FFmpeg cannot convert the frame's pixel format, or a JPEG cannot be that large.
        """
        width, height = self.size or (frame.width, frame.height)
        try:
            made = self._reformatter.reformat(
                frame,
                width,
                height,
                _PIXELS,
                dst_colorspace=Colorspace.ITU601,
                dst_color_range=ColorRange.JPEG,
                threads=1,
            )
            context = self._open(width, height)
            own = frame.pts, frame.time_base  # a frame that is right already was not copied
            made.pts, made.time_base = self._count, _TICK
            self._count += 1
            try:
                (packet,) = context.encode(made)
            finally:
                if made is frame:
                    frame.pts, frame.time_base = own[0], fraction(own[1]) or Fraction(0)
        except (av.error.FFmpegError, ValueError) as e:
            self._context = None
            reason = getattr(e, "strerror", None) or type(e).__name__
            raise CameraFormatError(
                f"a {frame.width}x{frame.height} frame in {frame.format.name} cannot be made a "
                f"{width}x{height} JPEG ({reason})"
            ) from None
        return bytes(packet)

    def _open(self, width: int, height: int) -> VideoCodecContext:
        context = self._context
        if context is None or (context.width, context.height) != (width, height):
            made: Any = av.CodecContext.create("mjpeg", "w")  # a CodecContext, to PyAV 18.0's stubs
            context = cast("VideoCodecContext", made)
            context.width, context.height, context.pix_fmt = width, height, _PIXELS
            context.color_range = ColorRange.JPEG
            context.time_base = _TICK
            context.thread_count = 1
            context.options = {
                "qmin": self._quantiser,
                "qmax": self._quantiser,
                "huffman": "optimal",  # 15 to 30 % smaller, for a sixth more time
                "flags": "+bitexact",  # no comment with the encoder's version in each JPEG
            }
            self._context, self._count = context, 0
        return context


def quantiser(quality: int) -> int:
    """FFmpeg's quantiser, 1 (fine) to 31 (coarse), that is nearest to one of libjpeg's qualities.

    libjpeg scales its table by 50/quality below 50, and by 2 - quality/50 from there; FFmpeg scales its
    own, which is much the same, by quantiser/8.
    """
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    return min(max(round(8 * scale), 1), _COARSEST)
