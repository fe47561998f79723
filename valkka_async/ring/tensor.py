# SPDX-License-Identifier: MIT
"""Frames in a model's size, layout and type: one array for a batch, in memory that is used again."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valkka_async.errors import FrameError
from valkka_async.ring._rows import MAX_TOTAL, Axis, Fit
from valkka_async.ring._shm import Frame
from valkka_async.ring.formats import size_of

log = logging.getLogger("valkka_async")

_CHANNELS = {"rgb24": 3, "bgr24": 3, "rgba": 4, "bgra": 4, "gray8": 1}
_PLANAR: tuple[Literal["nv12", "yuv420p"], ...] = ("nv12", "yuv420p")
_TOTAL = 256  # of the weights, where sizes are in no whole proportion
_FITS = 256  # formats and sizes that are remembered
_SPARE = 2  # arrays that wait to be used again
_THREADS = 4


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
        if len(self.size) != 2 or not all(isinstance(n, int) and 0 < n <= 1 << 14 for n in self.size):
            raise ValueError(f"size is (width, height) in pixels, not {self.size}")
        for name, known in (
            ("layout", ("NHWC", "NCHW")),
            ("dtype", ("uint8", "float32", "float16")),
            ("format", ("rgb24", "bgr24")),
            ("resize", ("area", "linear")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}; not {getattr(self, name)!r}")
        if not (isinstance(self.pad, int) and 0 <= self.pad <= 255):
            raise ValueError(f"pad is a value from 0 to 255, not {self.pad}")
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


class Tensor:
    """Arrays of one shape, and threads that fill them from frames. Used by one loop."""

    def __init__(self, shape: Shape, threads: int | None, keep: bool) -> None:
        if threads is not None and not (isinstance(threads, int) and threads >= 1):
            raise ValueError(f"threads is at least 1, not {threads}")
        self._shape = shape
        self._table = shape.table().tobytes()
        self._threads = threads or min(_THREADS, len(os.sched_getaffinity(0)))
        self._keep = keep
        self._fits: dict[tuple[str, tuple[int, ...]], tuple[Fit, Placement] | None] = {}
        self._memory = _Memory()
        self._pool: ThreadPoolExecutor | None = None

    def takes(self, frame: Frame) -> bool:
        """Is it an image that can be a row? What is not is logged, once for each format and shape."""
        return self._fit(frame) is not None

    def begin(self, frames: list[Frame]) -> tuple[NDArray[Any], list[Placement], asyncio.Future[list[None]]]:
        """An array that is being filled with frames that it takes, and their places. It is whole when the
        future is done. Each frame is released as soon as its row is filled, unless they are kept."""
        rows = [self._fit(frame) for frame in frames]
        fits = [row for row in rows if row is not None]
        width, height = self._shape.size
        one = (height, width, 3) if self._shape.layout == "NHWC" else (3, height, width)
        array = self._memory.array((len(frames), *one), np.dtype(self._shape.dtype))
        lines = array.reshape(len(frames), -1).view(np.uint8)
        work = iter(list(zip(lines, [fit for fit, _ in fits], frames, strict=True)))

        def fill() -> None:
            for line, fit, frame in work:  # shared by the threads: each takes the next one
                fit.fill(line, frame.data.cast("B"))
                if not self._keep:
                    frame.release()

        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="valkka-batch")
        loop = asyncio.get_running_loop()
        count = min(self._threads, len(frames))
        done = asyncio.gather(*(loop.run_in_executor(self._pool, fill) for _ in range(count)))
        return array, [place for _, place in fits], done

    def close(self) -> None:
        """End the threads."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def _fit(self, frame: Frame) -> tuple[Fit, Placement] | None:
        key = frame.format, frame.shape
        if key not in self._fits:
            if len(self._fits) >= _FITS:
                self._fits.clear()
            try:
                self._fits[key] = self._made(*key)
            except FrameError as e:
                log.warning("batches: frames of %s are left out: %s", frame.source, str(e))
                self._fits[key] = None
        return self._fits[key]

    def _made(self, format: str, shape: tuple[int, ...]) -> tuple[Fit, Placement]:
        """Raises FrameError."""
        size = size_of(format, shape) if format in _CHANNELS or format in _PLANAR else None
        if size is None:
            raise FrameError(f"{format} is no image that can be resized")
        width, height = size
        to_width, to_height = self._shape.size
        if self._shape.letterbox:
            scale = min(to_width / width, to_height / height)
            inside = max(1, round(width * scale)), max(1, round(height * scale))
        else:
            inside = self._shape.size
        left, top = (to_width - inside[0]) // 2, (to_height - inside[1]) // 2
        axes = [_axis(*pair, self._shape.resize) for pair in zip((width, height), inside, strict=True)]
        chroma = None
        if format in _PLANAR:
            half = zip((width // 2, height // 2), inside, strict=True)
            chroma = tuple(_axis(*pair, self._shape.resize) for pair in half)
        fit = Fit(
            format if format in _PLANAR else _CHANNELS[format],
            axes[0], axes[1], chroma,  # type: ignore[arg-type]
            self._shape.size, (left, top), self._shape.layout == "NCHW",
            np.dtype(self._shape.dtype).itemsize, self._table, self._shape.pad,
            (format in ("bgr24", "bgra")) != (self._shape.format == "bgr24"),
        )  # fmt: skip
        return fit, Placement(inside[0] / width, inside[1] / height, left, top)


def _axis(source: int, size: int, resize: Literal["area", "linear"]) -> Axis:
    """The weights that bring ``source`` pixels to ``size``."""
    outputs = np.arange(size)
    if resize == "area" and source % size == 0 and source // size <= MAX_TOTAL:
        taps = source // size
        return Axis(source, (outputs * taps).astype(np.int32), np.ones((size, taps), np.uint16))
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
    whole = np.floor(share * _TOTAL)
    left = (_TOTAL - whole.sum(axis=1)).astype(int)  # what rounding took goes to the largest fractions
    order = np.argsort(np.argsort(whole - share * _TOTAL, axis=1), axis=1)
    weights = (whole + (order < left[:, None])).astype(np.uint16)
    while weights.shape[1] > 1 and not weights[:, -1].any():
        weights = weights[:, :-1]
    return Axis(source, first.astype(np.int32), np.ascontiguousarray(weights))


class _Memory:
    """Arrays whose memory comes back when nobody has the array, or a view or tensor of it, any more."""

    def __init__(self) -> None:
        self._spare: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array of this shape, whatever is in it."""
        nbytes = math.prod(shape) * dtype.itemsize
        with self._lock:
            fitting = [block for block in self._spare if block.nbytes >= nbytes]
            block = min(fitting, key=lambda one: one.nbytes) if fitting else None
            self._spare = [one for one in self._spare if one is not block and one.nbytes >= nbytes]
        if block is None:
            block = np.empty(nbytes, np.uint8)
        # By way of a buffer, views refer to this array and not to the block, so it lives as long as they.
        array = np.frombuffer(block.data, np.uint8)
        weakref.finalize(array, self._come_back, block).atexit = False
        return array[:nbytes].view(dtype).reshape(shape)

    def _come_back(self, block: NDArray[np.uint8]) -> None:
        if self._lock.acquire(
            blocking=False
        ):  # the collector may come in the middle of array(): let it go then
            try:
                if len(self._spare) < _SPARE:
                    self._spare.append(block)
            finally:
                self._lock.release()
