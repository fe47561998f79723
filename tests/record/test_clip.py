# SPDX-License-Identifier: MIT
"""Any range of time as one MP4: what is in it, and that each of its bytes can be had by itself."""

from __future__ import annotations

import io
import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from support.playback import Shown, ffmpeg_finds_no_fault, play
from support.recordings import GOP, STEP_NS, Writer, with_sound
from valkka_async.camera.mp4 import boxes, sound
from valkka_async.record import clip as clips
from valkka_async.record import contents as files
from valkka_async.record.clip import Clip, ClipCause, ClipError, plan
from valkka_async.record.contents import Contents

S = 10**9
BEGIN = 1_700_000_000 * S
Sources = list[tuple[Path, Contents]]


def media(clip: Clip) -> bytes:
    data = b"".join(clip.read())
    assert len(data) == clip.size
    return data


def numbers(shown: list[Shown]) -> list[int]:
    return [one.number for one in shown]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Four seconds each, the last one after a pause of three."""
    folder = tmp_path_factory.mktemp("clips")
    begins = (BEGIN, BEGIN + 4 * S, BEGIN + 11 * S)
    paths = [folder / f"{n}.mp4" for n in range(3)]
    return [(path, Writer(path, at).frames(100).complete()) for path, at in zip(paths, begins, strict=True)]


@pytest.mark.parametrize(
    ("begin", "end", "first", "count"),
    [
        (0, 4, 0, 100),  # a file
        (1.0, 2.0, 20, 30),  # from the key frame before on
        (1.19, 2.0, 20, 30),
        (1.2, 1.3, 30, 3),
        (-5, 0.1, 0, 3),
        (0, 0.001, 0, 1),
        (3.9, 4.1, 90, 10 + 3),
        (2.5, 8, 60, 40 + 100),  # two files
        (6, 99, 50, 50 + 100),  # across the pause
    ],
)
def test_a_range_begins_at_the_key_frame_before_it_and_ends_with_it(
    three: Sources, begin: float, end: float, first: int, count: int
) -> None:
    clip = plan(three, BEGIN + int(begin * S), BEGIN + int(end * S))
    shown = play(media(clip))
    assert numbers(shown) == [number % 100 for number in range(first, first + count)]
    assert shown[0].seconds == 0
    steps = [b.seconds - a.seconds for a, b in itertools.pairwise(shown)]
    pauses = [step for step in steps if step > 0.05]
    assert pauses == ([pytest.approx(3.04, abs=0.001)] if begin == 6 else [])
    assert all(step == pytest.approx(0.04, abs=0.001) for step in steps if step not in pauses)
    assert (clip.begin_ns, clip.end_ns - clip.begin_ns) == (
        max(BEGIN, BEGIN + first * STEP_NS + (4 * S if begin == 6 else 0)),
        count * STEP_NS + (3 * S if begin == 6 else 0),
    )


@pytest.mark.parametrize("laters", [(0.2, 0.0), (0.0, 0.12), (0.08, 0.2)])
def test_files_whose_sound_begins_before_their_picture_are_joined(
    tmp_path: Path, laters: tuple[float, float]
) -> None:
    sources = []
    for n, later in enumerate(laters):
        path = tmp_path / f"{n}.mp4"
        contents = Writer(path, BEGIN + 4 * S * n, later=later).frames(100).complete()
        assert files.read(path) == contents
        assert contents.later == round(later * 1000) * 90 and len(play(path)) == 100
        sources.append((path, contents))
    assert sources[0][1].init == sources[1][1].init
    for begin, end, first, count in [(0, 8, 0, 200), (1, 6, 20, 130), (5, 6, 120, 30)]:
        clip = plan(sources, BEGIN + begin * S, BEGIN + end * S)
        shown = play(media(clip))
        assert numbers(shown) == [number % 100 for number in range(first, first + count)]
        assert [one.seconds for one in shown] == pytest.approx([0.04 * n for n in range(count)], abs=0.001)
        assert (clip.begin_ns, clip.end_ns - clip.begin_ns) == (BEGIN + first * STEP_NS, count * STEP_NS)


def test_sound_that_comes_later_than_its_picture_begins_a_clip(tmp_path: Path) -> None:
    """In which there is none with the first picture, and then some of before it."""
    path = tmp_path / "a.mp4"
    contents = Writer(path, BEGIN, media=with_sound()).frames(100).complete()
    data = media(plan([(path, contents)], BEGIN + S, BEGIN + 3 * S))
    assert numbers(play(data)) == list(range(20, 75))
    spans = [sound.span(data[one.begin - 8 :]) for one in boxes.boxes(data) if one.kind == b"moof"]
    heard = [span for span in spans if span is not None]
    assert len(heard) == 27 and heard[0][0] == 0
    assert all(a[1] == b[0] for a, b in itertools.pairwise(heard))


def test_players_find_no_fault_and_know_how_long_it_is(three: Sources, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(media(plan(three, BEGIN + S, BEGIN + 20 * S)))
    ffmpeg_finds_no_fault(path)
    with av.open(str(path)) as container:
        assert container.duration is not None
        assert container.duration / 1e6 == pytest.approx(14.2, abs=0.01)
        stream = container.streams.video[0]
        for at in (12.9, 0.5, 5.0, 11.0):  # it can be sought in
            container.seek(int(at * 1e6))
            found = next(container.decode(stream))
            assert found.time is not None and at - 2.1 <= found.time <= at


@pytest.mark.parametrize("few", [False, True])
def test_any_of_its_bytes_can_be_had_by_themselves(
    three: Sources, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = plan(three, BEGIN + S, BEGIN + 20 * S)
    if few:  # as of a clip of days
        all_ = media(clip)
        monkeypatch.setattr(clips, "_REFERENCES", 4)
        monkeypatch.setattr(clips, "_SPARSE", 2)
        clip = plan(three, BEGIN + S, BEGIN + 20 * S)
        assert clip.size == len(all_) - 3 * 12 and media(clip)[-10_000:] == all_[-10_000:]
    whole = media(clip)
    rng = random.Random(3)
    for _ in range(60):
        begin = rng.randrange(len(whole))
        end = rng.randrange(begin, len(whole)) + 1
        assert b"".join(clip.read(begin, end)) == whole[begin:end]
    assert b"".join(clip.read(len(whole))) == b""
    assert plan(three, BEGIN + S, BEGIN + 20 * S).tag == clip.tag
    assert plan(three, BEGIN, BEGIN + 20 * S).tag != clip.tag


def test_its_own_table_and_numbers_are_right(three: Sources) -> None:
    whole = media(plan(three, BEGIN, BEGIN + 20 * S))
    top = list(boxes.boxes(whole))
    sidx = next(one for one in top if one.kind == b"sidx")
    count = int.from_bytes(whole[sidx.begin + 30 : sidx.begin + 32], "big")
    at, time = sidx.end, 0
    for n in range(count):
        size, lasts, sap = (
            int.from_bytes(whole[sidx.begin + 32 + 12 * n + 4 * k :][:4], "big") for k in range(3)
        )
        assert whole[at + 4 : at + 8] == b"prft" and sap >> 31
        about = boxes.about(whole[at + 32 :])
        assert (about.key, about.decode) == (True, time)
        at, time = at + size, time + lasts
    assert at == len(whole)
    sequences = [boxes.about(whole[one.begin - 8 : one.end]).sequence for one in top if one.kind == b"moof"]
    assert all(a < b for a, b in itertools.pairwise(sequences))
    references = [boxes.read_reference_time(whole, one.begin - 8) for one in top if one.kind == b"prft"]
    assert [found[1] - BEGIN for found in references if found][:2] == [0, 2 * S]
    assert [found[0] for found in references if found][:2] == [0, 180_000]


def test_a_clip_has_a_bound(three: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "MOST_MARKS", len(three[0][1].marks))
    assert plan(three[:1], BEGIN, BEGIN + 99 * S).begin_ns == BEGIN
    with pytest.raises(ClipError) as refused:
        plan(three, BEGIN, BEGIN + 99 * S)
    assert refused.value.cause is ClipCause.LONG


def test_other_parameters_within_are_refused_with_the_parts_that_can_be_had(
    three: Sources, tmp_path: Path
) -> None:
    large = tmp_path / "large.mp4"
    sources = [*three, (large, Writer(large, BEGIN + 15 * S, width=320).frames(50).complete())]
    with pytest.raises(ClipError) as refused:
        plan(sources, BEGIN + S, BEGIN + 99 * S)
    assert refused.value.cause is ClipCause.CHANGED
    assert refused.value.parts == ((BEGIN + S, BEGIN + 15 * S), (BEGIN + 15 * S, BEGIN + 17 * S))
    sizes = [{one.size for one in play(media(plan(sources, *part)))} for part in refused.value.parts]
    assert sizes == [{(160, 96)}, {(320, 96)}]


@pytest.mark.parametrize(("begin", "end"), [(-9, 0), (8, 11), (15, 99), (8.5, 8.6)])
def test_a_time_of_which_there_is_nothing_is_empty(three: Sources, begin: float, end: float) -> None:
    with pytest.raises(ClipError) as refused:
        plan(three, BEGIN + int(begin * S), BEGIN + int(end * S))
    assert refused.value.cause is ClipCause.EMPTY


def test_a_long_pause_is_left_out(tmp_path: Path) -> None:
    sources = []
    for n, at in enumerate((0, 3600)):
        path = tmp_path / f"{n}.mp4"
        sources.append((path, Writer(path, BEGIN + at * S).frames(25).complete()))
    shown = play(media(plan(sources, BEGIN, BEGIN + 7200 * S)))
    assert len(shown) == 50 and shown[-1].seconds == pytest.approx(49 / 25, abs=0.001)


def test_a_file_that_is_deleted_meanwhile_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    sources = [(path, Writer(path, BEGIN).frames(100).complete())]
    clip = plan(sources, BEGIN, BEGIN + 9 * S)
    path.unlink()
    with pytest.raises(ClipError) as gone:
        list(clip.read())
    assert gone.value.cause is ClipCause.GONE
    with pytest.raises(ClipError) as empty:
        plan(sources, BEGIN, BEGIN + 9 * S)
    assert empty.value.cause is ClipCause.EMPTY
    path.symlink_to("/etc/passwd")
    with pytest.raises(ClipError) as empty:  # a link is not followed
        plan(sources, BEGIN, BEGIN + 9 * S)
    assert empty.value.cause is ClipCause.EMPTY


def test_a_file_whose_recorder_was_killed_is_taken_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    Writer(path, BEGIN).frames(57).leave()
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    shown = play(media(plan([(path, files.read(path))], BEGIN, BEGIN + 9 * S)))
    assert numbers(shown) == list(range(56))


def test_one_that_still_grows_is_taken_as_far_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    writer = Writer(path, BEGIN).frames(57)
    ahead = files.loads(files.dumps(writer.contents))  # of frames that the disk has not taken
    ahead.add(5000, BEGIN + 57 * STEP_NS, 57 * 3600, 3600, mark=False)
    try:
        shown = play(media(plan([(path, ahead)], BEGIN, BEGIN + 9 * S)))
        assert numbers(shown) == list(range(57))
        assert len(play(media(plan([(path, ahead)], BEGIN + S, BEGIN + 2 * S)))) == 30
    finally:
        writer.complete()


def test_what_is_read_again_is_what_was_written(tmp_path: Path) -> None:
    """A saved clip is a recording like others."""
    path, saved = tmp_path / "a.mp4", tmp_path / "saved.mp4"
    clip = plan([(path, Writer(path, BEGIN).frames(100).complete())], BEGIN + S, BEGIN + 3 * S)
    saved.write_bytes(media(clip))
    found = files.read(saved)
    assert abs(found.end_ns - clip.end_ns) < STEP_NS
    assert len(play(io.BytesIO(saved.read_bytes()).getvalue())) == 2 * 25 + GOP - 5


@pytest.mark.parametrize("pause", [13 * 3600, 14 * 3600, 40 * 24 * 3600])
def test_a_long_gap_within_a_file_is_no_harm(tmp_path: Path, pause: int) -> None:
    path = tmp_path / "a.mp4"
    contents = Writer(path, BEGIN).frames(50).pause(pause).frames(50).complete()
    it = plan([(path, contents)], 0, 1 << 62)
    assert len(b"".join(it.read())) == it.size
    assert it.end_ns - it.begin_ns == (pause + 4) * 10**9


@pytest.mark.parametrize("how", ["a pause", "the clock was set forward"])
def test_a_time_within_a_gap_of_a_file_is_empty(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.mp4"
    writer = Writer(path, BEGIN).frames(50)
    if how == "a pause":
        writer.pause(600)
    else:
        writer.set_clock(600)
    sources = [(path, writer.frames(100).complete())]
    for begin, end in ((2, 602), (100, 130), (2, 3), (601, 602)):
        with pytest.raises(ClipError) as empty:
            plan(sources, BEGIN + begin * S, BEGIN + end * S)
        assert empty.value.cause is ClipCause.EMPTY
    for begin, end, first, count in (
        (0, 300, 0, 50),
        (1, 601, 20, 30),
        (602, 603, 50, 25),
        (604, 900, 100, 50),
    ):
        clip = plan(sources, BEGIN + begin * S, BEGIN + end * S)
        shown = numbers(play(media(clip)))
        assert shown == [number % 100 for number in range(first, first + count)]


def other(path: Path, size: int) -> None:
    path.write_bytes(b"none of ours" * (size // 12 + 1))


def cut(path: Path, size: int) -> None:
    path.write_bytes(b"")


def zeros(path: Path, size: int) -> None:
    path.write_bytes(bytes(size))


def link(path: Path, size: int) -> None:
    path.symlink_to(path.with_name("2.mp4"))


def folder(path: Path, size: int) -> None:
    path.mkdir()


def pipe(path: Path, size: int) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [other, cut, zeros, link, folder, pipe])
@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_is_none_any_more_costs_its_own_time_alone(
    tmp_path: Path, damage: Callable[[Path, int], None], which: int
) -> None:
    sources = []
    for number in range(3):
        path = tmp_path / f"{number}.mp4"
        sources.append((path, Writer(path, BEGIN + 2 * number * S).frames(50).complete()))
    path = sources[which][0]
    size = path.stat().st_size
    path.unlink()
    damage(path, size)
    it = plan(sources, 0, 1 << 62)
    assert len(b"".join(it.read())) == it.size
    assert it.begin_ns == BEGIN + (0 if which else 2 * S) and it.end_ns == BEGIN + 6 * S
