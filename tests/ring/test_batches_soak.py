"""Cameras that come, go, stall and change their size, for ten minutes, and what a model gets: no batch is
late by more than its window, no lease is lost, memory stays flat. VALKKA_SOAK_SECONDS makes it shorter."""

from __future__ import annotations

import asyncio
import bisect
import gc
import itertools
import math
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import valkka_async as va

SECONDS = float(os.environ.get("VALKKA_SOAK_SECONDS", "600"))
CAMERAS, FPS, WINDOW = 6, 8, 0.1
SIZES = [(90, 160), (96, 128), (180, 320), (64, 64)]
WARM = 0.2  # of the time, until all that grows at first has grown


@dataclass
class Seen:
    batches: int = 0
    frames: int = 0
    matched: int = 0
    names: Counter[str] = field(default_factory=Counter)
    waited: list[tuple[float, float]] = field(default_factory=list)  # when a batch came; for how long, s
    held: list[tuple[float, float]] = field(default_factory=list)  # when the loop was held up; for how long
    starved: list[tuple[float, float]] = field(default_factory=list)  # at a time; s without a core so far
    memory: list[int] = field(default_factory=list)
    deeds: Counter[str] = field(default_factory=Counter)


def anonymous() -> int:
    """Bytes of this process that are in no file: rings are, and their slots come and go with their sizes."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon:")]
    return int(line.split()[1]) << 10


def starved() -> float:
    """For how long this thread, the main one, could have run and had no core, in s."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) * 1e-9


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def camera(number: int, seen: Seen) -> None:
    """Publishes, and now and then does what cameras do."""
    chance = random.Random(number)
    while True:
        size = chance.choice(SIZES)
        with va.serve(f"soak{number}") as server:
            for _ in range(chance.randrange(20, 200)):
                deed = chance.random()
                if deed < 0.01:
                    seen.deeds["stall"] += 1
                    await asyncio.sleep(chance.uniform(0.5, 3))
                elif deed < 0.02:
                    seen.deeds["size"] += 1
                    size = chance.choice(SIZES)
                server.publish(np.full((*size, 3), number, np.uint8))
                await asyncio.sleep(1 / FPS * chance.uniform(0.8, 1.2))
        seen.deeds["gone"] += 1
        await asyncio.sleep(chance.uniform(0, 2))


async def analyse(boxes: va.Server) -> None:
    async with va.connect("soak0", open_timeout=None, reconnect=True) as reader:
        async for frame in reader:
            with frame:
                boxes.publish_result(frame, [va.Box(0, 0, frame.shape[1], frame.shape[0])])
            del frame


async def pair(seen: Seen) -> None:
    async with va.join("soak0", "soak0.boxes", wait=1.0) as found:
        async for frame, result in found:
            with frame:
                if result is not None:
                    assert result.boxes[0].y2 == frame.shape[0] == result.size[1]  # type: ignore[index]
                    seen.matched += 1
            del frame
        raise AssertionError("it ended")


async def predict(seen: Seen, cameras: va.Merge) -> None:
    batches = cameras.batches(window=WINDOW, size=(64, 64), max_age=2.0)
    while True:
        asked = time.monotonic()
        batch = await anext(batches)
        # What waited while the model was at work, or was asked for before there was a frame, is not late.
        seen.waited.append((time.monotonic(), min(batch.waited, time.monotonic() - asked)))
        seen.batches += 1
        seen.frames += len(batch)
        seen.names.update(batch.names)
        for row, frame in enumerate(batch):
            assert frame.released
            left, top = batch.placements[row].left, batch.placements[row].top
            assert (batch.array[row, top + 2, left + 2] == int(frame.source.removeprefix("soak"))).all()
        del batch, frame
        await asyncio.sleep(0.02)  # the model


async def watch(seen: Seen) -> None:
    """The loop, which this machine may hold up, and memory."""
    for number in itertools.count(1):
        before = time.monotonic()
        await asyncio.sleep(0.02)
        now = time.monotonic()
        seen.starved.append((now, starved()))
        if now - before > 0.025:
            seen.held.append((now, now - before - 0.02))
        if number % 250 == 0:
            gc.collect()
            seen.memory.append(anonymous())


def lateness(seen: Seen) -> list[float]:
    """Of each batch, in s: beyond its window, and what the loop and its thread were held up while it waited,
    to the tick of `watch` behind it, which tells of that."""
    ticks = [at for at, _ in seen.starved]
    late = []
    for now, waited in seen.waited:
        first = max(0, bisect.bisect_right(ticks, now - waited) - 1)
        last = min(len(ticks) - 1, bisect.bisect_left(ticks, now))
        held = seen.held[bisect.bisect(seen.held, (ticks[first], math.inf)) :]
        held = held[: bisect.bisect(held, (ticks[last], math.inf))]
        without = seen.starved[last][1] - seen.starved[first][1]
        late.append(waited - WINDOW - sum(much for _, much in held) - without)
    return late


async def soak(seen: Seen) -> va.MergeStats:
    async with va.merge("soak?") as cameras:
        with va.serve("soak0.boxes") as boxes:
            tasks = [camera(n, seen) for n in range(CAMERAS)]
            tasks += [analyse(boxes), pair(seen), predict(seen, cameras), watch(seen)]
            running = [asyncio.create_task(task) for task in tasks]
            done, _ = await asyncio.wait(running, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for task in done:
                task.result()
        return cameras.stats()


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 120)
def test_batches_of_cameras_that_come_go_stall_and_change() -> None:
    seen = Seen()
    before = descriptors()
    stats = asyncio.run(soak(seen))
    gc.collect()
    settled = seen.memory[int(WARM * len(seen.memory)) :]
    growth = max(settled[len(settled) // 2 :]) - max(settled[: len(settled) // 2])
    held = max((much for _, much in seen.held), default=0.0)
    print(
        f"{seen.batches} batches of {seen.frames} frames, {seen.matched} with results; {dict(seen.deeds)}; "
        f"waited {max(waited for _, waited in seen.waited) * 1e3:.1f} ms at most, loop held up for "
        f"{held * 1e3:.1f} ms, late by {max(lateness(seen)) * 1e3:.1f} ms; "
        f"memory {settled[0] >> 20} to {settled[-1] >> 20} MB, grown by {growth >> 10} KB"
    )
    assert stats.leases == 0 and descriptors() == before
    assert set(seen.names) == {f"soak{n}" for n in range(CAMERAS)} and seen.matched
    assert min(seen.deeds[deed] for deed in ("stall", "size", "gone")) > 0
    assert max(lateness(seen)) <= 0.02, "a batch was late, and the loop was not"
    assert growth < 4 << 20
