"""The driver through ctypes, against a library of the same functions on the host's memory; and NVRTC."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_gpu import workers

import valkka_async as va
from support.gpu import BEFORE, BEHIND, compiled
from support.until import until, wait_for
from valkka_async.ring.gpu import cuda, kernel, nvrtc, pinned, tensor

DRIVER = r"""
#include <stdlib.h>
#include <unistd.h>
#include <string.h>
#define OUT(value) (*out = (value), 0)
typedef unsigned u32; typedef unsigned long long u64; typedef void *ptr;
int supported = 1, page_tables = 0, devices = 2, start = 0, fails = 0, again = 0;
_Atomic int memory = 0; /* of several threads */
int flags = -1, registered = 0, events = 0, streams = 0, waits = 0, launches = 0;
int synchronized = 0, contexts = 0;
_Atomic int holds = 0, held = 0; /* 1: what waits for the GPU, 2: registering; how many do */
int calls = 0, at = 0, code = 0, stays = 0; /* call number `at` fails, and all from there on */
static int queries = 0;
static _Thread_local int depth = 0;
static int call(void) {
    const int n = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    return at && (n == at || (stays && n > at)) ? code : 0;
}
#define CALL const int failed = call(); if (failed) return failed
#define IN CALL; if (depth != 1) return 201 /* CUDA_ERROR_INVALID_CONTEXT */; if (fails) return fails
static int wait_for(int which) {
    held++;
    while (holds & which) usleep(1000);
    held--;
    return 0;
}
int cuInit(u32 f) { CALL; (void)f; return start; }
int cuDriverGetVersion(int *out) { CALL; return OUT(12040); }
int cuDeviceGetCount(int *out) { CALL; return OUT(devices); }
int cuDeviceGet(int *out, int n) { CALL; return OUT(n + 70); }
int cuDeviceGetAttribute(int *out, int what, int device) {
    CALL;
    if (device < 70) return 101;
    return OUT(what == 75 ? 9 : what == 76 ? 0 : what == 100 ? page_tables : what == 113 ? supported : -1);
}
int cuDevicePrimaryCtxRetain(ptr *out, int device) {
    CALL;
    if (device < 70) return 101;
    contexts++;
    return OUT((ptr)0x7000000000001234);
}
int cuDevicePrimaryCtxRelease_v2(int device) { CALL; if (device < 70) return 101; contexts--; return 0; }
int cuCtxPushCurrent_v2(ptr c) { CALL; return c != (ptr)0x7000000000001234 ? 201 : (depth++, 0); }
int cuCtxPopCurrent_v2(ptr *out) { depth--; CALL; return OUT(NULL); }
int cuCtxSynchronize(void) { IN; synchronized++; return wait_for(1); }
int cuModuleLoadData(ptr *out, const char *image) {
    CALL;
    return strcmp(image, "a binary") ? 200 : OUT((ptr)0x7000000000000001);
}
int cuModuleGetFunction(ptr *out, ptr m, const char *name) {
    CALL;
    if (m != (ptr)0x7000000000000001 || strcmp(name, "va_rows")) return 500;
    return OUT((ptr)0x7000000000000002);
}
int cuMemHostRegister_v2(ptr p, size_t n, u32 f) {
    IN;
    if ((u64)p % 4096 || n % 4096) return 1;
    wait_for(2);
    flags = f, registered++;
    return 0;
}
int cuMemHostUnregister(ptr p) { IN; if ((u64)p % 4096) return 1; registered--; return 0; }
int cuMemAlloc_v2(u64 *out, size_t n) {
    IN;
    memory++;
    return OUT((u64)aligned_alloc(256, (n + 255) & ~255ul));
}
int cuMemFree_v2(u64 p) { IN; wait_for(1); memory--; free((ptr)p); return 0; }
int cuMemcpyHtoDAsync_v2(u64 to, ptr from, size_t n, ptr s) {
    IN;
    if (s != &streams) return 400;
    memcpy((ptr)to, from, n);
    return 0;
}
int cuMemcpyDtoH_v2(ptr to, u64 from, size_t n) { IN; wait_for(1); memcpy(to, (ptr)from, n); return 0; }
int cuStreamCreate(ptr *out, u32 f) { IN; if (f != 1) return 1; streams++; return OUT(&streams); }
int cuStreamDestroy_v2(ptr s) { IN; if (s != &streams) return 400; streams--; return 0; }
int cuStreamQuery(ptr s) { IN; return s == &streams ? 0 : 400; }
int cuStreamWaitEvent(ptr s, ptr e, u32 f) {
    IN;
    if (s != &streams || !e || f) return 400;
    waits++;
    return 0;
}
int cuEventCreate(ptr *out, u32 f) { IN; if (f != 2) return 1; events++; return OUT(malloc(1)); }
int cuEventDestroy_v2(ptr e) { IN; events--; free(e); return 0; }
int cuEventRecord(ptr e, ptr s) { IN; return e && (s == &streams || s == (ptr)1) ? 0 : 400; }
int cuEventQuery(ptr e) { IN; (void)e; return again && queries++ % 3 ? 600 : 0; }
void launch(u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, void **p);
int cuLaunchKernel(ptr f, u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, u32 shared, ptr s, void **p,
                   void **more) {
    IN;
    if (f != (ptr)0x7000000000000002 || shared || s != &streams || more) return 1;
    launches++;
    launch(gx, gy, gz, bx, by, bz, p);
    return 0;
}
int cuGetErrorName(int code, const char **out) {
    return code == 700 ? OUT("CUDA_ERROR_ILLEGAL_ADDRESS") : code == 100 ? OUT("CUDA_ERROR_NO_DEVICE") : 1;
}
"""


class Driver:
    """The library's variables as attributes."""

    def __init__(self, library: Any) -> None:
        object.__setattr__(self, "library", library)

    def __getattr__(self, name: str) -> int:
        return ctypes.c_int.in_dll(self.library, name).value

    def left(self) -> tuple[int, ...]:
        """Registered slots, memory, events and streams that were not given up."""
        gc.collect()
        return self.registered, self.memory, self.events, self.streams

    def __setattr__(self, name: str, value: int) -> None:
        ctypes.c_int.in_dll(self.library, name).value = value


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    library = compiled(DRIVER, BEFORE, kernel.SOURCE, BEHIND)
    monkeypatch.setattr(ctypes, "CDLL", lambda name, **_: library)
    monkeypatch.setattr(nvrtc, "library", lambda major: None)
    monkeypatch.setattr(nvrtc, "compiled", lambda source, capability, major: b"a binary")
    forget()
    yield Driver(library)
    forget()


