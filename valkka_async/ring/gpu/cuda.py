# SPDX-License-Identifier: MIT
"""A GPU of NVIDIA's, by the driver's API through ctypes: neither a toolkit nor a library of Python's is
needed.

https://docs.nvidia.com/cuda/cuda-driver-api/. The context is the primary one, which PyTorch, CuPy and JAX use
as well. It is retained once for each process and never given up."""

from __future__ import annotations

import _thread
import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import cache
from typing import Any

from numpy.typing import NDArray

from valkka_async.errors import GpuError
from valkka_async.ring.gpu import kernel, nvrtc
from valkka_async.ring.gpu.device import Target, check_owner

_DRIVER = "libcuda.so.1"

# cuda.h. Names ending in _v2 are what its macros call.
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (POINTER(c_void_p),),
    "cuCtxSynchronize": (),
    "cuModuleLoadData": (POINTER(c_void_p), c_char_p),
    "cuModuleGetFunction": (POINTER(c_void_p), c_void_p, c_char_p),
    "cuMemHostRegister_v2": (c_void_p, c_size_t, c_uint),
    "cuMemHostUnregister": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoH_v2": (c_void_p, c_uint64, c_size_t),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamQuery": (c_void_p,),
    "cuStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventDestroy_v2": (c_void_p,),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventQuery": (c_void_p,),
    "cuLaunchKernel": (c_void_p, *[c_uint] * 7, c_void_p, POINTER(c_void_p), POINTER(c_void_p)),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
}

_NOT_INITIALIZED, _NO_DEVICE, _NOT_READY = 3, 100, 600
# After these the context is of no use any more, to anybody in the process.
_LOST = {4, 46, 214, 220, 700, 702, 709, *range(714, 720)}
_SECONDS = 30.0  # that a call may wait for the GPU
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: the default stream waits neither for it nor it for that
_NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_PORTABLE, _READ_ONLY = 1, 8  # CU_MEMHOSTREGISTER_...
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
_HOST_PAGE_TABLES = 100  # CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES
_READ_ONLY_SUPPORTED = 113  # CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED


@cache
def driver() -> Any:
    """The driver's library. Raises GpuError."""
    try:
        found = ctypes.CDLL(_DRIVER)
        for name, types in _FUNCTIONS.items():
            getattr(found, name).argtypes = types
    except (OSError, AttributeError) as e:
        raise GpuError(
            f'device="cuda" needs NVIDIA\'s driver, and {_DRIVER} is not there or too old ({e}): install the '
            "driver; in a container, give it the GPU (docker run --gpus all)"
        ) from None
    return found


