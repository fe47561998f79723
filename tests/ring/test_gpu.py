"""Batches on a GPU: slots, leases, events and ends, with a fake that does later what it is asked for."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
from collections.abc import AsyncIterator
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import valkka_async as va
from support.gpu import FakeGpu
from support.until import until
from valkka_async.ring.gpu import pinned, tensor


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """What device="cuda" opens."""
    fake = FakeGpu()
    monkeypatch.setattr(pinned, "_users", {})
    monkeypatch.setattr("valkka_async.ring.gpu.open.check_installed", lambda: None)
    monkeypatch.setattr("valkka_async.ring.gpu.open.Cuda", lambda index: fake)
    return fake


@pytest.fixture
async def cameras(gpu: FakeGpu) -> AsyncIterator[Cameras]:
    async with Cameras(3) as cameras:
        yield cameras
    await until(lambda: not workers() and not gpu.memory, 30)
    assert gpu.wrong == [] and gpu.registered == {} and gpu.memory == {} and pinned.registered() == 0
    assert gpu.closed or not gpu.copied


def workers() -> list[threading.Thread]:
    gc.collect()
    return [thread for thread in threading.enumerate() if thread.name == "valkka-gpu"]


class Cameras:
    def __init__(self, count: int, max_leases: int = 4) -> None:
        self.servers = [va.serve(f"cam{i}", slots=4) for i in range(count)]
        self.merged = va.merge("cam*", max_leases=max_leases)

    async def __aenter__(self) -> Cameras:
        await self.merged.__aenter__()
        await self.connected(len(self.servers))
        return self

    async def connected(self, count: int) -> None:
        await until(
            lambda: len(self.merged.sources) == count and None not in self.merged.stats().sources.values()
        )

    async def __aexit__(self, *exc: Any) -> None:
        await self.merged.aclose()
        for server in self.servers:
            server.close()

    def batches(self, **options: Any) -> va.Batches:
        return self.merged.batches(window=30, device="cuda", **{"size": (96, 48), **options})

    def publish(self, value: int, width: int = 96, height: int = 48) -> None:
        for number, server in enumerate(self.servers):
            server.publish(np.full((height, width, 3), value + number, np.uint8))

    @property
    def leases(self) -> int:
        return self.merged.stats().leases


async def following(batches: va.Batches) -> va.Batch:
    async with asyncio.timeout(30):
        return await anext(batches)


async def under_way(cameras: Cameras, gpu: FakeGpu, value: int) -> tuple[va.Batches, asyncio.Task[va.Batch]]:
    """Batches that have given one, and the wait for the next, all of which the device was asked for and has
    not begun."""
    batches = cameras.batches()
    cameras.publish(0)
    await following(batches)
    gpu.runs = False
    cameras.publish(value)
    task = asyncio.create_task(following(batches))
    await until(lambda: gpu.asked == 9)  # copies, events, descriptions, the kernel, its event
    return batches, task


def on_host(batch: va.Batch) -> NDArray[Any]:
    return np.from_dlpack(batch)


def is_of(batch: va.Batch, value: int) -> bool:
    """Each row is its camera's."""
    return all(
        (row == value + int(frame.source[3:])).all() for row, frame in zip(on_host(batch), batch, strict=True)
    )


async def test_rows_are_on_the_device_and_leases_go_back(cameras: Cameras, gpu: FakeGpu) -> None:
    batches = cameras.batches()
    for turn in range(6):
        cameras.publish(40 * turn)
        batch = await following(batches)
        assert cameras.leases == 0 and all(frame.released for frame in batch)
        assert batch.device == "cuda:0" and batch.__dlpack_device__() == gpu.dlpack
        assert on_host(batch).shape == (3, 48, 96, 3) and is_of(batch, 40 * turn)
        assert list(batch.to_frame(0, [96, 48])) == [96, 48]
    with pytest.raises(ValueError, match="from_dlpack"):
        _ = batch.array


async def test_a_slot_is_registered_once_for_each_generation(cameras: Cameras, gpu: FakeGpu) -> None:
    batches = cameras.batches()
    for turn in range(20):
        cameras.publish(turn)
        assert is_of(await following(batches), turn)
    slots = gpu.registrations
    assert slots <= 3 * 4 and gpu.copied == 60 and gpu.pageable == 0
    for turn in range(20):  # too large for the slots: another ring
        cameras.publish(turn, 400, 200)
        await following(batches)
    assert slots < gpu.registrations <= slots + 3 * 4
    assert set(gpu.registered.values()) == {59 * 4096}, "those of the first rings are registered no more"


