# SPDX-License-Identifier: MIT
"""Recordings of what happens: from before it until after it, and nothing else."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import valkka_async as va
from support.playback import play
from support.recordings import GOP, STEP_NS, film
from support.until import until
from valkka_async.record import contents as files
from valkka_async.record import recorder as recorders
from valkka_async.record.held import Held, Piece

S = 10**9
T0 = 1_700_000_000 * S


class Clock:
    """The recorder's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ns = T0
        both = SimpleNamespace(time_ns=lambda: self.ns, monotonic=time.monotonic)
        monkeypatch.setattr(recorders, "time", both)


def publish(server: va.Server, first: int, end: int, begin: int = T0) -> None:
    """Frames of then and later, 25 per second."""
    init, fragments = film()
    server.set_header(init)
    for number in range(first, end):
        f = fragments[number]
        times: Any = {"pts": f.pts, "dts": f.dts, "duration": f.duration, "time_base": f.time_base}
        server.publish(f.data, format="fmp4", key=f.key, timestamp_ns=begin + number * STEP_NS, **times)


def numbers(path: Path) -> list[int]:
    return [one.number for one in play(path)]


async def test_a_clip_has_what_came_before_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorders, "_LATE", 600.0)  # longer than a test may take
    clock = Clock(monkeypatch)
    with va.serve("cam", slots=128) as server:
        async with va.Recorder("cam", tmp_path / "{n}.mp4", before=1.0) as recorder:
            await until(lambda: server.stats().readers)
            publish(server, 0, 50)
            held_ns = T0 + 49 * STEP_NS
            await until(lambda: recorder.stats().held_ns == held_ns)
            clock.ns = held_ns
            assert recorder.stats().waits and recorder.stats().files == 0
            recorder.clip(after=0.4)
            assert not recorder.stats().waits
            publish(server, 50, 55)
            await until(lambda: recorder.stats().frames == 30 + 5)
            recorder.clip(after=0.8)  # it goes on: nothing is written twice
            publish(server, 55, 90)
            await until(lambda: recorder.stats().path is None)
            recorder.clip(before=0.2, after=0)  # what is in the file before is there again
            await until(lambda: recorder.stats().frames > 60)
    first, second = sorted(tmp_path.glob("*.mp4"))
    assert numbers(first) == list(range(20, 70))  # from the key frame at or before a second before it
    assert numbers(second)[-1] == 89 and numbers(second)[0] % GOP == 0
    assert [files.read(one).events for one in (first, second)] == [[held_ns], [held_ns]]
    stats = recorder.stats()
    assert (stats.files, stats.dropped) == (2, 0)


async def test_a_clip_ends_though_the_camera_falls_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorders, "_LATE", 0.05)
    clock = Clock(monkeypatch)
    with va.serve("cam", slots=128) as server:
        async with va.Recorder("cam", tmp_path / "{n}.mp4", before=1.0) as recorder:
            await until(lambda: server.stats().readers)
            publish(server, 0, 20)
            clock.ns = T0 + 19 * STEP_NS
            await until(lambda: recorder.stats().held_ns == clock.ns)
            recorder.clip(after=0.1)
            async for path in recorder:
                assert numbers(path) == list(range(20))
                break


async def test_a_clip_ends_though_the_clock_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorders, "_LATE", 0.05)
    clock = Clock(monkeypatch)
    with va.serve("cam", slots=128) as server:
        async with va.Recorder("cam", tmp_path / "{n}.mp4", before=1.0) as recorder:
            await until(lambda: server.stats().readers)
            publish(server, 0, 20)
            await until(lambda: recorder.stats().held_ns == T0 + 19 * STEP_NS)
            clock.ns = T0 + 3600 * S
            recorder.clip(after=0.1)
            await until(lambda: recorder.stats().files == 1)
            await until(lambda: recorder.stats().path is None)
            publish(server, 20, 40)  # an hour before it ends, by their clock
            await until(lambda: recorder.stats().held_ns == T0 + 39 * STEP_NS)
        assert recorder.stats().files == 1


async def test_a_clip_is_as_long_though_the_clock_is_set_for_the_first_time_since_1970(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with va.serve("cam", slots=128) as server:
        async with va.Recorder("cam", tmp_path / "{n}.mp4", before=1.0) as recorder:
            await until(lambda: server.stats().readers)
            publish(server, 0, 20, 100 * S)
            clock.ns = 100 * S + 19 * STEP_NS
            await until(lambda: recorder.stats().held_ns == clock.ns)
            recorder.clip(after=1.0)
            publish(server, 20, 25, 100 * S)
            publish(server, 25, 90)
            await until(lambda: recorder.stats().held_ns == T0 + 89 * STEP_NS)
    first, second = sorted(tmp_path.glob("*.mp4"))
    assert numbers(first) == list(range(30)) and numbers(second) == list(range(30, 45))


async def test_a_clip_of_a_recorder_that_does_not_wait_is_refused(tmp_path: Path) -> None:
    async with va.Recorder("cam", tmp_path / "a.mp4") as recorder:
        with pytest.raises(ValueError, match="before=10"):
            recorder.clip()
    waiting = va.Recorder("cam", tmp_path / "a.mp4", before=1)
    with pytest.raises(RuntimeError):
        waiting.clip()
    async with waiting:
        with pytest.raises(ValueError, match="after"):
            waiting.clip(after=float("nan"))
        with pytest.raises(ValueError, match="before"):
            waiting.clip(before=-1)
    with pytest.raises(RuntimeError, match="over"):
        waiting.clip()
    with pytest.raises(ValueError, match="before"):
        va.Recorder("cam", tmp_path / "a.mp4", before=float("inf"))


@given(
    keys=st.lists(st.booleans(), min_size=1, max_size=60),
    lost=st.sets(st.integers(0, 59)),
    seconds=st.integers(0, 20),
    room=st.integers(1, 40),
    since=st.integers(-5, 60),
)
def test_what_is_held_reaches_back_as_far_as_it_fits(
    keys: list[bool], lost: set[int], seconds: int, room: int, since: int
) -> None:
    """A frame of a byte each second."""
    held = Held(seconds, room)
    for at, key in enumerate(keys):
        held.add(Piece(bytearray(1), key, int(at in lost), at, Fraction(1), at * S, b""))
        assert len(held) <= room
    now = len(keys) - 1
    whole = [at for at in range(len(keys)) if keys[at] and not any(at < one <= now for one in lost)]
    got = [piece.dts for piece in held.take(since * S)]
    assert len(held) == 0
    if got:
        assert keys[got[0]] and got == list(range(got[0], now + 1))
        assert lost.isdisjoint(got[1:])
        later = [at for at in whole if at > got[0]]
        assert not [at for at in later if at <= since]  # else it would begin there
    fits = [at for at in whole if now - at < room]
    wanted = [at for at in whole if at <= min(now - seconds, now)]
    if wanted and wanted[-1] in fits and got and since <= wanted[-1]:
        assert got[0] == wanted[-1]
