# SPDX-License-Identifier: MIT
"""Frames in a model's size, layout and type: one array for a batch, in memory that is used again."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valkka_async.ring._rows import Axis, Fit
from valkka_async.ring._shm import Frame
from valkka_async.ring.fitting import Fits, Fitting, Placement, Shape
from valkka_async.ring.promise import Promise, fulfil
from valkka_async.ring.whole import whole

_SPARE = 2  # arrays that wait to be used again
_THREADS = 4
_MOST_THREADS = 1024


class Tensor:
    """Arrays of one shape, and threads that fill them from frames. Used by one loop."""

    def __init__(self, shape: Shape, threads: int | None, keep: bool) -> None:
        if threads is not None:
            threads = whole(threads, "threads", 1, _MOST_THREADS)
        self._shape = shape
        self._threads = threads or min(_THREADS, len(os.sched_getaffinity(0)))
        self._keep = keep
        self._fits = Fits(shape, partial(_fit, shape, shape.table().tobytes()))
        self._memory = _Memory()
        self._pool: ThreadPoolExecutor | None = None

    def takes(self, frame: Frame) -> bool:
        """Is it an image that can be a row? What is not is logged, once for each source and format."""
        return self._fits.of(frame) is not None

    def begin(self, frames: list[Frame]) -> tuple[NDArray[Any], list[Placement], Promise]:
        """An array that is being filled with frames that it takes, and their places. It is whole when the
        future is done. Each frame is released as soon as its row is filled, unless they are kept. Raises
        MemoryError; RuntimeError if there can be no thread."""
        rows = [self._fits.of(frame) for frame in frames]
        fits = [row for row in rows if row is not None]
        width, height = self._shape.size
        one = (height, width, 3) if self._shape.layout == "NHWC" else (3, height, width)
        array = self._memory.array((len(frames), *one), np.dtype(self._shape.dtype))
        lines = array.reshape(len(frames), -1).view(np.uint8)
        work = iter(list(zip(lines, [fit for fit, _ in fits], frames, strict=True)))
        done: Promise = asyncio.get_running_loop().create_future()
        count, keep = len(frames), self._keep
        filled: list[bool] = []

        def fill() -> None:
            for line, fit, frame in work:  # shared by the threads: each takes the next one
                fit.fill(line, frame.data.cast("B"))
                if not keep:
                    frame.release()
                filled.append(True)

        def run() -> None:
            try:
                fill()
                if len(filled) == count:
                    fulfil(done, None)
            except BaseException as e:
                fulfil(done, e)

        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="valkka-batch")
        for number in range(min(self._threads, count)):
            try:
                self._pool.submit(run)
            except RuntimeError:  # no more threads: those that there are do it
                if not number:
                    done.cancel()
                    raise
                break
        return array, [place for _, place in fits], done

    def close(self) -> None:
        """End the threads."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)


def _fit(shape: Shape, table: bytes, found: Fitting) -> Fit:
    axes = [Axis(*one) for one in (found.columns, found.rows, *(found.chroma or ()))]
    return Fit(
        found.kind,
        axes[0], axes[1], tuple(axes[2:]) or None,  # type: ignore[arg-type]
        shape.size, (found.place.left, found.place.top), shape.layout == "NCHW",
        np.dtype(shape.dtype).itemsize, table, shape.pad, found.swap,
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
