"""Recordings: what is in the files, where one ends and the next begins, and every way to be interrupted."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import valkka_async as va
from support import footage
from support.playback import ffmpeg_finds_no_fault, packets, play, whole_fragments
from support.program import Child
from support.require import missing
from support.rtsp import RtspServer, rtsp_available
from support.until import until, wait_for
from valkka_async.camera.mp4.fragments import Fragment, Muxer, Timeline
from valkka_async.camera.source.secrets import parse
from valkka_async.camera.source.source import Source
from valkka_async.record import contents

GROUP = 10  # frames from key frame to key frame, at 25 per second


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def clip(folder: Path, codec: str = "h264", size: tuple[int, int] = (160, 96), bframes: int = 0) -> Path:
    name = f"{size[0]}-{bframes}.{codec}"
    return footage.encode(folder / name, size, 100, codec=codec, gop=GROUP, bframes=bframes)


class Film:
    """A clip as an output publishes it, piece by piece."""

    def __init__(self, path: Path, timeline: Timeline | None = None) -> None:
        self.fragments: list[Fragment] = []
        muxer = None
        for stream, packet in packets(path):
            muxer = muxer or Muxer(stream, timeline or Timeline())
            self.fragments += muxer.mux(packet, 0)
        assert muxer is not None
        self.header = muxer.init_segment

    def publish(self, server: va.Server, first: int, end: int) -> None:
        server.set_header(self.header)
        for f in self.fragments[first:end]:
            put(server, f)


def put(server: va.Server, f: Fragment, **about: Any) -> bool:
    about |= {"pts": f.pts, "dts": f.dts, "duration": f.duration, "time_base": f.time_base}
    return server.publish(f.data, format="fmp4", key=f.key, **about)


class Clock:
    ns = 0

    def __call__(self) -> int:
        return self.ns


async def connected(server: va.Server) -> None:
    await until(lambda: server.stats().readers)


def numbers(path: Path) -> list[int]:
    return [one.number for one in play(path)]


def written(folder: Path) -> list[Path]:
    """The recordings in a folder, in the order of their names: 1.mp4, 2.mp4, ... 10.mp4."""
    return sorted(folder.glob("**/*.mp4"), key=lambda path: int(re.sub(r"\D", "", path.stem) or 0))


@pytest.mark.parametrize(("codec", "bframes"), [("h264", 0), ("h264", 2), ("h265", 0), ("h265", 2)])
async def test_files_are_cut_at_key_frames_and_each_plays_by_itself(
    folder: Path, tmp_path: Path, codec: str, bframes: int
) -> None:
    film = Film(clip(folder, codec, bframes=bframes))
    with va.serve("cam", slots=128) as server:
        async with va.Recorder("cam", tmp_path / "{n}.mp4", seconds=0.8) as recorder:
            await connected(server)
            film.publish(server, 0, 90)
            await until(lambda: recorder.stats().frames == 90)
            stats = recorder.stats()
            assert (stats.files, stats.dropped, stats.path) == (5, 0, tmp_path / "5.mp4")
            assert stats.duration == pytest.approx(9 / 25, abs=0.01)
    files = written(tmp_path)
    assert [len(numbers(path)) for path in files] == [20, 20, 20, 20, 10]  # groups of 0.4 s
    assert [number for path in files for number in numbers(path)] == list(range(90))
    assert sum(path.stat().st_size for path in files) == recorder.stats().bytes
    for path in files:
        shown = play(path)
        assert shown[0].seconds == pytest.approx(0 if not bframes else 2 / 25, abs=0.001)
        steps = [b.seconds - a.seconds for a, b in itertools.pairwise(shown)]
        assert steps == pytest.approx([0.04] * len(steps), abs=0.001)


async def test_another_player_finds_no_fault(folder: Path, tmp_path: Path) -> None:
    clock = Clock()
    timeline = Timeline(clock_ns=clock)
    films = [Film(clip(folder, bframes=2), timeline), Film(clip(folder, "h265"), timeline)]
    clock.ns += 7_000_000_000
    films.append(Film(clip(folder, "h265"), timeline))
    with va.serve("cam", slots=256) as server:
        async with va.Recorder("cam", tmp_path / "{n}.mp4", seconds=None) as recorder:
            await connected(server)
            for film in films:
                film.publish(server, 0, 50)
            await until(lambda: recorder.stats().frames == 150)
    files = written(tmp_path)
    assert len(files) == 2  # the second with a gap
    for path in files:
        await asyncio.to_thread(ffmpeg_finds_no_fault, path)


async def test_files_stay_below_a_size(folder: Path, tmp_path: Path) -> None:
    film = Film(clip(folder))
    largest = max(sum(len(f.data) for f in film.fragments[at : at + GROUP]) for at in range(0, 100, GROUP))
    limit = int(3.5 * largest)
    with va.serve("cam", slots=128) as server:
        async with va.Recorder("cam", tmp_path / "{n}.mp4", seconds=None, max_bytes=limit) as recorder:
            await connected(server)
            film.publish(server, 0, 100)
            await until(lambda: recorder.stats().frames == 100)
    files = written(tmp_path)
    assert 4 <= len(files) <= 5
    assert all(path.stat().st_size <= limit for path in files)
    assert all(len(numbers(path)) % GROUP == 0 for path in files)
    assert [number for path in files for number in numbers(path)] == list(range(100))


async def test_a_group_larger_than_the_limit_is_a_file(folder: Path, tmp_path: Path) -> None:
    film = Film(clip(folder))
    with va.serve("cam", slots=128) as server:
        async with va.Recorder("cam", tmp_path / "{n}.mp4", max_bytes=1) as recorder:
            await connected(server)
            film.publish(server, 0, 30)
            await until(lambda: recorder.stats().frames == 30)
    assert [len(numbers(path)) for path in written(tmp_path)] == [10, 10, 10]


async def test_finished_files_are_told_as_they_are_finished(folder: Path, tmp_path: Path) -> None:
    film = Film(clip(folder))
    told: list[Path] = []
    with va.serve("cam", slots=128) as server:
        async with va.Recorder("cam", tmp_path / "{n}.mp4", seconds=0.4) as recorder:

            async def follow() -> None:
                async for path in recorder:
                    told.append(path)  # noqa: PERF401 - seen as they come

            following = asyncio.create_task(follow())
            await connected(server)
            film.publish(server, 0, 5)
            await until(lambda: recorder.stats().frames == 5)
            assert told == []
            film.publish(server, 5, 25)
            await until(lambda: len(told) == 2)
            assert numbers(told[0]) == list(range(10))
            waiting = asyncio.create_task(recorder.wait())
            await recorder.aclose()
            await waiting
            await following
            assert told == [tmp_path / f"{n}.mp4" for n in (1, 2, 3)]
            assert (recorder.stats().path, recorder.stats().duration) == (None, 0.0)
            await recorder.aclose()


async def test_who_joins_late_records_from_the_next_key_frame_on(folder: Path, tmp_path: Path) -> None:
    film = Film(clip(folder))
    with va.serve("cam", slots=128) as server:
        film.publish(server, 0, 15)
        async with va.Recorder("cam", tmp_path / "a.mp4") as recorder:
            await connected(server)
            film.publish(server, 15, 33)
            await until(lambda: recorder.stats().frames == 13)
            assert recorder.stats().dropped == 6  # the newest when it came, and 5 more
    assert numbers(tmp_path / "a.mp4") == list(range(20, 33))


async def test_lost_frames_end_the_file_and_the_next_begins_with_a_key_frame(
    folder: Path, tmp_path: Path
) -> None:
    film = Film(clip(folder))
    with va.serve("cam", slots=16) as server:
        async with va.Recorder("cam", tmp_path / "{n}.mp4") as recorder:
            await connected(server)
            film.publish(server, 0, 12)
            await until(lambda: recorder.stats().frames == 12)
            film.publish(server, 12, 55)  # at once: more than the ring has slots
            await until(lambda: recorder.stats().frames == 12 + 15)
            assert recorder.stats().dropped == 28
    assert [numbers(path) for path in written(tmp_path)] == [list(range(12)), list(range(40, 55))]


async def test_another_header_begins_another_file(folder: Path, tmp_path: Path) -> None:
    timeline = Timeline()
    films = [Film(clip(folder, codec, size), timeline) for codec, size in
             (("h264", (160, 96)), ("h264", (320, 192)), ("h265", (320, 192)))]  # fmt: skip
    with va.serve("cam", slots=128) as server:
        async with va.Recorder("cam", tmp_path / "{n}.mp4") as recorder:
            await connected(server)
            for film in films:
                film.publish(server, 0, 7)
                await asyncio.sleep(0)
            await until(lambda: recorder.stats().frames == 21)
            assert recorder.stats().dropped == 0
    files = written(tmp_path)
    assert [play(path)[0].size for path in files] == [(160, 96), (320, 192), (320, 192)]
    assert [numbers(path) for path in files] == [list(range(7))] * 3


async def test_a_camera_that_reconnects_leaves_a_gap_in_the_file(folder: Path, tmp_path: Path) -> None:
    clock = Clock()
    timeline = Timeline(clock_ns=clock)
    first = Film(clip(folder), timeline)
    clock.ns += 7_000_000_000
    second = Film(clip(folder), timeline)
    with va.serve("cam", slots=256) as server:
        async with va.Recorder("cam", tmp_path / "{n}.mp4") as recorder:
            await connected(server)
            first.publish(server, 0, 100)
            second.publish(server, 0, 20)
            await until(lambda: recorder.stats().frames == 120)
    (path,) = written(tmp_path)
    shown = play(path)
    assert shown[100].seconds - shown[99].seconds == pytest.approx(7, abs=0.05)


async def test_a_clock_that_is_set_back_begins_another_file_and_one_set_forward_leaves_a_gap(
    folder: Path, tmp_path: Path
) -> None:
    film = Film(clip(folder))
    hour, begin = 3600 * 10**9, 1_700_000_000 * 10**9
    with va.serve("cam", slots=128) as server:
        async with va.Recorder("cam", tmp_path / "{n}.mp4", seconds=None) as recorder:
            await connected(server)
            server.set_header(film.header)
            for number, f in enumerate(film.fragments[:90]):
                step = 0 if number < 35 else hour if number < 75 else -hour  # not at a key frame
                put(server, f, timestamp_ns=begin + number * 40_000_000 + step)
            await until(lambda: recorder.stats().frames == 90)
    found = [contents.read(path) for path in written(tmp_path)]
    assert [len(numbers(path)) for path in written(tmp_path)] == [80, 10]
    frame = 40_000_000
    assert found[0].gaps == [(begin + 35 * frame, begin + 35 * frame + hour)]
    assert found[0].end_ns == begin + 75 * frame + hour
    assert (found[1].begin_ns, found[1].end_ns) == (begin + 80 * frame - hour, begin + 90 * frame - hour)


async def test_a_clock_that_is_set_for_the_first_time_since_1970_begins_another_file(
    folder: Path, tmp_path: Path
) -> None:
    film = Film(clip(folder))
    unset, begin, frame = 12 * 10**9, 1_700_000_000 * 10**9, 40_000_000
    with va.serve("cam", slots=128) as server:
        async with va.Recorder("cam", tmp_path / "{n}.mp4", seconds=None) as recorder:
            await connected(server)
            server.set_header(film.header)
            for number, f in enumerate(film.fragments[:60]):
                put(server, f, timestamp_ns=(unset if number < 35 else begin) + number * frame)
            await until(lambda: recorder.stats().frames == 60)
    first, second = written(tmp_path)
    assert (len(numbers(first)), len(numbers(second))) == (40, 20)
    os.utime(first, ns=(unset, unset))
    found = [contents.read(path) for path in (first, second)]
    assert (found[0].begin_ns, found[0].end_ns, found[0].gaps) == (unset, unset + 40 * frame, [])
    assert found[1].begin_ns == begin + 40 * frame


async def test_a_server_that_is_started_again_is_followed(folder: Path, tmp_path: Path) -> None:
    """Although its frames are numbered on as if nothing had been, and its times too."""
    film = Film(clip(folder))
    async with va.Recorder("cam", tmp_path / "{n}.mp4") as recorder:
        await asyncio.sleep(0.05)  # it waits for the first one as well
        with va.serve("cam", slots=128) as server:
            await connected(server)
            film.publish(server, 0, 10)
            await until(lambda: recorder.stats().frames == 10)
        with va.serve("cam", slots=128) as server:
            film.publish(server, 0, 11)
            await connected(server)
            film.publish(server, 11, 25)
            await until(lambda: recorder.stats().frames == 25)
    assert [numbers(path) for path in written(tmp_path)] == [list(range(10)), list(range(10, 25))]


PUBLISHER = """
import itertools, av
from valkka_async.camera.mp4.fragments import Muxer, Timeline
timeline = Timeline()
with va.serve("cam", slots=256) as server:
    for _ in itertools.count():
        with av.open(sys.argv[1]) as container:
            stream = container.streams.video[0]
            muxer = Muxer(stream, timeline)
            for packet in container.demux(stream):
                for f in muxer.mux(packet, time.time_ns()):
                    server.set_header(muxer.init_segment)
                    server.publish(f.data, format="fmp4", key=f.key, dts=f.dts, time_base=f.time_base)
                    time.sleep(0.01)
