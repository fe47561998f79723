"""Sound on its way into fragments, without a camera."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from valkka_async.camera.sound.carry import carrier


def mp2(rate: int, layout: str, seconds: int = 1) -> bytes:
    """A stream of noise."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp2") as sink:
        stream = sink.add_stream("mp2", rate=rate, layout=layout)
        channels = 2 if layout == "stereo" else 1
        for at in range(0, seconds * rate, 1152):
            noise = np.random.default_rng(at).integers(-9000, 9000, (1, 1152 * channels), np.int16)
            frame = av.AudioFrame.from_ndarray(noise, "s16", layout)
            frame.sample_rate, frame.pts = rate, at
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))
    return out.getvalue()


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ((48000, "mono"), (44100, "mono")),
        ((32000, "mono"), (32000, "stereo")),
        ((44100, "stereo"), (48000, "mono")),
    ],
)
def test_sound_may_change_in_the_middle(first: tuple[int, str], then: tuple[int, str]) -> None:
    with av.open(io.BytesIO(mp2(*first) + mp2(*then)), format="mp3") as source:
        stream = source.streams.audio[0]
        carried, at, samples = carrier(stream), 0.0, []
        for packet in source.demux(stream):
            if packet.size:
                made, lasts = carried.take(packet, at)
                samples += made
                at += lasts
    assert at == pytest.approx(2, abs=0.1)
    assert sum(sample.duration for sample in samples) == pytest.approx(at, abs=0.15)
