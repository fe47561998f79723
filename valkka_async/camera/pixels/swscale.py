# SPDX-License-Identifier: MIT
"""PyAV's own libswscale, told to write where we want the pixels.

`VideoReformatter.reformat()` always allocates the frame that it fills; its rows are then copied into the
slot. Here the same function of the same library, `sws_scale_frame()`, gets a frame whose planes are the
slot: the same pixels, one pass over memory less.

The library is found through PyAV's extension module, which is linked with it: another libswscale in the
process (OpenCV's) cannot be taken for it. What the frame says of its colours, fields and chroma positions
must reach the scaler whole, and PyAV does not show all of it, so we read its `AVFrame`, whose address lies
behind the head of the Python object. That is no public interface. Hence `load()` believes nothing:
it wants the major versions that this was written for, looks for known values at the places where they
should be, through /proc/self/mem, where a wrong address is an error and not a crash, and compares a
conversion with PyAV's. If anything is not as known there is no library, and PyAV does everything.

Two traps. Which way libswscale goes depends on the formats, the size, the flags and the CPU, and
some ways write whole groups of 8 or 16 pixels: in an image whose rows have no padding these reach into
the next row, and behind the last row into what lies there. So the caller must have seen that a conversion
keeps within its memory (convert.py does that). And a context makes its tables again when anything changes:
one Scaler for each kind of conversion.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
import weakref
from collections.abc import Sequence
from ctypes import c_char_p, c_int, c_int64, c_uint, c_void_p
from typing import Final, NamedTuple

import av
import numpy as np
from av.video import reformatter
from av.video.frame import VideoFrame

log = logging.getLogger("valkka_async.camera")

BILINEAR: Final = 2  # SWS_BILINEAR, PyAV's default
AREA: Final = 0x20  # SWS_AREA

# (libavutil, libswscale) of FFmpeg 8 and 9, which PyAV 18 and 19 bring: there AVFrame begins as Head does.
_KNOWN = {(60, 9), (61, 10)}
_UNSPECIFIED = 2  # of AVColorPrimaries and AVColorTransferCharacteristic
_INTERLACED = 8  # AV_FRAME_FLAG_INTERLACED


class Head(ctypes.Structure):
    """An AVFrame as far as we need it."""

    _fields_ = [
        ("data", c_void_p * 8),
        ("linesize", c_int * 8),
        ("extended_data", c_void_p),
        ("width", c_int),
        ("height", c_int),
        ("nb_samples", c_int),
        ("format", c_int),
        ("_others", ctypes.c_char * 156),
        ("flags", c_int),
        ("color_range", c_int),
        ("color_primaries", c_int),
        ("color_trc", c_int),
        ("colorspace", c_int),
        ("chroma_location", c_int),
    ]


_WHERE = ctypes.sizeof(c_void_p * 8) + ctypes.sizeof(c_int * 8)  # data and linesize, one behind the other


class Pixels(NamedTuple):
    """Where pixels go: (address, bytes from row to row) of each plane."""

    format: str
    width: int
    height: int
    planes: Sequence[tuple[int, int]]


class Library:
    """The functions, bound. `load()` makes it."""

    def __init__(self) -> None:
        path = reformatter.__file__
        # Looked up in the module and then in what it is linked with. The first handle lets the GIL go.
        slow, quick = ctypes.CDLL(path, os.RTLD_NOLOAD), ctypes.PyDLL(path, os.RTLD_NOLOAD)
        names = ("libavutil", "libswscale")
        found = tuple(_major(quick, name) for name in names)
        if found not in _KNOWN or found != tuple(av.library_versions[name][0] for name in names):
            raise LookupError(f"libavutil {found[0]} with libswscale {found[1]} is not known")
        self.scale = slow.sws_scale_frame
        self.scale.argtypes = [c_void_p, c_void_p, c_void_p]
        self.alloc_context = quick.sws_alloc_context
        self.alloc_context.restype = c_void_p
        self.free_context = quick.sws_free_context
        self.free_context.argtypes, self.free_context.restype = [c_void_p], None
        self.alloc_frame = quick.av_frame_alloc
        self.alloc_frame.restype = c_void_p
        self.free_frame = quick.av_frame_free
        self.free_frame.argtypes, self.free_frame.restype = [c_void_p], None
        self.set_option = quick.av_opt_set_int
        self.set_option.argtypes = [c_void_p, c_char_p, c_int64, c_int]
        self.pix_fmt = quick.av_get_pix_fmt
        self.pix_fmt.argtypes = [c_char_p]
        # `cdef class Frame: cdef AVFrame *ptr`: the object's head, Cython's table of methods, then ptr
        self._offset = object.__basicsize__ + ctypes.sizeof(c_void_p)

    def head(self, frame: VideoFrame) -> Head:
        """The frame's own AVFrame; valid as long as the frame lives."""
        address = c_void_p.from_address(id(frame) + self._offset).value
        assert address is not None
        return Head.from_address(address)

    def check(self) -> None:
        """Raises LookupError if PyAV's frames are not laid out as known, or the pixels are not PyAV's."""
        frame = VideoFrame(70, 38, "yuv420p")
        rng = np.random.default_rng(1)
        for plane in frame.planes:
            plane.update(rng.bytes(plane.buffer_size))
        frame.color_range, frame.color_primaries, frame.color_trc, frame.colorspace = 1, 12, 13, 1
        head = self._peek(frame)
        got = (
            *head.data[:4],
            *head.linesize[:4],
            *(head.width, head.height, head.format),
            *(head.color_range, head.color_primaries, head.color_trc, head.colorspace),
        )
        planes = frame.planes
        wanted = (
            *(plane.buffer_ptr for plane in planes),
            None,
            *(plane.line_size for plane in planes),
            0,
            *(70, 38, self.pix_fmt(b"yuv420p")),
            *(1, 12, 13, 1),
        )
        if got != wanted or not 0 <= head.chroma_location <= 6:
            raise LookupError("PyAV's frames are not laid out as known")
        for width, height in ((70, 38), (48, 20)):
            stride = -(-width // 16) * 16 * 3
            ours = np.zeros((height, stride), np.uint8)
            pixels = Pixels("rgb24", width, height, [(ours.ctypes.data, stride)])
            done = Scaler(self).run(frame, pixels)
            theirs = frame.reformat(width, height, "rgb24", threads=1).to_ndarray()
            if not done or not np.array_equal(ours[:, : width * 3], theirs.reshape(height, -1)):
                raise LookupError("the pixels are not those of PyAV")

    def _peek(self, frame: VideoFrame) -> Head:
        """What `head()` would show, read so that a wrong address is an OSError."""
        memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            raw = os.pread(memory, ctypes.sizeof(c_void_p), id(frame) + self._offset)
            address = c_void_p.from_buffer_copy(raw).value
            if address is None or VideoFrame.__basicsize__ < self._offset + ctypes.sizeof(c_void_p):
                raise LookupError("a frame holds no address")
            return Head.from_buffer_copy(os.pread(memory, ctypes.sizeof(Head), address))
        finally:
            os.close(memory)


def load() -> Library | None:
    """The library, or None where it is not exactly as known; then PyAV has to do all the work."""
    return _look()[0]


def reason() -> str:
    """Why there is no library, in words; "" if there is one."""
    return _look()[1]


@functools.cache
def _look() -> tuple[Library | None, str]:
    if sys.implementation.name != "cpython" or ctypes.sizeof(c_void_p) != 8:
        return None, "this is not CPython on a machine of 64 bits"
    try:
        library = Library()
        library.check()
    except Exception as e:  # whatever it is, something is not as known
        log.warning("pixels go the long way, through frames of PyAV's, which costs CPU: %s", e)
        return None, str(e) or type(e).__name__
    return library, ""


def _major(library: ctypes.CDLL, name: str) -> int:
    version = getattr(library, name.removeprefix("lib") + "_version")
    version.restype = c_uint
    major: int = version() >> 16
    return major


class Scaler:
    """One kind of conversion: it keeps its tables as long as formats, sizes and colours stay alike.

    `filter`: BILINEAR or AREA. Raises MemoryError. Not for two threads at once.
    """

    def __init__(self, library: Library, filter: int = BILINEAR) -> None:
        self._library = library
        self._context = library.alloc_context()
        # Frames of ours, which own no buffers: PyAV's stays as it is for its other readers.
        source, target = library.alloc_frame(), library.alloc_frame()
        last = weakref.finalize(self, _free, library, self._context, (source, target))
        last.atexit = False  # a thread may still be inside, and the process takes it all along
        if not (self._context and source and target):
            raise MemoryError("no memory for a scaler")
        self._source, self._target = Head.from_address(source), Head.from_address(target)
        for option, value in ((b"threads", 1), (b"sws_flags", filter)):
            if library.set_option(self._context, option, value, 0) < 0:
                raise LookupError(f"libswscale has no option {option.decode()}")

    def run(self, frame: VideoFrame, pixels: Pixels, left: Sequence[int] = (), width: int = 0) -> bool:
        """Convert a frame, and scale it if the sizes differ. False if libswscale refused. Lets the GIL go.

        `left` and `width` take only some columns: how many bytes each plane is to skip, and how many
        pixels are to be converted.
        """
        theirs, source, target = self._library.head(frame), self._source, self._target
        ctypes.memmove(ctypes.addressof(source), ctypes.addressof(theirs), _WHERE)
        for plane, skipped in enumerate(left):
            source.data[plane] += skipped
        source.width, source.height = width or theirs.width, theirs.height
        source.format = theirs.format
        target.width, target.height = pixels.width, pixels.height
        target.format = self._library.pix_fmt(pixels.format.encode())
        for plane, (address, stride) in enumerate(pixels.planes):
            target.data[plane] = address
            target.linesize[plane] = stride
        for head in (source, target):
            head.flags = theirs.flags & _INTERLACED
            head.color_range, head.colorspace = theirs.color_range, theirs.colorspace
            head.chroma_location = theirs.chroma_location
            # As PyAV does: no conversion of these is wanted, and unusual ones would be refused.
            head.color_primaries = head.color_trc = _UNSPECIFIED
        done: int = self._library.scale(
            self._context, ctypes.addressof(target), ctypes.addressof(source)
        )  # a negative number is an error
        return done >= 0


def _free(library: Library, context: int | None, frames: Sequence[int | None]) -> None:
    library.free_context(ctypes.byref(c_void_p(context)))
    for frame in frames:
        library.free_frame(ctypes.byref(c_void_p(frame)))