"""


async def test_a_server_that_is_killed_ends_the_file(folder: Path, tmp_path: Path) -> None:
    path = clip(folder)
    async with va.Recorder("cam", tmp_path / "{n}.mp4", seconds=None) as recorder:
        for files in (1, 2):
            before = recorder.stats().frames
            with await asyncio.to_thread(Child, PUBLISHER, path) as publisher:
                await until(lambda: recorder.stats().frames > before + 20)  # noqa: B023
                publisher.kill()
            await until(lambda: recorder.stats().path is None)
            assert recorder.stats().files == files
    with va.serve("cam"):
        pass  # takes what the killed ones left behind
    check_runs(tmp_path, recorder.stats().frames)


def check_runs(folder: Path, frames: int) -> None:
    """Each file has consecutive pictures, from a key frame on."""
    total = 0
    for path in written(folder):
        seen = numbers(path)
        assert seen[0] % GROUP == 0
        assert all((a + 1) % 100 == b for a, b in itertools.pairwise(seen)), seen
        total += len(seen)
    assert total == frames


RECORDER = """
async def main():
    async with va.Recorder("cam", sys.argv[1], seconds=0.8) as recorder:
        async for path in recorder:
            say(path)
asyncio.run(main())
"""


def test_a_recorder_that_is_killed_leaves_files_that_play_up_to_the_last_frame(
    folder: Path, tmp_path: Path
) -> None:
    rng = random.Random(8)
    film = Film(clip(folder, bframes=2))
    for attempt in range(3):
        out = tmp_path / str(attempt)

        def whole(out: Path = out) -> list[int]:
            return [whole_fragments(path.read_bytes()) for path in written(out)]

        with va.serve("cam", slots=128) as server, Child(RECORDER, out / "{n}.mp4") as recorder:
            wait_for(lambda: server.stats().readers)  # noqa: B023
            sure = rng.randrange(25, 80)
            film.publish(server, 0, sure)
            wait_for(lambda: sum(whole()) == sure)  # noqa: B023
            for f in film.fragments[sure : sure + rng.randrange(1, 20)]:
                put(server, f)
                time.sleep(0.0005)
            recorder.kill()
        files = written(out)
        assert whole()[:-1] == [20] * (len(files) - 1)
        assert sum(whole()) >= sure
        seen = []
        for path, count in zip(files, whole(), strict=True):
            shown = numbers(path)
            assert len(shown) == count
            seen += shown
        # the last group's newest pictures, which others were to be shown before, are there too
        assert seen[: len(seen) - 3] == list(range(len(seen) - 3))


async def test_what_is_there_is_never_overwritten(folder: Path, tmp_path: Path) -> None:
    film = Film(clip(folder))
    (tmp_path / "x.mp4").write_bytes(b"mine")
    (tmp_path / "x-3.mp4").symlink_to("nowhere")
    with va.serve("cam", slots=128) as server:
        async with va.Recorder("cam", tmp_path / "x.mp4", seconds=0.4) as recorder:
            await connected(server)
            film.publish(server, 0, 30)
            await until(lambda: recorder.stats().frames == 30)
    assert (tmp_path / "x.mp4").read_bytes() == b"mine"
    assert not (tmp_path / "nowhere").exists()
    assert [numbers(tmp_path / f"x-{n}.mp4")[0] for n in (2, 4, 5)] == [0, 10, 20]


async def test_names_and_folders_come_from_the_pattern(folder: Path, tmp_path: Path) -> None:
    film = Film(clip(folder))
    stamp = 1_700_000_000_000_000_000
    begin = datetime.fromtimestamp(stamp / 1e9)
    with va.serve("cam.front", slots=128) as server:
        pattern = str(tmp_path) + "/{name}/%Y-%m-%d/%H-%M-%S {n:03}.mp4"
        async with va.Recorder("cam.front", pattern) as recorder:
            await connected(server)
            server.set_header(film.header)
            for f in film.fragments[:3]:
                times: Any = {"dts": f.dts, "time_base": f.time_base, "timestamp_ns": stamp}
                server.publish(f.data, format="fmp4", key=f.key, **times)
            await until(lambda: recorder.stats().frames == 3)
    name = begin.strftime("%Y-%m-%d/%H-%M-%S 001.mp4")
    assert numbers(tmp_path / "cam.front" / name) == [0, 1, 2]


# A limit on the size of files is the full disk that anybody can have.
# The limit is for every file, and under pytest standard error is one: nothing is logged there.
FULL = """
import logging, resource
logging.disable()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
async def main():
    recorder = va.Recorder("cam", sys.argv[1], seconds=None)
    try:
        async with recorder:
            await recorder.wait()
    except va.RecorderError as e:
        say(e.errno, e.filename)
        say(e)
