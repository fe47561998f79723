# SPDX-License-Identifier: MIT
"""Recordings on a disk of 64 MB that is full: what is kept holds its bound, and nothing is lost for good."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import valkka_async as va
from support.recordings import GOP, STEP, Writer, head
from support.require import missing
from support.until import until
from valkka_async.camera.mp4 import boxes
from valkka_async.camera.mp4.fragments import TIME_BASE
from valkka_async.record.archive import Archive, Kept
from valkka_async.record.index import readable
from valkka_async.record.pattern import Pattern
from valkka_async.record.retention import Keep

pytestmark = pytest.mark.one_loop
MB = 1_000_000
FRAME = 100_000  # bytes; a file of one GOP has a megabyte
FLOOR = 8 * MB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        missing("root, who mounts a small disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        missing("no mount program (apt-get install mount)")
    if done.returncode:
        pytest.skip(f"this machine does not let a disk be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=30)


def free(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


def fill(path: Path) -> None:
    """The disk that it is on, with this file."""
    other = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        os.posix_fallocate(other, 0, free(path.parent) - 300_000)
        os.lseek(other, 0, os.SEEK_END)
        while free(path.parent):
            os.write(other, bytes(min(4096, free(path.parent))))
    finally:
        os.close(other)


class Source:
    """A ring of fragments whose pictures nobody decodes."""

    def __init__(self, server: va.Server) -> None:
        self._server = server
        self._number = 0
        server.set_header(head())

    def gop(self) -> int:
        """Publish one; how many frames there were so far."""
        for _ in range(GOP):
            key = self._number % GOP == 0
            dts = self._number * STEP
            data = boxes.fragment(self._number + 1, dts, 0, STEP, key, FRAME) + bytes(FRAME)
            times: Any = {"dts": dts, "time_base": TIME_BASE, "timestamp_ns": time.time_ns()}
            assert self._server.publish(data, format="fmp4", key=key, **times)
            self._number += 1
        return self._number


@pytest.mark.parametrize("keep", [Keep(free=FLOOR), Keep(size=20 * MB)])
async def test_what_is_kept_holds_its_bound_within_one_file(disk: Path, keep: Keep) -> None:
    pattern = Pattern(f"{disk}/a/%Y/{{n}}.mp4", "a")
    async with Archive(disk / ".index") as archive:
        archive.follow({"a": Kept(pattern, Keep())}, keep, lambda _: pattern)
        with va.serve("cam", slots=64) as server:
            source = Source(server)
            async with va.Recorder(
                "cam", f"{disk}/a/%Y/{{n}}.mp4", seconds=0.4, journal=archive.journal("a")
            ) as recorder:
                await until(lambda: server.stats().readers)
                for _ in range(90):
                    frames = source.gop()
                    await until(lambda: recorder.stats().frames == frames)  # noqa: B023
                    await archive.settled()
                    if keep.free is not None:
                        assert free(disk) >= FLOOR - 1.2 * MB
                    else:
                        assert sum(p.stat().st_size for p in disk.glob("a/**/*.mp4")) <= 21.2 * MB
                assert recorder.stats().dropped == 0
        await archive.settled()
        assert archive.status().deleted_files > 20 and archive.status().problem == ""
        stored = archive.stored("a")
        assert stored is not None and stored.files == len(list(disk.glob("a/**/*.mp4")))
        timeline = await archive.timeline("a", 0, 1 << 62)
        assert timeline.newest_ns is not None and timeline.oldest_ns == timeline.spans[0].from_ns


async def test_a_disk_that_others_have_filled_stops_the_recording_and_not_the_index(disk: Path) -> None:
    pattern = f"{disk}/a/{{n}}.mp4"
    mine = Pattern(pattern, "a")
    async with Archive(disk / ".index") as archive:
        archive.follow({"a": Kept(mine, Keep())}, Keep(), lambda _: mine)
        with va.serve("cam", slots=64) as server:
            source = Source(server)
            with pytest.raises(va.RecorderError) as full:
                async with va.Recorder("cam", pattern, seconds=0.4, journal=archive.journal("a")) as recorder:
                    await until(lambda: server.stats().readers)
                    source.gop()
                    await until(lambda: recorder.stats().frames == GOP)
                    fill(disk / "other")
                    source.gop()
                    await recorder.wait()
        assert full.value.errno == errno.ENOSPC
        await archive.settled()
        (disk / "other").unlink()
        archive.follow({"a": Kept(mine, Keep())}, Keep(), lambda _: mine)
        await archive.settled()
        assert archive.status().problem == ""
        timeline = await archive.timeline("a", 0, 1 << 62)
        assert len(timeline.spans) >= 1
        clip = await archive.clip("a", 0, 1 << 62)
        assert sum(map(len, clip.read())) == clip.size > MB
    async with Archive(disk / ".index") as archive:
        archive.follow({"a": Kept(mine, Keep())}, Keep(), lambda _: mine)
        await archive.settled()
        assert (await archive.timeline("a", 0, 1 << 62)).spans == timeline.spans


async def test_a_full_disk_with_files_that_the_index_lacks_is_made_room_on(disk: Path) -> None:
    """As after a restart: it cannot be completed before there is room, and is not in memory either."""
    pattern = Pattern(f"{disk}/a/{{n}}.mp4", "a")
    begin = time.time_ns() - 3600 * 10**9
    for number in range(10):
        Writer(disk / "a" / f"{number}.mp4", begin + number * 20 * 10**9).frames(250).complete()
    async with Archive(disk / ".index") as archive:
        archive.follow({"a": Kept(pattern, Keep())}, Keep(), lambda _: pattern)
        await archive.settled()
    for number in range(10, 60):
        Writer(disk / "a" / f"{number}.mp4", begin + number * 20 * 10**9).frames(50).complete()
    async with Archive(disk / ".index") as archive:
        await archive.timeline("a", 0, 1)  # it is open
        fill(disk / "other")
        for _ in range(3):
            archive.follow({"a": Kept(pattern, Keep())}, Keep(free=MB), lambda _: pattern)
            await archive.settled()
        assert free(disk) >= MB
        assert archive.status().problem == "" and archive.status().index is not None
        there = {int(path.stem) for path in disk.glob("a/*.mp4")}
        assert there == set(range(min(there), 60)) and min(there) > 0
        stored = archive.stored("a")
        assert stored is not None and stored.files == len(there)


def test_an_index_that_a_service_has_left_can_be_read_where_nothing_can_be_written(disk: Path) -> None:
    pattern = Pattern(f"{disk}/a/{{n}}.mp4", "a")
    path = disk / "a" / "1.mp4"
    Writer(path, time.time_ns()).frames(50).complete()

    async def service() -> None:
        async with Archive(disk / ".index") as archive:
            archive.follow({"a": Kept(pattern, Keep())}, Keep(), lambda _: pattern)
            await archive.settled()

    asyncio.run(service())
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, timeout=30)
    index = readable(disk / ".index")
    assert [one.path for one in index.between("a", 0, 1 << 62)] == [path]
    index.close()