def check_installed() -> None:
    """Is there what a Cuda needs? Starts nothing. Raises GpuError, ImportError."""
    version = c_int()
    _check(driver().cuDriverGetVersion(ctypes.byref(version)), "say its version")
    nvrtc.library(version.value // 1000)


class _Gpu:
    """What all batches on one GPU share: the context and the kernel."""

    def __init__(self, index: int) -> None:
        _check(driver().cuInit(0), "start CUDA")
        count = c_int()
        _check(driver().cuDeviceGetCount(ctypes.byref(count)), "count the GPUs")
        if index >= count.value:
            raise GpuError(
                f"there is no cuda:{index}: this process sees {count.value} GPUs (CUDA_VISIBLE_DEVICES)"
            )
        handle, version = c_int(), c_int()
        _check(driver().cuDeviceGet(ctypes.byref(handle), index), "open the GPU")
        _check(driver().cuDriverGetVersion(ctypes.byref(version)), "say its version")
        self._handle = handle.value
        self.context = c_void_p()
        _check(driver().cuDevicePrimaryCtxRetain(ctypes.byref(self.context), handle), "open the GPU")
        try:
            self._prepare(version.value // 1000)
        except BaseException:  # the next attempt retains it again
            driver().cuDevicePrimaryCtxRelease_v2(handle)
            raise

    def _prepare(self, major: int) -> None:
        # A map that is read-only needs the flag, unless the GPU uses the pages of the host; not every GPU
        # knows it.
        self.flags = _PORTABLE
        if self._attribute(_READ_ONLY_SUPPORTED):
            self.flags |= _READ_ONLY
        self.registers = bool(self.flags & _READ_ONLY) or bool(self._attribute(_HOST_PAGE_TABLES))
        capability = self._attribute(_MAJOR) * 10 + self._attribute(_MINOR)
        binary = nvrtc.compiled(kernel.SOURCE, capability, major)
        self.kernel = c_void_p()
        module = c_void_p()
        with self.current():
            _check(driver().cuModuleLoadData(ctypes.byref(module), binary), "load the kernel")
            name = kernel.NAME.encode()
            _check(driver().cuModuleGetFunction(ctypes.byref(self.kernel), module, name), "load the kernel")

    @contextmanager
    def current(self) -> Iterator[None]:
        """The context is this thread's, and afterwards what was before."""
        _check(driver().cuCtxPushCurrent_v2(self.context), "use the GPU")
        try:
            yield
        finally:
            driver().cuCtxPopCurrent_v2(ctypes.byref(c_void_p()))

    def _attribute(self, number: int) -> int:
        value = c_int()
        _check(
            driver().cuDeviceGetAttribute(ctypes.byref(value), number, self._handle),
            "ask what the GPU can do",
        )
        return value.value


@cache
def opened(index: int, pid: int) -> _Gpu:
    """Once for each process. Raises GpuError, ImportError."""
    return _Gpu(index)


class Cuda:
    """See Device. Opening the first on a GPU takes up to a second. Raises GpuError, ImportError."""

    def __init__(self, index: int) -> None:
        self.name, self.dlpack, self.pid = f"cuda:{index}", (2, index), os.getpid()
        self.hangs = False
        self._gpu = opened(index, self.pid)
        self._stream = c_void_p()
        self._events: list[int] = []  # all
        self._free: list[int] = []  # those that may be used again
        with self._gpu.current():
            _check(driver().cuStreamCreate(ctypes.byref(self._stream), _NON_BLOCKING), "make a stream")

    @contextmanager
    def _current(self) -> Iterator[None]:
        check_owner(self)
        with self._gpu.current():
            yield

    def register(self, address: int, nbytes: int) -> None:
        if not self._gpu.registers:
            raise GpuError("this GPU cannot register read-only memory (CUDA_ERROR_NOT_SUPPORTED)")
        with self._current():
            _check(
                driver().cuMemHostRegister_v2(address, nbytes, self._gpu.flags), "register memory of a ring"
            )

    def unregister(self, address: int) -> None:
        with self._current():
            _check(driver().cuMemHostUnregister(address), "unregister memory of a ring")

    def allocate(self, nbytes: int) -> int:
        address = c_uint64()
        with self._current():
            _check(driver().cuMemAlloc_v2(ctypes.byref(address), nbytes), f"allocate {nbytes} bytes")
        return address.value

    def free(self, address: int) -> None:
        def wait_and_free() -> int:
            waited, freed = driver().cuCtxSynchronize(), driver().cuMemFree_v2(address)
            return int(waited or freed)

        _check(self._bounded(wait_and_free), "free memory")

    def copy_in(self, to: int, source: int, nbytes: int) -> None:
        with self._current():
            _check(driver().cuMemcpyHtoDAsync_v2(to, source, nbytes, self._stream), "copy a frame")

    def copy_out(self, to: NDArray[Any], source: int) -> None:
        def copy() -> int:  # has the array, which may be written to for as long as this takes
            return int(driver().cuMemcpyDtoH_v2(to.ctypes.data, source, to.nbytes))

        _check(self._bounded(copy), "copy a batch")

    def _bounded(self, call: Callable[[], int]) -> int:
        """The result of calls that wait for the GPU, which the driver does without a limit. One that takes
        too long is left to its thread. Raises GpuError."""
        check_owner(self)
        if self.hangs:
            raise self._hung()
        results: list[int | GpuError] = []
        done = _thread.allocate_lock()
        done.acquire()

        def run() -> None:
            try:
                with self._gpu.current():
                    results.append(call())
            except GpuError as e:
                results.append(e)
            finally:
                done.release()

        try:
            _thread.start_new_thread(run, ())
        except RuntimeError as e:
            raise GpuError(f"there is no thread to wait for {self.name}: {e}") from None
        if not done.acquire(timeout=_SECONDS):
            self.hangs = True
            raise self._hung()
        (result,) = results
        if isinstance(result, GpuError):
            raise result
        return result

    def _hung(self) -> GpuError:
        return GpuError(
            f"{self.name} did not finish what it was asked for within {_SECONDS:.0f} s (nvidia-smi and dmesg "
            "may say why)"
        )

    def launch(self, rows: int, count: int, target: Target) -> None:
        width, height = target.size
        across, down = kernel.BLOCK
        arguments = [
            c_uint64(n)
            for n in (
                rows,
                target.out,
                target.table,
                width,
                height,
                target.planes,
                target.itemsize,
                target.pad,
            )
        ]
        pointers = (c_void_p * len(arguments))(*(ctypes.addressof(one) for one in arguments))
        with self._current():
            result = driver().cuLaunchKernel(
                self._gpu.kernel, -(-width // across), -(-height // down), count, across, down, 1, 0,
                self._stream, pointers, None,
            )  # fmt: skip
            _check(result, "start the kernel")

    def record(self) -> int:
        with self._current():
            return self._recorded(self._stream)

    def _recorded(self, stream: c_void_p) -> int:
        """An event of a stream."""
        if not self._free:
            made = c_void_p()
            _check(driver().cuEventCreate(ctypes.byref(made), _NO_TIMING), "make an event")
            self._events.append(made.value or 0)
            self._free.append(made.value or 0)
        event = self._free.pop()
        result = driver().cuEventRecord(event, stream)
        if result:
            self._free.append(event)
            _check(result, "record an event")
        return event

    def done(self, event: int) -> bool:
        with self._current():
            return _is_done(driver().cuEventQuery(event))

    def idle(self) -> bool:
        with self._current():
            return _is_done(driver().cuStreamQuery(self._stream))

    def forget(self, event: int) -> None:
        self._free.append(event)

    def wait_for(self, stream: int | None) -> None:
        if stream in (-1, 2):  # 2 is CU_STREAM_PER_THREAD, and would be of this thread
            self._wait_for_all()
            return
        with self._current():
            try:
                event = self._recorded(c_void_p(stream or 1))
            except GpuError:  # a stream that there is no more
                self._wait_for_all()
                return
            result = driver().cuStreamWaitEvent(self._stream, event, 0)
            self.forget(event)  # what waits for it goes by what was recorded by now
            _check(result, "wait for a library")

    def _wait_for_all(self) -> None:
        _check(self._bounded(lambda: int(driver().cuCtxSynchronize())), "wait for a library")

    def close(self) -> None:
        check_owner(self)
        with self._current():
            self._free.clear()
            while self._events:
                driver().cuEventDestroy_v2(self._events.pop())
            stream, self._stream = self._stream, c_void_p()
            if stream.value:
                driver().cuStreamDestroy_v2(stream)


def _is_done(result: int) -> bool:
    if result != _NOT_READY:
        _check(result, "copy or convert frames")
    return result != _NOT_READY


def _check(result: int, what: str) -> None:
    if not result:
        return
    name = c_char_p()
    driver().cuGetErrorName(result, ctypes.byref(name))
    text = f"the GPU could not {what}: {(name.value or str(result).encode()).decode()}"
    if result == _NOT_INITIALIZED:
        text += (
            '. If CUDA was used before this process was forked: start it with multiprocessing\'s "spawn", or '
            "fork before the GPU is used"
        )
    elif result == _NO_DEVICE:
        text += ". The driver sees no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES"
    elif result in _LOST:
        text += ". The GPU is lost to this process: start a new one (nvidia-smi and dmesg say more)"
    raise GpuError(text)