asyncio.run(main())
"""


def test_a_full_disk_ends_the_recording_with_an_error_and_what_was_written_plays(
    folder: Path, tmp_path: Path
) -> None:
    film = Film(clip(folder))
    head = len(film.header) + 32  # the time at which it begins is there too
    sizes = list(itertools.accumulate((len(f.data) for f in film.fragments), initial=head))
    limit = sizes[33] + 50  # in the middle of a frame
    path = tmp_path / "a.mp4"
    with va.serve("cam", slots=128) as server, Child(FULL, path, limit) as recorder:
        wait_for(lambda: server.stats().readers)
        film.publish(server, 0, 100)
        assert recorder.line() == f"{errno.EFBIG} {path}"
        assert "what was written before plays" in recorder.line()
        assert recorder.wait() == 0
    assert path.stat().st_size == sizes[33]
    assert numbers(path) == list(range(33))


def test_a_disk_that_is_full_from_the_beginning_has_no_empty_file(folder: Path, tmp_path: Path) -> None:
    film = Film(clip(folder))
    with va.serve("cam", slots=128) as server, Child(FULL, tmp_path / "a.mp4", 100) as recorder:
        wait_for(lambda: server.stats().readers)
        film.publish(server, 0, 1)
        assert recorder.line().startswith(f"{errno.EFBIG} ")
        assert recorder.line() and recorder.wait() == 0
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_cannot_be_is_an_error_that_is_not_lost(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    film = Film(clip(folder))
    (tmp_path / "file").write_bytes(b"")
    with va.serve("cam", slots=128) as server:
        recorder = va.Recorder("cam", tmp_path / "file" / "a.mp4")
        with pytest.raises(va.RecorderError) as caught:
            async with recorder:  # nobody asks for it before the end
                await connected(server)
                film.publish(server, 0, 3)
                await until(lambda: "over" in repr(recorder))
        assert isinstance(caught.value, OSError) and caught.value.errno == errno.ENOTDIR
        assert [record.levelname for record in caplog.records] == ["ERROR"]  # and not lost if nobody asks
        for ask in (recorder.wait(), anext(recorder)):
            with pytest.raises(va.RecorderError):
                await ask
        assert recorder.stats().files == 0


async def test_the_exception_of_the_block_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with va.Recorder("cam", tmp_path / "a.mp4", open_timeout=0.01) as recorder:
            await until(lambda: "over" in repr(recorder))
            1 / 0  # noqa: B018


async def test_a_ring_of_something_else_cannot_be_recorded(tmp_path: Path) -> None:
    for data, format, message in (
        (b"x", "bytes", "takes an output of format 'fmp4'"),
        (b"x" * 20, "fmp4", "no dts"),
        (b"x" * 20, "fmp4", "not fragmented MP4"),
    ):
        with va.serve("cam") as server:
            async with va.Recorder("cam", tmp_path / "a.mp4") as recorder:
                await connected(server)
                times: Any = {"dts": 0, "time_base": Fraction(1, 90_000)} if "MP4" in message else {}
                server.publish(data, format=format, **times)
                with pytest.raises(va.RecorderError, match=message) as caught:
                    await recorder.wait()
                assert caught.value.errno is None
    assert list(tmp_path.iterdir()) == []


async def test_waiting_for_a_server_may_have_an_end(tmp_path: Path) -> None:
    async with va.Recorder("cam", tmp_path / "a.mp4", open_timeout=0.05) as recorder:
        with pytest.raises(TimeoutError, match="cam"):
            await recorder.wait()


@pytest.mark.parametrize(
    ("pattern", "settings"),
    [
        ("", {}),
        ("folder/", {}),
        ("{camera}.mp4", {}),
        ("{}.mp4", {}),
        ("{n", {}),
        ("{n:9999999999}.mp4", {}),
        ("{n:{n}}.mp4", {}),
        ("{name.__class__}.mp4", {}),
        ("{name!r}.mp4", {}),
        ("a\0b", {}),
        ("a.mp4", {"seconds": 0}),
        ("a.mp4", {"seconds": float("inf")}),
        ("a.mp4", {"max_bytes": 0}),
        ("a.mp4", {"buffer_bytes": 0}),
        ("a.mp4", {"open_timeout": -1}),
        ("a.mp4", {"open_timeout": float("nan")}),
    ],
)
def test_what_cannot_be_is_refused_at_once(pattern: str, settings: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        va.Recorder("cam", pattern, **settings)  # type: ignore[arg-type]


async def test_a_recorder_has_to_be_begun_and_records_once(tmp_path: Path) -> None:
    recorder = va.Recorder("cam", tmp_path / "a.mp4")
    with pytest.raises(RuntimeError, match="async with"):
        await recorder.wait()
    with pytest.raises(RuntimeError, match="async with"):
        await anext(recorder)
    await recorder.aclose()
    async with recorder:
        pass
    with pytest.raises(RuntimeError, match="once"):
        async with recorder:
            pass


async def test_cancelling_completes_the_file(folder: Path, tmp_path: Path) -> None:
    film = Film(clip(folder))
    with va.serve("cam", slots=128) as server:
        recorder = va.Recorder("cam", tmp_path / "a.mp4")

        async def record() -> None:
            async with recorder:
                await recorder.wait()

        task = asyncio.create_task(record())
        await connected(server)
        film.publish(server, 0, 25)
        await until(lambda: recorder.stats().frames > 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not server.stats().readers)
    count = recorder.stats().frames
    assert numbers(tmp_path / "a.mp4") == list(range(count))


class SlowDisk:
    """Before each write of the recorder's thread: a wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.works = threading.Event()
        write = os.write

        def slow(fd: int, data: memoryview) -> int:
            if threading.current_thread().name == "valkka-disk":
                self.works.wait(30)
            return write(fd, data)

        monkeypatch.setattr(os, "write", slow)