async def test_a_lease_goes_back_when_its_copy_is_done_and_not_before(cameras: Cameras, gpu: FakeGpu) -> None:
    _batches, task = await under_way(cameras, gpu, 100)
    for done in range(4):
        await until(lambda left=3 - done: cameras.leases == left)
        for turn in range(5):  # the slots that are leased are not written
            cameras.publish(turn)
        assert not task.done()
        gpu.ahead += 2  # a copy and its event
    gpu.runs = True
    batch = await task
    assert is_of(batch, 100)


async def test_frames_are_kept_if_asked_for(cameras: Cameras) -> None:
    batches = cameras.batches(keep=True)
    cameras.publish(9)
    batch = await following(batches)
    assert cameras.leases == 3
    assert all((frame.array == 9 + int(frame.source[3:])).all() for frame in batch)
    batch.release()
    assert cameras.leases == 0


async def test_memory_is_used_again_behind_those_who_had_it(cameras: Cameras, gpu: FakeGpu) -> None:
    batches = cameras.batches()
    held = []
    for turn in range(4):
        cameras.publish(turn)
        held.append(await following(batches))
    view = np.from_dlpack(held[2])[:, 10:20]
    before = view.copy()
    assert all(is_of(batch, turn) for turn, batch in enumerate(held))
    blocks = len(gpu.memory)
    place = on_host(held[3]).ctypes.data
    del held
    gc.collect()
    for turn in range(10, 20):
        cameras.publish(turn)
        batch = await following(batches)
        assert is_of(batch, turn)
    assert (view == before).all(), "a view is held, and its memory not used"
    assert len(gpu.memory) <= blocks and place
    assert gpu.waited_for and set(gpu.waited_for) == {None}  # numpy names no stream
    del view, batch, batches


async def test_batches_that_go_all_at_once_leave_memory_for_the_next(cameras: Cameras, gpu: FakeGpu) -> None:
    batches = cameras.batches()
    held = []
    for turn in range(5):
        cameras.publish(turn)
        held.append(await following(batches))
    blocks = len(gpu.memory)
    held.clear()
    cameras.publish(5)
    held.append(await following(batches))
    assert len(gpu.memory) == blocks - 2, "one is in use, two are spare"


