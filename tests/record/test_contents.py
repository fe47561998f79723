# SPDX-License-Identifier: MIT
"""What a file says of itself: in two short reads if it was completed, by its fragments if its recorder was
killed."""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.playback import ffmpeg_finds_no_fault, play
from support.recordings import GOP, STEP_NS, Writer, head
from valkka_async.camera.mp4 import boxes
from valkka_async.errors import DataError
from valkka_async.record import contents as files
from valkka_async.record.contents import Contents

BEGIN = 1_700_000_000 * 10**9


def test_a_complete_file_tells_all_in_its_trailer(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    written = Writer(path, BEGIN).frames(100).pause(7.0).frames(50).complete()
    found = files.read(path)
    assert found == written
    assert (found.begin_ns, found.end_ns) == (BEGIN, BEGIN + 150 * STEP_NS + 7 * 10**9)
    assert found.gaps == [(BEGIN + 100 * STEP_NS, BEGIN + 100 * STEP_NS + 7 * 10**9)]
    assert (found.width, found.height) == (160, 96) and found.codec.startswith("avc1.")
    assert all(b.ns - a.ns >= files.MARK_NS for a, b in itertools.pairwise(found.marks))


def test_players_take_it_for_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    Writer(path, BEGIN).frames(100).complete()
    assert len(play(path)) == 100
    ffmpeg_finds_no_fault(path)


def test_a_file_that_was_cut_off_tells_the_same_up_to_its_last_whole_fragment(
    tmp_path: Path,
) -> None:
    path, cut = tmp_path / "a.mp4", tmp_path / "cut.mp4"
    writer = Writer(path, BEGIN).frames(60).pause(5.0).frames(60)
    sizes = writer.sizes
    writer.complete()
    data = path.read_bytes()
    rng = random.Random(1)
    ends = [rng.randrange(sizes[0], len(data)) for _ in range(40)]
    for end in (*ends, sizes[0], sizes[-1], sizes[-1] + 20):
        cut.write_bytes(data[:end])
        whole = sum(size <= end for size in sizes)
        found = files.read(cut)
        assert (found.size, found.begin_ns) == (sizes[whole - 1], BEGIN)
        assert found.end_ns == BEGIN + whole * STEP_NS + (5 * 10**9 if whole > 60 else 0)
        assert len(found.gaps) == (whole > 60)


def test_one_of_a_recorder_that_did_not_say_when_is_as_old_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    Writer(path, BEGIN, silent=True).frames(50).leave()
    found = files.read(path)
    assert found.end_ns == path.stat().st_mtime_ns
    assert found.end_ns - found.begin_ns == pytest.approx(50 * STEP_NS, abs=10**6)
    assert abs(found.end_ns - time.time_ns()) < 60 * 10**9


@pytest.mark.parametrize("data", [b"", b"x" * 100, head(), boxes.box(b"ftyp") + b"\0\0\0\1moov", b"\0" * 999])
def test_what_is_no_recording_is_told_as_that(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        files.read(path)


@given(st.binary(max_size=300), st.integers(0, 1 << 16), st.integers(0, 255))
def test_a_damaged_trailer_is_no_harm(path_of_a_recording: Path, noise: bytes, at: int, value: int) -> None:
    whole = path_of_a_recording.read_bytes()
    size = files.read(path_of_a_recording).size
    tail = bytearray(whole[size:])
    tail[at % len(tail)] ^= value
    damaged = path_of_a_recording.with_name("damaged.mp4")
    damaged.write_bytes(whole[:size] + bytes(tail) + noise)
    found = files.read(damaged)
    assert found.size <= len(whole) + len(noise)
    assert found.marks[0].offset == found.init_bytes


@pytest.fixture(scope="module")
def path_of_a_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("contents") / "a.mp4"
    Writer(path, BEGIN).frames(2 * GOP).complete()
    return path


def test_text_that_cannot_be_true_is_refused() -> None:
    whole = Contents.of(head())
    whole.add(100, BEGIN, 0, 3600, mark=True)
    assert files.loads(files.dumps(whole)) == whole
    for name, value in (("size", 1), ("timescale", 0), ("marks", [])):
        text = files.dumps(whole)
        setattr(whole, name, value)
        if name != "marks":
            with pytest.raises(DataError):
                files.loads(files.dumps(whole))
        whole = files.loads(text)


def test_times_of_day_survive_the_box_that_has_them() -> None:
    new_era = 2_085_978_496 * 10**9
    for ns in (BEGIN + 123_456_789, 0, new_era - 1, new_era, 4_000_000_000 * 10**9):
        assert boxes.read_reference_time(boxes.reference_time(7, ns)) == (7, ns)
