# SPDX-License-Identifier: MIT
"""How frames fit into a model's array: sizes, places, weights. Whoever fills it, threads or a GPU, goes by
these."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valkka_async.errors import FrameError
from valkka_async.ring._rows import MAX_TOTAL
from valkka_async.ring._shm import Frame
from valkka_async.ring.formats import size_of
from valkka_async.ring.whole import whole

log = logging.getLogger("valkka_async")

T = TypeVar("T")

_CHANNELS = {"rgb24": 3, "bgr24": 3, "rgba": 4, "bgra": 4, "gray8": 1}
_PLANAR: dict[str, Literal["nv12", "yuv420p"]] = {"nv12": "nv12", "yuv420p": "yuv420p"}
_TOTAL = 256  # of the weights, where sizes are in no whole proportion
_LONGEST = 1 << 16  # pixels of a side of a frame: with more, tables of weights would be larger than frames
_LARGEST = 1 << 14  # pixels of a side of a row
_FITS = 256  # formats and sizes that are remembered
_SAID = 4096  # sources and formats of which it was said that they are left out


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a frame lies in its row of the array: pixel (x, y) of the frame is at
    (x * scale_x + left, y * scale_y + top). Coordinates are of edges, as boxes have them: a frame that is W
    pixels wide begins at 0 and ends at W."""

    scale_x: float
    scale_y: float
    left: int
    top: int

    def to_frame(self, points: ArrayLike) -> NDArray[np.float64]:
        """From the model's coordinates to the frame's pixels. The last axis of ``points`` has x, y pairs:
        (x, y), or (x1, y1, x2, y2) of boxes, ..."""
        return self._map(points, 1 / self.scale_x, 1 / self.scale_y, -self.left, -self.top)

    def to_model(self, points: ArrayLike) -> NDArray[np.float64]:
        """The other way round."""
        scale_x, scale_y = self.scale_x, self.scale_y
        return self._map(points, scale_x, scale_y, self.left / scale_x, self.top / scale_y)

    @staticmethod
    def _map(points: ArrayLike, scale_x: float, scale_y: float, x: float, y: float) -> NDArray[np.float64]:
        mapped = np.array(points, np.float64)
        if not mapped.ndim or mapped.shape[-1] % 2:
            raise ValueError(f"the last axis has pairs of x and y, and not {mapped.shape[-1:]}")
        mapped[..., 0::2] = (mapped[..., 0::2] + x) * scale_x
        mapped[..., 1::2] = (mapped[..., 1::2] + y) * scale_y
        return mapped


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model wants; see :meth:`Merge.batches`. Raises ValueError."""

    size: tuple[int, int]
    letterbox: bool = True
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    dtype: Literal["uint8", "float32", "float16"] = "uint8"
    normalize: tuple[ArrayLike, ArrayLike] | None = None
    format: Literal["rgb24", "bgr24"] = "rgb24"
    resize: Literal["area", "linear"] = "area"
    pad: int = 114

    def __post_init__(self) -> None:
        try:
            width, height = self.size
        except (TypeError, ValueError):
            raise ValueError(f"size is (width, height) in pixels, not {self.size!r}") from None
        size = tuple(whole(side, "each side of size", 1, _LARGEST) for side in (width, height))
        object.__setattr__(self, "size", size)  # nobody changes it later
        for name, known in (
            ("layout", ("NHWC", "NCHW")),
            ("dtype", ("uint8", "float32", "float16")),
            ("format", ("rgb24", "bgr24")),
            ("resize", ("area", "linear")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}; not {getattr(self, name)!r}")
        object.__setattr__(self, "pad", whole(self.pad, "pad", 0, 255))
        if self.normalize is not None and self.dtype == "uint8":
            raise ValueError("normalize needs a dtype of float32 or float16")
        self.table()

    def table(self) -> NDArray[Any]:
        """What each byte of the three channels becomes: (3, 256)."""
        values = np.tile(np.arange(256), (3, 1))
        if self.dtype == "uint8":
            return values.astype(np.uint8)
        try:
            mean, std = (0, 1) if self.normalize is None else self.normalize
            mean, std = (np.broadcast_to(np.asarray(n, np.float64), 3)[:, None] for n in (mean, std))
        except (TypeError, ValueError) as e:
            raise ValueError(f"normalize is (mean, std), of one value each or of three: {e}") from None
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
            raise ValueError(f"normalize is (mean, std), finite, with std above 0, and not {self.normalize}")
        with np.errstate(over="ignore"):
            normal: NDArray[Any] = ((values / 255 - mean) / std).astype(self.dtype)
        if not np.isfinite(normal).all():
            raise ValueError(f"normalize makes values that {self.dtype} does not have: {self.normalize}")
        return normal


class Weights(NamedTuple):
    """Of one axis: output i is the sum of ``parts[i]`` (uint16) times the sources from ``first[i]`` (int32)
    on, divided by the sum of the parts, which is the same for all outputs."""

    source: int
    first: NDArray[np.int32]
    parts: NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Fitting:
    """How frames of one format and size become rows. ``kind``: a number of channels, "nv12" or "yuv420p".
    ``chroma``: the axes of its colour, columns and rows, or None. ``swap``: the channels are stored the other
    way round. The result begins at (left, top) of ``place``."""

    kind: int | Literal["nv12", "yuv420p"]
    columns: Weights
    rows: Weights
    chroma: tuple[Weights, Weights] | None
    swap: bool
    place: Placement


def fitting(shape: Shape, format: str, frame: tuple[int, ...]) -> Fitting:
    """How a frame of this format and shape becomes a row. Raises FrameError."""
    size = size_of(format, frame) if format in _CHANNELS or format in _PLANAR else None
    if size is None:
        raise FrameError(f"{format} is no image that can be resized")
    width, height = size
    if max(size) > _LONGEST:
        raise FrameError(f"{width}x{height} is too large: up to {_LONGEST} pixels a side can be resized")
    to_width, to_height = shape.size
    if shape.letterbox:
        scale = min(to_width / width, to_height / height)
        inside = max(1, round(width * scale)), max(1, round(height * scale))
    else:
        inside = shape.size
    left, top = (to_width - inside[0]) // 2, (to_height - inside[1]) // 2
    columns, rows = weights(width, inside[0], shape.resize), weights(height, inside[1], shape.resize)
    chroma = None
    if format in _PLANAR:
        chroma = (
            weights(width // 2, inside[0], shape.resize),
            weights(height // 2, inside[1], shape.resize),
        )
    kind = _PLANAR.get(format) or _CHANNELS[format]
    swap = (format in ("bgr24", "bgra")) != (shape.format == "bgr24")
    place = Placement(inside[0] / width, inside[1] / height, left, top)
    return Fitting(kind, columns, rows, chroma, swap, place)


class Fits(Generic[T]):
    """What was made of the fittings of the formats and sizes that were met."""

    def __init__(self, shape: Shape, make: Callable[[Fitting], T]) -> None:
        self._shape = shape
        self._make = make
        self._fits: dict[tuple[str, tuple[int, ...]], tuple[T, Placement]] = {}
        self._said: set[tuple[str, str]] = set()

    def of(self, frame: Frame) -> tuple[T, Placement] | None:
        """For frames like this one, and where they lie; None if they can be no row, which is logged, once for
        each source and format."""
        key = frame.format, frame.shape
        fit = self._fits.get(key)
        if fit is None:
            try:
                found = fitting(self._shape, *key)
            except FrameError as e:
                self._say(frame, e)
                return None
            if len(self._fits) >= _FITS:
                self._fits.clear()
            fit = self._fits[key] = self._make(found), found.place
        return fit

    def _say(self, frame: Frame, error: FrameError) -> None:
        """Not by shape: encoded frames have a new one each time."""
        if (frame.source, frame.format) not in self._said:
            if len(self._said) >= _SAID:
                self._said.clear()
            self._said.add((frame.source, frame.format))
            log.warning("batches: frames of %s are left out: %s", frame.source, str(error))


def weights(source: int, size: int, resize: Literal["area", "linear"]) -> Weights:
    """The weights that bring ``source`` pixels to ``size``."""
    outputs = np.arange(size)
    if resize == "area" and source % size == 0 and source // size <= MAX_TOTAL:
        taps = source // size
        return Weights(source, (outputs * taps).astype(np.int32), np.ones((size, taps), np.uint16))
    if resize == "area" and source > size:
        ratio = source / size
        taps = min(source, math.ceil(ratio) + 1)
        first = np.minimum((outputs * ratio).astype(np.int32), source - taps)
        cells = first[:, None] + np.arange(taps)
        begin, end = (outputs * ratio)[:, None], ((outputs + 1) * ratio)[:, None]
        share = np.clip(np.minimum(end, cells + 1) - np.maximum(begin, cells), 0, None) / ratio
    else:  # between the two nearest pixels, at the places where OpenCV has them
        at = np.clip((outputs + 0.5) * source / size - 0.5, 0, source - 1)
        taps = min(source, 1 if not (at % 1).any() else 2)
        first = np.minimum(at.astype(np.int32), source - taps)
        share = np.clip(1 - np.abs(first[:, None] + np.arange(taps) - at[:, None]), 0, None)
    # Sums are rounded, not shares: what rounding takes is given back evenly, also where there are more pixels
    # than parts.
    ends = np.rint(share.cumsum(axis=1) * _TOTAL)
    parts = np.diff(ends, axis=1, prepend=0).astype(np.uint16)
    while parts.shape[1] > 1 and not parts[:, -1].any():
        parts = parts[:, :-1]
    return Weights(source, first.astype(np.int32), np.ascontiguousarray(parts))
