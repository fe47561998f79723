"""What lies unread is known, and is not mixed up with what the network, or a clock, is late by."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from valkka_async.camera.lag import BOUND, Lag

START = 5000.0
READING = 0.0003  # s for a packet
MOST = BOUND + 1.0  # s that are unread before frames are left out, and what it takes to see that


class Read(NamedTuple):
    """A packet, when it was read."""

    stamp: float
    came: float
    now: float
    unread: float  # as was found
    shown: bool

    @property
    def error(self) -> float:
        return self.unread - (self.now - self.came)


def camera(
    fps: float,
    seconds: float,
    *,
    jitter: float = 0.0,
    drift: float = 0.0,
    stalls: tuple[tuple[float, float], ...] = (),
    jumps: tuple[tuple[float, float], ...] = (),
    seed: int = 1,
) -> Iterator[tuple[float, float]]:
    """(time by its own clock, arrival) of frames. `stalls` of the network and `jumps` of the clock: when, and
    by how much; it drifts by `drift` per second."""
    rng, came = random.Random(seed), 0.0
    for n in range(int(fps * seconds)):
        at = n / fps
        held = max((begin + length for begin, length in stalls if begin <= at < begin + length), default=at)
        came = max(came, held + rng.uniform(0, jitter))  # in order
        yield 777 + at * (1 + drift) + sum(by for since, by in jumps if at >= since), START + came


def read(frames: Iterator[tuple[float, float]], decoding: Callable[[float], float]) -> list[Read]:
    """By a thread that decodes what it reads, in so many seconds, which may change with time."""
    lag, now, found = Lag(), START, []
    for stamp, came in frames:
        waited = came > now
        now = max(now, came) + READING
        unread = lag.note(stamp, now, waited)
        found.append(Read(stamp, came, now, unread, not lag.behind))
        if not lag.behind:
            now += decoding(now - START)
    return found


stalls = st.lists(st.tuples(st.floats(1, 50), st.floats(0, 10)), max_size=3).map(tuple)
jumps = st.lists(st.tuples(st.floats(1, 50), st.floats(-100, 100)), max_size=3).map(tuple)
drifts = st.floats(-3e-4, 3e-4)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.5, 30), st.floats(0, 0.003), st.floats(0, 1), drifts, stalls, jumps, st.integers(0, 999))
def test_quick_decoding_is_never_behind(
    fps: float,
    decoding: float,
    jitter: float,
    drift: float,
    stalls: tuple[tuple[float, float], ...],
    jumps: tuple[tuple[float, float], ...],
    seed: int,
) -> None:
    """Whatever the network does, and the camera's clock."""
    frames = camera(fps, 60, jitter=jitter, drift=drift, stalls=stalls, jumps=jumps, seed=seed)
    found = read(frames, lambda _: decoding)
    assert all(one.shown for one in found)
    assert max(one.unread for one in found) < BOUND


@settings(deadline=None, max_examples=25)
@given(st.floats(5, 60), st.floats(1.1, 10), st.floats(0, 0.2), drifts, st.integers(0, 999))
def test_slow_decoding_shows_no_old_frames_and_goes_on(
    fps: float, load: float, jitter: float, drift: float, seed: int
) -> None:
    decoding = load / fps
    found = read(camera(fps, 120, jitter=jitter, drift=drift, seed=seed), lambda _: decoding)
    assert max(one.now - one.came for one in found) < MOST + 2 * decoding
    assert max(abs(one.error) for one in found) < 0.6 + 2 * jitter
    for second in range(5, 115, 5):
        of_these = [one for one in found if second <= one.now - START < second + 5]
        assert sum(one.shown for one in of_these) * decoding > 2.5  # more than half of what could be done


@settings(deadline=None, max_examples=25)
@given(st.floats(5, 60), st.floats(1.1, 10), stalls, drifts)
def test_nothing_lay_longer_than_since_reading_had_to_wait(
    fps: float, load: float, stalls: tuple[tuple[float, float], ...], drift: float
) -> None:
    """Unless it was behind then: the camera may have more, which the network has yet to bring."""
    lag, now, since = Lag(), START, START
    for stamp, came in camera(fps, 80, stalls=stalls, drift=drift):
        waited, now = came > now, max(now, came)
        if waited and not lag.behind:
            since = now
        now += READING
        assert lag.note(stamp, now, waited) < now - since + READING
        now += 0 if lag.behind else load / fps


@settings(deadline=None, max_examples=15)
@given(st.floats(0.1, 0.9), st.floats(1, 30))
def test_what_the_network_held_back_may_be_left_out_and_the_stream_goes_on(
    load: float, length: float
) -> None:
    decoding = load / 25
    found = read(camera(25, 60, stalls=((20.0, length),)), lambda _: decoding)
    assert all(one.shown for one in found if one.came <= START + 20)
    assert all(one.shown for one in found if one.came > START + 20 + length + 3)
    assert max(one.now - one.came for one in found if one.came > START + 20 + length + 3) < MOST


def test_a_machine_that_was_busy_for_a_while_makes_up_for_it() -> None:
    """Decoding that is quick again needs no help."""
    stops = iter([12.0])
    found = read(camera(25, 60), lambda at: next(stops, 0.0025) if at > 20 else 0.0025)
    assert all(one.shown for one in found)
    assert max(abs(one.error) for one in found) < 0.51


def test_a_thread_that_was_stopped_goes_on_from_now() -> None:
    stops = iter([60.0])
    found = read(camera(25, 120), lambda at: next(stops, 0.02) if at > 20 else 0.02)
    assert 0 < sum(not one.shown for one in found) < 1500
    assert max(abs(one.error) for one in found) < 0.51
    assert all(one.shown and one.unread == 0 for one in found if one.came > START + 85)


def test_reading_that_cannot_keep_up_by_itself_does_not_end_the_pictures() -> None:
    lag, shown = Lag(), []
    for n in range(3000):
        lag.note(n / 25, n / 20, False)  # whatever is left out
        shown.append(not lag.behind)
    assert all(any(shown[at : at + 300]) for at in range(0, 2700, 10))
