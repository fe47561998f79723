# SPDX-License-Identifier: MIT
"""Frames in a model's size, layout and type: one array for a batch, in memory that is used again."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valkka_async.ring._rows import Axis, Fit
from valkka_async.ring._shm import Frame
from valkka_async.ring.fitting import Fits, Fitting, Placement, Shape

_SPARE = 2  # arrays that wait to be used again
_THREADS = 4


class Tensor:
    """Arrays of one shape, and threads that fill them from frames. Used by one loop."""

    def __init__(self, shape: Shape, threads: int | None, keep: bool) -> None:
        if threads is not None and not (isinstance(threads, int) and threads >= 1):
            raise ValueError(f"threads is at least 1, not {threads}")
        self._shape = shape
        self._table = shape.table().tobytes()
        self._threads = threads or min(_THREADS, len(os.sched_getaffinity(0)))
        self._keep = keep
        self._fits = Fits(shape, self._make)
        self._memory = _Memory()
        self._pool: ThreadPoolExecutor | None = None

    def takes(self, frame: Frame) -> bool:
        """Is it an image that can be a row? What is not is logged, once for each format and shape."""
        return self._fits.of(frame) is not None

    def begin(self, frames: list[Frame]) -> tuple[NDArray[Any], list[Placement], asyncio.Future[list[None]]]:
        """An array that is being filled with frames that it takes, and their places. It is whole when the
        future is done. Each frame is released as soon as its row is filled, unless they are kept."""
        rows = [self._fits.of(frame) for frame in frames]
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

    def _make(self, found: Fitting) -> Fit:
        axes = [Axis(*one) for one in (found.columns, found.rows, *(found.chroma or ()))]
        return Fit(
            found.kind,
            axes[0], axes[1], tuple(axes[2:]) or None,  # type: ignore[arg-type]
            self._shape.size, (found.place.left, found.place.top), self._shape.layout == "NCHW",
            np.dtype(self._shape.dtype).itemsize, self._table, self._shape.pad, found.swap,
        )  # fmt: skip


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
