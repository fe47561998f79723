# SPDX-License-Identifier: MIT
"""Pixel and stream formats, and how a frame of each is shaped.

An image is an array of uint8 in the layout that OpenCV and PyAV use:

=================  ===============  =====================================================
rgb24, bgr24       (H, W, 3)
rgba, bgra         (H, W, 4)
gray8              (H, W)
nv12, yuv420p      (H * 3 // 2, W)  H and W even; the Y plane, then UV pairs or U and V
bytes, jpeg        (N,)
fmp4, h264, h265   (N,)
=================  ===============  =====================================================
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import numpy as np

from valkka_async.errors import FrameError
from valkka_async.ring._shm import MAX_FRAME_BYTES, META_BYTES

# format -> size of the last axis of a 3-D array, or the number of axes
_CHANNELS = {"rgb24": 3, "bgr24": 3, "rgba": 4, "bgra": 4}
_PLANAR = ("nv12", "yuv420p")
_STREAMS = ("bytes", "jpeg", "fmp4", "h264", "h265")
FORMATS = (*_CHANNELS, "gray8", *_PLANAR, *_STREAMS)

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

_KNOWN: dict[tuple[str | None, tuple[int, ...]], bytes] = {}


def check_shape(shape: tuple[int, ...], format: str | None) -> bytes:
    """The format's code in the frame header, for a frame of this shape (None: the shape decides).

    Raises FrameError, which says what would be right.
    """
    code = _KNOWN.get((format, shape))
    if code is None:
        code = _check_shape(shape, format)
        if len(_KNOWN) > 1000:  # streams of ever other lengths
            _KNOWN.clear()
        _KNOWN[format, shape] = code
    return code


def _check_shape(shape: tuple[int, ...], format: str | None) -> bytes:
    size = 1
    for n in shape:
        if n < 0:
            raise FrameError(f"an array cannot have the shape {shape}")
        size *= n
    if not shape or size == 0:
        raise FrameError(f"an empty frame (shape {shape}) cannot be published")
    if size > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {size} bytes is too large; the limit is {MAX_FRAME_BYTES}")
    if format is None:
        if len(shape) == 1:
            format = "bytes"
        elif len(shape) == 2:
            format = "gray8"
        elif len(shape) == 3 and shape[2] in (3, 4):
            format = "rgb24" if shape[2] == 3 else "rgba"
        else:
            raise FrameError(
                f"shape {shape} is not an image: (H, W), (H, W, 3), (H, W, 4), or (N,) for bytes; "
                "say format= if it is one of " + ", ".join(FORMATS)
            )
    if format in _CHANNELS:
        good, want = len(shape) == 3 and shape[2] == _CHANNELS[format], f"(H, W, {_CHANNELS[format]})"
    elif format == "gray8":
        good, want = len(shape) == 2, "(H, W)"
    elif format in _PLANAR:
        good = len(shape) == 2 and shape[0] % 3 == 0 and shape[1] % 2 == 0
        want = "(H * 3 // 2, W) with even H and W"
    elif format in _STREAMS:
        good, want = len(shape) == 1, "(N,)"
    else:
        raise FrameError(f"unknown format {format!r}; one of " + ", ".join(FORMATS))
    if not good:
        raise FrameError(f"a {format} frame has the shape {want}, not {shape}")
    return format.encode("ascii")


def as_frame(image: Any, format: str | None) -> tuple[Any, bytes]:
    """An image as a buffer of bytes in its shape, and its format's code. Nothing is copied.

    ``image``: a numpy array of uint8 (strided or not), bytes, bytearray, a memoryview, a Frame, or
    anything else that numpy can see as an array of uint8. Raises FrameError.
    """
    if type(image) is not np.ndarray:
        try:
            image = (
                np.frombuffer(image, np.uint8) if isinstance(image, bytes | bytearray) else np.asarray(image)
            )
        except (TypeError, ValueError) as e:
            raise FrameError(f"{type(image).__name__} is not an image: {e}") from None
    if image.dtype != np.uint8:
        hint = ""
        if image.dtype.kind == "f":
            hint = "; for values from 0 to 1: (image * 255).round().astype(np.uint8)"
        elif image.dtype.kind in "iub":
            hint = "; bring it into 0 to 255 and use .astype(np.uint8)"
        elif image.dtype == object:
            hint = "; give a numpy array or bytes"
        raise FrameError(f"a frame is an array of uint8, not {image.dtype}{hint}")
    return image, check_shape(image.shape, format)


def as_meta(meta: dict[str, Any] | None) -> bytes | None:
    """Metadata as it stands behind the frame: JSON. Raises FrameError."""
    if not meta:
        return None
    if not isinstance(meta, dict):
        raise FrameError(f"meta is a dict, not {type(meta).__name__}")
    try:
        data = _encode(meta).encode()
    except (TypeError, ValueError) as e:
        raise FrameError(f"meta must be plain JSON: {e}") from None
    if len(data) > META_BYTES:
        raise FrameError(f"meta takes {len(data)} bytes as JSON; the limit is {META_BYTES}")
    return data


def as_time_base(time_base: Any) -> Fraction | None:
    """A time base as a Fraction: from one, or from a pair. Raises FrameError."""
    if time_base is None or type(time_base) is Fraction:
        good = time_base
    else:
        try:
            good = Fraction(*time_base) if isinstance(time_base, tuple) else Fraction(time_base)
        except (TypeError, ValueError, ZeroDivisionError) as e:
            raise FrameError(f"time_base is a Fraction or a pair of integers: {e}") from None
    if good is not None:
        numerator, denominator = good.as_integer_ratio()
        if not (abs(numerator) < 1 << 31 and denominator < 1 << 31):
            raise FrameError(f"time_base {good} needs numbers of more than 32 bits")
    return good
