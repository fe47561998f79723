"""A real RTSP server: pixels, capture times, changes in mid-stream, cameras that die."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from camera_tools import FRAMES, Clips, ring
from proxy import Proxy

import valkka_async as va
from support import footage
from support.netns import in_netns
from support.require import missing
from support.rtsp import RtspServer
from support.until import measured
from valkka_async.camera.play import PlayerStats, play


class Seen(NamedTuple):
    number: int  # the one in the picture
    timestamp_ns: int
    pts: int | None
    image: Any


def receive(reader: va.Reader, count: int) -> list[Seen]:
    taken = []
    for _ in range(count):
        with reader.recv(timeout=30) as frame:
            taken.append((frame.timestamp_ns, frame.pts, frame.array.copy()))
    # Afterwards: a reader that takes its time loses frames.
    return [Seen(footage.read_index(image), stamp, pts, image) for stamp, pts, image in taken]


def decoded(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def check_pictures(seen: list[Seen], path: Path) -> None:
    wanted = decoded(path)
    for one in seen:
        assert np.array_equal(one.image, wanted[one.number]), one.number
    numbers = [one.number for one in seen]
    assert all((a + 1) % FRAMES == b for a, b in zip(numbers, numbers[1:], strict=False)), numbers


def check_capture_times(
    rtsp: RtspServer, path: str, seen: list[Seen], period_ms: float, early_ms: float = 0.0
) -> None:
    """Not before the server pushed the frame, and mostly less than a frame period after."""
    log = rtsp.stats()[path].log
    # The first frames arrive while the source is being opened. The clip is played in a loop.
    delays = [
        min(((one.timestamp_ns - push.time_ns) / 1e6 for push in log if push.frame == one.number), key=abs)
        for one in seen[2:]
    ]
    assert min(delays) > -early_ms, delays
    assert statistics.median(delays) < period_ms, delays


@pytest.mark.parametrize(
    ("codec", "bframes", "size"),
    [
        ("h264", 0, (1366, 768)),
        ("h264", 0, (852, 480)),
        ("h264", 2, (320, 192)),
        ("h265", 0, (854, 480)),
        ("h265", 2, (320, 192)),
        ("mjpeg", 0, (640, 480)),
    ],
)
def test_pictures_and_capture_times_over_tcp(
    rtsp: RtspServer, clips: Clips, codec: str, bframes: int, size: tuple[int, int]
) -> None:
    clip = clips(codec, size, "bt709" if codec != "mjpeg" else None, bframes=bframes)
    rtsp.mount("/cam", clip, codec=codec, fps=10)

    def measure() -> tuple[list[Seen], PlayerStats]:
        with ring() as (server, reader), play(rtsp.url("/cam"), server) as player:
            seen = receive(reader, 14)
            check_capture_times(rtsp, "/cam", seen, 100)
            assert player.error is None
            return seen, player.stats()

    seen, stats = measured(measure)
    check_pictures(seen, clip)
    pts = [one.pts for one in seen if one.pts is not None]
    assert len(pts) >= 13 and pts == sorted(set(pts))
    assert (stats.errors, stats.dropped, stats.skipped) == (0, 0, 0)


@in_netns
def test_udp_pictures_capture_times_and_close_of_a_silent_camera(rtsp: RtspServer, clips: Clips) -> None:
    for codec in ("h264", "h265", "mjpeg"):
        clip = clips(codec)
        rtsp.mount(f"/{codec}", clip, codec=codec, fps=10)
        with (
            ring() as (server, reader),
            play(rtsp.url(f"/{codec}"), server, transport="udp", read_timeout=600) as player,
        ):
            seen = receive(reader, 12)
            check_pictures(seen, clip)
            check_capture_times(rtsp, f"/{codec}", seen, 100)
            rtsp.pause(f"/{codec}")
            time.sleep(0.1)
            player.close()
        rtsp.wait_clients(f"/{codec}", 0)


def test_the_frame_before_a_pause_is_not_dated_after_it(rtsp: RtspServer, clips: Clips) -> None:
    rtsp.mount("/cam", clips(), fps=10)

    def measure() -> list[Seen]:
        with ring() as (server, reader), play(rtsp.url("/cam"), server):
            seen = receive(reader, 5)
            rtsp.pause("/cam")
            time.sleep(1)
            rtsp.resume("/cam")
            seen += receive(reader, 8)
            check_capture_times(rtsp, "/cam", seen, 100)
            return seen

    seen = measured(measure)
    gaps = [b.timestamp_ns - a.timestamp_ns for a, b in zip(seen, seen[1:], strict=False)]
    assert max(gaps) > 0.8e9


def test_a_stream_that_is_described_poorly_plays(rtsp: RtspServer, clips: Clips) -> None:
    rtsp.mount("/cam", clips(), fps=20, audio=True)
    with Proxy(rtsp.port, rb"sprop-parameter-sets=[^;\r]*;?") as proxy, ring() as (server, reader):
        with play(f"rtsp://127.0.0.1:{proxy.port}/cam", server):
            seen = receive(reader, 5)
        assert proxy.removed == 1
    check_pictures(seen, clips())


def test_what_was_read_ahead_to_find_out_about_a_stream_is_dated_back(rtsp: RtspServer, clips: Clips) -> None:
    rtsp.mount("/cam", clips(), fps=10)
    options = {"probesize": "5000000"}  # as for a stream that needs it

    def measure() -> None:
        with ring() as (server, reader), play(rtsp.url("/cam"), server, options=options):
            seen = receive(reader, 25)
            check_capture_times(rtsp, "/cam", seen, 200, early_ms=90)  # RTP time, not arrivals

    measured(measure)


def test_a_resolution_change_in_mid_stream_goes_through(rtsp: RtspServer, clips: Clips) -> None:
    rtsp.mount("/cam", clips(), fps=25)
    with (
        ring() as (server, reader),
        va.serve("fixed") as fixed,
        va.attach("fixed", policy="ordered") as fixed_reader,
        play(rtsp.url("/cam"), server) as player,
        play(rtsp.url("/cam"), fixed, size=(160, 96)) as scaled,
    ):
        receive(reader, 3)
        rtsp.switch("/cam", clips(size=(640, 368), first=1000))
        deadline = time.monotonic() + 10
        shape = (192, 320, 3)
        while shape != (368, 640, 3):
            assert time.monotonic() < deadline
            with reader.recv(timeout=10) as frame:
                shape, number = frame.shape, footage.read_index(frame.array)
        assert number >= 1000
        number = 0
        while number < 1000:
            with fixed_reader.recv(timeout=10) as frame:
                assert frame.shape == (96, 160, 3)
                number = footage.read_index(frame.array)
        assert player.running and scaled.running


def test_the_rate_limit_thins_a_live_stream_evenly(rtsp: RtspServer, clips: Clips) -> None:
    rtsp.mount("/cam", clips(), fps=25)
    with ring() as (server, reader), play(rtsp.url("/cam"), server, fps=10) as player:
        numbers = [one.number for one in receive(reader, 15)]
        stats = player.stats()
    steps = [(b - a) % FRAMES for a, b in zip(numbers, numbers[1:], strict=False)]
    assert set(steps[1:]) <= {2, 3}, steps
    assert stats.published + stats.skipped == pytest.approx(stats.decoded, abs=1)
    assert stats.published == pytest.approx(stats.decoded * 0.4, abs=2)


def test_a_camera_that_is_switched_off_ends_the_player(rtsp: RtspServer, clips: Clips) -> None:
    with RtspServer() as camera, ring() as (server, reader):
        camera.mount("/cam", clips())
        with play(camera.url("/cam"), server) as player:
            receive(reader, 3)
            camera.kill()
            with pytest.raises(va.CameraEndedError):
                player.join(10)
            assert isinstance(player.error, va.CameraEndedError)
            assert not server.closed and "CameraEndedError" in repr(player)
            with pytest.raises(va.CameraEndedError):
                player.join()


@pytest.mark.parametrize("how", ["freeze", "pause"])
def test_a_camera_that_hangs_ends_the_player_after_the_read_timeout(
    rtsp: RtspServer, clips: Clips, how: str
) -> None:
    rtsp.mount("/cam", clips())
    with ring() as (server, reader), play(rtsp.url("/cam"), server, read_timeout=1.0) as player:
        receive(reader, 3)
        rtsp.freeze() if how == "freeze" else rtsp.pause("/cam")
        begin = time.monotonic()
        with pytest.raises(va.CameraTimeoutError, match="read_timeout") as caught:
            player.join(30)
        assert isinstance(caught.value, TimeoutError)
        assert time.monotonic() - begin > 0.8


def test_close_of_one_frozen_camera_leaves_the_others_of_the_same_host_alone(
    rtsp: RtspServer, clips: Clips
) -> None:
    rtsp.mount("/cam", clips())
    servers = [va.serve(f"cam{n}") for n in range(4)]
    players = [play(rtsp.url("/cam"), server, read_timeout=60) for server in servers]
    for player in players:
        while not player.stats().published:
            assert player.running
            time.sleep(0.01)
    rtsp.freeze()
    time.sleep(0.2)
    begin = time.monotonic()
    players[1].close()
    assert time.monotonic() - begin < 30
    rtsp.thaw()
    for n in (0, 2, 3):
        before = players[n].stats().published
        while players[n].stats().published < before + 5:
            assert players[n].running, players[n].error
            time.sleep(0.01)
    for player in players:
        player.close()
    for server in servers:
        server.close()
    rtsp.wait_clients("/cam", 0)


def test_real_footage_goes_through(rtsp: RtspServer, tmp_path: Path) -> None:
    """Cyclists in a street."""
    try:
        video = footage.bikes(Path(__file__).parents[2] / ".cache")
        clip = footage.to_elementary(video, tmp_path / "bikes.h264", frames=50)
    except footage.FootageUnavailable as e:
        missing(str(e))
    rtsp.mount("/cam", clip, fps=25)
    wanted = {picture.tobytes() for picture in decoded(clip)}
    with ring() as (server, reader), play(rtsp.url("/cam"), server):
        for _ in range(10):
            with reader.recv(timeout=10) as frame:
                assert frame.shape == (272, 640, 3)
                assert frame.array.tobytes() in wanted
