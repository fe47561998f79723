"""va.Camera: one connection, one decoder, many rings; nothing without readers; and it looks after itself."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from camera_tools import FRAMES, SIZE, Clips

import valkka_async as va
from support import footage
from support.netns import in_netns
from support.rtsp import RtspServer
from support.until import wait_for
from valkka_async import typed
from valkka_async.camera.mp4.fragments import codec_string
from valkka_async.camera.pixels import swscale
from valkka_async.camera.spec import fitted
from valkka_async.ring.connection import report
from valkka_async.ring.frame import MAX_SLOTS

PASSWORD = "s3cr et/@%#?:ü"
TRACES = ("s3cr", "czNjc")  # plain and percent-encoded, and base64, begin like this
QUICK = {"retry_max": 0.3, "retry_refused": 0.3}


def wait_for_packets(camera: va.Camera, count: int) -> None:
    before = camera.status().packets
    wait_for(lambda: camera.status().packets >= before + count)


def state(camera: va.Camera) -> str:
    return camera.status().state


@contextlib.contextmanager
def mounted(rtsp: RtspServer, path: str, clip: Path) -> Iterator[str]:
    rtsp.mount(path, clip)
    yield rtsp.url(path)


def pixels(path: Path, format: str) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format=format) for frame in container.decode(video=0)]


def read_numbers(reader: va.Reader, count: int) -> list[int]:
    numbers = []
    for _ in range(count):
        with reader.recv(timeout=10) as frame:
            numbers.append(footage.read_index(frame.array))
    return numbers


@pytest.mark.parametrize("codec", ["h264", "h265", "mjpeg"])
def test_one_connection_feeds_every_format(rtsp: RtspServer, clips: Clips, codec: str) -> None:
    clip = clips(codec)
    rtsp.mount("/cam", clip, codec=codec)
    formats = {"rgb24": "rgb24", "bgr24": "bgr24", "gray8": "gray", "nv12": "nv12", "yuv420p": "yuv420p"}
    with va.Camera("cam", rtsp.url("/cam"), [va.Output(f"cam.{f}", f) for f in formats]) as camera:
        readers = {f: va.attach(f"cam.{f}", policy="ordered") for f in formats}
        try:
            for name, pix_fmt in formats.items():
                wanted = pixels(clip, pix_fmt)
                with readers[name].recv(10) as frame:
                    assert frame.format == name
                    assert any(np.array_equal(frame.array, picture) for picture in wanted), name
        finally:
            for reader in readers.values():
                reader.close()
        assert rtsp.stats()["/cam"].clients == 1
        status = camera.status()
        assert (status.state, status.reason, status.attempts, status.reconnects) == ("live", "", 1, 0)
        assert (status.width, status.height) == SIZE
        assert status.codec == {"h265": "hevc"}.get(codec, codec)


@pytest.mark.parametrize("known", [True, False])
def test_a_camera_whose_pixels_go_the_long_way_says_so(monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    if not known:
        monkeypatch.setattr(swscale, "load", lambda: None)
    outputs = [va.Output("rgb"), va.Output("gray", "gray8"), va.Output("jpeg", "jpeg")]
    with va.Camera("cam", "lavfi:testsrc=size=64x48:rate=50,format=yuv420p", outputs) as camera:
        assert camera.status().warnings == ()
        for name, slow in (("jpeg", False), ("gray", False), ("rgb", not known)):
            with va.attach(name) as reader:
                reader.recv(10)
            assert camera.status().warnings == ((va.CameraWarning.SLOW_PIXELS,) if slow else ()), name


def test_nothing_is_decoded_without_readers_and_a_new_one_sees_at_once(
    rtsp: RtspServer, clips: Clips
) -> None:
    clip = footage.encode(clips.folder / "long-gop.h264", SIZE, 500, gop=500)  # 20 s between key frames
    rtsp.mount("/cam", clip)
    with va.Camera("cam", rtsp.url("/cam")) as camera:
        wait_for(lambda: camera.status().packets > 20)
        assert camera.status().decoded == 0
        with va.attach("cam") as reader, reader.recv(timeout=5) as frame:  # and not after the next key frame
            assert footage.read_index(frame.array) > 10
        wait_for(lambda: camera.status().outputs[0].readers == 0)
        wait_for_packets(camera, 3)
        decoded, published = camera.status().decoded, camera.status().outputs[0].published
        wait_for_packets(camera, 25)
        assert camera.status().decoded == decoded
        # An hour later: the newest frame in the ring is an old one, and no reader must get it.
        asked_ns = time.time_ns()
        with va.attach("cam") as reader, reader.recv(timeout=5) as frame:
            assert frame.seq > published
            assert frame.timestamp_ns > asked_ns - 10**9


def test_key_frames_only_where_that_is_enough(rtsp: RtspServer, clips: Clips) -> None:
    rtsp.mount("/cam", clips())  # a key frame every 10 frames, 2.5 in a second
    outputs = [va.Output("keys", key_frames=True), va.Output("slow", fps=2)]
    with va.Camera("cam", rtsp.url("/cam"), outputs) as camera:
        wait_for(lambda: camera.status().key_interval > 0)
        with va.attach("keys") as keys, va.attach("slow") as slow:
            for reader in (keys, slow):
                numbers = read_numbers(reader, 4)
                assert all(number % 10 == 0 for number in numbers), numbers
            status = camera.status()
        assert status.decoded < status.packets / 3


def test_the_rate_is_limited_before_decoding_where_every_picture_is_whole(
    rtsp: RtspServer, clips: Clips
) -> None:
    rtsp.mount("/cam", clips("mjpeg"), codec="mjpeg")
    with (
        va.Camera("cam", rtsp.url("/cam"), [va.Output("cam", fps=5)]) as camera,
        va.attach("cam", policy="ordered") as reader,
    ):
        numbers = read_numbers(reader, 6)
        assert {(b - a) % FRAMES for a, b in zip(numbers, numbers[1:], strict=False)} == {5}, numbers
        status = camera.status()
        assert status.decoded <= status.packets / 5 + 2
        assert status.outputs[0].skipped > 0


def test_rates_sizes_and_formats_differ(rtsp: RtspServer, clips: Clips) -> None:
    rtsp.mount("/cam", clips())
    outputs = [va.Output("all"), va.Output("half", "gray8", size=(160, 96), fps=12.5)]
    with va.Camera("cam", rtsp.url("/cam"), outputs):
        with va.attach("all", policy="ordered") as everything, va.attach("half", policy="ordered") as half:
            numbers = read_numbers(everything, 10)
            assert all((a + 1) % FRAMES == b for a, b in zip(numbers, numbers[1:], strict=False)), numbers
            seen = []
            for _ in range(8):
                with half.recv(10) as frame:
                    assert frame.shape == (96, 160)
                    seen.append(footage.read_index(frame.array, "gray8"))
            assert {(b - a) % FRAMES for a, b in zip(seen[1:], seen[2:], strict=False)} == {2}, seen


def test_jpegs_and_packets(rtsp: RtspServer, clips: Clips) -> None:
    clip = clips()
    rtsp.mount("/cam", clip)
    outputs = [va.Output("jpeg", "jpeg", quality=95), va.Output("packets", "packets")]
    with va.Camera("cam", rtsp.url("/cam"), outputs), va.attach("jpeg") as jpegs:
        with jpegs.recv(10) as frame:
            assert frame.format == "jpeg"
            image = cv2.imdecode(frame.array, cv2.IMREAD_COLOR)
            number = footage.read_index(image, "bgr24")
            wanted = pixels(clip, "bgr24")[number]
            assert np.abs(image.astype(int) - wanted).mean() < 6
        with va.attach("packets", policy="ordered") as packets:
            decoder = av.CodecContext.create("h264", "r")
            seen = []
            for _ in range(12):
                with packets.recv(10) as frame:
                    assert frame.format == "h264"
                    if not seen and not frame.key:
                        pytest.fail("a late reader begins with a key frame")
                    packet = av.Packet(bytes(frame.data))
                    seen += [p.to_ndarray(format="rgb24") for p in decoder.decode(packet)]
                    seen = seen or []
            numbers = [footage.read_index(image) for image in seen]
            assert len(numbers) > 8
            assert all((a + 1) % FRAMES == b for a, b in zip(numbers, numbers[1:], strict=False)), numbers


def play_fragments(header: bytes, fragments: list[bytes]) -> list[int]:
    """The numbers in the frames that a player sees."""
    with av.open(io.BytesIO(header + b"".join(fragments))) as container:
        return [footage.read_index(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_fragments_play_over_a_reconnect_and_a_new_resolution(
    rtsp: RtspServer, clips: Clips, codec: str
) -> None:
    rtsp.mount("/cam", clips(codec), codec=codec)
    with va.Camera("cam", rtsp.url("/cam"), [va.Output("cam", "fmp4")], **QUICK) as camera:  # type: ignore[arg-type]
        wait_for(lambda: state(camera) == "live")
        streams: list[tuple[bytes, list[bytes]]] = []
        last = -1
        with va.attach("cam", policy="ordered") as reader:
            for step in range(500):
                if step == 20:
                    rtsp.drop("/cam")
                if step == 40:
                    rtsp.switch("/cam", clips(codec, size=(480, 272)))
                if len(streams) == 2 and len(streams[1][1]) == 20:
                    break
                with reader.recv(10) as frame:
                    assert frame.format == "fmp4" and frame.pts is not None and frame.pts > last
                    last = frame.pts
                    if not streams or streams[-1][0] != reader.header:
                        assert frame.key
                        streams.append((reader.header, []))
                    streams[-1][1].append(bytes(frame.data))
        assert len(streams) == 2
        assert camera.status().decoded == 0 and camera.status().reconnects == 1
        for header, fragments in streams:
            assert codec_string(header).startswith({"h264": "avc1.", "h265": "hvc1."}[codec])
            assert len(play_fragments(header, fragments)) == len(fragments)


def test_what_one_output_cannot_do_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    outputs = [va.Output("odd", "nv12"), va.Output("good")]
    with va.Camera("cam", "lavfi:testsrc=size=321x193:rate=25", outputs) as camera:
        with va.attach("odd") as odd, va.attach("good") as good:
            for _ in range(10):
                with good.recv(10) as frame:
                    assert frame.shape == (193, 321, 3)
            assert odd.recv_nowait() is None
            assert camera.status().outputs[0].dropped >= 5
    assert caplog.text.count("even width") == 1  # said once


def test_fragments_of_pictures_that_are_not_encoded_are_refused_aloud(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Such a source has no key frames, for which a ring of fragments waits."""
    with va.Camera("cam", "lavfi:testsrc=size=64x48:rate=25", [va.Output("cam", "fmp4")]) as camera:
        with va.attach("cam"):
            wait_for(lambda: "fragmented MP4 does not carry raw video here" in caplog.text)
        assert camera.status().codec == "raw video"


