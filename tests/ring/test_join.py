"""join(): frames with what was found in them. test_join_model.py tries what Hypothesis finds worth trying."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

import valkka_async as va
from support.program import Child
from support.until import until

IMAGE = np.zeros((48, 64, 3), np.uint8)
LONG = 1000.0  # s: no frame's time is up in a test
Rings = tuple[va.Server, va.Client, va.Server, va.Join]


@pytest.fixture
async def rings() -> AsyncIterator[Rings]:
    """A camera, the analyser's reader of it, the analyser's results, and who joins both."""
    with va.serve("cam1") as camera, va.serve("cam1.boxes") as boxes:
        async with (
            va.connect("cam1", policy="ordered", max_leases=16) as reader,
            va.join("cam1", "cam1.boxes", wait=LONG, policy="ordered") as found,
        ):
            await until(lambda: camera.readers == 2 and boxes.readers == 1)
            yield camera, reader, boxes, found


async def soon(found: va.Join) -> tuple[va.Frame, va.Result | None]:
    async with asyncio.timeout(30):
        return await found.recv()


async def test_a_frame_comes_with_what_was_found_in_it(rings: Rings) -> None:
    camera, reader, boxes, found = rings
    camera.publish(IMAGE)
    frame = await reader.recv()
    frame.release()  # its number and times stay with it
    person = va.Box(*np.array([1, 2, 30.5, 40], np.float32), "person", np.float32(0.75), np.int64(7))
    assert boxes.publish_result(frame, [person], text="one person", data={"lane": [1, None]})
    image, result = await soon(found)
    assert result == va.Result(
        "cam1",
        frame.seq,
        frame.timestamp_ns,
        frame.published_ns,
        (64, 48),
        (va.Box(1.0, 2.0, 30.5, 40.0, "person", 0.75, 7),),
        "one person",
        {"lane": [1, None]},
    )
    assert (image.seq, image.array.shape) == (frame.seq, IMAGE.shape)
    stats = found.stats()
    assert (stats.matched, stats.unmatched, stats.waiting, stats.late) == (1, 0, 0, 0)


async def test_results_of_another_ring_of_the_camera_match_by_their_capture_time(rings: Rings) -> None:
    camera, _, boxes, found = rings
    with va.serve("cam1.small") as small:
        async with va.connect("cam1.small") as reader:
            small.publish(b"one that cam1 has not")
            (await reader.recv()).release()
            camera.publish(IMAGE, timestamp_ns=1_800_000_000_123456789)
            small.publish(IMAGE[::2, ::2], timestamp_ns=1_800_000_000_123456789)
            with await reader.recv() as frame:
                boxes.publish_result(frame, [va.Box(0, 0, 32, 24)])
    image, result = await soon(found)
    assert result is not None
    assert (image.seq, result.seq, result.source, result.size) == (1, 2, "cam1.small", (32, 24))


async def test_a_frame_before_one_with_a_result_is_not_held_up(rings: Rings) -> None:
    camera, reader, boxes, found = rings
    for _ in range(3):
        camera.publish(IMAGE)
    frames = [await reader.recv() for _ in range(3)]
    boxes.publish_result(frames[1])
    got = [await soon(found) for _ in range(2)]
    assert [(frame.seq, result is not None) for frame, result in got] == [(1, False), (2, True)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await found.recv()
    boxes.publish_result(frames[0])
    boxes.publish_result(frames[2])
    frame, result = await soon(found)
    assert frame.seq == 3 and result is not None and result.seq == 3
    assert (found.stats().matched, found.stats().unmatched, found.stats().late) == (2, 1, 1)


async def test_a_frame_waits_no_longer_than_it_may() -> None:
    with va.serve("cam1") as camera, va.serve("found") as results:
        async with va.join("cam1", "found", wait=0.01) as found:
            await until(lambda: camera.readers == results.readers == 1)
            camera.publish(IMAGE)
            frame, result = await soon(found)
            assert (frame.seq, result, found.stats().unmatched) == (1, None, 1)


async def test_more_than_may_wait_push_out_the_oldest(rings: Rings) -> None:
    camera, _, _, found = rings
    waiting = asyncio.create_task(soon(found))
    for _ in range(9):
        assert not waiting.done()
        camera.publish(IMAGE)
        await until(lambda: found.stats().frames.received == camera.stats().published)
    frame, result = await waiting
    assert (frame.seq, result, found.stats().waiting) == (1, None, 8)
    frame.release()
    assert found.stats().frames.leases == 8


async def test_who_is_pushed_out_takes_a_result_along_that_is_there(rings: Rings) -> None:
    camera, reader, boxes, found = rings
    camera.publish(IMAGE)
    boxes.publish_result(await reader.recv())
    (await soon(found))[0].release()
    for _ in range(9):
        camera.publish(IMAGE)
    frame = await reader.recv()
    for _ in range(5):
        await asyncio.sleep(0)  # the doorbell of the frames
    boxes.publish_result(frame)
    image, result = await soon(found)
    assert result is not None and image.seq == result.seq == 2


async def test_nobody_waits_for_results_that_nobody_serves() -> None:
    with va.serve("cam1") as camera:
        async with va.join("cam1", "cam1.boxes", wait=LONG) as found:
            await until(lambda: camera.readers == 1)
            camera.publish(IMAGE)
            frame, result = await soon(found)
            assert (frame.seq, result) == (1, None)


CAMERA = """
with va.serve("cam1") as camera:
    for line in sys.stdin:
        if line.strip() == "end":
            break
        camera.publish(np.zeros((4, 4, 3), np.uint8))
