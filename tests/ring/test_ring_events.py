# SPDX-License-Identifier: MIT
"""events() and Server.emit(): what happens reaches all who asked, in order, or is counted as missed."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import threading
from typing import Any

import numpy as np
import pytest

import valkka_async as va
from support.program import Child

SECONDS = 30.0
IMAGE = np.zeros((16, 16), np.uint8)
DEEP: Any = functools.reduce(lambda inner, _: [inner], range(33), 1)


async def soon(happening: va.Events) -> va.Event:
    async with asyncio.timeout(SECONDS):
        return await happening.recv()


async def some(happening: va.Events, count: int) -> list[va.Event]:
    return [await soon(happening) for _ in range(count)]


async def test_an_event_arrives_as_it_was_told() -> None:
    async with va.events() as happening:
        with va.serve("cam1") as server:
            assert server.emit("line.crossed", "somebody came in", line="door", track=17, time_ns=5 * 10**18)
            assert server.emit(va.EventCode.CAMERA_LIVE, camera="front")
            first, second = await some(happening, 2)
    assert first == va.Event(
        "line.crossed",
        "cam1",
        5 * 10**18,
        "somebody came in",
        {"line": "door", "track": 17},
        source="cam1",
        seq=1,
    )
    assert (second.code, second.camera, second.source) == (va.EventCode.CAMERA_LIVE, "front", "cam1")


async def test_none_is_lost_of_a_ring_that_is_new() -> None:
    """Four threads begin at once, while the reader does not know of the ring yet."""
    threads, each = 4, 40
    async with va.events("*", codes="n.*") as happening:
        with va.serve("cam1") as server:

            def tell(thread: int) -> None:
                for n in range(each):
                    assert server.emit(f"n.{thread}", number=n)

            workers = [threading.Thread(target=tell, args=(n,)) for n in range(threads)]
            for worker in workers:
                worker.start()
            told = await some(happening, threads * each)
            for worker in workers:
                worker.join()
    for thread in range(threads):
        assert [e.fields["number"] for e in told if e.code == f"n.{thread}"] == list(range(each))
    assert happening.stats() == va.EventsStats(threads * each, 0, 0, ())


async def test_what_was_before_is_not_told_again() -> None:
    with va.serve("cam1") as server:
        server.emit("old")
        async with va.events() as happening:
            server.emit("new")
            assert (await soon(happening)).code == "new"
            assert happening.stats().rings == ("cam1",)


async def test_who_is_too_slow_is_told_how_many_were_missed() -> None:
    with va.serve("cam1") as server:
        server.emit("first")
        async with va.events() as happening:
            for n in range(1000):
                assert server.emit("n", number=n)
            got: list[va.Event] = []
            while not got or got[-1].fields["number"] != 999:
                got.append(await soon(happening))
            assert 0 < sum(event.missed for event in got) == happening.stats().missed == 1000 - len(got)
            assert [e.fields["number"] for e in got] == list(range(1000 - len(got), 1000))


@pytest.mark.one_loop
async def test_a_reader_that_is_stopped_costs_the_others_nothing() -> None:
    reader = """
    async def main():
        async with va.events("*", codes="n") as happening:
            say("reads")
            count = 0
            async for event in happening:
                count += 1 + event.missed
                if event.fields["number"] == 4999:
                    say(count)
    asyncio.run(main())
    """
    with va.serve("cam1") as server:
        server.emit("first")
        with Child(reader) as child:
            await asyncio.to_thread(child.match, "reads")
            async with va.events(codes=("n",)) as happening:
                child.signal(signal.SIGSTOP)
                for n in range(5000):
                    assert server.emit("n", number=n)
                    if n % 100 == 99:
                        for one in await some(happening, 100):
                            assert one.missed == 0
                child.signal(signal.SIGCONT)
                assert await asyncio.to_thread(child.line) == "5000"


async def test_a_ring_of_another_process_s_life_is_counted_from_its_beginning() -> None:
    async with va.events() as happening:
        for life in range(3):
            with va.serve("cam1") as server:
                assert server.emit("life", number=life)
                event = await soon(happening)
                assert (event.fields["number"], event.seq, event.missed) == (life, 1, 0)
        assert happening.stats().missed == 0


async def test_patterns_choose_cameras_and_codes() -> None:
    with va.serve("front") as front, va.serve("service.events", slots=64) as service:
        async with va.events("front*", "yard", codes=("person", "camera.*")) as happening:
            service.emit("camera.live", camera="back")
            service.emit("camera.live", camera="yard")
            service.emit("recording.failed", camera="yard")
            service.emit("person", camera="front2")
            event = await some(happening, 2)
            front.emit("person")
            event.append(await soon(happening))
    told = [(e.source, e.camera, e.code) for e in event]
    assert told == [
        ("service", "yard", "camera.live"),
        ("service", "front2", "person"),
        ("front", "front", "person"),
    ]


async def test_nobody_takes_events_for_frames() -> None:
    async with va.merge("*") as frames:
        with va.serve("cam1") as server, va.serve("odd.events") as odd:
            server.emit("first")
            async with va.events() as happening:
                odd.publish(IMAGE)
                odd.publish(b"{}")
                odd.emit("person")
                assert (await soon(happening)).code == "person"
                assert happening.stats().invalid == 2
                server.publish(IMAGE)
                async with asyncio.timeout(SECONDS):
                    assert (await frames.recv()).source == "cam1"
                assert frames.sources == ["cam1"]


async def test_what_a_newer_version_tells_is_passed_on() -> None:
    with va.serve("cam1.events") as ring:
        async with va.events() as happening:
            more = {"code": "camera.levitates", "camera": "cam1", "severity": 3}
            ring.publish(json.dumps(more).encode())
            event = await soon(happening)
    assert (event.code, event.camera, event.text, dict(event.fields)) == ("camera.levitates", "cam1", "", {})


async def test_readers_that_come_go_and_fall_behind_are_told() -> None:
    async with va.events(codes="reader.*") as happening:
        with va.serve("cam1", slots=4, events=True) as server:
            async with va.connect("cam1", policy="ordered") as client:
                joined = await soon(happening)
                for _ in range(50):
                    server.publish(IMAGE)
                (await client.recv()).release()
                (await client.recv()).release()
                behind = await soon(happening)
                lost = client.stats().dropped
            left = await soon(happening)
    who = {"ring": "cam1", "reader": joined.fields["reader"], "pid": os.getpid(), "policy": "ordered"}
    assert (joined.code, joined.camera, joined.fields) == (va.EventCode.READER_JOINED, "cam1", who)
    assert (behind.code, behind.fields) == (va.EventCode.READER_BEHIND, who | {"missed": lost})
    assert left.code == va.EventCode.READER_LEFT and left.fields == who | {"received": 2, "missed": lost}


async def test_a_latest_reader_is_never_behind() -> None:
    with va.serve("cam1", slots=4) as server:
        async with va.connect("cam1") as client:
            for _ in range(50):
                server.publish(IMAGE)
            (await client.recv()).release()
            for _ in range(50):
                server.publish(IMAGE)
            (await client.recv()).release()
            assert client.stats().dropped > 0
            assert [event.code for event in server.reader_events()] == [va.EventCode.READER_JOINED]


async def test_nobody_can_make_a_ring_of_events_wait() -> None:
    with va.serve("cam1") as server:
        server.emit("first")
        with pytest.raises(va.ConnectError, match="ordered"):
            async with va.connect("cam1.events", policy="lossless"):
                pass


async def test_without_events_there_is_no_ring_of_them() -> None:
    with va.serve("cam1"), va.serve("cam2", events=True):
        assert {n for n in os.listdir(os.environ["VALKKA_RUNTIME_DIR"]) if n.endswith("events.sock")} == {
            "cam2.events.sock"
        }


@pytest.mark.parametrize(
    ("code", "kept", "error"),
    [
        ("", {}, va.FrameError),
        ("a b", {}, va.FrameError),
        ("x" * 65, {}, va.FrameError),
        ("x", {"n": float("nan")}, va.FrameError),
        ("x", {"n": object()}, va.FrameError),
        ("x", {"n": "\ud800"}, va.FrameError),
        ("x", {"n": DEEP}, va.FrameError),
        ("x", {"n": "x" * 20_000}, va.FrameError),
        ("x", {"camera": "no name"}, va.InvalidNameError),
    ],
)
def test_what_is_no_event_is_refused(code: str, kept: dict[str, Any], error: type[Exception]) -> None:
    with va.serve("cam1") as server, pytest.raises(error):
        server.emit(code, **kept)


def test_emit_ends_with_its_server() -> None:
    with va.serve("cam1") as server:
        assert server.emit("x")
    with pytest.raises(va.ConnectionClosedOK):
        server.emit("x")
    with va.serve("x" * 60) as long, pytest.raises(va.InvalidNameError):
        long.emit("x")


async def test_close_wakes_who_waits_and_a_time_out_loses_nothing() -> None:
    with va.serve("cam1") as server:
        server.emit("first")
        async with va.events() as happening:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await happening.recv()
            server.emit("second")
            assert (await soon(happening)).code == "second"
            waiting = asyncio.create_task(happening.recv())
            await asyncio.sleep(0)
            happening.close()
            with pytest.raises(va.ConnectionClosedOK):
                await waiting
        assert [event async for event in happening] == []


def test_a_forked_child_tells_nothing() -> None:
    child = """
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, from Python 3.12 on
    server = va.serve("cam1")
    server.emit("before")
    pid = os.fork()
    if pid == 0:
        try:
            server.emit("child")
        except va.InheritedError:
            os._exit(7)
        os._exit(1)
    say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), server.emit("after"))
    server.close()
    """
    with Child(child) as process:
        assert process.line() == "7 True"
        assert process.finish() == (0, "")


async def test_what_was_missed_before_others_events_is_told_too() -> None:
    with va.serve("cam1") as server, va.serve("cam2") as other:
        server.emit("first")
        other.emit("first")
        async with va.events("cam1", codes="person") as happening:
            for n in range(1000):
                server.emit("cat", number=n)
            server.emit("person")
            event = await soon(happening)
            assert event.missed == happening.stats().missed > 0
            server.emit("cat")
            server.emit("person")
            other.emit("person", camera="cam1")
            assert [event.missed for event in await some(happening, 2)] == [0, 0]


@pytest.mark.parametrize("value", [b"NaN", b"-Infinity", b"1e999", b"[" * 40 + b"]" * 40, b"[" * 9000])
async def test_what_cannot_be_passed_on_is_no_event(value: bytes) -> None:
    with va.serve("cam1") as server:
        async with va.events() as happening:
            server.emit("first")
            assert (await soon(happening)).code == "first"
            ring = server._ring_of_events()
            ring.publish(b'{"code":"x","camera":"cam1","fields":{"n":%s}}' % value)
            server.emit("last", deep=[[[[{"a": [{}] * 100}]]]])
            assert (await soon(happening)).code == "last"
            assert happening.stats().invalid == 1


def test_codes_that_none_can_have_are_refused() -> None:
    for codes in ("a b", ("person", "a/b"), ("x" * 65,), (5,), ("",)):
        with pytest.raises(va.InvalidNameError):
            va.events(codes=codes)  # type: ignore[arg-type]