@pytest.mark.parametrize("how", ["kill", "drop", "freeze", "pause"])
def test_a_camera_that_goes_comes_back_by_itself(shared_rtsp: RtspServer, clips: Clips, how: str) -> None:
    goes_and_comes_back(clips(), how, "tcp")


@in_netns
def test_over_udp_it_comes_back_too(shared_rtsp: RtspServer, clips: Clips) -> None:
    for how in ("kill", "drop", "freeze", "pause"):
        goes_and_comes_back(clips(), how, "udp")


def goes_and_comes_back(clip: Path, how: str, transport: str) -> None:
    options = QUICK | {"read_timeout": 1.0, "open_timeout": 2.0, "transport": transport}
    with (
        RtspServer(deadline=60) as rtsp,
        mounted(rtsp, "/cam", clip) as url,
        va.Camera("cam", url, **options) as camera,  # type: ignore[arg-type]
        va.attach("cam") as reader,
    ):
        first = reader.recv(10)
        gone = time.time_ns()
        if how == "kill":
            rtsp.kill()
            wait_for(lambda: state(camera) in ("waiting", "connecting"))
            wait_for(lambda: camera.status().attempts >= 3)
            assert camera.status().reason
            rtsp.restart()
        elif how == "drop":
            rtsp.drop("/cam")
        elif how == "freeze":
            rtsp.freeze()
            wait_for(lambda: camera.status().attempts >= 2)
            rtsp.thaw()
        else:
            rtsp.pause("/cam")  # RTCP goes on: bytes, but no frames
            wait_for(lambda: camera.status().attempts >= 2)
            rtsp.resume("/cam")
        frame = reader.recv(15)
        while frame.timestamp_ns < gone or camera.status().reconnects == 0:
            frame.release()
            frame = reader.recv(15)
        assert frame.seq > first.seq
        wait_for(lambda: state(camera) == "live")
        assert camera.status().reason == ""
        first.release()
        frame.release()


