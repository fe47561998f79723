"""The times of what a camera publishes: pts, dts and duration, in the frame as in what it carries."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from camera_tools import FRAMES, SIZE, Clips

import valkka_async as va
from valkka_async.camera.mp4 import boxes
from valkka_async.camera.mp4.timeline import TIMESCALE


@pytest.fixture(scope="module")
def clip(clips: Clips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames that are not decoded in the order in which they are shown, with both times."""
    path = tmp_path_factory.mktemp("times") / "clip.mp4"
    with av.open(str(clips())) as source, av.open(str(path), "w") as sink:
        stream = sink.add_stream("libx264", rate=25, options={"bf": "2", "g": "10", "b-adapt": "0"})
        stream.width, stream.height, stream.pix_fmt = (*SIZE, "yuv420p")
        for n, frame in enumerate(source.decode(video=0)):
            frame = av.VideoFrame.from_ndarray(frame.to_ndarray(format="yuv420p"), format="yuv420p")
            frame.pts, frame.time_base = n, Fraction(1, 25)  # without the type that it had
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))
    return path


def packets(path: Path) -> list[tuple[Any, Any, Any]]:
    with av.open(str(path)) as container:
        return [(p.pts, p.dts, p.duration) for p in container.demux(video=0) if p.size]


def read(name: str, count: int) -> Iterator[va.Frame]:
    with va.attach(name, policy="ordered") as reader:
        for _ in range(count):
            with reader.recv(10) as frame:
                yield frame


def test_packets_have_all_their_times(clip: Path) -> None:
    known = packets(clip)
    assert len({pts - dts for pts, dts, _ in known}) > 1
    with va.Camera("cam", clip, va.Output("cam", "packets")):
        seen = [(f.pts, f.dts, f.duration, f.time_base) for f in read("cam", 20)]
    base = seen[0][3]
    assert base is not None
    for pts, dts, duration, _ in seen:
        # When the file begins again its times go on: the same but for a shift of its whole length.
        match = {(p - pts, d - dts, n) for p, d, n in known}
        assert any(a == b and a * base <= 0 and n == duration for a, b, n in match)
    steps = [b[1] - a[1] for a, b in itertools.pairwise(seen)]
    assert {step * base for step in steps} == {Fraction(1, 25)}


def test_nobody_has_to_parse_a_fragment_to_know_its_times(clip: Path) -> None:
    with va.Camera("cam", clip, va.Output("cam", "fmp4")):
        last = -1
        for frame in read("cam", FRAMES + 15):  # beyond the end of the file, which begins again
            data = bytes(frame.data)
            trun = boxes.find(data, b"moof", b"traf", b"trun")
            duration, _, _, offset = struct.unpack_from(">IIIi", data, trun.begin + 12)
            assert frame.dts == boxes.decode_time(data) > last
            assert frame.pts == frame.dts + offset
            assert frame.duration == duration > 0
            assert frame.time_base == Fraction(1, TIMESCALE)
            last = frame.dts


@pytest.mark.parametrize("format", ["rgb24", "jpeg"])
def test_frames_know_how_long_they_last_where_the_source_says_so(format: Any) -> None:
    with va.Camera("cam", "lavfi:testsrc=size=64x48:rate=25", va.Output("cam", format)):
        for frame in read("cam", 5):
            assert frame.duration is not None and frame.time_base is not None
            assert frame.duration * frame.time_base == Fraction(1, 25)
            assert frame.dts is None  # pixels have none


def test_what_has_sixteen_bits_is_published_with_all_of_them() -> None:
    source = "lavfi:testsrc=size=64x48:rate=25,format=gray16le"
    with av.open(source.removeprefix("lavfi:"), format="lavfi") as container:
        wanted = next(container.decode(video=0)).to_ndarray()
    with va.serve("play") as server, va.attach("play") as reader:
        with va.play(source, server, format="gray16"), reader.recv(10) as frame:
            assert (frame.format, frame.array.dtype, frame.shape) == ("gray16", np.uint16, (48, 64))
            assert np.array_equal(frame.array[0], wanted[0])  # the first row does not move
    with va.Camera("cam", source, va.Output("cam", "gray16", size=(32, 24))):
        for frame in read("cam", 2):
            assert (frame.format, frame.array.dtype, frame.shape) == ("gray16", np.uint16, (24, 32))
