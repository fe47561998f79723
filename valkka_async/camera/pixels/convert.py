# SPDX-License-Identifier: MIT
"""av.VideoFrame -> the array of a slot: size, pixel format, colours.

In the frame's own size every pixel is what `frame.to_ndarray(format=...)` would have given, BT.709 and full
range included. Another size is made first, in YUV (resize.py), and then converted like any frame of that
size; what libswscale cannot turn into RGB fast is scaled and converted in one go, as by
`frame.reformat(...)`.

There are two ways to the same pixels. The long one always works: PyAV's VideoReformatter, with one thread,
into a frame of its own, whose rows are then copied without their padding. The short ones write into the
slot: libswscale itself (swscale.py), or for gray8 the stretched luma. A short way is only taken after it
has been compared: the first frame of each kind goes the long way, and also the short way into scratch
memory, which must then have the same bytes and nothing written around them. That leaves neither the
CPU nor a new version of FFmpeg anything to spoil, least of all the frame that lies behind the slot.

libswscale's fast way from YUV to RGB converts 16 pixels at a time. At other widths we let it do the whole
groups in the slot, and the last few columns beside it.

One thing PyAV 18.1 (FFmpeg 8.1) gets wrong: planar YUV to rgba or bgra in the same size. When the width is
1 to 4 above a multiple of 16 (852, for one) the last columns are left as they were in memory, and with
more than one thread some pixels at the slices' edges are, at other widths. There the long way goes over
rgb24, which is right at all widths. And another: it converts the two fields of interlaced frames
separately, and if the width is no multiple of 16, the second spoils the first columns of the first. We
take such frames for progressive ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from valkka_async.camera.pixels import swscale
from valkka_async.camera.pixels._pixels import stretch
from valkka_async.camera.pixels.resize import Resizer, filter_for, pixels
from valkka_async.errors import CameraFormatError
from valkka_async.ring.formats import FrameFormat

Image = NDArray[np.uint8]
Way = Callable[[VideoFrame, Image], bool]  # writes the array, or returns False: take the long way

_PIX_FMT = {  # our name: FFmpeg's
    "rgb24": "rgb24",
    "bgr24": "bgr24",
    "rgba": "rgba",
    "bgra": "bgra",
    "gray8": "gray",
    "gray16": "gray16le",
    "nv12": "nv12",
    "yuv420p": "yuv420p",
}
_CHANNELS = {"rgb24": 3, "bgr24": 3, "rgba": 4, "bgra": 4}
_HALVED = {"nv12", "yuv420p"}  # colour at half the resolution
_DETOUR = {"rgba": "rgb24", "bgra": "bgr24"}

# Where the short ways have been tried. Others are rare with cameras, and go the long way.
_GROUPED = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p"}  # become RGB in groups of 16 pixels
_TRIED = _GROUPED | {"yuv444p", "yuvj444p", "nv12", "yuyv422", "yuv420p10le", "p010le"}
_GROUP = 16
_NARROW = 32  # below this, whole groups of pixels would not fit in a row, and the long way costs nothing
_LUMA = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12"}
_BT601 = {2, 5, 6}  # of AVColorSpace: not said, and the two that have the matrix of BT.601
_FULL = 2  # of AVColorRange
_KINDS = 32  # so many kinds of frames are remembered: a stream has one, or two by turns
_MARGIN = 4096


class Converter:
    """Writes frames in one format, and in one size (w, h) if that is given.

    Not for two threads at once. Raises ValueError for a format or a size that cannot be.
    """

    def __init__(self, format: str = "rgb24", size: tuple[int, int] | None = None) -> None:
        if format not in _PIX_FMT:
            raise ValueError(f"format {format!r} is not one of {', '.join(_PIX_FMT)}")
        if size is not None:
            if len(size) != 2 or not all(isinstance(n, int) and 0 < n <= 16384 for n in size):
                raise ValueError(f"size must be (width, height) in pixels, not {size!r}")
            if format in _HALVED and (size[0] % 2 or size[1] % 2):
                raise ValueError(f"format {format!r} needs an even width and height, not {size[0]}x{size[1]}")
        self.format = cast(FrameFormat, format)
        self.dtype = np.dtype(np.uint16 if format == "gray16" else np.uint8)
        self.size = None if size is None else (size[0], size[1])
        self.slow = False  # frames go the long way, where there should be a short one
        self._resizer = None if self.size is None else Resizer(self.size)
        self._ways: dict[tuple[object, ...], Way | None] = {}
        self._reformatter = VideoReformatter()  # keeps its tables as long as the frames stay alike
        self._second = VideoReformatter()

    def shape(self, frame: VideoFrame) -> tuple[int, ...]:
        """The shape of the array for this frame. Raises CameraFormatError when it has an odd size and
        the format cannot have one."""
        width, height = self.size or (frame.width, frame.height)
        if self.format in _HALVED:
            if width % 2 or height % 2:
                raise CameraFormatError(
                    f"{width}x{height} frames cannot be {self.format!r}, which needs an even width and "
                    "height: give an even size=(w, h), or another format"
                )
            return height * 3 // 2, width
        if self.format in _CHANNELS:
            return height, width, _CHANNELS[self.format]
        return height, width

    def write(self, frame: VideoFrame, out: NDArray[np.unsignedinteger[Any]]) -> None:
        """Write a frame into `out`, a C-contiguous array of shape(frame) and `dtype`. Lets the GIL go.

        Raises CameraFormatError for a frame that cannot have this format; ValueError for another array.
        """
        if out.shape != self.shape(frame) or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(
                f"not a contiguous {self.dtype} array of shape {self.shape(frame)}: {out.dtype} {out.shape}"
            )
        out = out.view(np.uint8)
        if frame.interlaced_frame and (self.size is not None or frame.width % _GROUP):
            frame = _whole(frame)
        if self._resizer is not None and (frame.width, frame.height) != self.size:
            frame = self._resizer.averaged(frame, self.format == "gray8" and _is_gray_luma(frame))
            if self.format in _CHANNELS:
                frame = self._resizer.scaled(frame)
        kind = _kind(frame)
        if kind not in self._ways:
            self._write_long(frame, out)
            if len(self._ways) >= _KINDS:
                self._ways.clear()
            way = next((w for w in self._short_ways(frame) if _proven(w, frame, out)), None)
            self._ways[kind] = way
            self.slow = way is None and self._has_short_way(frame)
            return
        way = self._ways[kind]
        if way is None or not way(frame, out):
            self._write_long(frame, out)

    def _write_long(self, frame: VideoFrame, out: Image) -> None:
        width, height = size = self.size or (frame.width, frame.height)
        detour = _DETOUR.get(self.format) if _is_spoilt(frame, width, height) else None
        if detour:
            opaque = self._reformatter.reformat(frame, format=detour, threads=1)
            made = self._second.reformat(opaque, format=self.format, threads=1)
        else:
            made = self._reformatter.reformat(
                frame,
                width,
                height,
                _PIX_FMT[self.format],
                interpolation=filter_for(frame, size),
                threads=1,
            )
        if not _copy(self.format, made, out):
            raise CameraFormatError("frames that lie bottom up in memory: choose another format")
        if detour and len(frame.planes) == 4:  # yuva
            np.copyto(out[..., 3], pixels(frame.planes[3], width))

    def _has_short_way(self, frame: VideoFrame) -> bool:
        """Should there be one?"""
        width = frame.width if self.size is None else self.size[0]
        return width >= _NARROW and frame.format.name in _TRIED

    def _short_ways(self, frame: VideoFrame) -> Iterator[Way]:
        """What could be faster for such frames, the fastest first."""
        width, _ = size = self.size or (frame.width, frame.height)
        if not self._has_short_way(frame):
            return
        same = size == (frame.width, frame.height)
        if same and self.format == "gray8" and _is_gray_luma(frame):
            yield _copy_luma if _is_full(frame) else _stretch_luma
        if same and frame.format.name == self.format:
            yield partial(_copy, self.format)
        if (library := swscale.load()) is None:
            return
        if same and self.format in _CHANNELS and frame.format.name in _GROUPED and width % _GROUP:
            yield _InTwoParts(library, self.format)
        else:
            yield _Straight(library, self.format, size, filter_for(frame, size))


class _Straight:
    """By libswscale alone."""

    def __init__(self, library: swscale.Library, format: str, size: tuple[int, int], filter: int) -> None:
        self._scaler = swscale.Scaler(library, filter)
        self._format, self._size = format, size

    def __call__(self, frame: VideoFrame, out: Image) -> bool:
        planes = [(plane.ctypes.data, plane.strides[0]) for plane in _planes(self._format, out)]
        return self._scaler.run(frame, swscale.Pixels(_PIX_FMT[self._format], *self._size, planes))


class _InTwoParts:
    """To RGB in the same size, where the width is no multiple of the group that libswscale converts."""

    def __init__(self, library: swscale.Library, format: str) -> None:
        self._most, self._rest = swscale.Scaler(library), swscale.Scaler(library)
        self._format = format
        self._beside = np.empty((0, 0, 0), np.uint8)

    def __call__(self, frame: VideoFrame, out: Image) -> bool:
        height, width, channels = out.shape
        rest = width % _GROUP
        most = width - rest
        target = swscale.Pixels(self._format, most, height, [(out.ctypes.data, out.strides[0])])
        if not self._most.run(frame, target, width=most):
            return False
        if self._beside.shape != (height, _GROUP, channels):
            self._beside = np.empty((height, _GROUP, channels), np.uint8)
        beside = self._beside
        target = swscale.Pixels(self._format, rest, height, [(beside.ctypes.data, beside.strides[0])])
        if not self._rest.run(frame, target, (most, most // 2, most // 2), rest):
            return False
        np.copyto(out[:, most:], beside[:, :rest])
        return True


def _copy(format: str, frame: VideoFrame, out: Image) -> bool:
    """Copy a frame that is as it should be but for its padding."""
    for plane, rows in zip(frame.planes, _planes(format, out), strict=True):
        if plane.line_size < 0:  # bottom up, and PyAV's buffer would begin at its end
            return False
        np.copyto(rows, pixels(plane, rows.shape[1]))
    return True


def _planes(format: str, out: Image) -> list[Image]:
    """The array as (rows, bytes in a row) of each plane."""
    if format == "nv12":
        height = out.shape[0] * 2 // 3
        return [out[:height], out[height:]]
    if format == "yuv420p":
        height, width = out.shape[0] * 2 // 3, out.shape[1]
        luma, *chroma = np.split(out.reshape(-1), (width * height, width * height * 5 // 4))
        return [luma.reshape(height, width), *(c.reshape(height // 2, width // 2) for c in chroma)]
    return [out.reshape(out.shape[0], -1)]


def _whole(frame: VideoFrame) -> VideoFrame:
    """An interlaced frame as if it were not. FFmpeg converts the fields of one that is separately, which
    is right where it keeps within the rows, and is no way to make a smaller frame."""
    if frame.format.name not in _TRIED or any(plane.line_size < 0 for plane in frame.planes):
        return frame
    copy = VideoFrame(frame.width, frame.height, frame.format.name)
    copy.colorspace, copy.color_range = frame.colorspace, frame.color_range
    for plane, to in zip(frame.planes, copy.planes, strict=True):
        count = min(plane.line_size, to.line_size)
        np.copyto(pixels(to, count), pixels(plane, count))
    return copy


def _kind(frame: VideoFrame) -> tuple[object, ...]:
    """Frames that are alike in this take the same way."""
    return (
        frame.format.name,
        frame.width,
        frame.height,
        frame.colorspace,
        frame.color_range,
        frame.interlaced_frame,
    )


def _is_gray_luma(frame: VideoFrame) -> bool:
    """Whether libswscale makes gray of the luma alone. (Of BT.709 it makes RGB, and of that the luma of
    BT.601.)"""
    return frame.format.name in _LUMA and frame.colorspace in _BT601


def _is_full(frame: VideoFrame) -> bool:
    return frame.color_range == _FULL or frame.format.name.startswith("yuvj")


def _copy_luma(frame: VideoFrame, out: Image) -> bool:
    return _with_luma(frame, out, np.copyto)


def _stretch_luma(frame: VideoFrame, out: Image) -> bool:
    return _with_luma(frame, out, lambda out, luma: stretch(luma, out))


def _with_luma(frame: VideoFrame, out: Image, do: Callable[[Image, Image], None]) -> bool:
    plane = frame.planes[0]
    if plane.line_size < 0:
        return False
    do(out, pixels(plane, plane.width))
    return True


def _proven(way: Way, frame: VideoFrame, expected: Image) -> bool:
    """Whether a way writes just this, and nothing besides."""
    memory = np.resize(np.arange(251, dtype=np.uint8), expected.size + 3 * _MARGIN)
    before = memory.copy()
    # Where the array lies in its cache line can decide which code runs.
    first = _MARGIN + (expected.ctypes.data - memory.ctypes.data) % _MARGIN
    inner = slice(first, first + expected.size)
    memory[inner] = ~expected.reshape(-1)  # no byte can be right that was not written
    before[inner] = expected.reshape(-1)
    return way(frame, memory[inner].reshape(expected.shape)) and np.array_equal(memory, before)


def _is_spoilt(frame: VideoFrame, width: int, height: int) -> bool:
    same = width == frame.width and height == frame.height
    return same and 1 <= width % 16 <= 4 and frame.format.name.startswith("yuv")
