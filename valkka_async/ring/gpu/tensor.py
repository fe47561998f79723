# SPDX-License-Identifier: MIT
"""Frames into a model's array on a GPU: copied from their slots, and made rows there by one kernel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valkka_async.errors import GpuError, InheritedError
from valkka_async.ring._shm import Frame, slot_of
from valkka_async.ring.fitting import Fits, Placement, Shape
from valkka_async.ring.gpu.device import Device, Target
from valkka_async.ring.gpu.kernel import ROW, Row
from valkka_async.ring.gpu.memory import Block, Blocks, DeviceArray
from valkka_async.ring.gpu.pinned import Pinned
from valkka_async.ring.promise import Promise, fulfil

log = logging.getLogger("valkka_async")

_ALIGNED = 256  # bytes; where frames begin in the device's memory
_TABLES = 256  # formats and sizes whose weights are on the device
_SECONDS = 30.0  # that a GPU may take for a batch
_STUCK = 90.0  # s for opening the device and a batch, after which a call of the driver does not return
_PAUSE = 50e-6, 1e-3  # s between looks whether a copy is done, at first and at most


class GpuTensor:
    """As Tensor, with arrays on a GPU. Used by one loop; a thread does all that the device is asked for."""

    def __init__(self, shape: Shape, keep: bool, open_device: Callable[[], Device]) -> None:
        self._shape = shape
        self._keep = keep
        self._open = open_device
        self._fits = Fits(shape, Row)
        self._pid = os.getpid()
        self._jobs: _Jobs | None = None  # of the thread; None: there is none
        self._end: weakref.finalize[..., Any] | None = None  # what ends it

    def takes(self, frame: Frame) -> bool:
        """Is it an image that can be a row? What is not is logged, once for each source and format."""
        return self._fits.of(frame) is not None

    def begin(self, frames: list[Frame]) -> tuple[DeviceArray, list[Placement], Promise]:
        """An array that is being filled with frames that it takes, and their places. It is whole when the
        future is done. Each frame is released as soon as it is copied, unless they are kept. The future
        raises GpuError, ImportError. Raises InheritedError in a forked child, RuntimeError if there can be no
        thread."""
        if self._pid != os.getpid():
            raise InheritedError(
                "these batches belong to the parent process, and CUDA does not survive a fork: make others "
                'in a process that multiprocessing\'s "spawn" has started'
            )
        fits = [fit for frame in frames if (fit := self._fits.of(frame)) is not None]
        width, height = self._shape.size
        one = (height, width, 3) if self._shape.layout == "NHWC" else (3, height, width)
        array = DeviceArray((len(frames), *one), np.dtype(self._shape.dtype))
        loop = asyncio.get_running_loop()
        done: Promise = loop.create_future()
        timer = loop.call_later(_STUCK, _give_up, done)
        done.add_done_callback(lambda _: timer.cancel())
        if self._jobs is None:
            jobs: _Jobs = SimpleQueue()
            work = _Work(self._shape, self._keep, self._open)
            threading.Thread(target=_run, args=(jobs, work), name="valkka-gpu", daemon=True).start()
            self._end = weakref.finalize(self, jobs.put, None)
            self._end.atexit = False
            self._jobs = jobs
        self._jobs.put((list(zip(frames, (row for row, _ in fits), strict=True)), array, done))
        return array, [place for _, place in fits], done

    def close(self) -> None:
        """End the thread, once it has done what it was asked for, and give up what it has of the device. Does
        not wait."""
        self._jobs = None
        if self._end is not None:
            self._end()


def _give_up(done: Promise) -> None:
    """Whoever waits is told; the thread stays in the driver, with the slots that it was to copy."""
    if not done.done():
        done.set_exception(
            GpuError(f"a call of the GPU's driver has not returned for {_STUCK:.0f} s (dmesg may say why)")
        )
        done.exception()  # nobody has to wait


_Job = tuple[list[tuple[Frame, Row]], DeviceArray, Promise]
_Jobs = SimpleQueue["_Job | None"]  # whose put() may be called in the midst of anything


def _run(jobs: _Jobs, work: _Work) -> None:
    """The thread."""
    while (job := jobs.get()) is not None:
        rows, array, done = job
        error: BaseException | None = None
        try:
            work.fill(rows, array)
        except BaseException as e:
            error = e
        del job, rows, array  # what is handed out is the reader's alone
        fulfil(done, error)
        del done, error
    work.close()


class _Work:
    """What the thread has: the device, and memory there. One batch at a time."""

    def __init__(self, shape: Shape, keep: bool, open_device: Callable[[], Device]) -> None:
        self._shape = shape
        self._keep = keep
        self._open = open_device
        self._on: _OnDevice | None = None

    def fill(self, rows: list[tuple[Frame, Row]], array: DeviceArray) -> None:
        """Fill an array. Raises GpuError, ImportError; the frames are released then as well."""
        copies: deque[_Copy] = deque()
        try:
            if self._on is None:
                self._on = _OnDevice(self._open(), self._shape)
            whole = self._on.start(rows, array, copies)
            self._await(self._on, copies)
            self._on.wait(whole)
        except BaseException:
            self._abandon(copies)
            for frame, _ in rows:
                frame.release()
            raise

    def _await(self, on: _OnDevice, copies: deque[_Copy]) -> None:
        while copies:
            if copies[0].event is not None:
                on.wait(copies[0].event)
            self._give_back(copies.popleft())

    def _give_back(self, copy: _Copy) -> None:
        copy.view.release()
        if not self._keep:
            copy.frame.release()

    def _abandon(self, copies: deque[_Copy]) -> None:
        """Let what was started end, if the device still does anything."""
        try:
            if self._on is not None:
                self._on.settle()
        except GpuError:
            pass
        while copies:  # nobody will see what becomes of them
            self._give_back(copies.popleft())

    def close(self) -> None:
        """Give up what it has of the device."""
        if self._on is not None:
            self._on.close()


class _Copy:
    """A frame that is copied, from before it is until the event is done."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.view = frame.data  # keeps the slot as it is, whoever releases the frame
        self.event: int | None = None