"""


@pytest.mark.one_loop
@pytest.mark.parametrize("ends", ["cleanly", "killed"])
async def test_a_restart_of_either_server_mixes_no_two_runs(ends: str) -> None:
    """Each run's first frame has the number 1."""
    seen: list[tuple[int, int, str]] = []

    async def watch(found: va.Join) -> None:
        async for frame, result in found:
            seen.append((frame.seq, frame.published_ns, "" if result is None else result.text))
            frame.release()
            del frame

    async def run(boxes: va.Server, stale: va.Frame | None, text: str) -> va.Frame:
        """One run of the camera, in which a result of the last one comes late."""
        with Child(CAMERA) as camera:
            async with va.connect("cam1", open_timeout=30) as reader:
                await until(lambda: boxes.readers == 1)
                camera.tell("publish")
                frame = await reader.recv()
                frame.release()
                if stale is not None:
                    assert (frame.seq, stale.seq) == (1, 1)
                    boxes.publish_result(stale, text="of another run")
                while (1, frame.published_ns, "") not in seen and not any(text == t for *_, t in seen):
                    boxes.publish_result(frame, text=text)
                    await asyncio.sleep(0.01)
            if ends == "cleanly":
                camera.tell("end")
                assert camera.wait() == 0
            else:
                camera.kill()
        return frame

    async with va.join("cam1", "cam1.boxes", wait=LONG) as found:
        watching = asyncio.create_task(watch(found))
        with va.serve("cam1.boxes") as boxes:
            first = await run(boxes, None, "one")
            second = await run(boxes, first, "two")
        with va.serve("cam1.boxes") as boxes:  # another analyser
            third = await run(boxes, second, "three")
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    frames = (first, second, third)
    assert seen == [(1, frame.published_ns, text) for frame, text in zip(frames, TEXTS, strict=True)]
    va.serve("cam1").close()  # what a killed one left behind


TEXTS = ("one", "two", "three")


async def test_without_reconnect_it_ends_with_the_camera() -> None:
    boxes = va.serve("cam1.boxes")
    with va.serve("cam1") as camera:
        found = va.join("cam1", "cam1.boxes", wait=0.02, reconnect=False)
        async with found:
            await until(lambda: camera.readers == boxes.readers == 1)
            camera.publish(IMAGE)
            camera.publish(IMAGE)
            camera.close()
            async with asyncio.timeout(30):
                seen = [(frame.seq, result) async for frame, result in found]
    assert seen == [(2, None)]  # the newest
    boxes.close()


async def test_what_is_no_result_is_counted_and_ends_nothing(
    rings: Rings, caplog: pytest.LogCaptureFixture
) -> None:
    camera, reader, boxes, found = rings
    camera.publish(IMAGE)
    frame = await reader.recv()
    meta = {"of": "cam1", "seq": frame.seq, "published_ns": frame.published_ns}
    good = b'{"size":[64,48],"boxes":[],"text":"","data":{}}'
    wrong: list[tuple[Any, dict[str, Any]]] = [
        (IMAGE, {}),
        (good, {**meta, "seq": True}),
        (IMAGE, meta),
        (b"{", meta),
        (b"[" * 100_000, meta),
        (good.replace(b"[]", b"[[0,0,1,NaN,null,null,null]]"), meta),
        (good.replace(b"[]", b'[[0,0,1,1e999,"",null,null]]'), meta),
        (good.replace(b"[]", b'[[0,0,1,"1","",null,null]]'), meta),
        (good.replace(b"[64,48]", b"null").replace(b"[]", b'[[0,0,1,1,"",null,null]]'), meta),
        (good.replace(b'"data":{}', b'"data":{},"more":1'), meta),
    ]
    for payload, what in wrong:
        boxes.publish(payload, meta=what)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await found.recv()
    boxes.publish(good, meta=meta)
    _, result = await soon(found)
    assert result is not None
    assert found.stats().invalid == len(wrong)
    assert len(caplog.records) == 1, "told once"


