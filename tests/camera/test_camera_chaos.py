"""Sixteen cameras while servers are killed, frozen, restarted, and change resolution and password, and
workers die: each camera comes back by itself, and the others never notice."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from camera_tools import Clips

import valkka_async as va
from support.require import missing
from support.rtsp import RtspServer, rtsp_available
from support.until import until

PASSWORD = "s3cr et/@%#?:ü"
TRACES = ("s3cr", "czNjc")  # plain and percent-encoded, and base64, begin like this
HOUSES = 4  # RTSP servers
CAMERAS = 16
ROUNDS = 14 if "VALKKA_STRESS_SECONDS" in os.environ else 6  # each kind of fault at least once
RETRY = 0.5  # s, the longest pause between attempts
TIMEOUT = 1.0  # s, to open and to read
# Opening and reading time out, the longest pause is made, and the machine is slow.
BACK_WITHIN = 30.0
SMALL, LARGE = (320, 192), (480, 272)


@dataclass
class House:
    """A server with four cameras, which all fall together."""

    server: RtspServer
    number: int
    clips: Clips
    large: bool = False
    names: list[str] = field(default_factory=list)

    def open(self) -> None:
        for k in range(CAMERAS // HOUSES):
            name = f"cam{self.number}{k}"
            self.names.append(name)
            self.mount(name, PASSWORD)

    def mount(self, name: str, password: str) -> None:
        clip = self.clips(size=LARGE if self.large else SMALL)
        self.server.mount(f"/{name}", clip, fps=12.5, auth=(name, password, "digest"))

    def spec(self, name: str) -> va.CameraSpec:
        return va.CameraSpec(
            name,
            self.server.url(f"/{name}", name, PASSWORD),
            (va.Output(name), va.Output(f"{name}.mp4", "fmp4")),
            open_timeout=TIMEOUT,
            read_timeout=TIMEOUT,
            retry_max=RETRY,
            retry_refused=RETRY,
        )

    def kill(self) -> None:
        self.server.kill()
        time.sleep(0.3)
        self.server.restart()

    def freeze(self) -> None:
        self.server.freeze()
        time.sleep(1.5 * TIMEOUT)
        self.server.thaw()

    def resize(self) -> None:
        self.large = not self.large
        for name in self.names:
            self.server.switch(f"/{name}", self.clips(size=LARGE if self.large else SMALL))

    def lock_out(self) -> None:
        """Every camera gets another password, and later its own again."""
        for password in ("another", PASSWORD):
            for name in self.names:
                self.server.unmount(f"/{name}")
                self.mount(name, password)
            time.sleep(1.0)


@pytest.fixture
def houses(clips: Clips) -> Iterator[list[House]]:
    if reason := rtsp_available():
        missing(reason)
    houses = [House(RtspServer(deadline=240), number, clips) for number in range(HOUSES)]
    try:
        for house in houses:
            house.server.start()
            house.open()
        yield houses
    finally:
        for house in houses:
            house.server.close()


@dataclass
class Seen:
    """What a reader of all cameras has seen."""

    newest: dict[str, int] = field(default_factory=dict)  # capture times
    counts: dict[str, int] = field(default_factory=dict)

    async def read(self, merge: va.Merge) -> None:
        async for frame in merge:
            with frame:
                assert frame.timestamp_ns > self.newest.get(frame.source, 0), "a frame older than the last"
                self.newest[frame.source] = frame.timestamp_ns
                self.counts[frame.source] = self.counts.get(frame.source, 0) + 1

    def fresh(self, names: list[str], since_ns: int) -> bool:
        return all(self.newest.get(name, 0) > since_ns for name in names)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.timeout(240)
@pytest.mark.one_loop
async def test_sixteen_cameras_look_after_themselves(
    houses: list[House], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    seen = Seen()
    told: list[str] = []
    names = [name for house in houses for name in house.names]
    async with va.Supervisor(group_size=CAMERAS // HOUSES, restart_max=RETRY, hang_timeout=5) as supervisor:
        await asyncio.gather(*(supervisor.add(h.spec(name)) for h in houses for name in h.names))
        merge = va.merge(*names)
        streams = va.merge(*(f"{name}.mp4" for name in names), policy="ordered")
        reading = [asyncio.create_task(seen.read(merge)), asyncio.create_task(seen.read(streams))]
        try:
            await until(lambda: seen.fresh(names, 0), 60)
            actions = itertools.cycle(dice.sample(["kill", "freeze", "resize", "lock_out", "crash"], 5))
            for action in itertools.islice(actions, ROUNDS):
                house = dice.choice(houses)
                others = [name for h in houses if h is not house for name in h.names]
                began = time.time_ns()
                if action == "crash":
                    worker = next(w for w in supervisor.workers() if house.names[0] in w.cameras)
                    others = [name for name in names if name not in worker.cameras]
                    assert worker.pid is not None
                    os.kill(worker.pid, dice.choice([signal.SIGSEGV, signal.SIGKILL]))
                else:
                    await asyncio.to_thread(getattr(house, action))
                ended = time.time_ns()
                # The others have gone on, whether it took long or not.
                await until(lambda began=began, others=others: seen.fresh(others, began), 5)  # type: ignore[misc]
                if ended - began > 1e9:
                    assert seen.fresh(others, ended - int(1e9)), action
                both = [*names, *(f"{name}.mp4" for name in names)]
                await until(lambda ended=ended, both=both: seen.fresh(both, ended), BACK_WITHIN)  # type: ignore[misc]
                await until(lambda: {s.state for s in supervisor.status().values()} == {"live"}, BACK_WITHIN)
                told.append(repr(supervisor.status()) + repr(supervisor.workers()))
                assert not any(task.done() for task in reading)
            told += [repr(supervisor), repr(merge), caplog.text]
            for worker in supervisor.workers():
                assert worker.pid is not None
                for what in ("cmdline", "environ"):
                    told.append(Path(f"/proc/{worker.pid}/{what}").read_bytes().decode(errors="replace"))
                assert descriptors(worker.pid) < 150
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
            merge.close()
            streams.close()
    assert not [trace for text in told for trace in TRACES if trace in text]