class _OnDevice:
    """The stream of one batches(), and its memory."""

    def __init__(self, device: Device, shape: Shape) -> None:
        self._device = device
        self._shape = shape
        self._blocks = Blocks(device)
        self._pinned = Pinned(device)
        self._frames = Block(0, 0)  # where frames lie before they are rows, behind their descriptions
        self._weights: dict[Row, int] = {}
        self._until = 0.0
        self._table = 0

    def start(self, rows: list[tuple[Frame, Row]], array: DeviceArray, copies: deque[_Copy]) -> int:
        """Ask the device for all of a batch. The copies are noted as they are begun; the event is that of the
        end. Raises GpuError."""
        device = self._device
        self._until = time.monotonic() + _SECONDS
        if not self._table:
            self._table = self._put(np.frombuffer(self._shape.table().tobytes(), np.uint8))
        self._pinned.forget_idle()
        if len(self._weights.keys() | {row for _, row in rows}) > _TABLES:
            while self._weights:
                device.free(self._weights.popitem()[1])
        block = self._blocks.take(
            array.nbytes
        )  # what has to be freed is, before there is anything to wait for
        array.put(device, block, self._blocks)
        begin = at = _up(ROW.itemsize * len(rows))
        size = begin + sum(_up(frame.nbytes) for frame, _ in rows)
        if size > self._frames.nbytes:
            old, self._frames = self._frames, Block(0, 0)
            if old.nbytes:
                device.free(old.address)
            self._frames = Block(device.allocate(size), size)
        descriptions = np.zeros(len(rows), ROW)
        for number, (frame, row) in enumerate(rows):
            if row not in self._weights:
                self._weights[row] = self._put(row.tables)
            copy = _Copy(frame)
            copies.append(copy)
            map, address, room = slot_of(frame)
            self._pinned.want(frame.source, map, address, room)
            to = self._frames.address + at
            device.copy_in(to, address, frame.nbytes)
            copy.event = device.record()
            descriptions[number] = row.at(to, self._weights[row])
            at += _up(frame.nbytes)
        device.copy_in(self._frames.address, descriptions.ctypes.data, descriptions.nbytes)
        for stream in block.users:
            device.wait_for(stream)
        block.users.clear()
        itemsize, planes = array.dtype.itemsize, self._shape.layout == "NCHW"
        target = Target(block.address, self._table, self._shape.size, planes, itemsize, self._shape.pad)
        device.launch(self._frames.address, len(rows), target)
        return device.record()

    def wait(self, event: int) -> None:
        """Until the event is done, for as long as a batch may take. Raises GpuError."""
        self._poll(partial(self._device.done, event))
        self._device.forget(event)

    def settle(self) -> None:
        """Until nothing is left of what was asked for, for as long as a batch may take. Raises GpuError."""
        self._poll(self._device.idle)

    def _poll(self, done: Callable[[], bool]) -> None:
        pause, most = _PAUSE
        while not done():
            if time.monotonic() >= self._until:
                self._device.hangs = True
                raise GpuError(f"{self._device.name} did not finish a batch within {_SECONDS:.0f} s")
            time.sleep(pause)
            pause = min(pause * 1.5, most)

    def close(self) -> None:
        """Give all up. Where the device hangs, all stays as it is until the process ends: freeing would wait,
        and copies may still read."""
        memory = [self._table, self._frames.address, *self._weights.values()]
        # Freeing waits for the device, so no copy is under way when slots are unregistered.
        steps: list[Callable[[], None]] = [
            partial(self._device.free, address) for address in memory if address
        ]
        for give_up in [*steps, self._blocks.close, self._pinned.close, self._device.close]:
            if self._device.hangs:
                abandoned.append(self)
                return
            try:
                give_up()
            except (GpuError, InheritedError) as e:
                log.debug("batches: %s", str(e))

    def _put(self, data: NDArray[np.uint8]) -> int:
        """Memory of the device with this in it."""
        address = self._device.allocate(data.nbytes)
        try:
            self._device.copy_in(address, data.ctypes.data, data.nbytes)
        except GpuError:
            with contextlib.suppress(GpuError):
                self._device.free(address)
            raise
        return address


abandoned: list[_OnDevice] = []  # as the device hung


def _up(nbytes: int) -> int:
    return -(-nbytes // _ALIGNED) * _ALIGNED