async def test_what_cannot_be_published_says_why(rings: Rings) -> None:
    camera, reader, boxes, _ = rings
    camera.publish(b"not a picture", format="jpeg")
    frame = await reader.recv()
    with pytest.raises(va.FrameError, match="does not say its size: give size="):
        boxes.publish_result(frame, [va.Box(0, 0, 1, 1)])
    assert boxes.publish_result(frame, [va.Box(0, 0, 1, 1)], size=(64, 48))
    assert boxes.publish_result(frame)
    for wrong in (
        {"boxes": [va.Box(0, 0, float("nan"), 1)]},
        {"boxes": [(0, 0, 1, 1)]},
        {"boxes": [va.Box(0, 0, 1, 1, 5)]},  # type: ignore[arg-type]
        {"boxes": [va.Box(0, 0, 1, 1, track=1 << 63)]},
        {"data": {"x": object()}},
        {"data": {"x": float("inf")}},
        {"text": b"bytes"},
        {"text": "x" * (256 << 10)},
        {"size": (0, 1)},
    ):
        with pytest.raises(va.FrameError):
            boxes.publish_result(frame, **wrong)  # type: ignore[arg-type]
    assert boxes.stats().published == 2


async def test_cancelled_and_closed(rings: Rings) -> None:
    camera, reader, boxes, found = rings
    for _ in range(50):
        waiting = asyncio.create_task(found.recv())
        await asyncio.sleep(0)
        waiting.cancel()
        camera.publish(IMAGE)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        boxes.publish_result(await reader.recv())
        frame, result = await soon(found)
        assert result is not None and result.seq == frame.seq == camera.stats().published
        frame.release()
        del frame
    camera.publish(IMAGE)
    waiting = asyncio.create_task(found.recv())
    await until(lambda: found.stats().waiting == 1)
    with pytest.raises(va.ConcurrencyError):
        await found.recv()
    found.close()
    found.close()
    with pytest.raises(va.ConnectionClosedOK):
        await waiting
    assert found.closed and found.stats().waiting == 0
    await until(lambda: camera.readers == 1 and boxes.readers == 0)


async def test_a_forgotten_join_closes_itself() -> None:
    va.join("cam1", "cam1.boxes")  # never opened: nothing to close
    with va.serve("cam1") as camera, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = await va.join("cam1", "cam1.boxes")
        await until(lambda: camera.readers == 1)
        del found
        await until(lambda: gc.collect() >= 0 and camera.readers == 0)
    assert any("was never closed" in str(one.message) for one in told)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("cam1", "cam1"), {}),
        (("cam*", "cam1.boxes"), {}),
        (("cam1", "x"), {"wait": -1}),
        (("cam1", "x"), {"wait": float("nan")}),
        (("cam1", "x"), {"depth": 0}),
        (("cam1", "x"), {"depth": 1.5}),
        (("cam1", "x"), {"depth": 60, "max_leases": 8}),
        (("cam1", "x"), {"policy": "newest"}),
    ],
)
def test_arguments_that_make_no_sense(arguments: tuple[str, str], options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        va.join(*arguments, **options)


async def test_results_that_come_as_fast_as_they_are_read_hold_nobody_up(
    rings: Rings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody: the other tasks of the loop, and frames, which are given without a result in the end."""
    camera, _, boxes, found = rings
    note, noted, turns = va.Join._note, 0, 0

    def note_and_publish(join: va.Join, frame: va.Frame) -> None:
        nonlocal noted
        noted += 1
        assert noted < 10_000 or turns
        note(join, frame)
        for _ in range(2):  # there is one more as soon as one is claimed
            boxes.publish(b"another")

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    monkeypatch.setattr(va.Join, "_note", note_and_publish)
    boxes.publish(b"the first")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await asyncio.gather(found.recv(), other())
    for _ in range(9):
        camera.publish(IMAGE)
    frame, result = await soon(found)
    assert (frame.seq, result) == (1, None) and turns
