"""Limits, rates and recordings are about real time, whatever a stream says of its own."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest
from camera_tools import Clips

import valkka_async as va
from support.rtsp_camera import RtspCamera, access_units
from support.until import wait_for
from valkka_async.camera.pace import LiveClock, RateLimit

BASE = Fraction(1, 90000)
START = 1_800_000_000.0


def stream(fps: float, seconds: float, speed: float, jitter: float = 0.0) -> Iterator[tuple[int, float]]:
    """(timestamp, arrival) of frames whose clock runs at this speed."""
    rng = random.Random(2)
    for n in range(int(fps * seconds)):
        yield round(n / fps * speed * 90000) + 12345, START + n / fps + rng.uniform(0, jitter)


def admitted(frames: Iterator[tuple[int, float]], fps: float) -> list[float]:
    """The arrivals of those that a limit lets through."""
    clock, limit = LiveClock(), RateLimit(fps)
    return [at for stamp, at in frames if limit.admit(clock.tick(stamp, BASE, round(at * 1e9)))]


@pytest.mark.parametrize("speed", [0.0, 0.1, 0.2, 0.7, 0.99, 1.0, 1.01, 1.15, 1.4, 2.0, 10.5, 100.0])
@pytest.mark.parametrize(("source", "fps"), [(25, 5), (25, 1), (10, 3), (5, 3)])
def test_a_limit_holds_at_any_speed_of_the_streams_clock(source: float, fps: float, speed: float) -> None:
    shown = admitted(stream(source, 60, speed), fps)
    later = [at for at in shown if at > START + 10]
    assert len(later) == pytest.approx(50 * fps, rel=0.05)
    assert len(shown) - len(later) <= 10 * fps + 6  # also before it is known


@pytest.mark.parametrize("speed", [1.0, 0.999, 1.05])
def test_frames_are_spaced_by_their_own_clock_where_it_can_be_trusted(speed: float) -> None:
    clock = LiveClock()
    times = [clock.tick(stamp, BASE, round(at * 1e9)) for stamp, at in stream(25, 60, speed, jitter=0.03)]
    assert not clock.disagrees
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert statistics.pstdev(gaps) < 0.001 < 0.03
    assert times[-1] - START == pytest.approx(60, abs=0.6)  # and it does not drift away


@pytest.mark.parametrize("jump", [3600.0, -7200.0, 95443.7, -95443.7])
@pytest.mark.parametrize("whose", ["stream", "ours"])
def test_a_clock_that_is_set_is_no_disagreement(jump: float, whose: str) -> None:
    clock, limit, shown = LiveClock(), RateLimit(5), 0
    for n, (stamp, at) in enumerate(stream(25, 40, 1.0)):
        if n >= 500 and whose == "stream":
            stamp += round(jump * 90000)
        elif n >= 500:
            at += jump
        shown += limit.admit(clock.tick(stamp, BASE, round(at * 1e9)))
        assert not clock.disagrees
    assert shown == pytest.approx(200, abs=3)


def test_a_hiccup_of_the_network_is_no_disagreement() -> None:
    clock = LiveClock()
    for n, (stamp, at) in enumerate(stream(25, 60, 1.0)):
        held = START + 20.0 if 450 <= n < 500 else START + 31.0 if 740 <= n < 775 else at
        clock.tick(stamp, BASE, round(max(at, held) * 1e9))
        assert not clock.disagrees


def test_a_burst_at_the_beginning_is_forgiven() -> None:
    clock = LiveClock()
    for n, (stamp, at) in enumerate(stream(25, 20, 1.0)):
        clock.tick(stamp, BASE, round(max(at, START + 2 + n * 0.005) * 1e9))  # two seconds of it at once
    assert not clock.disagrees


@pytest.mark.parametrize("seconds", [0.5, 1.0, 1.9])
def test_a_stall_at_the_beginning_is_no_disagreement(seconds: float) -> None:
    for begins in range(1, 100):  # frames
        clock = LiveClock()
        for n, (stamp, at) in enumerate(stream(25, 10, 1.0)):
            late = START + begins / 25 + seconds
            clock.tick(stamp, BASE, round((max(at, late) if n >= begins else at) * 1e9))
            assert not clock.disagrees, (begins, n)


@pytest.mark.parametrize("speed", [0.1, 10.0])
def test_a_clock_that_comes_to_its_senses_is_believed_again(speed: float) -> None:
    clock, stamp = LiveClock(), 0.0
    said = []
    for n in range(25 * 40):
        stamp += 3600 * (speed if 250 <= n < 600 else 1)
        clock.tick(round(stamp), BASE, round((START + n / 25) * 1e9))
        said.append(clock.disagrees)
    assert not any(said[:250]) and said[599] and not said[-1]


# ------------------------------------------------------------------------ with a camera that is like that

CLOCKS: dict[str, Callable[[int, float], int]] = {
    "slow": lambda n, _: n * 360,
    "still": lambda n, _: 5000,
    "fast": lambda n, _: n * 37800,
}


@pytest.mark.parametrize("clock", [*CLOCKS])
def test_a_camera_with_a_bad_clock_is_limited_and_recorded_by_the_right_one(
    clock: str, clips: Clips, tmp_path: Path
) -> None:
    units = access_units(clips())
    outputs = [va.Output("cam", fps=5), va.Output("cam.fmp4", "fmp4")]
    with RtspCamera(units, clock=CLOCKS[clock]) as server, va.Camera("cam", server.url(), outputs) as camera:
        wait_for(lambda: camera.status().clock_disagrees)
        with va.attach("cam", policy="ordered") as reader, va.attach("cam.fmp4", policy="ordered") as coded:
            reader.recv(timeout=10).release()
            began, count, pieces = time.monotonic(), 0, b""
            coded.recv(timeout=10).release()
            while time.monotonic() - began < 3:
                with reader.recv(timeout=10):
                    count += 1
                while (frame := coded.recv_nowait()) is not None:
                    with frame:
                        pieces += bytes(frame.data)
            passed = time.monotonic() - began
            header = coded.header
        assert count == pytest.approx(5 * passed, abs=0.25 * 5 * passed)
        assert header is not None
    path = tmp_path / "f.mp4"
    path.write_bytes(header + pieces)
    with av.open(path) as result:
        times = [packet.pts * packet.time_base for packet in result.demux(video=0) if packet.size]
    assert float(times[-1] - times[0]) == pytest.approx(passed, abs=0.8)


def test_the_status_of_a_good_camera_says_nothing_of_its_clock(clips: Clips) -> None:
    with RtspCamera(access_units(clips())) as server, va.Camera("cam", server.url()) as camera:
        wait_for(lambda: camera.status().packets > 20)
        assert not camera.status().clock_disagrees
