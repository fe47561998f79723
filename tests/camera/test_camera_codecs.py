"""What is not H.264 or H.265 is recorded too where MP4 carries it, and where it does not, that is said."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import valkka_async as va
from support.until import until
from valkka_async.camera.mp4.boxes import codec_string
from valkka_async.camera.mp4.fragments import Muxer
from valkka_async.service.config.file import load
from valkka_async.service.config.problems import ConfigError
from valkka_async.service.service import Service

FRAMES = 8


def film(path: Path, encoder: str) -> Path:
    """Frames whose grey level is twenty times their number, ten a second."""
    with av.open(path, "w") as out:
        video = out.add_stream(encoder, rate=10)
        video.width, video.height = 128, 96
        video.pix_fmt = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(encoder, "yuv420p")
        if encoder == "libsvtav1":
            video.options = {"preset": "12", "svtav1-params": "lookahead=0"}
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((96, 128, 3), 20 * number + 40, np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    # SVT, run by root, gives its caller real-time priority for good.
    with contextlib.suppress(OSError):  # musl has no such function
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


CODECS = [
    ("mjpeg", "avi", "mp4v"),
    ("mjpeg", "mkv", "mp4v"),
    ("mpeg4", "avi", "mp4v"),
    ("mpeg4", "ts", "mp4v"),
    ("libvpx-vp9", "webm", "vp09.00."),
    ("libvpx-vp9", "ivf", "vp09.00."),
    ("libsvtav1", "mp4", "av01.0."),
    ("libsvtav1", "webm", "av01.0."),
]


@pytest.mark.parametrize(("encoder", "kind", "name"), CODECS)
def test_mp4_carries_it(encoder: str, kind: str, name: str, tmp_path: Path) -> None:
    path = film(tmp_path / f"f.{kind}", encoder)
    data = b""
    with av.open(path) as source:
        stream = source.streams.video[0]
        muxer = Muxer(stream)
        for packet in source.demux(stream):
            if packet.size:
                data += b"".join(fragment.data for fragment in muxer.mux(packet, 0))
    assert codec_string(muxer.init_segment).startswith(name)
    with av.open(io.BytesIO(muxer.init_segment + data)) as result:
        frames = list(result.decode(video=0))
    levels = [round((float(frame.to_ndarray(format="gray").mean()) - 40) / 20) for frame in frames]
    assert levels == [*range(FRAMES)]
    times = [float(frame.pts * frame.time_base) for frame in frames]
    assert np.allclose(np.diff(times), 0.1, atol=0.02)


@pytest.mark.parametrize("encoder", ["mjpeg", "libvpx-vp9", "mpeg4"])
async def test_a_camera_of_it_is_recorded(encoder: str, tmp_path: Path) -> None:
    kind = {"mjpeg": "avi", "mpeg4": "avi"}.get(encoder, "webm")
    path = film(tmp_path / f"f.{kind}", encoder)
    async with va.Camera("cam", path, va.Output("cam.fmp4", "fmp4")):
        async with va.Recorder("cam.fmp4", str(tmp_path / "out-%f.mp4"), seconds=60) as recorder:
            await until(lambda: recorder.stats().bytes > 3000)
    (file,) = tmp_path.glob("out-*.mp4")
    with av.open(file) as result:
        assert sum(1 for _ in result.decode(video=0)) >= 3


@pytest.mark.parametrize("encoder", ["libvpx", "png", "ffv1"])
async def test_what_cannot_be_recorded_is_a_failure_and_not_silence(encoder: str, tmp_path: Path) -> None:
    path = film(tmp_path / f"f.{'webm' if encoder == 'libvpx' else 'avi'}", encoder)
    (tmp_path / "c.yaml").write_text(f"cameras: {{a: {{url: {path}, outputs: [], record: true}}}}")
    config = await asyncio.to_thread(load, tmp_path / "c.yaml")
    async with Service(config) as service:
        await until(lambda: service.status().cameras[0].recording.state == "failed")  # type: ignore[union-attr]
        recording = service.status().cameras[0].recording
        assert recording is not None and recording.error is not None
        assert recording.error.cause == "format" and "H.264" in recording.error.text


@pytest.mark.parametrize("graph", ["testsrc", "testsrc=size=64x48:rate=5", "color=red"])
def test_check_refuses_to_record_what_is_not_encoded(graph: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"cameras: {{a: {{url: 'lavfi:{graph}', record: true}}}}")
    with pytest.raises(ConfigError, match="not encoded"):
        load(tmp_path / "c.yaml")