def forget() -> None:
    cuda.driver.cache_clear()
    cuda.opened.cache_clear()


async def on_host(batch: va.Batch) -> NDArray[Any]:
    """In a thread, as it waits for the GPU."""
    return await asyncio.to_thread(np.from_dlpack, batch, device="cpu")


async def some_batches(device: str = "cuda:1", turns: int = 5) -> None:
    """They are as those of the CPU."""
    random = np.random.default_rng(4)
    options = {"size": (40, 40), "dtype": "float32", "layout": "NCHW", "normalize": (0.5, 0.25)}
    async with va.serve("a", slots=4) as a, va.serve("b", slots=4) as b, va.merge("a", "b") as merged:
        await until(lambda: None not in merged.stats().sources.values())
        batches = [merged.batches(window=30, device=one, **options) for one in ("cpu", device)]
        for _ in range(turns):
            images = [random.integers(0, 256, (96, 80), np.uint8) for _ in range(2)]
            arrays = []
            for made in batches:
                for server, image in zip((a, b), images, strict=True):
                    server.publish(image, format="nv12")
                async with asyncio.timeout(30):
                    batch = await anext(made)
                array = batch.array if made is batches[0] else await on_host(batch)
                arrays.append(array[np.argsort(batch.names)].copy())
            assert arrays[0].tobytes() == arrays[1].tobytes()
            assert batch.device == device and batch.__dlpack_device__() == (2, int(device[-1]))
            for stream in (1, 2, -1, None, 0x1234):  # the last is gone
                batch.__dlpack__(stream=stream)
        assert merged.stats().leases == 0
        del batches, made, batch
        await until(lambda: not pinned.registered())


async def test_the_driver_is_asked_for_what_it_has(driver: Driver) -> None:
    driver.again = 1  # some events are not done at the first look
    await some_batches()
    await until(lambda: not driver.streams)
    assert driver.launches == 5 and driver.flags == 9, "portable and read-only"
    assert (driver.registered, driver.memory, driver.events) == (0, 0, 0)
    assert driver.waits > 0 and driver.synchronized > 0


