# SPDX-License-Identifier: MIT
"""The index of recordings, and what is kept: also when the index is lost, and after a kill at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.program import Child
from support.recordings import Writer
from support.until import until
from valkka_async.camera.mp4 import boxes
from valkka_async.record import archive as archives
from valkka_async.record.archive import Archive, Kept, index_of
from valkka_async.record.clip import ClipError
from valkka_async.record.contents import Contents
from valkka_async.record.disk import Disk
from valkka_async.record.index import Index
from valkka_async.record.pattern import Pattern
from valkka_async.record.retention import Keep
from valkka_async.record.timeline import Gap, Span

pytestmark = pytest.mark.one_loop  # a thread does the work

S = 10**9
BEGIN = 1_700_000_000 * S
DAY = 24 * 3600 * S


def pattern(folder: Path, camera: str) -> Pattern:
    return Pattern(f"{folder}/{camera}/%Y-%m-%d/%H-%M-%S.mp4", camera)


@asynccontextmanager
async def archive(
    folder: Path,
    *cameras: str,
    total: Keep = Keep(),  # noqa: B008 - frozen
    now_ns: int = BEGIN + DAY,
    **each: Keep,
) -> AsyncIterator[Archive]:
    names = cameras or ("a",)
    async with Archive(folder / ".index.sqlite", clock_ns=lambda: now_ns) as it:
        kept = {name: Kept(pattern(folder, name), each.get(name, Keep())) for name in names}
        it.follow(kept, total, lambda camera: pattern(folder, camera))
        await it.settled()
        yield it


def name(folder: Path, camera: str, number: int) -> Path:
    return folder / camera / "2023-11-14" / f"22-{number // 60:02}-{number % 60:02}.mp4"


def record(it: Archive, folder: Path, camera: str, numbers: range, frames: int = 50) -> list[Path]:
    """Files of two seconds by default, one after the other."""
    paths = []
    for number in numbers:
        path = name(folder, camera, number)
        Writer(path, BEGIN + number * 2 * S, journal=it.journal(camera)).frames(frames).complete()
        paths.append(path)
    return paths


async def spans(it: Archive, camera: str = "a") -> list[tuple[float, float]]:
    """In seconds from the beginning on."""
    timeline = await it.timeline(camera, BEGIN - DAY, BEGIN + DAY)
    holes = [(a.to_ns, b.from_ns) for a, b in zip(timeline.spans, timeline.spans[1:], strict=False)]
    assert [(gap.from_ns, gap.to_ns) for gap in timeline.gaps] == [
        hole for hole in holes if hole[0] < hole[1]
    ]
    return [((one.from_ns - BEGIN) / S, (one.to_ns - BEGIN) / S) for one in timeline.spans]


async def test_the_timeline_has_spans_and_gaps(tmp_path: Path) -> None:
    async with archive(tmp_path) as it:
        record(it, tmp_path, "a", range(5))
        record(it, tmp_path, "a", range(10, 12))
        inside = Writer(name(tmp_path, "a", 30), BEGIN + 60 * S, journal=it.journal("a"))
        inside.frames(50).pause(5).frames(50).complete()
        other = Writer(name(tmp_path, "a", 40), BEGIN + 69 * S, width=320, journal=it.journal("a"))
        other.frames(25).complete()
        assert await spans(it) == [(0, 10), (20, 24), (60, 62), (67, 69), (69, 70)]
        whole = await it.timeline("a", BEGIN - DAY, BEGIN + DAY)
        assert [one.width for one in whole.spans] == [160, 160, 160, 160, 320]
        assert (whole.oldest_ns, whole.newest_ns) == (BEGIN, BEGIN + 70 * S)
        part = await it.timeline("a", BEGIN + 3 * S, BEGIN + 21 * S)
        assert [(one.from_ns, one.to_ns) for one in part.spans] == [
            (BEGIN + 3 * S, BEGIN + 10 * S),
            (BEGIN + 20 * S, BEGIN + 21 * S),
        ]
        assert part.gaps == (Gap(BEGIN + 10 * S, BEGIN + 20 * S),)
        nothing = await it.timeline("b", BEGIN, BEGIN + DAY)
        assert (nothing.spans, nothing.oldest_ns) == ((), None)


async def test_a_time_of_many_files_is_looked_at_some_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing: list[Writer] = []
    async with archive(tmp_path) as it:
        for number in range(20):
            begin = BEGIN + (number // 3 * 10 + number % 3 * 2) * S  # three, and a gap
            writer = Writer(name(tmp_path, "a", number), begin, journal=it.journal("a")).frames(50)
            writer.contents.happened(begin)
            if number in (10, 19):
                growing.append(writer)
            else:
                writer.complete()
        same = Writer(name(tmp_path, "a", 50), BEGIN, journal=it.journal("a")).frames(25)
        same.complete()
        await it.settled()
        whole, clip = await it.timeline("a", 0, BEGIN + DAY), await it.clip("a", 0, BEGIN + DAY)
        assert (len(whole.spans), len(whole.events)) == (7, 20)
        for some in (1, 2, 3, 7, 19, 20, 21):
            monkeypatch.setattr(archives, "_SOME", some)
            monkeypatch.setattr(archives, "_AT_ONCE", some)
            assert await it.timeline("a", 0, BEGIN + DAY) == whole
            assert (await it.clip("a", 0, BEGIN + DAY)).tag == clip.tag
        for writer in growing:
            writer.complete()


async def test_a_file_that_is_being_written_is_there(tmp_path: Path) -> None:
    async with archive(tmp_path) as it:
        writer = Writer(name(tmp_path, "a", 0), BEGIN, journal=it.journal("a")).frames(75)
        assert await spans(it) == [(0, 3)]
        clip = await it.clip("a", BEGIN, BEGIN + DAY)
        assert (clip.end_ns - BEGIN) / S == pytest.approx(3)
        writer.frames(25)
        assert await spans(it) == [(0, 4)]
        writer.complete()
        assert await spans(it) == [(0, 4)]
        await until(lambda: (stored := it.stored("a")) and stored.files == 1)


@pytest.mark.parametrize("loss", ["kept", "deleted", "garbage", "other version", "cut"])
async def test_an_index_that_is_lost_is_made_again_from_the_files(tmp_path: Path, loss: str) -> None:
    async with archive(tmp_path) as it:
        record(it, tmp_path, "a", range(5))
        record(it, tmp_path, "a", range(20, 23))
        before = await it.timeline("a", BEGIN - DAY, BEGIN + DAY)
        index = Path(it.status().index or "")
        assert stat.S_IMODE(index.stat().st_mode) == 0o640
    Writer(name(tmp_path, "a", 40), BEGIN + 80 * S).frames(50).leave()  # while nobody looked
    (tmp_path / "a" / "notes.mp4").write_text("none of ours")
    (tmp_path / "a" / "2023-11-14" / "22-59-59.mp4").write_text("no recording")
    match loss:
        case "deleted":
            index.unlink()
        case "garbage":
            index.write_bytes(os.urandom(20000))
        case "other version":
            with sqlite3.connect(index) as db:
                db.execute("PRAGMA user_version = 77")
            db.close()
        case "cut":
            index.write_bytes(index.read_bytes()[:5000])
    async with archive(tmp_path) as it:
        after = await it.timeline("a", BEGIN - DAY, BEGIN + DAY)
        width = before.spans[0].codec, 160, 96
        assert after.spans == (*before.spans, Span(BEGIN + 80 * S, BEGIN + 82 * S, *width))
        assert it.status().files == 9
        assert it.status().problem == ""


@pytest.mark.parametrize("loss", ["kept", "deleted", "other version"])
async def test_recordings_of_a_camera_that_left_the_config_are_found_again(tmp_path: Path, loss: str) -> None:
    async with archive(tmp_path, "a", "b") as it:
        left = record(it, tmp_path, "b", range(3))
        paths = record(it, tmp_path, "a", range(3, 6))
        index = Path(it.status().index or "")
    mine = name(tmp_path, "copy", 0)  # which somebody keeps
    mine.parent.mkdir(parents=True)
    mine.write_bytes(left[0].read_bytes())
    if loss == "deleted":
        index.unlink()
    elif loss == "other version":
        with sqlite3.connect(index) as db:
            db.execute("PRAGMA user_version = 77")
        db.close()
    size = paths[0].stat().st_size
    async with archive(tmp_path, "a") as it:
        assert {camera: one.files for camera, one in it.stored_by_camera().items()} == {"a": 3, "b": 3}
        assert await spans(it, "b") == [(0, 6)]
    async with archive(tmp_path, "a", total=Keep(size=4 * size + size // 2)) as it:
        assert [path.exists() for path in (*left, *paths, mine)] == [False] * 2 + [True] * 5
    async with archive(tmp_path, "a", total=Keep(age=(DAY - 7 * S) / S)) as it:
        assert [path.exists() for path in (*left, *paths, mine)] == [False] * 3 + [True] * 4
        assert it.stored("b") is None


async def test_what_is_to_stay_free_takes_those_of_a_camera_that_left_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with archive(tmp_path, "a", "b") as it:
        left = record(it, tmp_path, "b", range(3))
        paths = record(it, tmp_path, "a", range(3, 6))
    size = paths[0].stat().st_size

    def statvfs(path: Path) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=100 * size - all_bytes(tmp_path), f_frsize=1, f_blocks=100 * size)

    monkeypatch.setattr(os, "statvfs", statvfs)
    async with archive(tmp_path, "a", total=Keep(free=96 * size - size // 2)):
        assert [path.exists() for path in (*left, *paths)] == [False] * 2 + [True] * 4


async def test_an_index_that_is_damaged_while_it_is_used_is_made_again(tmp_path: Path) -> None:
    async with archive(tmp_path) as it:
        record(it, tmp_path, "a", range(5))
        assert await spans(it) == [(0, 10)]
        index = Path(it.status().index or "")
        with sqlite3.connect(index) as db:
            db.execute("DROP TABLE gaps")
        db.close()
        await spans(it)
        await it.settled()
        assert await spans(it) == [(0, 10)]


async def test_an_index_that_is_deleted_while_it_is_used_is_made_again(tmp_path: Path) -> None:
    async with archive(tmp_path) as it:
        record(it, tmp_path, "a", range(5))
        await it.settled()
        index = Path(it.status().index or "")
        index.unlink()
        it.follow({"a": Kept(pattern(tmp_path, "a"), Keep())}, Keep(), lambda name: pattern(tmp_path, name))
        await it.settled()
        assert index.exists() and await spans(it) == [(0, 10)]


async def test_where_no_index_can_be_written_it_is_in_memory(tmp_path: Path) -> None:
    (tmp_path / ".index.sqlite").mkdir()
    async with archive(tmp_path) as it:
        record(it, tmp_path, "a", range(5))
        assert await spans(it) == [(0, 10)]
        assert it.status().index is None and str(tmp_path) in it.status().problem


async def test_files_that_others_delete_are_forgotten(tmp_path: Path) -> None:
    async with archive(tmp_path) as it:
        paths = record(it, tmp_path, "a", range(5))
    paths[1].unlink()
    paths[2].unlink()
    async with archive(tmp_path) as it:
        assert await spans(it) == [(0, 2), (6, 10)]


async def test_the_index_of_a_service_is_above_the_folders_of_its_cameras() -> None:
    at = index_of("/srv/100%%/{name}/%Y-%m-%d/{n}.mp4", "service")
    assert at == Path("/srv/100%/.index-service.sqlite")
    assert index_of("/srv/%Y/{name}.mp4", "b") == Path("/srv/.index-b.sqlite")


async def test_a_camera_of_another_name_has_the_recordings_of_its_path(tmp_path: Path) -> None:
    async with archive(tmp_path) as it:
        record(it, tmp_path, "a", range(3))
    async with Archive(tmp_path / ".index.sqlite", clock_ns=lambda: BEGIN + DAY) as it:
        it.follow({"b": Kept(pattern(tmp_path, "a"), Keep())}, Keep(), lambda name: pattern(tmp_path, name))
        await it.settled()
        assert (await spans(it, "a"), await spans(it, "b")) == ([], [(0, 6)])
        it.follow(
            {"b": Kept(pattern(tmp_path, "a"), Keep(age=1))}, Keep(), lambda name: pattern(tmp_path, name)
        )
        await it.settled()
        assert it.status().files == 0 and list((tmp_path / "a").iterdir()) == []


async def test_while_the_index_is_locked_no_file_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, attempts = Index.put, []
    monkeypatch.setattr(Index, "put", lambda self, entries: (attempts.append(1), put(self, entries)))
    async with archive(tmp_path) as it:
        record(it, tmp_path, "a", range(2))
        await it.settled()
        with sqlite3.connect(it.status().index or "", isolation_level=None) as db:
            db.execute("BEGIN EXCLUSIVE")
            record(it, tmp_path, "a", range(2, 3))
            await until(lambda: "locked" in it.status().problem)
            attempts.clear()
            record(it, tmp_path, "a", range(3, 12))
            assert await spans(it) == [(0, 4)]
            assert len(attempts) <= 2  # of a walk
            db.execute("COMMIT")
        db.close()
        await until(lambda: it.status().problem == "")
        await it.settled()
        assert await spans(it) == [(0, 24)]


async def test_a_folder_may_be_moved(tmp_path: Path) -> None:
    async with archive(tmp_path / "x") as it:
        record(it, tmp_path / "x", "a", range(3))
    (tmp_path / "x").rename(tmp_path / "y")
    async with archive(tmp_path / "y") as it:
        assert await spans(it) == [(0, 6)]
        assert (await it.clip("a", BEGIN, BEGIN + S)).size > 1000


# ------------------------------------------------------------------------------------- what is kept


async def test_old_files_go_and_their_folders(tmp_path: Path) -> None:
    async with archive(tmp_path, total=Keep(age=13), now_ns=BEGIN + 30 * S) as it:
        record(it, tmp_path, "a", range(10))
        await until(lambda: it.status().deleted_files == 8)
        assert await spans(it) == [(16, 20)]
    async with archive(tmp_path, total=Keep(age=1)) as it:
        await until(lambda: it.status().files == 0)
        await it.settled()
        assert list((tmp_path / "a").iterdir()) == []


async def test_sizes_are_bounds_of_each_and_of_all(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        it = await stack.enter_async_context(archive(tmp_path, "a", "b", "c"))
        one = record(it, tmp_path, "a", range(1))[0].stat().st_size
        await stack.aclose()
        it = await stack.enter_async_context(
            archive(tmp_path, "a", "b", "c", total=Keep(size=11 * one), a=Keep(size=4 * one))
        )
        for number in range(1, 12):
            for camera in "abc":
                record(it, tmp_path, camera, range(number, number + 1))
                await it.settled()
                assert all_bytes(tmp_path) <= 12 * one and all_bytes(tmp_path / "a") <= 5 * one
        await until(lambda: it.status().bytes <= 11 * one)
        stored = {camera: it.stored(camera) for camera in "abc"}
        assert stored["a"] is not None and stored["a"].bytes <= 4 * one
        assert await spans(it, "b") != [] and (await spans(it, "b"))[-1][1] == 24


def all_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("**/*.mp4"))


async def test_a_file_that_is_being_written_stays(tmp_path: Path) -> None:
    async with archive(tmp_path, total=Keep(age=1, size=1)) as it:
        writer = Writer(name(tmp_path, "a", 0), BEGIN, journal=it.journal("a")).frames(75)
        record(it, tmp_path, "a", range(10, 12))
        await until(lambda: it.status().deleted_files == 2)
        assert name(tmp_path, "a", 0).exists()
        writer.complete()
        await until(lambda: not name(tmp_path, "a", 0).exists())


async def test_nothing_else_is_deleted(tmp_path: Path) -> None:
    """Not what another program has put there, whatever the index says, nor behind links."""
    other = tmp_path / "a" / "2023-11-14" / "holiday.mp4"
    elsewhere = tmp_path / "elsewhere"
    async with archive(tmp_path) as it:
        (kept,) = record(it, elsewhere, "a", range(1))
        record(it, tmp_path, "a", range(1))
        Writer(other, BEGIN).frames(50).complete()
        await it.settled()
        index = Path(it.status().index or "")
    with sqlite3.connect(index) as db:
        db.execute("UPDATE files SET path = ? WHERE path NOT LIKE '%elsewhere%'", (str(other),))
    db.close()
    (tmp_path / "a" / "2023-11-15").symlink_to(elsewhere / "a" / "2023-11-14")
    async with archive(tmp_path, total=Keep(age=1, size=1)) as it:
        await until(lambda: it.status().deleted_files)
        await it.settled()
    assert kept.exists() and other.exists()
    assert not name(tmp_path, "a", 0).exists()


@pytest.mark.parametrize("now", ["another file", "a link to it", "a folder", "behind a link"])
async def test_what_somebody_has_put_in_the_place_of_a_recording_stays(tmp_path: Path, now: str) -> None:
    folder, safe = tmp_path / "r", tmp_path / "safe"
    async with archive(folder) as it:
        path, other = record(it, folder, "a", range(2))
    size = path.stat().st_size
    match now:
        case "another file":
            path.write_bytes(b"diary" * size)
        case "a link to it":
            path.rename(safe)
            path.symlink_to(safe)
        case "a folder":
            path.unlink()
            path.mkdir()
        case "behind a link":
            path.parent.rename(safe)
            path.parent.symlink_to(safe)
    async with archive(folder, total=Keep(age=1, size=1)) as it:
        await it.settled()
        record(it, folder, "b", range(1))
        await it.settled()
    assert os.path.lexists(path) and other.exists() == (now == "behind a link")
    assert now == "a folder" or path.stat().st_size == (5 * size if now == "another file" else size)


@pytest.mark.parametrize("size", [0, 1000, 10**6])
async def test_a_file_that_is_replaced_while_it_is_known_stays(tmp_path: Path, size: int) -> None:
    now = [BEGIN + 10 * S]
    async with Archive(tmp_path / ".index.sqlite", clock_ns=lambda: now[0]) as it:
        kept = {"a": Kept(pattern(tmp_path, "a"), Keep(age=900.0))}
        it.follow(kept, Keep(), lambda camera: pattern(tmp_path, camera))
        path, other = record(it, tmp_path, "a", range(2))
        await it.settled()
        path.write_bytes(bytes(size))
        now[0] += 1800 * S
        record(it, tmp_path, "a", range(900, 901))  # which is when it looks
        await it.settled()
        assert path.exists() and path.stat().st_size == size and not other.exists()


async def test_a_file_that_another_service_writes_stays_until_that_ends(tmp_path: Path) -> None:
    path = name(tmp_path, "a", 0)
    contents = Writer(tmp_path / "made.mp4", BEGIN).frames(50).leave()
    disk = Disk(1 << 20, lambda: None)
    try:
        disk.begin(path, (tmp_path / "made.mp4").read_bytes(), contents)
        await until(lambda: disk.pieces)
        for _ in range(2):
            async with archive(tmp_path, total=Keep(age=1, size=1)) as it:
                await it.settled()
                assert it.status().files == 1 and path.exists()
    finally:
        disk.stop()
    await until(lambda: disk.ended)
    async with archive(tmp_path, total=Keep(age=1, size=1)) as it:
        await it.settled()
    assert not path.exists()


@pytest.mark.parametrize(("step", "stay"), [(366 * 24 * 3600, True), (7200, True), (1800, False)])
async def test_a_clock_that_is_set_forward_does_not_make_recordings_old(
    tmp_path: Path, step: int, stay: bool
) -> None:
    now = [BEGIN + 10 * S]
    async with Archive(tmp_path / ".index.sqlite", clock_ns=lambda: now[0]) as it:
        kept = {"a": Kept(pattern(tmp_path, "a"), Keep(age=900.0))}
        it.follow(kept, Keep(), lambda camera: pattern(tmp_path, camera))
        paths = record(it, tmp_path, "a", range(3))
        await it.settled()
        now[0] += step * S
        paths += record(it, tmp_path, "a", range(20, 21))
        await it.settled()
        assert [path.exists() for path in paths] == [stay] * 4
        now[0] -= step * S
        Writer(name(tmp_path, "a", 30), now[0] - 1000 * S, journal=it.journal("a")).frames(25).complete()
        await it.settled()  # it is right again, and counts
        assert not name(tmp_path, "a", 30).exists()


async def test_a_clock_that_is_set_back_does_not_make_recordings_be_of_the_future(tmp_path: Path) -> None:
    now = [BEGIN + 3 * DAY]
    async with Archive(tmp_path / ".index.sqlite", clock_ns=lambda: now[0]) as it:
        kept = {"a": Kept(pattern(tmp_path, "a"), Keep())}
        it.follow(kept, Keep(), lambda camera: pattern(tmp_path, camera))
        paths = record(it, tmp_path, "a", range(3))
        newest = name(tmp_path, "a", 30)
        Writer(newest, now[0], journal=it.journal("a")).frames(50).complete()
        await it.settled()
        now[0] -= 2 * DAY
        it.follow(kept, Keep(size=paths[0].stat().st_size + 1000), lambda camera: pattern(tmp_path, camera))
        await it.settled()
        assert newest.exists() and not any(path.exists() for path in paths)


def too_late(data: bytearray, contents: Contents) -> bytes:
    at = data.rfind(b"tfdt", 0, contents.size)
    data[at + 8 : at + 12] = b"\x7f\xff\xff\xff"
    return bytes(data[: contents.size])


def with_trailer(data: bytearray, contents: Contents) -> bytes:
    contents.end_ns = 1 << 70
    return bytes(data[: contents.size]) + contents.trailer()


def with_odd_text(data: bytearray, contents: Contents) -> bytes:
    contents.codec = "avc1\ud800"
    return bytes(data[: contents.size]) + contents.trailer()


@pytest.mark.parametrize("damage", [too_late, with_trailer, with_odd_text])
async def test_a_damaged_file_does_not_keep_others_from_being_found(
    tmp_path: Path, damage: Callable[[bytearray, Contents], bytes]
) -> None:
    path = name(tmp_path, "a", 0)
    contents = Writer(path, BEGIN).frames(50).complete()
    path.write_bytes(damage(bytearray(path.read_bytes()), contents))
    Writer(name(tmp_path, "a", 1), BEGIN + 2 * S).frames(50).complete()
    async with archive(tmp_path) as it:
        assert it.status().ready
        assert (await it.clip("a", BEGIN + 2 * S, BEGIN + 4 * S)).size > 1000


def half_a_moov(data: bytes, contents: Contents) -> bytes:
    return data[: contents.init_bytes // 2]


def half_a_frame(data: bytes, contents: Contents) -> bytes:
    return data[: contents.init_bytes + 200]


def no_fragments_are_left(data: bytes, contents: Contents) -> bytes:
    return data[: contents.init_bytes] + bytes(len(data) - contents.init_bytes)


@pytest.mark.parametrize("damage", [half_a_moov, half_a_frame, no_fragments_are_left])
@pytest.mark.parametrize("told", [True, False])
async def test_a_recording_of_which_nothing_can_be_read_counts_and_goes(
    tmp_path: Path, damage: Callable[[bytes, Contents], bytes], told: bool
) -> None:
    path = name(tmp_path, "a", 0)
    contents = Writer(path, BEGIN).frames(50).complete()
    path.write_bytes(damage(path.read_bytes(), contents))
    os.utime(path, (BEGIN / S, BEGIN / S))
    async with archive(tmp_path) as it:
        (other,) = record(it, tmp_path, "a", range(1, 2))
        if told:
            it.journal("a").ended(path, None)
        await it.settled()
        assert it.status().bytes == path.stat().st_size + other.stat().st_size
        assert await spans(it) == [(2, 4)]
    async with archive(tmp_path, total=Keep(size=other.stat().st_size)) as it:
        await it.settled()
        assert not path.exists() and other.exists() and it.status().files == 1


@pytest.mark.parametrize("brand", [b"isom", b"iso5"])
async def test_films_of_others_that_are_called_like_a_recording_are_theirs(
    tmp_path: Path, brand: bytes
) -> None:
    path = name(tmp_path, "a", 0)
    path.parent.mkdir(parents=True)
    film = boxes.box(b"ftyp", brand, bytes(4)) + boxes.box(b"moov", boxes.box(b"trak")) + boxes.box(b"mdat")
    path.write_bytes(film)
    cut = name(tmp_path, "a", 1)
    cut.write_bytes(boxes.box(b"ftyp", b"isom", bytes(4)) + b"\0\0\x10\0moov")
    async with archive(tmp_path, total=Keep(age=1, size=1)) as it:
        await it.settled()
        assert it.status().files == 0
    assert path.read_bytes() == film and cut.exists()


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        *(("files", column, value) for column in ("path", "init", "codec") for value in ("x'61'", "x'ff00'")),
        *(
            ("files", column, value)
            for column in ("begin_ns", "end_ns", "size")
            for value in ("'a'", "1e300")
        ),
        *(("files", column, "'a'") for column in ("whole", "width", "height")),
        *(("gaps", "end_ns", "1.5"), ("events", "at_ns", "'soon'"), ("contents", "text", "x'00'")),
    ],
)
async def test_an_index_with_a_value_of_a_wrong_type_is_made_again(
    tmp_path: Path, table: str, column: str, value: str
) -> None:
    async with archive(tmp_path) as it:
        for number in range(3):
            path = name(tmp_path, "a", 10 * number)
            writer = Writer(path, BEGIN + number * 20 * S, journal=it.journal("a")).frames(50)
            writer.contents.happened(BEGIN + number * 20 * S)
            writer.pause(5).frames(25).complete()
        index = Path(it.status().index or "")
        before = await spans(it)
    with sqlite3.connect(index) as db:
        db.execute(f"UPDATE {table} SET {column} = {value} WHERE rowid = 2")
    db.close()
    async with archive(tmp_path) as it:
        await spans(it)
        with contextlib.suppress(ClipError):  # there is nothing yet
            await it.clip("a", BEGIN, BEGIN + DAY)
        await it.settled()
        assert await spans(it) == before
        assert (await it.clip("a", BEGIN, BEGIN + DAY)).size > 1000
        assert (it.status().files, it.status().problem, it.status().ready) == (3, "", True)
    async with archive(tmp_path, total=Keep(age=1)) as it:
        await it.settled()
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize("now", ["a link", "a folder"])
async def test_what_is_no_file_any_more_does_not_count(tmp_path: Path, now: str) -> None:
    async with archive(tmp_path) as it:
        path, other = record(it, tmp_path, "a", range(2))
    path.rename(tmp_path / "safe")
    if now == "a link":
        path.symlink_to(tmp_path / "safe")
    else:
        path.mkdir()
    async with archive(tmp_path) as it:
        assert (it.status().files, it.status().bytes) == (1, other.stat().st_size)


async def test_recordings_of_a_clock_that_was_ahead_go_before_those_of_now(tmp_path: Path) -> None:
    year = 365 * DAY
    ahead = [name(tmp_path, "a", number) for number in range(2)]
    for number, path in enumerate(ahead):
        Writer(path, BEGIN + year + number * 2 * S).frames(50).complete()
    async with archive(tmp_path, total=Keep(age=DAY / S)) as it:
        paths = record(it, tmp_path, "a", range(10, 13))
        size = paths[0].stat().st_size
        await it.settled()
        assert all(path.exists() for path in (*ahead, *paths))  # their age is not known
    for count in (4, 3, 2):
        async with archive(tmp_path, total=Keep(size=count * size + size // 2)) as it:
            await it.settled()
        there = [path for path in (*ahead, *paths) if path.exists()]
        assert there == [*ahead, *paths][5 - count :]


@pytest.mark.parametrize("when", ["while it runs", "before it starts", "and the index is lost"])
async def test_recordings_of_a_clock_that_was_not_set_get_their_times_once_it_is(
    tmp_path: Path, when: str
) -> None:
    """As that of a machine without a battery: it says 1970 until it has asked in the network."""
    started, set_ = 100 * S, BEGIN + 10 * DAY
    now = [started + 40 * S]
    kept = {"a": Kept(pattern(tmp_path, "a"), Keep(age=5 * DAY / S))}
    of_old = {"a": Kept(pattern(tmp_path, "a"), Keep())}
    async with Archive(tmp_path / ".index.sqlite", clock_ns=lambda: now[0]) as it:
        it.follow(kept, Keep(), lambda camera: pattern(tmp_path, camera))
        old = record(it, tmp_path, "a", range(3))
        unset = [tmp_path / "a" / "1970-01-01" / f"00-02-{number}0.mp4" for number in range(3)]
        for number, path in enumerate(unset):
            writer = Writer(path, started + number * 10 * S, journal=it.journal("a")).frames(50)
            writer.contents.happened(started + number * 10 * S)
            writer.complete()
            os.utime(path, ns=(started, started))
        it.happened("a", started + 15 * S, "person", "")
        await it.settled()
        assert all(path.exists() for path in (*old, *unset))
        if when == "while it runs":
            now[0] = set_
            it.follow(of_old, Keep(), lambda camera: pattern(tmp_path, camera))
            await it.settled()
            end = set_ - 40 * S  # when it would have said `started`
    now[0] = set_ + DAY
    if when != "while it runs":
        end = now[0] - 22 * S  # the newest one ends now
    if when == "and the index is lost":
        (tmp_path / ".index.sqlite").unlink()
    async with Archive(tmp_path / ".index.sqlite", clock_ns=lambda: now[0]) as it:
        it.follow(kept, Keep(), lambda camera: pattern(tmp_path, camera))
        await it.settled()
        await it.settled()
        assert [path.exists() for path in (*old, *unset)] == [False] * 3 + [True] * 3
        timeline = await it.timeline("a", set_ - DAY, set_ + 2 * DAY)
        near = pytest.approx
        assert [(one.from_ns - end) / S for one in timeline.spans] == near([0, 10, 20], abs=1)
        assert [(one.at_ns - end) / S for one in timeline.events] == near([0, 10, 15, 20], abs=1)
        assert [one.code for one in timeline.events][2] == "person"
        size = unset[2].stat().st_size
        new = name(tmp_path, "a", 9)
        Writer(new, set_ + DAY, journal=it.journal("a")).frames(50).complete()
        it.follow(of_old, Keep(size=3 * size + 100), lambda camera: pattern(tmp_path, camera))
        await it.settled()
        assert [path.exists() for path in (*unset, new)] == [False, True, True, True]


async def test_a_recording_whose_time_cannot_be_set_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, ns: tuple[int, int]) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    path = name(tmp_path, "a", 1)
    Writer(path, 100 * S).frames(50).complete()
    os.utime(path, ns=(S, S))
    with monkeypatch.context() as m:
        m.setattr(os, "utime", fails)
        async with archive(tmp_path, total=Keep(age=60.0, size=1)) as it:
            await it.settled()
            assert path.exists() and "Operation not permitted" in it.status().problem


async def test_what_is_to_stay_free_and_never_can_be_deletes_nothing(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    more = status.f_blocks * status.f_frsize + 1
    async with archive(tmp_path, total=Keep(free=more)) as it:
        paths = record(it, tmp_path, "a", range(3))
        await it.settled()
        assert all(path.exists() for path in paths) and "keep.free" in it.status().problem
        kept = {"a": Kept(pattern(tmp_path, "a"), Keep())}
        it.follow(kept, Keep(size=1), lambda camera: pattern(tmp_path, camera))
        await it.settled()
        assert it.status().problem == "" and not any(path.exists() for path in paths)


async def test_an_index_in_whose_place_is_another_is_left(tmp_path: Path) -> None:
    async with archive(tmp_path / "x") as it:
        record(it, tmp_path / "x", "a", range(3))
    async with archive(tmp_path / "y") as it:
        record(it, tmp_path / "y", "a", range(5))
        await it.settled()
        with sqlite3.connect(it.status().index or "") as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
        os.replace(tmp_path / "x" / ".index.sqlite", it.status().index or "")
        await spans(it)
        await it.settled()
        assert await spans(it) == [(0, 10)]
        with sqlite3.connect(it.status().index or "") as db:  # as others read it
            mine = db.execute("SELECT count(*) FROM files WHERE path LIKE '%/y/a/%'").fetchone()
            assert mine == (5,)
        db.close()


async def test_an_index_in_memory_goes_to_its_file_when_that_can_be(tmp_path: Path) -> None:
    index = tmp_path / ".index.sqlite"
    index.mkdir()
    async with archive(tmp_path) as it:
        record(it, tmp_path, "a", range(2))
        await it.settled()
        assert it.status().index is None
        index.rmdir()
        it.follow({"a": Kept(pattern(tmp_path, "a"), Keep())}, Keep(), lambda name: pattern(tmp_path, name))
        await it.settled()
        assert it.status().index == str(index) and it.status().problem == ""
        assert await spans(it) == [(0, 4)]


async def test_a_name_that_is_no_text_is_passed_over(tmp_path: Path) -> None:
    mine = Pattern(f"{tmp_path}/%f/{{n}}-%f.mp4", "a")
    for folder, file in (("x", b"1-\xff.mp4"), ("\udcff", b"2-y.mp4"), ("x", b"3-y.mp4")):
        path = tmp_path / folder / os.fsdecode(file)
        Writer(path, BEGIN).frames(25).complete()
    async with Archive(tmp_path / ".index.sqlite") as it:
        it.follow({"a": Kept(mine, Keep())}, Keep(), lambda _: mine)
        await it.settled()
        assert it.status().ready and it.status().files == 1


async def test_looks_at_what_is_kept_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while another program has the index locked."""
    monkeypatch.setattr(archives, "_EVERY", 0.001)
    async with archive(tmp_path) as it:
        held = threading.Event()
        it._submit(held.wait)
        await asyncio.sleep(0.1)
        assert it._jobs.qsize() <= 1
        held.set()