async def test_a_disk_that_stalls_holds_up_nobody_and_costs_frames_but_no_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    film = Film(clip(folder))
    disk = SlowDisk(monkeypatch)
    buffer = sum(len(f.data) for f in film.fragments[:20])
    caplog.set_level(logging.WARNING)
    with va.serve("cam", slots=16) as server:
        async with va.Recorder("cam", tmp_path / "{n}.mp4", seconds=None, buffer_bytes=buffer) as recorder:
            await connected(server)
            server.set_header(film.header)
            slowest, last = 0.0, time.monotonic()
            for f in film.fragments[:95]:
                put(server, f)
                await asyncio.sleep(0.002)
                slowest, last = max(slowest, time.monotonic() - last), time.monotonic()
            assert slowest < 5
            assert "too slow" in caplog.text
            assert recorder.stats().frames == 0
            assert recorder._disk is not None
            largest = max(len(f.data) for f in film.fragments) + len(film.header)
            assert recorder._disk.pending <= buffer + largest
            disk.works.set()
            await until(lambda: recorder.stats().dropped > 0)
            film.publish(server, 95, 100)
            await until(lambda: sum(r := (recorder.stats().frames, recorder.stats().dropped)) == 100 and r[0])
            stats = recorder.stats()
            assert stats.files == 2
    check_runs(tmp_path, stats.frames)
    first, second = (numbers(path) for path in written(tmp_path))
    assert first == list(range(len(first))) and second[-1] == 99


