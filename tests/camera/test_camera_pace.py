"""The rate limit keeps an even cadence without drift; a file played again has rising timestamps."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from valkka_async.camera.pace import FileClock, LiveClock, Pacer, RateLimit


def admitted(
    source_fps: float, fps: float, seconds: float, jitter: float = 0.0, start: float = 0.0
) -> list[float]:
    limit, rng = RateLimit(fps), random.Random(1)
    times = [start + n / source_fps + rng.uniform(-jitter, jitter) for n in range(int(source_fps * seconds))]
    return [t for t in times if limit.admit(t)]


@pytest.mark.parametrize("start", [0.0, 1.8e9])
def test_the_average_rate_is_exact_and_the_cadence_even(start: float) -> None:
    for source, fps in ((25, 10), (30, 10), (30, 29), (29.97, 15), (25, 1), (60, 25), (25, 0.5), (30, 7)):
        times = admitted(source, fps, 200, start=start)
        assert len(times) == pytest.approx(200 * fps, abs=1.01)
        gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
        assert max(gaps) - min(gaps) < 1.01 / source
        assert all(abs(gap - 1 / fps) < 1.01 / source for gap in gaps)


def test_a_slower_source_loses_nothing() -> None:
    for source, fps in ((25, 25), (25, 30), (7, 10), (29.97, 30)):
        assert len(admitted(source, fps, 100)) == int(source * 100)


def test_timestamps_that_jitter_do_not_cost_frames() -> None:
    assert len(admitted(25, 25, 100, jitter=0.008)) >= 2490
    assert len(admitted(25, 10, 100, jitter=0.008)) == pytest.approx(1000, abs=2)


def test_a_gap_is_not_made_up_for_by_a_burst() -> None:
    limit = RateLimit(10)
    times = [n / 25 for n in range(50)] + [20 + n / 25 for n in range(50)]
    shown = [t for t in times if limit.admit(t)]
    assert len([t for t in shown if t >= 20]) == pytest.approx(20, abs=1)


def test_time_that_goes_back_does_not_silence_the_stream() -> None:
    limit = RateLimit(1)
    shown = [t for t in [*range(1000, 1010), *range(10)] if limit.admit(float(t))]
    assert len(shown) == 20


def test_no_limit_admits_everything() -> None:
    assert all(RateLimit(None).admit(0.0) for _ in range(3))


def test_a_live_clock_bridges_missing_and_jumping_timestamps() -> None:
    clock, base = LiveClock(), Fraction(1, 90000)
    arrivals = [1_800_000_000_000_000_000 + n * 40_000_000 for n in range(60)]
    stamps: list[int | None] = [None, *range(3600, 30 * 3600, 3600)]
    stamps += range(10**9, 10**9 + 30 * 3600, 3600)
    seconds = [clock.seconds(s, base, a) for s, a in zip(stamps, arrivals, strict=True)]
    gaps = [b - a for a, b in zip(seconds, seconds[1:], strict=False)]
    assert all(gap == pytest.approx(0.04, abs=1e-5) for gap in gaps)


def test_a_file_clock_goes_on_where_the_file_began_again() -> None:
    clock, base = FileClock(), Fraction(1, 1000)
    stamped = []
    for _ in range(3):
        clock.rewind(Fraction(25))
        stamped += [clock.stamp(pts, base) for pts in (500, 540, 580)]
    assert [pts for pts, _ in stamped] == [500 + 40 * n for n in range(9)]
    assert [s for _, s in stamped] == pytest.approx([0.5 + 0.04 * n for n in range(9)])


def test_a_file_of_one_frame_and_a_file_replaced_by_another_time_base_still_rise() -> None:
    clock = FileClock()
    seconds = []
    for base in (Fraction(1, 1000), Fraction(1, 1000), Fraction(1, 90000)):
        clock.rewind(Fraction(25))
        seconds.append(clock.stamp(0, base)[1])
    assert seconds == pytest.approx([0.0, 0.04, 0.08])


def test_a_file_without_timestamps_is_timed_by_its_rate() -> None:
    clock = FileClock()
    clock.rewind(Fraction(10))
    stamped = [clock.stamp(None, Fraction(1, 90000)) for _ in range(3)]
    assert stamped == [(None, 0.0), (None, 0.1), (None, 0.2)]


def test_a_file_clock_knows_the_time_of_what_it_has_stamped() -> None:
    clock, base = FileClock(), Fraction(1, 1000)
    clock.rewind(Fraction(25))
    stamp, seconds = clock.stamp(500, base)
    assert clock.seconds(stamp, base, 0) == seconds == 0.5
    assert clock.seconds(None, base, 0) == 0.5  # a frame without a timestamp is of the newest packet
    clock.rewind(Fraction(25))
    stamp, seconds = clock.stamp(500, base)
    assert clock.seconds(stamp, base, 0) == seconds == pytest.approx(0.54)


def test_the_pacer_keeps_the_distances_and_goes_on_from_here_when_late() -> None:
    pacer = Pacer()
    assert pacer.delay(5.0, now=100.0) == 0
    assert pacer.delay(5.2, now=100.0) == pytest.approx(0.2)
    assert pacer.delay(5.4, now=100.6) == 0  # a little late: what follows catches up
    assert pacer.delay(5.6, now=100.6) == 0
    assert pacer.delay(5.8, now=100.6) == pytest.approx(0.2)
    assert pacer.delay(6.0, now=110.0) == 0  # very late: from here on
    assert pacer.delay(6.2, now=110.0) == pytest.approx(0.2)


@pytest.mark.parametrize("hole", [3.0, 3600.0, 95443.7, -5.0, -3600.0])
def test_a_hole_in_a_files_times_is_jumped(hole: float) -> None:
    clock, base = FileClock(), Fraction(1, 90000)
    clock.rewind(Fraction(25))
    seconds = []
    for number in range(20):
        stamp = number * 3600 + 200_000_000 + (round(hole * 90000) if number >= 10 else 0)
        seconds.append(clock.stamp(stamp, base)[1])
    assert [round(b - a, 6) for a, b in zip(seconds, seconds[1:], strict=False)] == [0.04] * 19


@pytest.mark.parametrize("step", [3.0, 10.0, 600.0])
def test_a_file_of_few_frames_has_no_holes(step: float) -> None:
    clock, base = FileClock(), Fraction(1, 1000)
    clock.rewind(Fraction(1 / step).limit_denominator(10000))
    seconds = [clock.stamp(round(n * step * 1000), base)[1] for n in range(5)]
    assert [b - a for a, b in zip(seconds, seconds[1:], strict=False)] == [step] * 4
