"""JPEGs show the frame's own picture, whatever the stream is in; seen with another decoder, OpenCV's."""

from __future__ import annotations

import os
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.frame import VideoFrame
from camera_tools import Clips

from support import footage
from support.rtsp import RtspServer
from valkka_async.camera.pixels.jpeg import JpegEncoder, quantiser
from valkka_async.errors import CameraFormatError

Image = Any


def picture(path: Path) -> VideoFrame:
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


def soft(size: tuple[int, int], format: str = "rgb24") -> VideoFrame:
    """A picture without sharp edges, which half the resolution of the colours would blur."""
    width, height = size
    noise = np.random.default_rng(1).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    image: Any = cv2.resize(noise, (max(width, 640), max(height, 360)), interpolation=cv2.INTER_CUBIC)
    return VideoFrame.from_ndarray(image[:height, :width].copy(), format="rgb24").reformat(format=format)


def shown(jpeg: bytes) -> Image:
    """What a viewer sees, as RGB."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image[..., ::-1].astype(int)


def check(jpeg: bytes, frame: VideoFrame, size: tuple[int, int] | None = None, blur: int = 0) -> None:
    """It is the frame's own picture. `blur` where sharp edges do not survive in the colours."""
    width, height = size or (frame.width, frame.height)
    wanted: Image = frame.to_ndarray(format="rgb24", width=width, height=height).astype(np.float32)
    got = shown(jpeg).astype(np.float32)
    assert got.shape == wanted.shape
    if blur:
        got, wanted = cv2.blur(got, (blur, blur)), cv2.blur(wanted, (blur, blur))
    off = np.abs(got - wanted)
    assert off.mean() < 3 and np.percentile(off, 99) < 12, (off.mean(), np.percentile(off, 99))


def segments(jpeg: bytes) -> list[int]:
    """The markers before the picture's data."""
    found, at = [], 2
    while jpeg[at + 1] != 0xDA:
        found.append(jpeg[at + 1])
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
    return found


@pytest.mark.parametrize("colorspace", ["bt709", "bt601", None])
@pytest.mark.parametrize("range", ["limited", "full"])
def test_colours_are_right_whatever_the_stream_is_in(
    clips: Clips, colorspace: str | None, range: str
) -> None:
    frame = picture(clips(size=(640, 368), colorspace=colorspace, range=range))
    jpeg = JpegEncoder(95).encode(frame)
    for patch, wanted in zip(footage.read_patches(shown(jpeg)), footage.PATCHES, strict=True):
        assert patch == pytest.approx(wanted, abs=8)
    check(jpeg, frame, blur=9)
    scaled = JpegEncoder(95, (320, 184)).encode(frame)
    check(scaled, frame, (320, 184), blur=9)
    assert footage.read_index(shown(scaled)) == 0


def test_colours_of_an_mjpeg_camera_are_not_squeezed(clips: Clips) -> None:
    frame = picture(clips("mjpeg", size=(640, 368)))
    assert frame.format.name == "yuvj420p"
    check(JpegEncoder(95).encode(frame), frame, blur=9)


@pytest.mark.parametrize(
    "format",
    ["rgb24", "gray", "yuv422p", "yuvj422p", "yuv444p", "nv12", "yuv420p10le", "p010le", "gbrp", "yuyv422"],
)
def test_all_pixel_formats_of_cameras_and_cards_will_do(format: str) -> None:
    frame = soft((320, 192), format)
    check(JpegEncoder(95).encode(frame), frame)


@pytest.mark.parametrize(
    "size", [(853, 479), (852, 480), (1366, 767), (641, 361), (33, 17), (17, 33), (1, 1)]
)
def test_odd_sizes(size: tuple[int, int]) -> None:
    for format in ("yuv420p", "yuvj420p", "nv12"):
        frame = soft(size, format)
        check(JpegEncoder(95).encode(frame), frame)
        frame.colorspace = 1  # BT.709: another way through the scaler
        check(JpegEncoder(95).encode(frame), frame)
    large = soft((640, 360), "yuv420p")
    scaled = JpegEncoder(95, size).encode(large)
    assert shown(scaled).shape[1::-1] == size
    if min(size) > 100:
        check(scaled, large, size)


def test_one_encoder_follows_a_stream_that_changes(clips: Clips) -> None:
    encoder = JpegEncoder(95)
    frames = [
        soft((320, 192), "yuv420p"),
        soft((640, 368), "yuv420p"),
        picture(clips("mjpeg", size=(640, 368))),
        soft((641, 367), "nv12"),
        soft((640, 184), "yuv420p"),
    ]
    for n in (0, 1, 2, 3, 0, 2, 4, 1, 0):
        check(encoder.encode(frames[n]), frames[n])


