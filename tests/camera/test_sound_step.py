"""Sound and picture on one axis: clocks that drift, jitter, jump or say nothing; an hour in some seconds."""

from __future__ import annotations

import io
import itertools
import random
from fractions import Fraction
from typing import Any, cast

import av
import pytest
from av.packet import Packet

from support.instep import flashes_and_clicks
from support.rtsp_sound import SECONDS, RtspSound, clicks, flashes
from valkka_async.camera.mp4.fragments import Muxer
from valkka_async.camera.mp4.soundqueue import SoundQueue
from valkka_async.camera.mp4.timeline import TIMESCALE, Timeline
from valkka_async.camera.sound.sound import Sound, SoundMeter
from valkka_async.camera.sound.step import Even, Step

NEAR = 0.04  # s
MINUTE, HOUR = 60, 3600
FPS = 5


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ppm", [200, -200])
@pytest.mark.parametrize(
    ("codec", "length"),
    [
        ("aac", HOUR),
        ("pcm_alaw", 10 * MINUTE),  # three times NEAR
        pytest.param("pcm_alaw", HOUR, marks=pytest.mark.long),  # it is encoded, which takes its time
    ],
)
def test_an_hour_of_a_clock_that_drifts_stays_in_step(ppm: int, codec: str, length: int) -> None:
    """The clock of the sound runs at another speed, which only arrival tells; and so do its samples."""
    random.seed(1)
    track, units = clicks(codec), flashes(FPS)
    head = 4 if codec == "aac" else 0  # bytes of RTP's before a packet
    speed = 1 + ppm * 1e-6
    now = 0.0
    number = 0
    kept: list[bytes] = []
    first = 0
    with opened(units[0], "h264") as pictures, opened(described(track, head), "mov") as sounds:
        picture, heard = pictures.streams.video[0], sounds.streams.audio[0]
        sound = Sound(heard, SoundMeter(True), live=True, shared=False)
        timeline = Timeline(0, clock_ns=lambda: round(now * 1e9))
        muxer, queue = Muxer(picture, timeline, sound.format), SoundQueue()
        for frame in range(length * FPS):
            now = frame / FPS
            while (taken := track.due(number) / speed) < now:
                data = packet(heard, track.payload(number)[head:], track.begins(number))
                queue.put(sound.take(data, arrival(taken)), sound.format)
                number += 1
            unit = packet(picture, units[frame % len(units)], round(now / cast(Fraction, picture.time_base)))
            unit.is_keyframe = frame % FPS == 0
            came = arrival(now)
            sound.picture(now, came, None, by_arrival=False)
            (fragment,) = muxer.mux(unit, came, None, queue)
            first = first if frame else fragment.pts
            if frame >= (length - 4 * SECONDS) * FPS:
                kept.append(fragment.data)
    _, found = flashes_and_clicks(muxer.init_segment + b"".join(kept))
    # Clicks are at whole seconds of their own clock.
    own = [(one - first / TIMESCALE) * speed for one in found]
    off = [(one + 0.5) % 1 - 0.5 for one in own]
    assert len(off) > 30 and all(abs(one) < NEAR for one in off), off


def opened(data: bytes, format: str) -> Any:
    return av.open(io.BytesIO(data), format=format)


def described(track: RtspSound, head: int) -> bytes:
    """A file that says how this sound is coded."""
    out = io.BytesIO()
    with av.open(out, "w", format="mov") as sink:
        if head:
            stream = sink.add_stream("aac", rate=track.rate, layout="mono")
        else:
            stream = sink.add_stream("pcm_alaw", rate=track.rate, layout="mono")
        made = Packet(track.payload(0)[head:])
        made.stream, made.pts, made.dts, made.time_base = stream, 0, 0, Fraction(1, track.rate)
        sink.mux(made)
    return out.getvalue()


def packet(stream: Any, data: bytes, pts: int) -> Any:
    made = cast(Any, Packet(data))
    made.stream, made.pts, made.time_base = stream, pts, stream.time_base
    return made


def arrival(seconds: float) -> int:
    """Some milliseconds later, by the wall clock."""
    return round((1.7e9 + seconds + random.expovariate(100)) * 1e9)


def test_packets_follow_each_other_as_their_samples_do() -> None:
    even = Even()
    random.seed(2)
    places = [even.place(n * 0.02 + random.uniform(-0.01, 0.01), 0.02) for n in range(1000)]
    steps = [b - a for a, b in itertools.pairwise(cast(list[float], places))]
    assert all(abs(step - 0.02) < 0.0025 for step in steps)
    assert even.place(20.5, 0.02) == 20.5  # a gap
    assert even.place(20.4, 0.02) is None  # would be there twice
    assert even.place(3.0, 0.02) == 3.0  # another axis


def test_reports_of_the_sender_say_where_sound_belongs() -> None:
    step = Step(shared=False)
    for n in range(100):
        at = n / 25
        step.picture(at, 1000 + at, 5000 + at)
        place = step.sound(70 + at, 1000.3 + at, 5000.1 + at)
        assert place == pytest.approx(at + 0.1)


def test_reports_that_cannot_be_true_are_not_believed_for_long() -> None:
    step = Step(shared=False)
    places = []
    for n in range(250):
        at = n / 25
        step.picture(at, 1000 + at, 5000 + at)
        places.append(step.sound(at, 1000.1 + at, 9000 + at) - at)
    assert places[0] == places[-1] == pytest.approx(0.1)


def test_a_network_that_stalls_moves_nothing() -> None:
    """Both come late for three seconds, and then all at once: one of the two comes first."""
    step = Step(shared=False)
    for n in range(25 * 20):
        at = n / 25
        late = max(0.0, 13 - at) if 10 < at else 0.0
        step.picture(at, 1000 + at + late, None)
        assert abs(step.sound(at, 1000 + at + late, None) - at) < NEAR


def test_one_clock_for_both_is_believed() -> None:
    step = Step(shared=True)
    for n in range(100):
        step.picture(n / 25, 1000 + n / 25, None)
        assert step.sound(n / 25, 1000.9 + n / 25, None) == n / 25
