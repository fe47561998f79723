"""A GPU of the host's memory: what it is asked for is done later and in order, as by CUDA, and the kernel is
the same text, compiled for the CPU."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from valkka_async.errors import GpuError
from valkka_async.ring.gpu import kernel
from valkka_async.ring.gpu.device import Target, check_owner

PAGE = os.sysconf("SC_PAGESIZE")

# What CUDA has and C has not; and a launch: all threads of all blocks, one after the other.
BEFORE = """
#define VA_KERNEL static void
#define VA_DEVICE static inline
static _Thread_local struct { unsigned x, y, z; } blockIdx, blockDim, threadIdx;
"""
BEHIND = """
void launch(unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, void **p) {
    blockDim.x = bx, blockDim.y = by, blockDim.z = bz;
    for (blockIdx.z = 0; blockIdx.z < gz; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < gy; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < gx; blockIdx.x++)
                for (threadIdx.y = 0; threadIdx.y < by; threadIdx.y++)
                    for (threadIdx.x = 0; threadIdx.x < bx; threadIdx.x++)
                        va_rows(*(const va_row **)p[0], *(byte **)p[1], *(const byte **)p[2], *(i64 *)p[3],
                                *(i64 *)p[4], *(i64 *)p[5], *(i64 *)p[6], *(i64 *)p[7]);
}
"""


def compiled(*sources: str) -> Any:
    """A library made of C. Skips the test where there is no compiler, as where a finished wheel is tested."""
    compiler = os.environ.get("CC", "gcc")
    if shutil.which(compiler) is None:
        pytest.skip("gcc is not installed: apt-get install gcc libc6-dev")
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "made.c"), Path(folder, "made.so")
        source.write_text("\n".join(sources))
        command = [compiler, "-std=gnu11", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", source, "-o", made]
        subprocess.run(command, check=True, timeout=60)
        return ctypes.CDLL(str(made))


@cache
def the_kernel() -> Any:
    return compiled(BEFORE, kernel.SOURCE, BEHIND)


def mapped_at(address: int) -> str:
    """The file, as the kernel names it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        part, _, _, device, inode, *_ = line.split()
        first, end = (int(one, 16) for one in part.split("-"))
        if first <= address < end:
            return f"{device} {inode}"
    raise AssertionError(f"nothing is mapped at {address:#x}")