async def test_a_gpu_with_the_host_s_page_tables_needs_no_flag(driver: Driver) -> None:
    driver.supported, driver.page_tables = 0, 1
    await some_batches()
    assert driver.flags == 1


async def test_one_that_cannot_register_copies_from_pageable_memory(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    driver.supported = 0
    with caplog.at_level(logging.WARNING):
        await some_batches()
    assert driver.flags == -1 and len(caplog.records) == 1


@pytest.mark.parametrize(
    ("set_to", "device", "words"),
    [
        ({"start": 3}, "cuda", "spawn"),
        ({"start": 100}, "cuda", "CUDA_ERROR_NO_DEVICE.*nvidia-smi"),
        ({"devices": 1}, "cuda:1", "no cuda:1.* 1 GPU"),
        ({"fails": 700}, "cuda", "CUDA_ERROR_ILLEGAL_ADDRESS.*start a new one"),
        ({"fails": 2}, "cuda", ": 2$"),
    ],
)
async def test_what_fails_is_said(driver: Driver, set_to: dict[str, int], device: str, words: str) -> None:
    for name, value in set_to.items():
        setattr(driver, name, value)
    with pytest.raises(va.GpuError, match=words):
        await some_batches(device)


CODES = [1, 2, 3, 4, 100, 101, 201, 304, 400, 600, 700, 702, 709, 712, 719, 801, 999]


class Run:
    """Three batches of one ring, as one who has errors for a while would make them."""

    def __init__(self, server: va.Server, merged: va.Merge, driver: Driver) -> None:
        self.server, self.merged, self.driver = server, merged, driver
        self.image = np.arange(96 * 80, dtype=np.uint8).reshape(96, 80)
        self.data = b""  # of the last batch
        self.error: va.GpuError | None = None
        self.calls = 0  # before all was given up

    async def __call__(self) -> None:
        self.data = b""
        try:
            await self._make()
        except va.GpuError as e:
            self.error = e

    async def _make(self) -> None:
        batches = self.merged.batches(size=(24, 24), device="cuda")
        for stream in (1, 2, 0x1234):
            self.server.publish(self.image, format="nv12")
            async with asyncio.timeout(30):
                batch = await anext(batches)
            batch.__dlpack__(stream=stream)
        self.data = (await on_host(batch)).tobytes()
        self.calls = self.driver.calls


@pytest.mark.timeout(300)
@pytest.mark.parametrize("stays", [0, 1])
async def test_whatever_call_fails_nothing_is_left(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, stays: int
) -> None:
    """Each call of the driver's in turn, once, or it and all behind it: GpuError or whole batches; no lease,
    no registered slot and no thread is left; and with a driver that works again all goes on."""
    async with va.serve("a", slots=4) as server, va.merge("a") as merged:
        await until(lambda: None not in merged.stats().sources.values())
        run = Run(server, merged, driver)
        await run()
        wanted, last = run.data, run.calls
        await until(lambda: not workers())
        driver.stays = stays
        for number in range(1, max(last, driver.calls) + 1):
            forget()
            code = CODES[number % len(CODES)]
            monkeypatch.setattr(tensor, "_SECONDS", 0.02 if stays and code == 600 else 30.0)
            driver.contexts = driver.calls = 0
            driver.code, driver.at = code, number
            await run()
            assert merged.stats().leases == 0, (number, code)  # while somebody has the error
            failed, run.error = run.error is not None, None
            assert failed or run.data == wanted
            await asyncio.sleep(0)  # the loop has the error as long as it runs what that woke
            await until(lambda: not workers())
            if not stays and (failed or number <= run.calls):
                assert driver.left() == (0, 0, 0, 0), (number, code)
                assert driver.contexts == cuda.opened.cache_info().currsize
            assert tensor.abandoned or not pinned.registered(), (number, code)
            tensor.abandoned.clear()
            pinned._users.clear()
            driver.at = driver.registered = driver.memory = driver.events = driver.streams = 0
        await run()
        assert run.data == wanted


@pytest.fixture
def impatient(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """A driver that may be told to wait for ever, and batches that wait for no longer than a moment."""
    monkeypatch.setattr(cuda, "_SECONDS", 0.1)
    yield driver
    driver.holds = 0
    wait_for(lambda: not driver.held)
    tensor.abandoned.clear()
    pinned._users.clear()


async def first_of(server: va.Server, batches: va.Batches) -> va.Batch:
    server.publish(np.zeros((96, 80), np.uint8), format="nv12")
    async with asyncio.timeout(30):
        return await anext(batches)


async def test_a_stream_that_never_ends_is_an_error_and_costs_no_lease(impatient: Driver) -> None:
    async with va.serve("a", slots=4) as server, va.merge("a") as merged:
        batches = merged.batches(size=(24, 24), device="cuda")
        batch = await first_of(server, batches)
        batch.__dlpack__(stream=-1)
        del batch
        impatient.holds = 1
        with pytest.raises(va.GpuError, match="did not finish"):
            await first_of(server, batches)
        assert merged.stats().leases == 0
        await until(lambda: not workers())
    assert tensor.abandoned and impatient.memory and impatient.registered, "what it has may be in use"
    assert impatient.held == 1, "nothing more waits for it"


async def test_what_is_freed_waits_no_longer_than_a_moment(impatient: Driver) -> None:
    async with va.serve("a", slots=4) as server, va.merge("a") as merged:
        async with merged.batches(size=(24, 24), device="cuda") as batches:
            batch = await first_of(server, batches)
            impatient.holds = 1
        await until(lambda: not workers())
        assert tensor.abandoned and impatient.held == 1
        with pytest.raises(va.GpuError, match="did not finish"):
            await on_host(batch)
        assert impatient.held == 1, "it was not asked again"


async def test_a_copy_to_the_host_waits_no_longer_than_a_moment(impatient: Driver) -> None:
    async with va.serve("a", slots=4) as server, va.merge("a") as merged:
        batch = await first_of(server, merged.batches(size=(24, 24), device="cuda"))
        impatient.holds = 1
        with pytest.raises(va.GpuError, match="did not finish"):
            await on_host(batch)


async def test_a_call_that_never_returns_is_an_error_and_its_slots_stay(
    impatient: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor, "_STUCK", 0.2)
    async with va.serve("a", slots=4) as server, va.merge("a") as merged:
        impatient.holds = 2
        with pytest.raises(va.GpuError, match="has not returned"):
            await first_of(server, merged.batches(size=(24, 24), device="cuda"))
        assert merged.stats().leases == 1, "who knows when it is copied"
        impatient.holds = 0
        await until(lambda: not workers() and impatient.left() == (0, 0, 0, 0))
        assert merged.stats().leases == 0


def test_without_a_driver_or_a_compiler_it_is_said_what_to_install(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = va.merge()
    make = partial(merged.batches, size=(64, 64), device="cuda")
    forget()
    monkeypatch.setattr(cuda, "_DRIVER", "libnowhere.so.1")
    with pytest.raises(va.GpuError, match="install the driver"):
        make()
    library = compiled(DRIVER, BEFORE, kernel.SOURCE, BEHIND)
    monkeypatch.setattr(cuda, "driver", lambda: library)
    monkeypatch.setattr(nvrtc, "candidates", lambda: iter(["libnowhere.so.1"]))
    nvrtc.library.cache_clear()
    with pytest.raises(ImportError, match="pip install nvidia-cuda-nvrtc"):
        make()
    merged.close()


def test_nvrtc_is_found_in_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "nvidia" / "cuda_nvrtc" / "lib"
    folder.mkdir(parents=True)
    for name in ("libnvrtc.so.12", "libnvrtc.alt.so.12", "libnvrtc-builtins.so.12.9", "libother.so.12"):
        (folder / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert [path for path in nvrtc.candidates() if path.startswith(str(tmp_path))] == [
        str(folder / "libnvrtc.so.12")
    ]


@pytest.mark.parametrize("capability", [75, 90, 999])
def test_the_kernel_compiles(capability: int) -> None:
    """For a GPU that NVRTC knows, and as PTX for one that it does not."""
    try:
        nvrtc.library(13)
    except ImportError:
        pytest.skip("pip install nvidia-cuda-nvrtc")
    made = nvrtc.compiled(kernel.SOURCE, capability, 13)
    assert kernel.NAME.encode() in made and made.startswith(b"\x7fELF" if capability < 999 else b"//")
    with pytest.raises(va.GpuError, match="nonsense"):
        nvrtc.compiled("nonsense", capability, 13)
