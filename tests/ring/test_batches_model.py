"""Batches against a model of them, with whatever order, age and limits Hypothesis finds worth trying: no
frame comes twice, none out of order, all of a batch are within its limits, and the counts add up to what was
published.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import valkka_async as va
from support.until import until

CAMERAS = 4
OLD = 1000.0  # s
numbers = itertools.count()

STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("publish"),
            st.integers(0, CAMERAS - 1),
            st.sampled_from([0, 0, 0, 3, 8, 30, int(OLD * 2e3)]),  # ms ago
        ),
        st.tuples(
            st.just("batch"), st.integers(0, 3), st.just(0)
        ),  # rounds of the loop before it is cancelled
        st.tuples(st.just("restart"), st.integers(0, CAMERAS - 1), st.just(0)),
    ),
    min_size=1,
    max_size=40,
)
LIMITS = st.fixed_dictionaries(
    {
        "max_frames": st.integers(1, CAMERAS + 1),
        "window": st.sampled_from([None, 0, 0.001]),
        "max_age": st.sampled_from([None, OLD]),
        "align": st.sampled_from([None, "capture", "sender"]),
        "tolerance": st.sampled_from([0.002, 0.01, 1.0]),
    }
)


@dataclass
class Model:
    """What was published, by camera and life of its server; and what came of it."""

    published: int = 0
    lives: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    last: dict[int, tuple[int, int]] = field(default_factory=dict)

    def check(self, batch: va.Batch, limits: dict[str, Any]) -> None:
        assert 1 <= len(batch) <= limits["max_frames"]
        assert len(set(batch.names)) == len(batch)
        if limits["align"] is not None:
            assert batch.spread <= limits["tolerance"] + 1e-9
        for frame in batch:
            camera, life, number = map(int, bytes(frame.data).split())
            assert frame.seq == number
            assert self.last.get(camera, (0, 0)) < (life, number), "in order, and once"
            self.last[camera] = life, number
            if limits["max_age"] is not None:
                assert frame.age < OLD + 60


async def run(policy: va.Policy, limits: dict[str, Any], steps: list[tuple[str, int, int]]) -> None:
    names = [f"m{next(numbers)}" for _ in range(CAMERAS)]
    servers = [va.serve(name) for name in names]
    model, totals = Model(), va.MergeStats(0, 0, 0, 0, {})
    async with va.merge(*names, policy=policy) as merged:
        batches = merged.batches(**limits)

        async def connected() -> None:
            await until(lambda: None not in merged.stats().sources.values())

        async def receive() -> None:
            with await anext(batches) as batch:
                model.check(batch, limits)

        async def drain() -> None:
            """All that can be had without another frame."""
            async with asyncio.timeout(20):
                while True:
                    now = merged.stats()
                    if now.received + now.dropped == model.published and not batches.stats().waiting:
                        return
                    task = asyncio.create_task(receive())
                    await asyncio.wait([task], timeout=0.1)
                    task.cancel()  # it may have found old frames and nothing else
                    await asyncio.gather(task, return_exceptions=True)
                    if not task.cancelled():
                        task.result()

        merged.recv_nowait()
        await connected()
        for what, which, ms in steps:
            if what == "publish":
                model.published += 1
                data = b"%d %d %d" % (which, model.lives[which], servers[which].stats().published + 1)
                servers[which].publish(data, timestamp_ns=time.time_ns() - ms * 1_000_000)
            elif what == "batch":
                task = asyncio.create_task(receive())
                for _ in range(2**which):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                if not task.cancelled():
                    task.result()
            else:
                await drain()  # what is lost with a server's end is nobody's to count
                servers[which].close()
                servers[which] = va.serve(names[which])
                model.lives[which] += 1
                task = asyncio.create_task(receive())  # who reads notices it
                await until(lambda which=which: servers[which].readers == 1)  # type: ignore[misc]
                await connected()
                task.cancel()
        await drain()
        totals, counts = merged.stats(), batches.stats()
    for server in servers:
        server.close()
    left_out = sum(counts.too_old.values()) + sum(counts.unmatched.values())
    assert totals.received == counts.frames + counts.waiting + left_out
    assert totals.received + totals.dropped == model.published
    assert counts.waiting == totals.leases == 0


@settings(
    max_examples=int(os.environ.get("VALKKA_EXAMPLES", "30")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(policy=st.sampled_from(["latest", "ordered"]), limits=LIMITS, steps=STEPS)
def test_batches_lose_nothing_and_give_nothing_twice(
    runtime_dir: Path, policy: va.Policy, limits: dict[str, Any], steps: list[tuple[str, int, int]]
) -> None:
    asyncio.run(run(policy, limits, steps))
