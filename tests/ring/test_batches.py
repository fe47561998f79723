"""merge.batches(): the newest frame of each camera, for one model."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import pytest

import valkka_async as va
from support.until import until
from valkka_async.ring import arrivals
from valkka_async.ring.connection import Connection
from valkka_async.ring.sets import Candidate, Sets


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

    def note(frames: Iterable[va.Frame]) -> None:
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

        def late(connection: Connection) -> bool:
            """Asked between the look for a frame and the arming of the doorbell."""
            monkeypatch.undo()
            a.publish(b"key")
            return connection.ended

        batches = merged.batches(4, 0)
        await until(lambda: None not in merged.stats().sources.values())
        monkeypatch.setattr(Connection, "ended", property(late), raising=False)
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


async def test_a_source_with_too_many_held_frames_costs_the_others_none() -> None:
    async with va.serve("a") as a, va.serve("b") as b:
        async with va.merge("a", "b", policy="ordered", max_leases=1) as merged:
            batches = merged.batches(window=0)
            await until(lambda: None not in merged.stats().sources.values())
            b.publish(b"held")
            async with asyncio.timeout(10):
                (held,) = await anext(batches)
            got: list[tuple[str, int]] = []
            raised = 0
            for n in range(1, 6):
                for server in (a, b):
                    server.publish(b"x")
                while len(got) < n:
                    try:
                        async with asyncio.timeout(10):
                            for frame in await anext(batches):
                                with frame:
                                    got.append((frame.source, frame.dropped))
                    except va.LeaseLimitError:
                        raised += 1
            assert got == [("a", 0)] * 5 and raised
            held.release()
            async with asyncio.timeout(10):
                while len(got) < 10:
                    for frame in await anext(batches):
                        with frame:
                            got.append((frame.source, frame.dropped))
            assert got[5:] == [("b", 0)] * 5
            assert merged.stats().received == 11


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({"max_frames": 0}, "max_frames"),
        ({"max_frames": 1.5}, "max_frames"),
        ({"min_frames": 1.5, "max_frames": 2}, "min_frames"),
        ({"window": -1}, "window"),
        ({"window": float("nan")}, "window"),
        ({"min_frames": 0}, "min_frames"),
        ({"max_frames": 2, "min_frames": 3}, "min_frames"),
        ({"max_age": 0}, "max_age"),
        ({"align": "arrival"}, "align"),
        ({"tolerance": -0.1}, "tolerance"),
    ],
)
async def test_bad_limits_are_refused(arguments: dict[str, Any], wrong: str) -> None:
    async with va.merge() as merged:
        with pytest.raises(ValueError, match=wrong):
            merged.batches(**arguments)


async def test_one_task_receives_and_close_ends_it() -> None:
    async with va.merge() as merged:
        waiting = asyncio.ensure_future(anext(merged.batches()))
        await asyncio.sleep(0.01)
        with pytest.raises(va.ConcurrencyError):
            await anext(merged.batches())
        merged.close()
        with pytest.raises(StopAsyncIteration):
            await waiting


async def by_leaving(batches: va.Batches, merged: va.Merge) -> None:
    async with batches as same:
        assert same is batches


CLOSES: dict[str, Callable[[va.Batches, va.Merge], Awaitable[None]]] = {
    "close": lambda batches, merged: asyncio.to_thread(batches.close),
    "async with": by_leaving,
    "the merge": lambda batches, merged: merged.aclose(),
}


@pytest.mark.parametrize("close", CLOSES.values(), ids=CLOSES)
@pytest.mark.parametrize("align", [None, "capture"])
async def test_closed_batches_give_back_what_waits_for_others(
    cameras: Cameras, align: Any, close: Callable[[va.Batches, va.Merge], Awaitable[None]]
) -> None:
    servers, merged = cameras
    batches = merged.batches(min_frames=3, max_age=60, align=align)
    task = asyncio.ensure_future(anext(batches))
    servers[0].publish(b"x")
    servers[1].publish(b"x", timestamp_ns=time.time_ns() - 100_000_000_000)
    servers[2].publish(b"x")
    await until(lambda: batches.stats().waiting == 2)
    assert merged.stats().leases == 2 and not batches.closed
    await close(batches, merged)
    async with asyncio.timeout(30):
        with pytest.raises(StopAsyncIteration):
            await task
        assert [batch async for batch in batches] == []
    assert batches.closed and merged.stats().leases == batches.stats().waiting == 0


async def test_a_merge_goes_on_without_batches_that_were_closed(cameras: Cameras) -> None:
    servers, merged = cameras
    async with asyncio.timeout(30):
        async with merged.batches() as batches:
            servers[0].publish(b"1")
            async for batch in batches:
                assert [bytes(frame.data) for frame in batch] == [b"1"]
                break
        assert not merged.closed and "cam0" in repr(batches) and "[closed]" in repr(batches)
        servers[0].publish(b"2")
        assert [bytes(frame.data) for frame in await anext(merged.batches())] == [b"2"]


async def test_a_batch_says_what_is_in_it(cameras: Cameras) -> None:
    servers, merged = cameras
    for number, server in enumerate(servers):
        server.publish(b"%d" % number, timestamp_ns=time.time_ns() - number * 10_000_000)
    async with asyncio.timeout(10):
        batch = await anext(merged.batches(16, 30))
    assert len(batch) == 4 and list(batch) == batch.frames and batch[0] is batch.frames[0]
    assert batch.names == [frame.source for frame in batch]
    times = [frame.timestamp_ns for frame in batch]
    assert batch.spread == pytest.approx((max(times) - min(times)) * 1e-9)
    assert batch.clock == "capture" and 0 <= batch.waited < 30
    with batch:
        pass
    assert all(frame.released for frame in batch) and merged.stats().leases == 0


async def test_frames_that_are_too_old_are_left_out_and_counted(cameras: Cameras) -> None:
    servers, merged = cameras
    batches = merged.batches(max_age=60)
    long_ago = time.time_ns() - 100_000_000_000
    for server in servers:
        server.publish(b"x", timestamp_ns=long_ago if server.name in ("cam0", "cam2") else None)
    async with asyncio.timeout(10):
        assert sorted((await anext(batches)).names) == ["cam1", "cam3"]
    assert batches.stats().too_old == {"cam0": 1, "cam2": 1}
    assert merged.stats().received == 4 and merged.stats().leases == 0


async def test_a_batch_waits_for_as_many_frames_as_it_must_have(cameras: Cameras) -> None:
    servers, merged = cameras
    batches = merged.batches(min_frames=3, max_age=60)
    task = asyncio.ensure_future(anext(batches))
    servers[0].publish(b"x")
    servers[1].publish(b"x", timestamp_ns=time.time_ns() - 100_000_000_000)
    servers[2].publish(b"x")
    await until(lambda: batches.stats().too_old)
    servers[1].publish(b"y", timestamp_ns=time.time_ns() - 100_000_000_000)
    await until(lambda: batches.stats().too_old["cam1"] == 2)
    assert not task.done() and batches.stats().waiting == 2
    servers[3].publish(b"x")
    async with asyncio.timeout(10):
        assert sorted((await task).names) == ["cam0", "cam2", "cam3"]
    assert batches.stats().waiting == 0


async def test_while_it_waits_for_more_a_source_gives_one_frame_alone() -> None:
    async with va.serve("a") as a, va.serve("b") as b, va.merge("a", "b", policy="ordered") as merged:
        await until(lambda: None not in merged.stats().sources.values())
        batches = merged.batches(min_frames=2, max_age=60)
        task = asyncio.ensure_future(anext(batches))
        a.publish(b"1")
        b.publish(b"old", timestamp_ns=time.time_ns() - 100_000_000_000)
        await until(lambda: batches.stats().waiting)
        a.publish(b"2")
        for number in (b"1", b"2"):
            b.publish(number)
            async with asyncio.timeout(30):
                assert [bytes(frame.data) for frame in await task] == [number, number]
            task = asyncio.ensure_future(anext(batches))
        task.cancel()


async def test_while_it_waits_for_more_nothing_gets_old(cameras: Cameras) -> None:
    servers, merged = cameras
    task = asyncio.ensure_future(anext(merged.batches(min_frames=2)))
    servers[0].publish(b"old")
    await asyncio.sleep(0.1)  # its window is over
    servers[0].publish(b"new")
    servers[1].publish(b"new")
    async with asyncio.timeout(10):
        assert [bytes(frame.data) for frame in await task] == [b"new", b"new"]


async def test_the_last_batch_may_be_smaller_than_it_must_be() -> None:
    async with va.serve("a") as a, va.serve("b") as b, va.merge("a", "b", reconnect=False) as merged:
        await until(lambda: None not in merged.stats().sources.values())
        batches = merged.batches(min_frames=2)
        a.publish(b"last")
        task = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0.05)
        assert not task.done(), "the other one may still come"
        a.close()
        b.close()
        async with asyncio.timeout(10):
            assert (await task).names == ["a"]
            with pytest.raises(StopAsyncIteration):
                await anext(batches)


async def test_a_camera_that_never_gave_a_frame_is_not_waited_for(cameras: Cameras) -> None:
    """Whatever the window: its ring is there, and it may be down for days."""
    servers, merged = cameras
    for window in (None, 3600):
        for server in servers[:3]:
            server.publish(b"x")
        async with asyncio.timeout(10):
            assert len(await anext(merged.batches(window=window))) == 3


async def test_a_camera_that_stalls_is_waited_for_once_at_most(cameras: Cameras) -> None:
    servers, merged = cameras
    batches = merged.batches(window=3600)
    for _ in range(4):
        for server in servers:
            server.publish(b"x")
        async with asyncio.timeout(10):
            assert len(await anext(batches)) == 4
        await asyncio.sleep(0.01)
    await asyncio.sleep(1.1)  # many times as long as between two of its frames
    for server in servers[:3]:
        server.publish(b"x")
    async with asyncio.timeout(10):
        assert len(await anext(batches)) == 3


@pytest.mark.parametrize("align", [None, "capture"])
@pytest.mark.parametrize("before", [1, 3])
async def test_a_camera_that_stalls_while_it_is_waited_for_does_not_cost_the_window(
    cameras: Cameras, monkeypatch: pytest.MonkeyPatch, before: int, align: Any
) -> None:
    monkeypatch.setattr(arrivals, "_SILENT", 0.2)
    servers, merged = cameras
    batches = merged.batches(window=math.inf, align=align, tolerance=math.inf)
    for _ in range(before):
        for server in servers:
            server.publish(b"x")
        async with asyncio.timeout(30):
            await anext(batches)
    for server in servers[:3]:
        server.publish(b"x")
    async with asyncio.timeout(30):
        assert len(await anext(batches)) == 3


# ------------------------------------------------------------------------------------------ aligned

MS = 1_000_000


async def test_aligned_frames_are_of_one_instant() -> None:
    base = time.time_ns()
    async with va.serve("a") as a, va.serve("b") as b, va.merge("a", "b", policy="ordered") as merged:
        await until(lambda: None not in merged.stats().sources.values())
        batches = merged.batches(align="capture", tolerance=0.01, window=30)
        for at in (0, 33, 66):
            a.publish(b"%d" % at, timestamp_ns=base + at * MS)
        for at in (35, 68):
            b.publish(b"%d" % at, timestamp_ns=base + at * MS)
        async with asyncio.timeout(10):
            pairs = [sorted(bytes(f.data) for f in await anext(batches)) for _ in range(2)]
    assert pairs == [[b"33", b"35"], [b"66", b"68"]]
    assert batches.stats().unmatched == {"a": 1}, "nothing of b's was near its first"


async def test_frames_that_are_further_apart_than_the_tolerance_are_no_set() -> None:
    base = time.time_ns()
    async with va.serve("a") as a, va.serve("b") as b, va.merge("a", "b") as merged:
        await until(lambda: None not in merged.stats().sources.values())
        batches = merged.batches(align="capture", tolerance=0.01)
        a.publish(b"x", timestamp_ns=base)
        b.publish(b"x", timestamp_ns=base + 50 * MS)
        async with asyncio.timeout(10):
            assert [(await anext(batches)).names for _ in range(2)] == [["a"], ["b"]]


async def test_a_set_says_its_spread_and_its_clock() -> None:
    base = time.time_ns()
    async with va.serve("a") as a, va.serve("b") as b, va.merge("a", "b") as merged:
        await until(lambda: None not in merged.stats().sources.values())
        batches = merged.batches(align="sender", tolerance=0.02, window=30)
        a.publish(b"x", timestamp_ns=base, meta={"sender_time_ns": base - 500 * MS})
        b.publish(b"x", timestamp_ns=base + 300 * MS, meta={"sender_time_ns": base - 510 * MS})
        async with asyncio.timeout(10):
            batch = await anext(batches)
        assert len(batch) == 2 and batch.clock == "sender" and batch.spread == pytest.approx(0.01)
        a.publish(b"x", timestamp_ns=base, meta={"sender_time_ns": base})
        b.publish(b"x", timestamp_ns=base + 15 * MS)
        async with asyncio.timeout(10):
            batch = await anext(batches)
        assert batch.clock == "mixed" and batch.spread == pytest.approx(0.015)


@pytest.mark.parametrize("said", [True, 10**400, -(2**63) - 1, "noon", None])
async def test_what_is_no_time_is_not_compared(said: object) -> None:
    async with va.serve("a") as a, va.serve("b") as b, va.merge("a", "b") as merged:
        await until(lambda: None not in merged.stats().sources.values())
        batches = merged.batches(min_frames=2, align="sender", max_age=float("inf"))
        for server in (a, b):
            server.publish(
                b"x", timestamp_ns=time.time_ns(), meta={"sender_time_ns": said} if server is b else {}
            )
        async with asyncio.timeout(10):
            assert (await anext(batches)).clock == "capture"


async def test_a_camera_whose_clock_is_wrong_costs_the_others_nothing(cameras: Cameras) -> None:
    servers, merged = cameras
    batches = merged.batches(min_frames=2, align="capture", tolerance=0.02)
    for turn in range(10):
        base = time.time_ns()
        for number, server in enumerate(servers):
            server.publish(b"x", timestamp_ns=base + (3600_000 * MS if number == 3 else number * MS))
        async with asyncio.timeout(10):
            assert sorted((await anext(batches)).names) == ["cam0", "cam1", "cam2"], turn
        await asyncio.sleep(0.005)
    assert set(batches.stats().unmatched) == {"cam3"}


async def test_a_camera_as_fast_as_its_frames_are_read_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its frames are claimed before a set is made, but not for ever."""
    put, count = Sets.put, 0

    def put_and_publish(sets: Sets, candidate: Candidate) -> None:
        nonlocal count
        count += 1
        assert count < 10_000
        put(sets, candidate)
        for _ in range(2):  # there is one more as soon as one is claimed
            a.publish(b"another")

    monkeypatch.setattr(Sets, "put", put_and_publish)
    async with va.serve("a") as a, va.serve("b") as b, va.merge("a", "b", policy="ordered") as merged:
        await until(lambda: None not in merged.stats().sources.values())
        batches = merged.batches(align="capture", tolerance=math.inf)
        for turn in range(5):
            for server in (a, b):
                server.publish(b"x")
            async with asyncio.timeout(30):
                with await anext(batches) as batch:
                    assert len(batch) == 2, turn


async def test_sets_take_turns_where_there_are_more_cameras_than_rows(cameras: Cameras) -> None:
    servers, merged = cameras
    seen: Counter[str] = Counter()
    batches = merged.batches(3, 30, align="capture", tolerance=1)
    for _ in range(40):
        for server in servers:
            server.publish(b"x")
        async with asyncio.timeout(10):
            with await anext(batches) as batch:
                assert len(batch) == 3
                seen.update(batch.names)
    assert min(seen.values()) >= 28