@pytest.mark.parametrize("column", ["path", "camera", "codec"])
async def test_an_index_with_a_text_that_is_none_is_made_again(tmp_path: Path, column: str) -> None:
    async with archive(tmp_path) as it:
        record(it, tmp_path, "a", range(3))
        index = Path(it.status().index or "")
    with sqlite3.connect(index) as db:
        db.execute(f"UPDATE files SET {column} = CAST(x'2fff' AS TEXT) WHERE id = 2")
    db.close()
    async with archive(tmp_path) as it:
        if column != "path":  # that alone is looked at in a walk
            await it.timeline("a", BEGIN, BEGIN + DAY)
            await it.settled()
        assert it.status().problem == ""
        assert column == "camera" or await spans(it) == [(0, 6)]


async def test_what_cannot_be_deleted_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with archive(tmp_path) as it:
        (path,) = record(it, tmp_path, "a", range(1))

    def unlink(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("valkka_async.record.archive.os.unlink", unlink)
    async with archive(tmp_path, total=Keep(age=1)) as it:
        await until(lambda: str(path) in it.status().problem)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from support.recordings import Writer
from valkka_async.record.archive import Archive, Kept
from valkka_async.record.index import Index
from valkka_async.record.pattern import Pattern
from valkka_async.record.retention import Keep
folder, S = Path(sys.argv[1]), 10**9
BEGIN = int(sys.argv[3])
async def main():
    async with Archive(folder / ".index.sqlite", clock_ns=lambda: BEGIN) as it:
        pattern = Pattern(f"{folder}/a/%Y-%m-%d/%H-%M-%S.mp4", "a")
        it.follow({"a": Kept(pattern, Keep(size=300_000))}, Keep(), lambda camera: pattern)
        for number in range(int(sys.argv[4]), 10**6):
            name = f"{number // 3600:02}-{number // 60 % 60:02}-{number % 60:02}.mp4"
            path = folder / "a" / "2023-11-14" / name
            Writer(path, BEGIN + number * 2 * S, journal=it.journal("a")).frames(50).complete()
            if number % 5 == 0:
                await it.settled()
            say(number)
asyncio.run(main())
"""


async def test_a_kill_at_any_moment_loses_no_file_and_never_the_index(tmp_path: Path) -> None:
    tools = str(Path(__file__).parents[1])
    number = 0
    for attempt in range(3):
        with Child(KILLED, tmp_path, tools, BEGIN, number) as child:
            for _ in range(12 + 7 * attempt):
                number = int(child.line()) + 1
            child.kill()
        # It may have come further than it said, and have deleted what it said.
        newest = max(number_of(path) for path in (tmp_path / "a").glob("**/*.mp4"))
        number = max(number, newest + 1)
        with sqlite3.connect(tmp_path / ".index.sqlite") as db:  # as it was left
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()
        async with archive(tmp_path) as it:
            there = sorted((tmp_path / "a").glob("**/*.mp4"))
            timeline = await it.timeline("a", BEGIN, BEGIN + DAY)
            whole = [path for path in there if path.stat().st_size > 5000]
            assert len(timeline.spans) == 1 and timeline.gaps == ()
            assert timeline.spans[0].to_ns - timeline.spans[0].from_ns >= 2 * S * (len(whole) - 1)
            clip = await it.clip("a", BEGIN, BEGIN + DAY)
            assert sum(map(len, clip.read())) == clip.size
    largest = max(path.stat().st_size for path in tmp_path.glob("**/*.mp4"))
    assert all_bytes(tmp_path) <= 300_000 + 6 * largest  # it is asked to settle after each fifth


def number_of(path: Path) -> int:
    hours, minutes, seconds = map(int, path.stem.split("-"))
    return (hours * 60 + minutes) * 60 + seconds
