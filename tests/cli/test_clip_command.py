# SPDX-License-Identifier: MIT
"""`clip`: any time of a service's recordings as a file."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime
from pathlib import Path

import pytest

from support.playback import play
from support.program import Program, run
from support.recordings import Writer
from support.until import wait_for
from valkka_async.cli.clip import NoClipError, clip, moment
from valkka_async.record.archive import Archive, Kept, index_of
from valkka_async.record.pattern import Pattern
from valkka_async.record.retention import Keep
from valkka_async.service.control import ask_status

S = 10**9
BEGIN = 1_700_000_000


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a service that does not run: 10 s, and after a gap of 10 s 4 s in another size."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "cameras.yaml"
    pattern = f"{tmp_path}/recordings/{{name}}/{{n}}.mp4"
    path.write_text(
        f"web: false\nrecordings: '{pattern}'\ncameras: {{front: {{url: 'rtsp://127.0.0.1:9/x'}}}}\n"
    )
    folder = tmp_path / "recordings" / "front"

    async def index() -> None:
        async with Archive(index_of(pattern, "service")) as archive:
            mine = Pattern(pattern, "front")
            Writer(folder / "1.mp4", BEGIN * S, journal=archive.journal("front")).frames(250).complete()
            second = Writer(folder / "2.mp4", (BEGIN + 20) * S, width=320, journal=archive.journal("front"))
            second.frames(100).complete()
            archive.follow({"front": Kept(mine, Keep())}, Keep(), lambda _: mine)
            await archive.settled()

    asyncio.run(index())
    return path


def when(seconds: float) -> str:
    return datetime.fromtimestamp(BEGIN + seconds).isoformat()


def test_a_range_is_saved_from_a_service_that_runs_or_not(config: Path, tmp_path: Path) -> None:
    done = run("clip", "front", "--from", when(2), "--to", "+2s", "--config", str(config), "-o", "a.mp4")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("a.mp4: 2.0 s from 2023-11-1")
    whole = (tmp_path / "a.mp4").read_bytes()
    assert [one.number for one in play(whole)] == list(range(50, 100))
    with pytest.raises(FileExistsError, match="--force"):
        clip("front", BEGIN + 2, BEGIN + 4, "a.mp4", config=config, force=False)
    with Program("run", str(config)) as service:
        wait_for(lambda: (status := ask_status("service", 10.0)) and status.recordings.index)
        done = run("clip", "front", "--from", when(2), "--to", when(4))
        assert done.returncode == 0, done.stderr
        service.end()
    (saved,) = tmp_path.glob("front-2023*.mp4")
    assert saved.read_bytes() == whole


def test_where_the_picture_changes_there_are_several_files(config: Path, tmp_path: Path) -> None:
    clip("front", BEGIN + 8, BEGIN + 99, "a.mp4", config=config, force=False)
    sizes = [{one.size for one in play(tmp_path / name)} for name in ("a.mp4", "a-2.mp4")]
    assert sizes == [{(160, 96)}, {(320, 96)}]


def test_of_several_files_those_are_saved_that_are_not_damaged(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "recordings" / "front"
    os.truncate(folder / "1.mp4", 300)
    clip("front", BEGIN, BEGIN + 99, "a.mp4", config=config, force=False)
    assert {one.size for one in play(tmp_path / "a.mp4")} == {(320, 96)}
    os.truncate(folder / "2.mp4", 300)
    with pytest.raises(NoClipError, match="front: .*damaged"):
        clip("front", BEGIN, BEGIN + 99, "b.mp4", config=config, force=False)


def test_what_cannot_be_had_is_said(config: Path) -> None:
    def refused(camera: str, begin: float, end: float) -> str:
        with pytest.raises(NoClipError) as error:
            clip(camera, BEGIN + begin, BEGIN + end, None, config=config, force=False)
        return str(error.value)

    assert "nothing was recorded in this time" in refused("front", 12, 15)
    assert "there are recordings of front" in refused("back", 2, 4)
    assert "--to is later than --from" in refused("front", 4, 2)
    assert refused(os.fsdecode(b"fr\xf6nt"), 2, 4)
    done = run("clip", "front", "--from", "-10m", "--to", "later", "--config", str(config))
    assert done.returncode == 2 and "not a time" in done.stderr
    assert not list(Path().glob("*.mp4")) and not list(Path().glob(".*.part"))


@pytest.mark.parametrize(("begin", "end"), [(-1e13, 10), (0, 2.5e11), (-1e13, 2.5e11)])
def test_times_beyond_all_calendars_are_only_far_away(
    config: Path, tmp_path: Path, begin: float, end: float
) -> None:
    clip("front", BEGIN + begin, BEGIN + end, "a.mp4", config=config, force=False)
    assert len(play((tmp_path / "a.mp4").read_bytes())) == 250


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_a_recording_that_is_damaged_within_is_said(config: Path, tmp_path: Path, at: float) -> None:
    path = tmp_path / "recordings" / "front" / "1.mp4"
    data = bytearray(path.read_bytes())
    place = data.index(b"moof", int(at * len(data)))
    data[place - 4 : place + 4] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(NoClipError, match="front: "):
        clip("front", BEGIN, BEGIN + 10, "a.mp4", config=config, force=False)
    assert not list(tmp_path.glob("*.mp4")) and not list(tmp_path.glob(".*.part"))


def test_without_a_service_it_says_what_to_do() -> None:
    with pytest.raises(NoClipError, match=r"--config cameras\.yaml"):
        clip("front", BEGIN, BEGIN + 1, None, config=None, force=False)


def test_times_are_what_people_write() -> None:
    now = datetime(2026, 11, 30, 18, 0).timestamp()
    assert moment("2026-11-30T14:00", now) == now - 4 * 3600
    assert moment("2026-11-30 14:00", now) == now - 4 * 3600
    assert moment("14:00:30", now) == now - 4 * 3600 + 30
    assert moment("1970-01-02T01:00:00+01:00", now) == 24 * 3600
    assert moment("-10m", now) == now - 600
    assert moment("+30s", now, 5.0) == 35
    for wrong in ("", "now", "+30s", "25:00", "-", "1e9", "2026-02-30", "1700000000", "14", "Z"):
        with pytest.raises(ValueError, match="not a time"):
            moment(wrong, now)