class FakeGpu:
    """See ring.gpu.device.Device. ``wrong`` is what was asked for and must not be."""

    def __init__(self, name: str = "cuda:0", registered: dict[int, int] | None = None) -> None:
        self.name, self.dlpack, self.pid = name, (1, 0), os.getpid()
        self.wrong: list[str] = []
        self.runs = True  # False: what is asked for waits, but for the next ``ahead`` of it
        self.ahead = 0
        self.fails: str | None = None  # all that it is asked for
        self.refuses: str | None = None  # to register memory
        self.registered = {} if registered is None else registered  # of all GPUs, as with a driver
        self._files: dict[int, str] = {}  # what was mapped at these
        self.registrations = 0
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.waited_for: list[int | None] = []
        self.copied = self.pageable = self.launches = self.frees = 0
        self.closed = self.hangs = False
        self._lock = threading.RLock()
        self._asked: deque[tuple[Callable[[], object], range]] = deque()  # and what of the host it reads
        self._events: dict[int, bool] = {}
        self._lost: set[int] = set()
        self._freed: list[NDArray[np.uint8]] = []
        the_kernel()

    @property
    def asked(self) -> int:
        """What it has still to do."""
        with self._lock:
            return len(self._asked)

    def restart(self) -> None:
        """It works again; all that it had is gone."""
        with self._lock:
            self.runs, self.ahead, self.fails, self.hangs = True, 0, None, False
            self._asked.clear()
            self._events.clear()
            self.registered.clear()
            self._lost |= set(self.memory)
            self._freed.extend(self.memory.values())
            self.memory.clear()

    def _check(self) -> None:
        check_owner(self)
        if self.fails is not None:
            raise GpuError(self.fails)

    def _ask(self, what: Callable[[], object], reads: range = range(0)) -> None:
        self._asked.append((what, reads))

    def _run(self) -> None:
        while self._asked and (self.runs or self.ahead > 0):
            self.ahead -= not self.runs
            self._asked.popleft()[0]()

    def _reads(self, address: int, nbytes: int) -> bool:
        return any(r.start < address + nbytes and address < r.stop for _, r in self._asked if len(r))

    def register(self, address: int, nbytes: int) -> None:
        with self._lock:
            self._check()
            if self.refuses is not None:
                raise GpuError(self.refuses)
            if address % PAGE or nbytes % PAGE or not nbytes:
                self.wrong.append(f"{address:#x} + {nbytes} are no pages")
            for other, size in self.registered.items():
                if other < address + nbytes and address < other + size:
                    self.wrong.append("memory was registered twice")
            ctypes.string_at(address, nbytes)  # it is there
            self.registered[address] = nbytes
            self._files[address] = mapped_at(address)
            self.registrations += 1

    def unregister(self, address: int) -> None:
        with self._lock:
            self._check()
            if address not in self.registered:
                self.wrong.append("memory was unregistered that was not registered")
            nbytes = self.registered.pop(address)
            if self._reads(address, nbytes):
                self.wrong.append("memory was unregistered under a copy")
            ctypes.string_at(address, nbytes)  # it is still there
            if self._files.pop(address, file := mapped_at(address)) != file:
                self.wrong.append("memory was unmapped before it was unregistered")

    def allocate(self, nbytes: int) -> int:
        with self._lock:
            self._check()
            memory = np.full(nbytes + 256, 0xDD, np.uint8)
            memory = memory[-memory.ctypes.data % 256 :][:nbytes]
            self.memory[memory.ctypes.data] = memory
            return int(memory.ctypes.data)

    def free(self, address: int) -> None:
        with self._lock:
            self._check()
            if address in self._lost:
                raise GpuError("invalid value")
            if self._asked:
                self.wrong.append("memory was freed while the device was busy, which would wait for it")
            memory = self.memory.pop(address)
            self.frees += 1
            memory[:] = 0xEE
            self._freed.append(memory)

    def copy_in(self, to: int, source: int, nbytes: int) -> None:
        with self._lock:
            self._check()
            self._inside(to, nbytes)
            pinned = False
            for address, size in self.registered.items():
                if address < source + nbytes and source < address + size:
                    pinned = True
                    if not (address <= source and source + nbytes <= address + size):
                        self.wrong.append("a copy is of more than what is registered")
            if pinned:
                self.copied += 1
                self._ask(lambda: ctypes.memmove(to, source, nbytes), range(source, source + nbytes))
            else:
                self.pageable += nbytes > 1 << 16  # small ones are tables
                data = ctypes.string_at(source, nbytes)
                self._ask(lambda: ctypes.memmove(to, data, nbytes))

    def copy_out(self, to: NDArray[Any], source: int) -> None:
        with self._lock:
            self._check()
            self._inside(source, to.nbytes)
            ctypes.memmove(to.ctypes.data, source, to.nbytes)

    def _inside(self, address: int, nbytes: int) -> None:
        if not any(a <= address and address + nbytes <= a + m.nbytes for a, m in self.memory.items()):
            self.wrong.append(f"{address:#x} + {nbytes} are not of the device")
            raise GpuError("illegal address")

    def launch(self, rows: int, count: int, target: Target) -> None:
        with self._lock:
            self._check()
            width, height = target.size
            self._inside(target.out, width * height * 3 * target.itemsize * count)
            values = (
                rows,
                target.out,
                target.table,
                width,
                height,
                target.planes,
                target.itemsize,
                target.pad,
            )
            boxes = [ctypes.c_uint64(value) for value in values]
            pointers = (ctypes.c_void_p * 8)(*(ctypes.addressof(box) for box in boxes))
            across, down = kernel.BLOCK

            def run(_: object = boxes) -> None:
                self.launches += 1
                the_kernel().launch(-(-width // across), -(-height // down), count, across, down, 1, pointers)

            self._ask(run)

    def record(self) -> int:
        with self._lock:
            self._check()
            event = next(n for n in range(1, 10000) if n not in self._events)
            self._events[event] = False
            self._ask(lambda: self._events.__setitem__(event, True))
            return event

    def done(self, event: int) -> bool:
        with self._lock:
            self._check()
            self._run()
            return self._events[event]

    def idle(self) -> bool:
        with self._lock:
            self._check()
            self._run()
            return not self._asked

    def forget(self, event: int) -> None:
        with self._lock:
            if not self._events.pop(event):
                self.wrong.append("an event was forgotten before it was done")

    def wait_for(self, stream: int | None) -> None:
        with self._lock:
            self._check()
            self.waited_for.append(stream)

    def close(self) -> None:
        self.closed = True
