"""join() against a model of it: every frame comes once, in order, with its own result or none, as soon as the
rules say so, and the counts add up. The rings are real, and both servers restart."""

from __future__ import annotations

import asyncio
import itertools
import os
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import valkka_async as va
from support.until import until

DEPTH = 3
UNREAD = DEPTH + 8  # frames and results that the rings retain for one who does not read
LONG = 1000.0  # s: no frame's time is up
numbers = itertools.count()

STEPS = st.lists(
    st.one_of(
        *[st.tuples(st.just("frame"), st.just(0))] * 3,
        *[st.tuples(st.just("result"), st.integers(0, 5))] * 2,  # of one of the last frames, of any run
        st.tuples(st.just("take"), st.integers(1, 4)),
        st.tuples(st.sampled_from(["camera", "analyser"]), st.just(0)),  # restarts
    ),
    min_size=15,  # Hypothesis makes lists about twice as long
    max_size=40,
)
Label = tuple[int, int]  # run of the camera, number of the frame


class World:
    """Both servers, who analyses, who joins, and the model: what is to come next."""

    def __init__(self) -> None:
        name = f"j{next(numbers)}"
        self.names = name, f"{name}.boxes"
        self.run = 0
        self.frames: list[tuple[Label, va.Frame]] = []  # all, as the analyser has them
        self.pending: list[Label] = []  # published, and not given yet
        self.answered: set[Label] = set()  # of these
        self.unread = 0  # results
        self.published = self.results = self.analysers = 0

    async def __aenter__(self) -> World:
        self.camera = va.serve(self.names[0])
        self.serve_results()
        self.reader = await va.connect(self.names[0], policy="ordered", reconnect=True)
        self.found = await va.join(*self.names, wait=LONG, depth=DEPTH, policy="ordered")
        await self.connected()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.camera.close()
        self.boxes.close()
        self.reader.close()
        await self.found.aclose()

    def serve_results(self) -> None:
        """What is no result makes the ring: readers hear of that in their loop, and of frames at once."""
        self.boxes = va.serve(self.names[1])
        self.boxes.publish(b"begin")
        self.analysers += 1

    async def connected(self) -> None:
        """Both servers have their readers. Nothing may come meanwhile."""
        waiting = [asyncio.create_task(self.reader.recv()), asyncio.create_task(self.found.recv())]
        await until(lambda: self.camera.readers == 2 and self.found.stats().invalid == self.analysers)
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    def next(self, connected: bool = True) -> tuple[Label, bool] | None:
        """What the rules say: the oldest frame, and whether it has a result; None: it waits."""
        if not self.pending:
            return None
        first = self.pending[0]
        if first in self.answered:
            return first, True
        waits = connected and not self.answered.intersection(self.pending[: DEPTH + 1])
        return None if waits and len(self.pending) <= DEPTH else (first, False)

    async def take(self, connected: bool = True) -> bool:
        """The next frame, as the model has it. False: there is none, and that is so."""
        expected = self.next(connected)
        task = asyncio.create_task(self.found.recv())
        if expected is None:
            for _ in range(6):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
            self.unread = 0
            return False
        async with asyncio.timeout(30):
            frame, result = await task
        with frame:
            label = self.run_of(frame), frame.seq
            assert (label, result is not None) == expected
            assert result is None or result.text == f"{label}"
        self.unread = 0
        self.pending.pop(0)
        self.answered.discard(label)
        return True

    def run_of(self, frame: va.Frame) -> int:
        return int(bytes(frame.data))

    async def frame(self) -> None:
        if len(self.pending) < UNREAD:
            self.camera.publish(b"%d" % self.run)
            copy = (await self.reader.recv()).copy()
            self.frames.append(((self.run, copy.seq), copy))
            self.pending.append(self.frames[-1][0])
            self.published += 1

    def result(self, back: int) -> None:
        if back < len(self.frames) and self.unread < UNREAD:
            label, frame = self.frames[-1 - back]
            self.boxes.publish_result(frame, text=f"{label}")
            self.results += 1
            self.unread += 1
            if label in self.pending:
                self.answered.add(label)

    async def restart(self, which: str) -> None:
        while await self.take():
            pass
        if which == "camera":
            self.camera.close()
            self.run += 1
            self.camera = va.serve(self.names[0])
        else:
            self.boxes.close()
            while await self.take(connected=False):  # nobody waits for what nobody will say
                pass
            self.serve_results()
        await self.connected()

    def check(self) -> None:
        stats = self.found.stats()
        assert stats.frames.received == stats.matched + stats.unmatched + stats.waiting
        assert stats.results.received == stats.matched + stats.early + stats.late + stats.invalid
        assert (stats.invalid, stats.frames.dropped, stats.results.dropped) == (self.analysers, 0, 0)
        assert stats.frames.leases <= stats.waiting <= DEPTH  # those of a run that is over are not counted
        assert stats.frames.received == self.published
        assert stats.results.received == self.results + self.analysers


async def play(steps: list[tuple[str, int]]) -> None:
    async with World() as world:
        for what, number in steps:
            if what == "frame":
                await world.frame()
            elif what == "result":
                world.result(number)
            elif what == "take":
                for _ in range(number):
                    await world.take()
            else:
                await world.restart(what)
        while await world.take():
            pass
        world.check()


@settings(
    max_examples=int(os.environ.get("VALKKA_EXAMPLES", "15")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(steps=STEPS)
def test_every_frame_comes_once_with_its_own_result(steps: list[tuple[str, int]], runtime_dir: Path) -> None:
    asyncio.run(play(steps))
