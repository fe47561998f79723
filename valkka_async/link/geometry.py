# SPDX-License-Identifier: MIT
"""What a raw frame is, besides its format, <-> bytes: its dtype as numpy writes it ("<f4"), then its axes.

What another host says is checked here, before there is an array: no more memory is taken than it has sent.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from valkka_async.errors import FrameError
from valkka_async.link.faults import Fault, UnitError
from valkka_async.ring.formats import FrameFormat, kind_of

# In the order of their numbers in a unit, which never changes.
RAW: Final[tuple[FrameFormat, ...]] = (
    "rgb24", "bgr24", "rgba", "bgra", "gray8", "gray16", "nv12", "yuv420p", "array",
)  # fmt: skip
_NAMES = "|u1 <u2 <u4 <u8 |i1 <i2 <i4 <i8 <f2 <f4 <f8 |b1"
_DTYPES = {name.encode(): np.dtype(name) for name in _NAMES.split()}
_AXES = 4  # at most
_NAME = 3  # bytes of a dtype's
_AXIS = 4


def encode(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """The geometry of a frame."""
    return dtype.str.encode() + struct.pack(f"<{len(shape)}I", *shape)


def image(format: FrameFormat, geometry: bytes, data: memoryview) -> NDArray[Any]:
    """The frame, in the memory of `data`. Raises UnitError: they do not fit together."""
    axes, rest = divmod(len(geometry) - _NAME, _AXIS)
    dtype = _DTYPES.get(geometry[:_NAME])
    if rest or not 0 < axes <= _AXES or dtype is None:
        raise UnitError(Fault.GEOMETRY, "a raw frame whose geometry cannot be")
    shape = struct.unpack_from(f"<{axes}I", geometry, _NAME)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise UnitError(
            Fault.GEOMETRY, f"a raw frame of {len(data)} bytes that should have the shape {shape}"
        )
    try:
        kind_of(shape, dtype, format)
    except FrameError as e:
        raise UnitError(Fault.GEOMETRY, str(e)) from None
    return np.frombuffer(data, dtype).reshape(shape)
