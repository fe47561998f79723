"""Four RTSP cameras with sound, recorded for as long as there is time: two servers, TCP and UDP, a clock that
drifts, connections that are cut off. `make stress SECONDS=3600` makes it an hour."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import valkka_async as va
from support.instep import flashes_and_clicks
from support.netns import in_netns
from support.require import missing
from support.rtsp import RtspServer, rtsp_available
from support.rtsp_camera import RtspCamera
from support.rtsp_sound import RtspSound, clicks, flashes
from support.until import until

SECONDS = float(os.environ.get("VALKKA_STRESS_SECONDS", "40"))
FPS = 10
SIZE = (320, 192)
NEAR = 0.04  # s
DRIFT = 200e-6
LENGTH = 1.5  # s by which a recording may differ from the time that passed: it begins with a key frame
PIECE = max(10.0, SECONDS / 12)  # s, of files that are rotated
GROWTH = 3 << 20  # bytes of a worker from the second quarter to the last


class Drifting(RtspSound):
    """Its samples are taken by a clock that is too fast, and nothing but their arrival tells so."""

    def due(self, number: int) -> float:
        return super().due(number) / (1 + DRIFT)


@dataclass
class Watched:
    """A camera that is recorded, and how it should come out."""

    spec: va.CameraSpec
    piece: float | None  # s, of its files
    cut: Callable[[], None] | None = None  # the connection
    every: float = SECONDS  # s, between cuts
    # Seconds by which sound is behind the picture, from when that is; None: nobody knows.
    expected: Callable[[float], float] | None = None
    files: list[Path] = field(default_factory=list)
    cuts: list[float] = field(default_factory=list)  # wall clock
    began: float = 0.0  # wall clock
    passed: float = 0.0  # s for which it was recorded
    memory: dict[int, list[int]] = field(default_factory=dict)  # bytes of its workers

    @property
    def name(self) -> str:
        return self.spec.name


def clock(number: int, _: float) -> int:
    """Not from 0 on, which FFmpeg takes for a time that is missing."""
    return 900_000 + number * 90000 // FPS


def described(name: str, url: str, transport: str) -> va.CameraSpec:
    return va.CameraSpec(
        name, url, (va.Output(name, "fmp4"),), transport=transport, retry_max=0.5, read_timeout=20
    )


@functools.partial(in_netns, seconds=SECONDS + 600)
@pytest.mark.long
@pytest.mark.timeout(SECONDS + 600)
@pytest.mark.one_loop
async def test_an_hour_of_four_cameras_with_sound(tmp_path: Path) -> None:
    if reason := rtsp_available():
        missing(reason)
    if shutil.which("ffprobe") is None:
        missing("no ffprobe (apt-get install --no-install-recommends ffmpeg)")
    units = list(flashes(FPS, SIZE))
    clip = tmp_path / "flashes.h264"
    clip.write_bytes(b"".join(units))
    fast = clicks("aac", report=False)
    drifting = Drifting(fast.sdp, fast.rate, fast.samples, fast.packets, fast.type, report=False)
    with (
        RtspServer(deadline=round(SECONDS + 600)) as server,
        RtspCamera(units, fps=FPS, sound=drifting, clock=clock) as tcp,
        RtspCamera(units, fps=FPS, sound=clicks("pcm_mulaw"), clock=clock) as udp,
    ):
        server.mount("/tcp", clip, fps=FPS, audio="alaw ticks")
        server.mount("/udp", clip, fps=FPS, audio="aac ticks")
        watched = [
            Watched(described("steady", server.url("/tcp"), "tcp"), PIECE),
            Watched(
                described("dropped", server.url("/udp"), "udp"),
                None,
                functools.partial(server.drop, "/udp"),
                max(12.0, SECONDS / 15),
            ),
            Watched(described("drifting", tcp.url(), "tcp"), PIECE, expected=lambda at: -at * DRIFT),
            Watched(
                described("cut", udp.url(), "udp"), None, udp.drop, max(10.0, SECONDS / 24), lambda _: 0.0
            ),
        ]
        await record(watched, tmp_path)
        moves = {
            name: [(at / 1e9, by / 1e9) for at, by in stats.moves]
            for name, stats in (await asyncio.to_thread(server.stats)).items()
        }
    print("moves", moves)
    for one in watched:
        print(one.name, *(path.name for path in one.files), "cuts", len(one.cuts))
        check_lengths(one)
        check_step(one, moves.get("/" + one.spec.transport, []) if one.expected is None else [])
        check_memory(one)


async def record(watched: list[Watched], folder: Path) -> None:
    async with va.Supervisor() as supervisor:
        await asyncio.gather(*(supervisor.add(one.spec) for one in watched))
        recorders = [
            va.Recorder(one.name, folder / "{name}-{n:04}.mp4", seconds=one.piece) for one in watched
        ]
        tasks = [asyncio.create_task(_collect(r, one)) for r, one in zip(recorders, watched, strict=True)]
        await asyncio.gather(*(_begun(r, one) for r, one in zip(recorders, watched, strict=True)))
        began = time.monotonic()
        tick = 0
        while (now := time.monotonic() - began) < SECONDS:
            for one in watched:
                # The last one comes early enough to be over at the end.
                if one.cut and len(one.cuts) < now // one.every and now < SECONDS - 8:
                    one.cuts.append(time.time())
                    await asyncio.to_thread(one.cut)
            if tick % max(1, round(SECONDS / 240)) == 0:
                for worker in supervisor.workers():
                    if worker.pid:
                        (one,) = (one for one in watched if one.name in worker.cameras)
                        one.memory.setdefault(worker.pid, []).append(resident(worker.pid))
            tick += 1
            await asyncio.sleep(1.0 - (time.monotonic() - began) % 1.0)
        for recorder, one in zip(recorders, watched, strict=True):
            one.passed = time.time() - one.began
            await recorder.aclose()
        await asyncio.gather(*tasks)
        status = supervisor.status()
        for one in watched:
            found = status[one.name].camera
            print(one.name, found)
            assert found.reconnects == len(one.cuts), (one.name, found.reconnects, one.cuts)
            assert found.sound.errors == 0 and found.errors == 0
            assert recorders[watched.index(one)].stats().dropped == 0
        assert all(worker.restarts == 0 for worker in supervisor.workers())


async def _begun(recorder: va.Recorder, one: Watched) -> None:
    await until(lambda: recorder.stats().frames)
    one.began = time.time()


async def _collect(recorder: va.Recorder, one: Watched) -> None:
    async with recorder:
        async for path in recorder:
            one.files.append(path)


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def lengths(file: Path) -> dict[str, float]:
    """Of a file, of its picture and of its sound, in seconds, as ffprobe says."""
    entries = "format=duration:stream=codec_type,start_time,duration"
    done = subprocess.run(
        ["ffprobe", "-v", "error", "-show_entries", entries, "-of", "json", file],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert done.stderr == "", done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    whole = float(told["format"]["duration"])
    starts = {one["codec_type"]: float(one["start_time"]) for one in told["streams"]}
    ends = {one["codec_type"]: float(one["duration"]) for one in told["streams"]}
    return {"file": whole, "video": whole - starts["video"], "audio": ends["audio"] - starts["audio"]}


def check_lengths(one: Watched) -> None:
    told = [lengths(file) for file in one.files]
    print(one.name, told)
    for kind in ("video", "audio"):
        total = sum(each[kind] for each in told)
        assert abs(total - one.passed) < LENGTH, (one.name, kind, total, one.passed)
    if one.piece is not None:
        assert 0 <= len(told) - one.passed // one.piece <= 1
        for each in told[:-1]:
            assert all(abs(length - one.piece) < 1 for length in each.values()), (one.name, told)
            assert 0 <= each["file"] - each["video"] < 0.5  # sound that came too late for the file before


def check_step(one: Watched, moves: list[tuple[float, float]]) -> None:
    """How far clicks are from where they belong. GStreamer's server does not say where, but between two cuts
    it is one place."""
    before = 0.0  # s of the files before
    connections: dict[int, list[tuple[float, float]]] = {}
    count = 0
    for file in one.files:
        shown, heard = flashes_and_clicks(file)
        for at in heard:
            flash = min(shown, key=lambda flash, at=at: abs(flash - at))  # type: ignore[misc]
            count += 1
            when = one.began + before + flash
            if any(abs(when - move) < 3 for move, _ in moves):
                continue
            late = at - flash - sum(by for move, by in moves if move < when) * -1
            if one.expected is not None:
                late -= one.expected(before + flash)
            connection = sum(cut < when for cut in one.cuts) if one.expected is None else 0
            connections.setdefault(connection, []).append((before + flash, late))
        before += lengths(file)["video"]
    # One each second, but for those which a cut has cost. (AAC here has none where it begins again.)
    assert count > 0.88 * before - 3 * len(one.cuts) - 3, (one.name, count, before)
    for connection, found in connections.items():
        middle = 0.0
        if one.expected is None:
            first = found[0][1]
            middle = first + statistics.median(wrapped(late - first) for _, late in found)
        off = [(round(at, 2), round(wrapped(late - middle), 4)) for at, late in found]
        worst = max(off, key=lambda each: abs(each[1]))
        print(one.name, connection, "clicks", len(off), "worst", worst, "last", off[-1])
        assert abs(worst[1]) < NEAR, (one.name, connection, [each for each in off if abs(each[1]) >= NEAR])


def wrapped(seconds: float) -> float:
    """Flashes and clicks come each second: the way to the nearest."""
    return (seconds + 0.5) % 1 - 0.5


def check_memory(one: Watched) -> None:
    (series,) = one.memory.values()  # of one process
    quarter = len(series) // 4
    early, late = (statistics.median(part) for part in (series[quarter : 2 * quarter], series[-quarter:]))
    print(one.name, "MiB", [round(value / 2**20, 2) for value in (series[0], early, late)])
    assert late - early < GROWTH, (one.name, early, late)