async def test_weights_stay_on_the_device_however_many_rows_have_them(
    cameras: Cameras, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Freeing waits for all that the device does, also for others."""
    monkeypatch.setattr(tensor, "_TABLES", 2)
    batches = cameras.batches()
    for sizes in (1, 2, 3):
        for turn in range(3):
            for number, server in enumerate(cameras.servers):
                server.publish(np.full((48, 98 - number % sizes, 3), turn, np.uint8))
            await following(batches)
        assert (gpu.frees == 0) is (sizes < 3)


async def test_what_cannot_be_registered_is_copied_all_the_same_and_said_once(
    cameras: Cameras, gpu: FakeGpu, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.refuses = "CUDA_ERROR_NOT_SUPPORTED"
    batches = cameras.batches()
    with caplog.at_level(logging.WARNING):
        for turn in range(5):
            cameras.publish(turn, 200, 200)
            assert len(await following(batches)) == 3
    assert gpu.pageable == 15 and gpu.registered == {} and cameras.leases == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("ahead", range(0, 8, 2))
async def test_a_device_that_is_lost_is_an_error_and_leases_go_back(
    cameras: Cameras, gpu: FakeGpu, ahead: int
) -> None:
    batches, task = await under_way(cameras, gpu, 1)
    gpu.ahead = ahead
    await until(lambda: gpu.asked == 9 - ahead)
    gpu.fails = "the GPU is lost"
    with pytest.raises(va.GpuError, match="lost") as error:
        await task
    assert cameras.leases == 0 and error.value.__traceback__ is not None, "also while it is held"
    del error, task
    await until(lambda: not workers())
    gpu.restart()
    cameras.publish(7)
    assert is_of(await following(batches), 7), "with a device that works again, the same batches go on"


@pytest.mark.parametrize("opens", [False, True])
async def test_a_device_that_fails_at_once(
    cameras: Cameras, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, opens: bool
) -> None:
    """Whatever it is that fails, no lease is left, also while somebody has the exception, and nothing of the
    attempt."""
    before = queues()
    batches = cameras.batches()
    if opens:
        cameras.publish(0)
        await following(batches)
    gpu.fails = "no memory"
    caught: list[pytest.ExceptionInfo[va.GpuError]] = []
    for turn in range(3):
        cameras.publish(turn)
        with pytest.raises(va.GpuError, match="no memory") as error:
            await following(batches)
        caught.append(error)
        assert cameras.leases == 0
    await until(lambda: not workers(), 30)  # which give up what they had
    assert len(caught) == 3
    del caught, error
    await until(lambda: queues() <= before)
    gpu.restart()
    cameras.publish(7)
    assert is_of(await following(batches), 7)


def queues() -> int:
    """Of the threads that work for a GPU, or did."""
    gc.collect()
    return sum(type(one) is SimpleQueue for one in gc.get_objects())


async def test_a_device_that_hangs_is_an_error(
    cameras: Cameras, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor, "_SECONDS", 0.2)
    slots: dict[int, int] = {}
    monkeypatch.setattr(pinned, "_users", slots)
    _batches, task = await under_way(cameras, gpu, 1)
    with pytest.raises(va.GpuError, match="did not finish"):
        await task
    await until(lambda: cameras.leases == 0)
    await until(lambda: not workers())
    assert gpu.registered and gpu.memory, "copies may still read and write them"
    tensor.abandoned.clear()
    slots.clear()
    gpu.closed = True
    gpu.restart()


async def test_a_batch_that_is_cancelled_comes_next(cameras: Cameras, gpu: FakeGpu) -> None:
    batches, task = await under_way(cameras, gpu, 1)
    task.cancel()
    await asyncio.wait([task])
    gpu.runs = True
    cameras.publish(2)
    assert is_of(await following(batches), 1)
    assert is_of(await following(batches), 2)


async def test_closing_in_the_middle_of_copies(cameras: Cameras, gpu: FakeGpu) -> None:
    """Nothing waits for the device, and its slots stay leased until it is done with them."""
    batches, task = await under_way(cameras, gpu, 1)
    task.cancel()
    await asyncio.wait([task])
    del batches, task
    async with asyncio.timeout(30):
        await cameras.merged.aclose()
    for server in cameras.servers:
        server.close()
    gc.collect()
    assert gpu.asked >= 8 and gpu.registered
    gpu.runs = True


async def test_closed_batches_give_all_back_when_the_device_is_done(cameras: Cameras, gpu: FakeGpu) -> None:
    batches, task = await under_way(cameras, gpu, 1)
    task.cancel()
    await asyncio.wait([task])
    del task
    closing = asyncio.create_task(batches.aclose())
    await asyncio.sleep(0)
    assert cameras.leases == 3 and not closing.done()
    gpu.runs = True
    async with asyncio.timeout(30):
        await closing
    await until(lambda: not workers())
    await until(lambda: not gpu.memory)
    assert cameras.leases == 0 and not gpu.registered


async def test_a_camera_that_leaves_with_a_copy_under_way(
    cameras: Cameras, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, task = await under_way(cameras, gpu, 50)
    cameras.merged.discard("cam1")
    cameras.servers[2].close()
    gc.collect()
    gpu.runs = True
    batch = await task
    assert is_of(batch, 50) and len(batch) == 3
    registered = len(gpu.registered)
    cameras.servers[0].publish(np.full((48, 96, 3), 8, np.uint8))
    monkeypatch.setattr(pinned, "_IDLE", -1.0)
    assert (await following(batches)).names == ["cam0"]
    assert 0 < len(gpu.registered) < registered, "rings that give no frames are let go"


async def test_a_server_that_comes_back_is_another_ring(cameras: Cameras, gpu: FakeGpu) -> None:
    batches = cameras.batches(max_frames=1)
    server = cameras.servers.pop()
    for turn in range(4):
        server.publish(np.full((48, 96, 3), turn + 2, np.uint8))
        batch = await following(batches)
        assert batch.names == ["cam2"] and (on_host(batch) == turn + 2).all()
        server.close()
        server = va.serve("cam2", slots=4)
        await until(lambda: cameras.merged.stats().sources["cam2"] is not None)
    server.close()
    assert gpu.registrations == 4 and len(gpu.registered) == 1


async def test_two_batches_of_one_merge_share_what_is_registered(cameras: Cameras, gpu: FakeGpu) -> None:
    first, second = cameras.batches(), cameras.batches(size=(48, 48), keep=True)
    cameras.publish(1)
    await following(first)
    for turn in range(8):
        cameras.publish(turn)
        (await following(second)).release()
        cameras.publish(turn)
        assert is_of(await following(first), turn)
    assert gpu.registrations <= 12
    del first
    await until(lambda: len(workers()) == 1)
    cameras.publish(3)
    batch = await following(second)
    batch.release()
    assert (on_host(batch)[:, 24, 24, 0] == [3 + int(name[3:]) for name in batch.names]).all()


async def test_more_cameras_than_rows_and_sizes_that_change(gpu: FakeGpu) -> None:
    random = np.random.default_rng(1)
    async with Cameras(5) as cameras:
        batches = cameras.batches(max_frames=2, size=(8, 8), letterbox=False)
        held: list[tuple[va.Batch, list[int]]] = []
        values: dict[tuple[str, int], int] = {}
        for _ in range(60):
            for server in cameras.servers:
                width, height = (int(n) for n in random.integers(1, 200, 2))
                value = int(random.integers(256))
                server.publish(np.full((height, width, 3), value, np.uint8))
                values[server.name, server.stats().published] = value
            batch = await following(batches)
            held.append((batch, [values[frame.source, frame.seq] for frame in batch]))
            held = held[-4:]
            for one, wanted in held:
                assert (on_host(one)[:, 4, 4, 0] == wanted).all()
        assert cameras.leases == 0
        del held, batch, one
    del batches
    await until(lambda: not workers())
    assert gpu.wrong == [] and gpu.registered == {} and gpu.memory == {}


async def test_an_odd_nv12_is_left_out(cameras: Cameras, gpu: FakeGpu) -> None:
    batches = cameras.batches()
    cameras.servers[0].publish(np.zeros((3, 6), np.uint8), format="gray8")
    with pytest.raises(va.FrameError):
        cameras.servers[1].publish(np.zeros((4, 3), np.uint8), format="nv12")
    cameras.servers[1].publish(np.zeros((48, 96), np.float32))
    cameras.servers[2].publish(b"a JPEG, say", format="jpeg")
    assert (await following(batches)).names == ["cam0"]
    assert batches.stats().unusable == {"cam1": 1, "cam2": 1}


async def test_the_library_s_stream_is_waited_for(cameras: Cameras, gpu: FakeGpu) -> None:
    batches = cameras.batches()
    for turn in range(6):
        cameras.publish(turn)
        batch = await following(batches)
        capsule = batch.__dlpack__(stream=7, max_version=(1, 0))
        assert "dltensor_versioned" in repr(capsule)
        assert "dltensor" in repr(batch.__dlpack__(stream=8))
        del capsule
    assert set(gpu.waited_for) == {7, 8}


async def test_other_memory_than_the_device_s(
    cameras: Cameras, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = cameras.batches()
    cameras.publish(5)
    batch = await following(batches)
    monkeypatch.setattr(gpu, "dlpack", (2, 0))
    copy = np.from_dlpack(batch, device="cpu")
    assert (copy[batch.names.index("cam0")] == 5).all() and copy.flags.writeable
    copy[:] = 0
    monkeypatch.setattr(gpu, "dlpack", (1, 0))
    assert is_of(batch, 5)
    with pytest.raises(BufferError):
        batch.__dlpack__(dl_device=(2, 1))
    with pytest.raises(BufferError):
        batch.__dlpack__(dl_device=(2, 1), copy=False)
    with pytest.raises(BufferError):
        batch.__dlpack__(copy=True)


async def test_a_batch_outlives_what_made_it(cameras: Cameras, gpu: FakeGpu) -> None:
    batches = cameras.batches()
    cameras.publish(3)
    batch = await following(batches)
    del batches
    await until(lambda: not workers())
    assert gpu.closed and is_of(batch, 3) and len(gpu.memory) == 1
    view = np.from_dlpack(batch)[0, 3]
    del batch
    assert len(gpu.memory) == 1 and view.any()
    del view
    await until(lambda: not gpu.memory)


async def test_a_thread_that_cannot_start_is_no_end(
    cameras: Cameras, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    batches = cameras.batches()
    with monkeypatch.context() as m:
        m.setattr(threading.Thread, "start", refuse)
        cameras.publish(1)
        with pytest.raises(RuntimeError, match="start") as error:
            await following(batches)
        assert error.value.__traceback__ is not None and cameras.leases == 0
    for turn in range(5):
        cameras.publish(turn)
        assert is_of(await following(batches), turn)


async def test_a_forked_child_is_refused(cameras: Cameras, gpu: FakeGpu) -> None:
    batches = cameras.batches()
    cameras.publish(1)
    batch = await following(batches)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            said = []
            for attempt in (lambda: batches._tensor.begin([]), lambda: on_host(batch)):
                try:
                    attempt()
                except va.InheritedError as e:
                    said.append(str(e))
            del batch, batches
            gc.collect()
            os.write(write, "\n".join(said).encode())
        finally:
            os._exit(0)
    os.close(write)
    lines = os.read(read, 1 << 16).decode().splitlines()
    os.close(read)
    os.waitpid(child, 0)  # noqa: ASYNC222
    assert len(lines) == 2 and all("spawn" in line for line in lines)
    cameras.publish(2)
    assert is_of(await following(batches), 2)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cuda:1.0", "CUDA", "", None, 0, "cuda:1000"])
async def test_other_devices_are_refused(device: Any) -> None:
    async with va.merge() as merged:
        with pytest.raises(ValueError, match="cuda:1"):
            merged.batches(size=(64, 64), device=device)


async def test_arguments_that_do_not_go_together(gpu: FakeGpu) -> None:
    async with va.merge() as merged:
        with pytest.raises(ValueError, match="size"):
            merged.batches(device="cuda")
        with pytest.raises(ValueError, match="threads"):
            merged.batches(size=(64, 64), device="cuda", threads=2)
        merged.batches(size=(64, 64), device="cuda:12")
