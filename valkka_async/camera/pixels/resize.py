# SPDX-License-Identifier: MIT
"""Frames of another size, in the colours they came in: YUV is a half or a quarter of the bytes of RGB.

Smaller frames are area averages: each pixel is the mean of the source's area that it covers, so that
nothing of the source is skipped and thin lines do not flicker. Where the sizes are in a whole proportion
(1080p to 640x360 is 3 to 1) that is the mean of a block of pixels, for which pixels.h has a loop several
times as fast as libswscale; rounding apart, the result is the same. Larger frames are interpolated, with
libswscale's bilinear filter, PyAV's default. DESIGN.md has the figures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from valkka_async.camera.pixels import swscale
from valkka_async.camera.pixels._pixels import MAX_BLOCK, shrink

# Formats whose planes can be averaged by themselves: how many pixels share one of colour, across and down
_SHARED = {
    "yuv420p": (2, 2),
    "yuvj420p": (2, 2),
    "nv12": (2, 2),
    "yuv422p": (2, 1),
    "yuvj422p": (2, 1),
    "yuv444p": (1, 1),
    "yuvj444p": (1, 1),
    "gray": (1, 1),
}
# What to scale in, where RGB is wanted in the end: those that libswscale turns into RGB fast
_BEFORE_RGB = {
    "yuv420p": "yuv420p",
    "yuvj420p": "yuvj420p",
    "nv12": "yuv420p",
    "yuv420p10le": "yuv420p",
    "p010le": "yuv420p",
    "yuv422p": "yuv422p",
    "yuvj422p": "yuvj422p",
    "yuyv422": "yuv422p",
}


def filter_for(frame: VideoFrame, size: tuple[int, int]) -> int:
    """Which of libswscale's filters brings this frame to `size` (width, height)."""
    return swscale.AREA if size[0] <= frame.width and size[1] <= frame.height else swscale.BILINEAR


class Resizer:
    """Brings frames nearer to one size. The frames it returns are its own, and last until the next call."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._blocks: VideoFrame | None = None
        self._scaled: VideoFrame | None = None
        self._scaler: tuple[int, swscale.Scaler] | None = None
        self._reformatter = VideoReformatter()

    def averaged(self, frame: VideoFrame, luma_only: bool = False) -> VideoFrame:
        """The frame, smaller by the whole numbers that leave no other scaling or at least a half of it."""
        across, down = _blocks(frame, self._size)
        if across == down == 1:
            return frame
        size = frame.width // across, frame.height // down
        small = self._blocks = _reused(self._blocks, size, frame.format.name)
        small.colorspace, small.color_range = frame.colorspace, frame.color_range
        count = 1 if luma_only else len(frame.planes)
        for index, (plane, to) in enumerate(zip(frame.planes[:count], small.planes[:count], strict=True)):
            pair = 2 if index and frame.format.name == "nv12" else 1
            shrink(pixels(plane, plane.width * pair), pixels(to, to.width * pair), across, down, pair)
        return small

    def scaled(self, frame: VideoFrame) -> VideoFrame:
        """The frame in its size at last, in a format that becomes RGB fast; itself if there is none."""
        width, height = self._size
        format = _BEFORE_RGB.get(frame.format.name)
        if format is None or width % 2 or height % 2 or (frame.width, frame.height) == self._size:
            return frame
        filter = filter_for(frame, self._size)
        if (library := swscale.load()) is None or any(plane.line_size < 0 for plane in frame.planes):
            return self._reformatter.reformat(frame, width, height, format, interpolation=filter, threads=1)
        if self._scaler is None or self._scaler[0] != filter:
            self._scaler = filter, swscale.Scaler(library, filter)
        made = self._scaled = _reused(self._scaled, self._size, format)
        made.colorspace, made.color_range = frame.colorspace, frame.color_range
        planes = [(plane.buffer_ptr, plane.line_size) for plane in made.planes]
        if not self._scaler[1].run(frame, swscale.Pixels(format, width, height, planes)):
            return frame
        return made


def pixels(plane: VideoPlane, width: int) -> NDArray[np.uint8]:
    """The first `width` bytes of each of the plane's rows. Writes go to the plane."""
    memory: Any = plane  # a buffer, which not every PyAV says of it
    rows = np.frombuffer(memory, np.uint8, plane.line_size * plane.height)
    view: NDArray[np.uint8] = rows.reshape(plane.height, plane.line_size)[:, :width]
    return view


def _reused(frame: VideoFrame | None, size: tuple[int, int], format: str) -> VideoFrame:
    """The frame of last time if it still fits: its memory is in the cache."""
    if frame is not None and (frame.width, frame.height, frame.format.name) == (*size, format):
        return frame
    return VideoFrame(*size, format)


def _blocks(frame: VideoFrame, size: tuple[int, int]) -> tuple[int, int]:
    """How many of the source's pixels make one, across and down."""
    shared = _SHARED.get(frame.format.name)
    if shared is None or size[0] > frame.width or size[1] > frame.height:
        return 1, 1
    if any(plane.line_size < 0 for plane in frame.planes):
        return 1, 1
    across = _whole(frame.width, size[0], shared[0])
    down = _whole(frame.height, size[1], shared[1])
    return (across, down) if across * down <= MAX_BLOCK else (1, 1)


def _whole(source: int, target: int, shared: int) -> int:
    if source % target == 0 and target % shared == 0:
        return source // target
    # Not so near to the target that the block means themselves would be seen, blurred by another filter.
    for number in range(source // (2 * target), 1, -1):
        if source % (number * shared) == 0:
            return number
    return 1
