"""merge.batches(): the newest frame of each camera, for one model."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest

import valkka_async as va
from support.until import until
from valkka_async.ring.connection import Connection


@pytest.fixture
async def cameras() -> AsyncIterator[tuple[list[va.Server], va.Merge]]:
    servers = [va.serve(f"cam{i}") for i in range(4)]
    async with va.merge("cam*") as merged:
        await until(lambda: len(merged.sources) == 4 and None not in merged.stats().sources.values())
        yield servers, merged
    for server in servers:
        server.close()


Cameras = tuple[list[va.Server], va.Merge]


async def test_a_batch_is_complete_when_every_camera_has_a_frame(cameras: Cameras) -> None:
    servers, merged = cameras
    batches = merged.batches(16, 30)
    for turn in range(20):
        for server in servers:
            server.publish(b"old")
            server.publish(b"%d" % turn)
        async with asyncio.timeout(10):
            frames = await anext(batches)
        assert {f.source for f in frames} == {"cam0", "cam1", "cam2", "cam3"}
        assert {bytes(f.data) for f in frames} == {b"%d" % turn}, "each is the newest"


async def test_a_batch_does_not_wait_longer_than_it_may_for_the_others(cameras: Cameras) -> None:
    servers, merged = cameras
    for server in servers[:2]:
        server.publish(b"x")
    async with asyncio.timeout(10):
        frames = await anext(merged.batches(16, 0.02))
        assert {f.source for f in frames} == {"cam0", "cam1"}
        servers[3].publish(b"y")
        frames = await anext(merged.batches(16, 0))
        assert [f.source for f in frames] == ["cam3"]


async def test_cameras_take_turns_where_there_are_more_than_a_batch_takes(cameras: Cameras) -> None:
    servers, merged = cameras
    seen: Counter[str] = Counter()
    for server in servers:
        server.publish(b"x")
    async for frames in merged.batches(3, 30):
        assert len(frames) == 3
        seen.update(f.source for f in frames)
        for server in servers:
            server.publish(b"x")
        if sum(seen.values()) >= 120:
            break
        del frames
    assert min(seen.values()) >= 28


async def test_a_slow_consumer_gets_the_newest_and_what_it_missed_is_counted(cameras: Cameras) -> None:
    servers, merged = cameras
    got: Counter[str] = Counter()
    batches = merged.batches(16, 30)
    for n in range(1, 101):
        for server in servers:
            server.publish(b"%d" % n)
        if n % 10 == 0:
            for frame in await anext(batches):
                assert bytes(frame.data) == b"%d" % n
                got[frame.source] += 1 + frame.dropped
                frame.release()
    assert set(got.values()) == {100}


async def test_cancelling_a_batch_loses_no_frame(cameras: Cameras) -> None:
    servers, merged = cameras
    rng = random.Random(10)
    counted: Counter[str] = Counter()

    def note(frames: list[va.Frame]) -> None:
        for frame in frames:
            counted[frame.source] += 1 + frame.dropped
            frame.release()

    batches = merged.batches(3, 0.0005)

    async def receive() -> None:
        note(await anext(batches))

    cancelled = 0
    while cancelled < 500:
        task = asyncio.create_task(receive())
        for _ in range(rng.randrange(5)):
            if rng.random() < 0.4:
                rng.choice(servers).publish(b"x")
            await asyncio.sleep(0)
        cancelled += task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
    while (frame := merged.recv_nowait()) is not None:
        note([frame])
    assert counted == {s.name: s.stats().published for s in servers if s.stats().published}
    assert merged.stats().leases == 0


async def test_a_frame_that_comes_while_a_list_turns_out_empty_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with va.serve("a") as a, va.merge("a") as merged:
        a.publish(b"of no use without its key frame", key=False)
        await until(lambda: a.readers)
        arm = Connection.arm

        def late(connection: Connection) -> bool:
            monkeypatch.undo()
            a.publish(b"key")
            return arm(connection)

        batches = merged.batches(4, 0)
        await until(lambda: None not in merged.stats().sources.values())
        monkeypatch.setattr(Connection, "arm", late)
        async with asyncio.timeout(10):
            assert [bytes(f.data) for f in await anext(batches)] == [b"key"]


async def test_it_ends_with_the_last_camera() -> None:
    async with va.serve("a") as a, va.serve("b") as b, va.merge("a", "b", reconnect=False) as merged:
        await until(lambda: None not in merged.stats().sources.values())
        for server in (a, b):
            server.publish(b"last")
            server.close()
        async with asyncio.timeout(10):
            seen = [f.source async for frames in merged.batches(8, 0.01) for f in frames]
            assert sorted(seen) == ["a", "b"]


async def test_bad_limits_are_refused() -> None:
    async with va.merge() as merged:
        with pytest.raises(ValueError, match="max_frames"):
            merged.batches(0)
        with pytest.raises(ValueError, match="max_wait"):
            merged.batches(1, -1)
        waiting = asyncio.create_task(anext(merged.batches()))
        await asyncio.sleep(0.01)
        with pytest.raises(va.ConcurrencyError):
            await anext(merged.batches())
        merged.close()
        with pytest.raises(StopAsyncIteration):
            await waiting