def test_times_do_not_matter_and_the_frame_is_left_as_it_was() -> None:
    encoder = JpegEncoder()
    for colours in ((2, 0), (5, 2)):  # the second needs no conversion, so the encoder gets the frame itself
        frame = soft((320, 192), "yuv420p")
        frame.colorspace, frame.color_range = colours
        first = encoder.encode(frame)
        for pts in (7, 7, 3, None, -5, 1 << 40):
            frame.pts, frame.time_base, frame.pict_type = pts, Fraction(1, 90000), 3
            before = [bytes(plane) for plane in frame.planes]
            assert encoder.encode(frame) == first
            assert (frame.pts, frame.time_base, frame.pict_type) == (pts, Fraction(1, 90000), 3)
            assert [bytes(plane) for plane in frame.planes] == before


def test_a_picture_that_lies_bottom_up() -> None:
    with av.open("testsrc=size=64x48:duration=0.1,format=yuv420p,vflip", format="lavfi") as container:
        frame = next(container.decode(video=0))
    check(JpegEncoder(95).encode(frame), frame, blur=9)


def test_quality_is_about_that_of_libjpeg(clips: Clips) -> None:
    """Neither much larger nor much worse, at the same number."""
    frame = picture(clips(size=(640, 368)))
    rgb = frame.to_ndarray(format="rgb24")
    sizes = []
    for quality in (20, 40, 50, 60, 70, 80, 90):
        jpeg = JpegEncoder(quality).encode(frame)
        theirs = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        assert 0.5 < len(jpeg) / len(theirs) < 1.5, quality
        error, their_error = (np.abs(shown(j) - rgb).mean() for j in (jpeg, theirs))
        assert error < 1.5 * their_error + 0.5, quality
        sizes.append(len(jpeg))
    assert sizes == sorted(set(sizes))


def test_quality_goes_from_1_to_100_without_a_step_back() -> None:
    steps = [quantiser(quality) for quality in range(1, 101)]
    assert steps == sorted(steps, reverse=True) and steps[0] == 31 and steps[-1] == 1
    assert quantiser(80) == 3 and quantiser(50) == 8


def test_what_browsers_get_is_a_plain_baseline_jpeg_with_its_tables() -> None:
    jpeg = JpegEncoder().encode(soft((320, 192), "yuv420p"))
    assert jpeg[:2] == b"\xff\xd8" and jpeg[-2:] == b"\xff\xd9"
    markers = segments(jpeg)
    assert {0xDB, 0xC4, 0xC0} <= set(markers)  # quantisers, Huffman tables, baseline
    assert not {0xC1, 0xC2, 0xFE} & set(markers)  # nothing progressive, no comment


def resident_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])


def test_nothing_stays_behind_of_a_frame_or_a_change_of_size() -> None:
    encoder = JpegEncoder(100)
    frames = [soft((640, 368), "yuv420p"), soft((320, 192), "yuvj420p")]
    size = len(encoder.encode(frames[0]))

    def work() -> None:
        for _ in range(60):
            for frame in frames:
                for _ in range(10):
                    encoder.encode(frame)

    work()
    before = resident_kb()
    work()
    assert size > 10_000  # so that 600 lost ones would be seen
    assert resident_kb() - before < 3000


def test_it_works_in_the_callers_thread_alone() -> None:
    frame = soft((1280, 720), "yuv420p")  # PyAV 19 keeps the threads that it makes for this
    before = set(os.listdir("/proc/self/task"))
    encoder = JpegEncoder(80, (320, 192))
    encoder.encode(frame)
    assert set(os.listdir("/proc/self/task")) <= before


def test_packets_of_an_mjpeg_camera_are_whole_jpegs(rtsp: RtspServer, clips: Clips) -> None:
    """RTP leaves the tables out (RFC 2435), and FFmpeg puts them in again: they can be published as they
    are."""
    rtsp.mount("/cam", clips("mjpeg", size=(640, 368)), codec="mjpeg", fps=20)
    options = {"rtsp_transport": "tcp", "timeout": "5000000", "probesize": "32"}
    deadline = time.monotonic() + 20
    with av.open(rtsp.url("/cam"), options=options) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for count, packet in enumerate(container.demux(stream)):
            assert time.monotonic() < deadline
            jpeg = bytes(packet)
            assert {0xDB, 0xC4, 0xC0} <= set(segments(jpeg)) and jpeg[-2:] == b"\xff\xd9"
            (frame,) = packet.decode()
            check(jpeg, frame, blur=9)
            if count == 3:
                break


@pytest.mark.parametrize(
    ("quality", "size"),
    [(0, None), (101, None), (80, (0, 5)), (80, (5,)), (80, (5.0, 4.0)), (80, (99999, 5)), (-1, None)],
)
def test_arguments_that_make_no_sense_are_refused(quality: int, size: Any) -> None:
    with pytest.raises(ValueError, match="quality|size"):
        JpegEncoder(quality, size)


def test_what_ffmpeg_cannot_convert_is_a_clear_error_and_the_next_frame_works() -> None:
    encoder = JpegEncoder()
    with pytest.raises(CameraFormatError, match="64x48 frame in bgr4 cannot be made a 64x48 JPEG"):
        encoder.encode(VideoFrame(64, 48, "bgr4"))
    frame = soft((64, 48), "yuv420p")
    check(encoder.encode(frame), frame)