def test_a_pause_is_seen_as_a_stall(rtsp: RtspServer, clips: Clips) -> None:
    rtsp.mount("/cam", clips())
    with va.Camera("cam", rtsp.url("/cam"), read_timeout=30) as camera:
        wait_for(lambda: state(camera) == "live")
        rtsp.pause("/cam")
        wait_for(lambda: state(camera) == "stalled")
        assert "no frame" in camera.status().reason
        rtsp.resume("/cam")
        wait_for(lambda: state(camera) == "live")
        assert camera.status().attempts == 1


def test_a_wrong_password_is_said_and_tried_seldom(
    rtsp: RtspServer, clips: Clips, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    rtsp.mount("/cam", clips(), auth=("dora", "another", "digest"))
    url = rtsp.url("/cam", "dora", PASSWORD)
    with va.Camera("cam", url, retry_refused=2) as camera:
        wait_for(lambda: (status := camera.status()).state == "failed" and (status.retry_in or 0) > 0.5)
        assert "password" in camera.status().reason
        rtsp.unmount("/cam")
        rtsp.mount("/cam", clips(), auth=("dora", PASSWORD, "digest"))
        wait_for(lambda: state(camera) == "live")
        told = [repr(camera), repr(camera.spec), str(camera.status()), json.dumps(report("cam", 5))]
    told.append(caplog.text)
    assert not [text for text in told for trace in TRACES if trace in text]


def test_only_sound_and_a_wrong_path_are_said(rtsp: RtspServer) -> None:
    rtsp.mount("/sound", audio=True)
    for path, words in (("/sound", "no video"), ("/nowhere", "no such stream")):
        with va.Camera("cam", rtsp.url(path)) as camera:
            wait_for(lambda camera=camera: state(camera) == "failed")  # type: ignore[misc]
            assert words in camera.status().reason


def test_any_process_can_ask_how_a_camera_is(rtsp: RtspServer, clips: Clips) -> None:
    rtsp.mount("/cam", clips())
    with va.Camera("cam", rtsp.url("/cam"), [va.Output("one"), va.Output("two", fps=1)]) as camera:
        wait_for(lambda: state(camera) == "live")
        for name in ("one", "two"):
            values = report(name, 5)
            assert values is not None
            status = typed.decode(va.CameraStatus, values["camera"])
            assert (status.name, status.state, status.codec) == ("cam", "live", "h264")
            assert [o.name for o in status.outputs] == ["one", "two"]
            assert 20 < status.fps < 30 or status.packets < 50
            assert status.cpu_s >= 0


def test_a_new_resolution(rtsp: RtspServer, clips: Clips) -> None:
    rtsp.mount("/cam", clips())
    with va.Camera("cam", rtsp.url("/cam")) as camera, va.attach("cam") as reader:
        assert reader.recv(10).shape == (192, 320, 3)
        rtsp.switch("/cam", clips(size=(480, 272)))
        deadline = time.monotonic() + 10
        while (frame := reader.recv(10)).shape != (272, 480, 3):
            assert time.monotonic() < deadline
            frame.release()
        assert footage.read_index(frame.array) < FRAMES
        assert (camera.status().width, camera.status().height) == (480, 272)
        assert camera.status().attempts == 1
        frame.release()


def test_one_side_of_a_size_may_be_left_open_and_follows_the_camera(rtsp: RtspServer, clips: Clips) -> None:
    rtsp.mount("/cam", clips(size=(320, 192)))
    outputs = [va.Output("wide", "nv12", size=(160, None)), va.Output("high", "jpeg", size=(None, 96))]
    with (
        va.Camera("cam", rtsp.url("/cam"), outputs),
        va.attach("wide") as wide,
        va.attach("high") as high,
    ):
        for camera_size, pixels_of_wide, size_of_high in (
            ((320, 192), (144, 160), (160, 96)),
            ((320, 96), (72, 160), (320, 96)),
        ):
            rtsp.switch("/cam", clips(size=camera_size))
            wait_for(lambda shape=pixels_of_wide: wide.recv(10).shape == shape)  # type: ignore[misc]
            wait_for(lambda size=size_of_high: size_of_jpeg(high.recv(10)) == size)  # type: ignore[misc]


def size_of_jpeg(frame: va.Frame) -> tuple[int, int]:
    with frame, av.open(io.BytesIO(frame.data), format="mjpeg") as file:
        picture = next(file.decode(video=0))
        return picture.width, picture.height


@pytest.mark.parametrize(
    ("size", "fits"),
    [
        (None, None),
        ((640, 480), (640, 480)),
        ((640, None), (640, 360)),
        ((None, 270), (480, 270)),
        ((333, None), (333, 188)),  # 187.3
        ((1, None), (1, 2)),
        ((None, 16384), (16384, 16384)),
    ],
)
def test_the_side_left_open_keeps_the_proportions(
    size: tuple[int | None, int | None] | None, fits: tuple[int, int] | None
) -> None:
    assert fitted(size, 1920, 1080) == fits


def test_a_file_is_a_camera_that_begins_again(clips: Clips) -> None:
    with va.Camera("cam", clips("h264", bframes=2)) as camera, va.attach("cam", policy="ordered") as reader:
        last, ages = None, []
        for _ in range(FRAMES + 10):
            with reader.recv(10) as frame:
                ages.append(frame.age)
                assert last is None or (frame.pts is not None and frame.pts > last)
                last = frame.pts
        assert sorted(ages)[len(ages) // 2] < 1  # a busy machine may stand still for a moment
        assert camera.status().reconnects >= 1


def test_a_missing_file_is_waited_for(clips: Clips, tmp_path: Path) -> None:
    path = tmp_path / "later.h264"
    with va.Camera("cam", path, retry_refused=0.2) as camera, va.attach("cam") as reader:
        wait_for(lambda: state(camera) == "failed")
        os.link(clips(), path)
        reader.recv(10).release()


async def test_in_asyncio(rtsp: RtspServer, clips: Clips) -> None:
    rtsp.mount("/cam", clips())
    async with va.Camera("cam", rtsp.url("/cam")) as camera, va.connect("cam") as client:
        seen = 0
        async for frame in client:
            with frame:
                seen += footage.read_index(frame.array) >= 0
            if seen == 10:
                break
    assert camera.status().state == "stopped"
    await camera.aclose()


def test_many_reconnects_leave_nothing(rtsp: RtspServer, clips: Clips) -> None:
    rtsp.mount("/cam", clips())
    outputs = [va.Output("cam"), va.Output("cam.mp4", "fmp4")]
    with (
        va.Camera("cam", rtsp.url("/cam"), outputs, retry_max=0.1) as camera,
        va.attach("cam") as reader,
        va.attach("cam.mp4") as stream,
    ):
        sizes = []
        for round in range(60):
            wait_for(lambda before=round: camera.status().reconnects >= before)  # type: ignore[misc]
            with reader.recv(10) as frame:
                assert frame.shape
            while stream.recv_nowait():
                pass
            rtsp.drop("/cam")
            if round % 6 == 0:
                gc.collect()
                sizes.append((_rss(), len(os.listdir("/proc/self/fd"))))
        assert camera.status().attempts >= 60
        # The first rounds fill caches and pools.
        assert sizes[-1][0] < sizes[2][0] + 8e6, sizes
        assert max(fds for _, fds in sizes[1:]) <= sizes[1][1] + 4, sizes


def _rss() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(autouse=True)
def quiet_pyav() -> Iterator[None]:
    """60 connections that break off have much to say."""
    level = logging.getLogger("libav").level
    yield
    logging.getLogger("libav").setLevel(level)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"name": "a b"}, "name"),
        ({"url": "rtsp://u:p@"}, "host"),
        ({"transport": "smoke"}, "transport"),
        ({"read_timeout": 0}, "read_timeout"),
        ({"outputs": [va.Output("a"), va.Output("a", "gray8")]}, "two outputs"),
        ({"hwaccel": "abacus"}, "abacus"),
        ({"thread_count": 1.5}, "thread_count"),
        ({"options": {"probesize": 32}}, "options"),
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, object], words: str) -> None:
    good: dict[str, object] = {"name": "cam", "url": "rtsp://127.0.0.1:9/x"}
    with pytest.raises(ValueError, match=words):
        va.Camera(**(good | wrong)).close()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"format": "yuv"},
        {"size": (0, 5)},
        {"size": (3, 4), "format": "nv12"},
        {"size": (3, None), "format": "nv12"},
        {"size": (None, None)},
        {"size": (640,)},
        {"fps": 0},
        {"format": "fmp4", "fps": 5},
        {"quality": 0},
        {"slots": 1},
        {"slots": MAX_SLOTS + 1},
        {"slots": 5000},
        {"slots": 2.5},
    ],
)
def test_outputs_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="output 'x'"):
        va.Output("x", **wrong)  # type: ignore[arg-type]


def test_what_an_output_may_ask_for_a_server_can_serve() -> None:
    for slots in (2, MAX_SLOTS):
        output = va.Output("x", slots=slots)
        with va.serve("x", slots=output.slots) as server:
            assert server.stats().slots == slots


def test_a_single_output_needs_no_list() -> None:
    with va.Camera("cam", "lavfi:testsrc=size=64x48:rate=25", va.Output("one", "gray8")) as camera:
        assert [output.name for output in camera.spec.outputs] == ["one"]
        with va.attach("one") as reader:
            assert reader.recv(10).shape == (48, 64)
