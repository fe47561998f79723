# SPDX-License-Identifier: MIT
"""Formats of frames, and the shape and dtype of each.

Images lie in memory as in OpenCV and PyAV:

=================  ===============  =======  ==================================================
rgb24, bgr24       (H, W, 3)        uint8
rgba, bgra         (H, W, 4)        uint8
gray8              (H, W)           uint8
gray16             (H, W)           uint16   depth, thermal cameras; PyAV's gray16le
nv12, yuv420p      (H * 3 // 2, W)  uint8    H and W even; the Y plane, then UV pairs or U and V
bytes, jpeg        (N,)             uint8
fmp4, h264, h265   (N,)             uint8    a fragment, an access unit
array              up to four axes  any      tensors, masks, depth in metres, ...
=================  ===============  =======  ==================================================

Dtypes are uint8 to uint64, int8 to int64, float16 to float64, and bool. Frames are in the byte order of the
machine; arrays of the other order are converted.
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike

from valkka_async.errors import FrameError
from valkka_async.ring._shm import DTYPES, MAX_DIMS, MAX_FRAME_BYTES, META_BYTES, Kind

FrameFormat = Literal[
    "rgb24", "bgr24", "rgba", "bgra", "gray8", "gray16", "nv12", "yuv420p",
    "bytes", "jpeg", "fmp4", "h264", "h265",
    "array",
]  # fmt: skip
FORMATS: tuple[FrameFormat, ...] = get_args(FrameFormat)

_CHANNELS = {"rgb24": 3, "bgr24": 3, "rgba": 4, "bgra": 4}  # the last axis of three
_GRAY = ("gray8", "gray16")
_PLANAR = ("nv12", "yuv420p")
_UINT8, _UINT16 = np.dtype(np.uint8), np.dtype(np.uint16)

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode

_known: dict[tuple[object, ...], Kind] = {}


def kind_of(shape: tuple[int, ...], dtype: np.dtype[Any], format: str | None) -> Kind:
    """The Kind of frames with this shape, dtype and format (None: what shape and dtype suggest).

    Raises FrameError, which says what would be right.
    """
    if not (format is None or isinstance(format, str)):
        raise FrameError(f"a format is a text, not {format!r}; one of " + ", ".join(FORMATS))
    key = format, shape, dtype.str
    kind = _known.get(key)
    if kind is None:
        kind = Kind(format, _checked(shape, dtype, format).encode("ascii"), dtype, shape)
        if len(_known) > 1000:  # a stream of access units has a new length with each frame
            _known.clear()
        _known[key] = kind
    return kind


def _checked(shape: tuple[int, ...], dtype: np.dtype[Any], format: str | None) -> str:
    """The format of a frame. Raises FrameError."""
    if dtype not in DTYPES:
        raise FrameError(
            f"a frame cannot have the dtype {dtype}; it is one of {', '.join(map(str, DTYPES))}"
            + ("; give a numpy array or bytes" if dtype.kind == "O" else "")
        )
    size = dtype.itemsize
    for n in shape:
        if n < 0:
            raise FrameError(f"an array cannot have the shape {shape}")
        size *= n
    if not shape or size == 0:
        raise FrameError(f"an empty frame (shape {shape}) cannot be published")
    if len(shape) > MAX_DIMS:
        raise FrameError(f"a frame has up to {MAX_DIMS} axes, not {len(shape)}: reshape it")
    if size > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {size} bytes is too large; the limit is {MAX_FRAME_BYTES}")
    if format is None:
        return _suggested(shape, dtype)
    if format not in FORMATS:
        raise FrameError(f"unknown format {format!r}; one of " + ", ".join(FORMATS))
    if format == "array":
        return format
    needed = dtype_of(format)
    if dtype != needed:
        hint = ""
        if needed == _UINT8 and dtype.kind == "f":
            hint = "; for values from 0 to 1: (image * 255).round().astype(np.uint8)"
        elif needed == _UINT8:
            hint = "; bring it into 0 to 255 and use .astype(np.uint8)"
        raise FrameError(f'a {format} frame is of {needed}, not {dtype}{hint}; or use format="array"')
    if format in _CHANNELS:
        good, want = len(shape) == 3 and shape[2] == _CHANNELS[format], f"(H, W, {_CHANNELS[format]})"
    elif format in _GRAY:
        good, want = len(shape) == 2, "(H, W)"
    elif format in _PLANAR:
        good = len(shape) == 2 and shape[0] % 3 == 0 and shape[1] % 2 == 0
        want = "(H * 3 // 2, W) with even H and W"
    else:
        good, want = len(shape) == 1, "(N,)"
    if not good:
        raise FrameError(f"a {format} frame has the shape {want}, not {shape}")
    return format


def _suggested(shape: tuple[int, ...], dtype: np.dtype[Any]) -> FrameFormat:
    if dtype == _UINT16 and len(shape) == 2:
        return "gray16"
    if dtype == _UINT8:
        if len(shape) == 1:
            return "bytes"
        if len(shape) == 2:
            return "gray8"
        if len(shape) == 3 and shape[2] in (3, 4):
            return "rgb24" if shape[2] == 3 else "rgba"
    return "array"


def size_of(format: str, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(width, height) in pixels of an image of that format and shape; None: it does not say."""
    if format in _CHANNELS or format in _GRAY:
        return shape[1], shape[0]
    return (shape[1], shape[0] * 2 // 3) if format in _PLANAR else None


def dtype_of(format: str, dtype: DTypeLike | None = None) -> np.dtype[Any]:
    """The dtype of a format's frames, unless another is asked for; in the machine's byte order."""
    if dtype is None:
        return _UINT16 if isinstance(format, str) and format == "gray16" else _UINT8
    try:
        return _native(np.dtype(dtype))
    except TypeError as e:
        raise FrameError(f"dtype: {e}") from None


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """In the machine's byte order; of dtypes that are equal, as int64 and longlong, the one of DTYPES."""
    native = dtype.newbyteorder("=")
    return DTYPES[DTYPES.index(native)] if native in DTYPES else dtype


def as_frame(image: Any, format: str | None) -> tuple[Any, Kind]:
    """An image as an array that can be published, and its Kind. Copies only what is in the other byte order.

    ``image``: a numpy array (strided or not), bytes, bytearray, a memoryview, a Frame, or anything else that
    numpy can see as an array. Raises FrameError.
    """
    if type(image) is not np.ndarray:
        try:
            image = (
                np.frombuffer(image, np.uint8) if isinstance(image, bytes | bytearray) else np.asarray(image)
            )
        except (TypeError, ValueError) as e:
            raise FrameError(f"{type(image).__name__} is not an image: {e}") from None
    dtype = image.dtype
    if dtype is not _UINT8 and (native := _native(dtype)) is not dtype:
        image = image.view(native) if dtype.isnative else image.astype(native)
        dtype = native
    return image, kind_of(image.shape, dtype, format)


class Encoded:
    """Metadata that are encoded once, for who publishes the same with many frames. Raises FrameError."""

    def __init__(self, meta: dict[str, Any]) -> None:
        self.data = as_meta(meta)


def as_meta(meta: dict[str, Any] | Encoded | None) -> bytes | None:
    """Metadata as it stands behind the frame: JSON. Raises FrameError."""
    if type(meta) is Encoded:
        return meta.data
    if meta is not None and not isinstance(meta, dict):
        raise FrameError(f"meta is a dict, not {type(meta).__name__}")
    if not meta:
        return None
    try:
        data = _encode(meta).encode()
    except (TypeError, ValueError, RecursionError) as e:
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
        except (TypeError, ValueError, ArithmeticError) as e:
            raise FrameError(f"time_base is a Fraction or a pair of integers: {e}") from None
    if good is not None:
        numerator, denominator = good.as_integer_ratio()
        if numerator <= 0:
            raise FrameError(f"time_base is in seconds, and above 0: not {good}")
        if not (numerator < 1 << 31 and denominator < 1 << 31):
            raise FrameError(f"time_base {good} needs numbers of more than 32 bits")
    return good
