# SPDX-License-Identifier: MIT
"""A day of recordings of eight cameras: ``python benchmarks/recordings.py [--short]``.

It is written by a clock of its own. Prints how long it takes to make the index from the files, to look
through the folders at a start, to have a day's timeline, and to open any 30 seconds: until the first frames
are there, and until all of it is. Files are as a Recorder writes them, five minutes each at 25 frames per
second, of small frames (a day of real ones has a few hundred GB). The page cache is warm.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import describe

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))
from support.recordings import Writer  # noqa: E402
from valkka_async.camera.mp4 import boxes  # noqa: E402
from valkka_async.record.archive import Archive, Kept  # noqa: E402
from valkka_async.record.contents import Contents, Mark  # noqa: E402
from valkka_async.record.pattern import Pattern  # noqa: E402
from valkka_async.record.retention import Keep  # noqa: E402

S = 10**9
BEGIN = 1_700_000_000 // 86400 * 86400 * S
FILE = 300  # s
FPS = 25
RANGE = 30  # s


class Template:
    """A file of five minutes, of which others are made: nothing in them differs but the time of day."""

    def __init__(self, folder: Path) -> None:
        path = folder / "template.mp4"
        self.contents = Writer(path, BEGIN).frames(FILE * FPS).complete()
        self._data = bytearray(path.read_bytes()[: self.contents.size])

    def write(self, path: Path, begin_ns: int) -> Contents:
        """One that begins then."""
        shift = begin_ns - BEGIN
        marks = [Mark(one.offset, one.ns + shift, one.ticks) for one in self.contents.marks]
        for one in marks:
            struct.pack_into(">32s", self._data, one.offset, boxes.reference_time(one.ticks, one.ns))
        ends = {"begin_ns": begin_ns, "end_ns": self.contents.end_ns + shift}
        contents = replace(self.contents, marks=marks, **ends)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._data + contents.trailer())
        return contents


def pattern(folder: Path, camera: str) -> Pattern:
    return Pattern(f"{folder}/{camera}/%Y-%m-%d/{{n}}.mp4", camera)


def archive(folder: Path) -> Archive:
    return Archive(folder / ".index.sqlite", clock_ns=lambda: BEGIN + 86400 * S)


async def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = await work()
    return time.perf_counter() - began, result


def row(what: str, values: list[float]) -> str:
    ordered = sorted(values)
    at = [statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))], ordered[-1]]
    return f"| {what} | {' | '.join(f'{1000 * value:.1f}' for value in at)} |"


async def measure(folder: Path, cameras: list[str], hours: int, rounds: int) -> None:
    async def opened(it: Archive) -> None:
        kept = {name: Kept(pattern(folder, name), Keep()) for name in cameras}
        it.follow(kept, Keep(), lambda name: pattern(folder, name))
        await it.settled()

    for what in ("index made from the files", "folders looked through"):
        async with archive(folder) as it:
            took, _ = await timed(lambda: opened(it))  # noqa: B023
            count, size = it.status().files, it.status().bytes
            print(f"{what}: {took:.2f} s ({count} files, {size / 1e9:.1f} GB)")
    print(f"index: {(folder / '.index.sqlite').stat().st_size / 1e6:.1f} MB\n")
    async with archive(folder) as it:
        await opened(it)
        rng = random.Random(1)
        lines, first, whole = [], [], []
        for _ in range(rounds):
            name = rng.choice(cameras)
            took, timeline = await timed(lambda: it.timeline(name, BEGIN, BEGIN + hours * 3600 * S))  # noqa: B023
            assert len(timeline.spans) == 1
            lines.append(took)
            at = BEGIN + rng.randrange(hours * 3600 - RANGE) * S + rng.randrange(S)
            began = time.perf_counter()
            clip = await it.clip(name, at, at + RANGE * S)
            blocks = clip.read()
            parts = [await asyncio.to_thread(next, blocks), await asyncio.to_thread(next, blocks)]
            first.append(time.perf_counter() - began)
            parts += await asyncio.to_thread(list, blocks)
            whole.append(time.perf_counter() - began)
            assert sum(map(len, parts)) == clip.size
        print("| ms | median | p99 | most |\n|---|---|---|---|")
        print(row(f"timeline of {hours} h", lines))
        print(row(f"{RANGE} s opened: its first frames", first))
        print(row(f"{RANGE} s: all of it", whole))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--short", action="store_true", help="two cameras, two hours")
    asked = parser.parse_args()
    count, hours = (2, 2) if asked.short else (asked.cameras, asked.hours)
    cameras = [f"cam{n}" for n in range(count)]
    folder = Path(tempfile.mkdtemp(prefix="valkka-recordings-"))
    try:
        template = Template(folder)
        began = time.perf_counter()
        for n in range(hours * 3600 // FILE):
            for name in cameras:
                begin = BEGIN + n * FILE * S
                template.write(pattern(folder, name).path(_local(begin), n + 1), begin)
        machine = describe({}, [])
        cpu = f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before']}"
        print(f"{cpu}\n{count} cameras, {hours} h, written in {time.perf_counter() - began:.0f} s\n")
        asyncio.run(measure(folder, cameras, hours, asked.rounds))
    finally:
        shutil.rmtree(folder)


def _local(ns: int) -> Any:
    from datetime import datetime

    return datetime.fromtimestamp(ns / 1e9).astimezone()


if __name__ == "__main__":
    main()