async def test_closing_waits_for_the_disk(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = Film(clip(folder))
    disk = SlowDisk(monkeypatch)
    with va.serve("cam", slots=128) as server:
        async with va.Recorder("cam", tmp_path / "a.mp4") as recorder:
            await connected(server)
            film.publish(server, 0, 20)
            await until(lambda: server.stats().readers and recorder._client is not None
                        and recorder._client.stats().received == 20)  # fmt: skip
            asyncio.get_running_loop().call_later(0.2, disk.works.set)
    assert numbers(tmp_path / "a.mp4") == list(range(20))


# --------------------------------------------------------------------------------- with a real camera


class CameraThread:
    """A camera's connection, its ring, and the muxer between them; connects until it is closed."""

    def __init__(self, url: str, server: va.Server) -> None:
        self.url = url
        self.server = server
        self.source: Source | None = None
        self.closing = False
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> CameraThread:
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.closing = True
        if (source := self.source) is not None:
            source.cut()
        self.thread.join(20)
        assert not self.thread.is_alive()

    def _run(self) -> None:
        timeline = Timeline()
        while not self.closing:
            source = Source(parse(self.url), transport="tcp", open_timeout=5, read_timeout=5)
            self.source = source
            try:
                if source.open():
                    self._publish(source, timeline)
            except va.CameraError:
                time.sleep(0.05)
            finally:
                self.source = None
                source.dispose()

    def _publish(self, source: Source, timeline: Timeline) -> None:
        muxer = None
        for packet, arrival in source.packets():
            if self.closing:
                return
            if muxer is None or not muxer.fits(packet):
                muxer = Muxer(source.stream, timeline)
            for f in muxer.mux(packet, arrival):
                self.server.set_header(muxer.init_segment)
                put(self.server, f)


@pytest.fixture
def rtsp() -> Iterator[RtspServer]:
    """One that a test may kill."""
    if (why := rtsp_available()) is not None:
        missing(why)
    with RtspServer(deadline=120) as server:
        yield server


async def test_a_camera_that_is_restarted_and_changes_its_resolution(
    rtsp: RtspServer, folder: Path, tmp_path: Path
) -> None:
    larger = clip(folder, size=(320, 192))  # now: the camera does not wait
    rtsp.mount("/cam", clip(folder), fps=25)
    with va.serve("cam", slots=128) as server, CameraThread(rtsp.url("/cam"), server):
        async with va.Recorder("cam", tmp_path / "{n}.mp4", seconds=None) as recorder:
            await until(lambda: recorder.stats().frames >= 10)
            await asyncio.to_thread(rtsp.restart)
            before = recorder.stats().frames
            await until(lambda: recorder.stats().frames >= before + 10)
            await asyncio.to_thread(rtsp.switch, "/cam", larger)
            await until(lambda: recorder.stats().files == 2)
            before = recorder.stats().frames
            await until(lambda: recorder.stats().frames >= before + 10)
            assert recorder.stats().dropped == 0
    small, large = written(tmp_path)
    shown = play(small)
    assert {one.size for one in shown} == {(160, 96)}
    assert {one.size for one in play(large)} == {(320, 192)}
    breaks = [n for n, (a, b) in enumerate(itertools.pairwise(shown)) if (a.number + 1) % 100 != b.number]
    assert len(breaks) == 1 and shown[breaks[0] + 1].number % GROUP == 0  # the restart
    assert all(0 < b.seconds - a.seconds < 10 for a, b in itertools.pairwise(shown))
