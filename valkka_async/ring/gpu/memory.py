# SPDX-License-Identifier: MIT
"""Batches in the memory of a GPU, which is used again."""

from __future__ import annotations

import _thread
import math
import operator
import weakref
from collections import deque
from typing import Any

import numpy as np

from valkka_async.errors import GpuError, InheritedError
from valkka_async.ring._shm import lend
from valkka_async.ring.gpu.device import Device, check_owner

_CPU = (1, 0)
_SPARE = 2  # blocks that wait to be used again


class Block:
    """Memory of the device, and the streams of others in which it was last used."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.address = address
        self.nbytes = nbytes
        self.users: set[int | None] = set()


class DeviceArray:
    """A batch on a GPU, for ``torch.from_dlpack()`` and the like. Whole, and no stream need be waited for.

    ``np.from_dlpack(batch, device="cpu")`` makes a copy for the CPU.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._place: tuple[Device, Block] | None = None  # None: it is not filled yet
        #: As of numpy.
        self.shape = shape
        self.dtype = dtype

    @property
    def nbytes(self) -> int:
        """Of all elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def put(self, device: Device, block: Block, blocks: Blocks) -> None:
        """Used by whoever fills it: it lies there, and the block comes back when nobody has this array."""
        self._place = device, block
        weakref.finalize(self, blocks.come_back, block).atexit = False

    def _where(self) -> tuple[Device, Block]:
        if self._place is None:
            raise BufferError("this batch was never filled")
        check_owner(self._place[0])
        return self._place

    @property
    def device(self) -> str:
        """ "cuda:0"."""
        return self._where()[0].name

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._where()[0].dlpack

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Raises BufferError, GpuError, InheritedError."""
        device, block = self._where()
        versioned = max_version is not None and max_version[0] >= 1
        if dl_device is not None and tuple(dl_device) != device.dlpack:
            if tuple(dl_device) != _CPU or copy is False:
                raise BufferError(f"this batch is in the memory of {device.name}: copy it from there")
            host = np.empty(self.shape, self.dtype)
            device.copy_out(host, block.address)
            return lend(host, host.ctypes.data, _CPU, self.dtype, self.shape, versioned)
        if copy:
            raise BufferError("copy the tensor with its library, as with torch's clone()")
        block.users.add(None if stream is None else operator.index(stream))
        return lend(self, block.address, device.dlpack, self.dtype, self.shape, versioned)


class Blocks:
    """Blocks of one device. All but ``come_back()`` is called in one thread."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._spare: list[Block] = []
        self._back: deque[Block] = deque()  # appended to wherever the collector comes
        self._closed = False

    def take(self, nbytes: int) -> Block:
        """One of at least so many bytes. What others still do with it is in ``users``. Raises GpuError."""
        while self._back:
            self._spare.append(self._back.popleft())
        fitting = [block for block in self._spare if block.nbytes >= nbytes]
        block = min(fitting, key=lambda one: one.nbytes, default=None)
        kept = [block, *[one for one in fitting if one is not block][-_SPARE:]]
        for other in [one for one in self._spare if one not in kept]:
            self._spare.remove(other)
            self._device.free(other.address)
        if block is not None:
            self._spare.remove(block)
        return block or Block(self._device.allocate(nbytes), nbytes)

    def come_back(self, block: Block) -> None:
        """Nobody has the array any more. In any thread, in the midst of anything: freeing, which waits for
        the device, has a thread of its own."""
        self._back.append(block)
        if self._closed:
            try:
                _thread.start_new_thread(self._free_all, ())
            except RuntimeError:
                pass  # it is freed with the process

    def close(self) -> None:
        """Free what is not in use, and the rest when it comes back."""
        self._closed = True
        self._back.extend(self._spare)
        self._spare = []
        self._free_all()

    def _free_all(self) -> None:
        while True:
            try:
                block = self._back.popleft()
            except IndexError:
                return
            try:
                self._device.free(block.address)
            except (GpuError, InheritedError):
                pass  # with the GPU's context, or it is the parent's
