"""The test-suite's RTSP server and footage do what the other tests take for granted."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from support import footage
from support.netns import in_netns
from support.require import missing
from support.rtsp import Push, RtspError, RtspServer, rtsp_available

FORMATS = {"h264": "h264", "h265": "hevc", "mjpeg": "mjpeg"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """40 frames of each codec, and a larger H.264 one whose numbers begin at 1000."""
    folder = tmp_path_factory.mktemp("clips")
    clips = {
        codec: footage.encode(folder / f"clip.{codec}", (320, 192), 40, codec=codec, gop=10)
        for codec in FORMATS
    }
    clips["large"] = footage.encode(folder / "large.h264", (640, 368), 40, gop=10, first=1000)
    return clips


@pytest.fixture(scope="module")
def shared_server() -> Iterator[RtspServer]:
    if reason := rtsp_available():
        missing(reason)
    with RtspServer(deadline=1800) as server:  # all of this file's time, on a machine that is busy
        yield server


@pytest.fixture
def server(shared_server: RtspServer) -> Iterator[RtspServer]:
    yield shared_server
    if not shared_server.running:
        shared_server.restart()
    shared_server.thaw()
    for path in shared_server.stats():
        shared_server.unmount(path)


def connect(url: str, transport: str = "tcp", **options: str) -> Any:
    return av.open(
        url, options={"rtsp_transport": transport, "probesize": "32", "timeout": "5000000"} | options
    )


def seen(container: Any, count: int) -> list[tuple[int, tuple[int, int], int, int]]:
    """(number, size, pts, wall clock) of the next frames."""
    frames: list[tuple[int, tuple[int, int], int, int]] = []
    for frame in container.decode(video=0):
        wall = time.time_ns()
        number = footage.read_index(frame.to_ndarray(format="rgb24"))
        frames.append((number, (frame.width, frame.height), frame.pts, wall))
        if len(frames) == count:
            break
    return frames


def consecutive(numbers: list[int], period: int = 40) -> bool:
    return all((a + 1) % period == b for a, b in zip(numbers, numbers[1:], strict=False))


@pytest.mark.parametrize("codec", FORMATS)
def test_every_frame_arrives_over_tcp_across_the_loop_with_rising_timestamps(
    server: RtspServer, clips: dict[str, Path], codec: str
) -> None:
    server.mount("/cam", clips[codec], codec=codec, fps=50)
    with connect(server.url("/cam")) as container:
        frames = seen(container, 60)
        time_base = container.streams.video[0].time_base
    assert frames[0][0] == 0
    assert consecutive([f[0] for f in frames])
    steps = [float((b[2] - a[2]) * time_base) for a, b in zip(frames, frames[1:], strict=False) if a[2]]
    assert steps and all(abs(step - 0.02) < 0.001 for step in steps)


@in_netns
def test_every_frame_arrives_over_udp(server: RtspServer, clips: dict[str, Path]) -> None:
    server.mount("/cam", clips["h264"], fps=50)
    with connect(server.url("/cam"), "udp") as container:
        numbers = [f[0] for f in seen(container, 50)]
    assert consecutive(numbers)


def test_frames_with_b_frames_arrive_in_display_order(server: RtspServer, tmp_path: Path) -> None:
    clip = footage.encode(tmp_path / "b.h264", (320, 192), 40, gop=10, bframes=2)
    server.mount("/cam", clip, fps=50)
    with connect(server.url("/cam")) as container:
        frames = seen(container, 50)
    assert consecutive([f[0] for f in frames])
    times = [f[2] for f in frames if f[2] is not None]
    assert times == sorted(set(times))


@pytest.mark.parametrize("method", ["basic", "digest"])
def test_the_right_password_is_let_in_and_others_get_401(
    server: RtspServer, clips: dict[str, Path], method: str
) -> None:
    user, password = f"{method}@user", "p:ss/w%rd?"
    server.mount("/closed", clips["h264"], auth=(user, password, method))
    server.mount("/open", clips["h264"])
    for login in [(user, password + "x"), ("stranger", password), (None, None)]:
        with pytest.raises(av.HTTPUnauthorizedError):
            connect(server.url("/closed", *login))
    with pytest.raises(av.HTTPNotFoundError):
        connect(server.url("/nothing"))
    with connect(server.url("/closed", user, password)) as container:
        assert len(seen(container, 2)) == 2
    with connect(server.url("/open")) as container:
        assert len(seen(container, 2)) == 2


def test_a_client_sees_a_change_of_resolution_without_reconnecting(
    server: RtspServer, clips: dict[str, Path]
) -> None:
    server.mount("/cam", clips["h264"], fps=50)
    with connect(server.url("/cam")) as container:
        sizes = [size for _, size, _, _ in seen(container, 5)]
        server.switch("/cam", clips["large"])
        deadline = time.monotonic() + 60
        while sizes[-1] != (640, 368) and time.monotonic() < deadline:
            sizes += [size for _, size, _, _ in seen(container, 1)]
        number, size, _, _ = seen(container, 1)[0]
        assert (size, number) == ((640, 368), 1001)
        server.switch("/cam", clips["h264"])
        while sizes[-1] != (320, 192) and time.monotonic() < deadline:
            sizes += [size for _, size, _, _ in seen(container, 1)]
    assert sizes[-1] == (320, 192)
    assert set(sizes) == {(320, 192), (640, 368)}
    # A new client is told the new size at once.
    with connect(server.url("/cam")) as container:
        assert container.streams.video[0].width == 320


def test_a_killed_server_comes_back_on_its_port_with_its_mounts(
    server: RtspServer, clips: dict[str, Path]
) -> None:
    with RtspServer() as own:  # the other one outlives this test, and would do so with another pid
        killed_and_back(own, clips)


def killed_and_back(server: RtspServer, clips: dict[str, Path]) -> None:
    server.mount("/cam", clips["h264"], fps=50)
    url = server.url("/cam")
    with connect(url) as container:
        seen(container, 3)
        server.kill()
        assert not server.running
        list(container.demux())  # what was under way, and then the end
    with pytest.raises(ConnectionRefusedError):
        connect(url)
    server.restart()
    assert server.url("/cam") == url
    with connect(url) as container:
        assert seen(container, 1)[0][0] == 0


def test_a_frozen_server_says_nothing_and_goes_on_live_when_thawed(
    server: RtspServer, clips: dict[str, Path]
) -> None:
    server.mount("/cam", clips["h264"], fps=50)
    with connect(server.url("/cam"), timeout="300000") as container:
        seen(container, 3)
        server.freeze()
        with pytest.raises((TimeoutError, av.ExitError)):
            seen(container, 1000)
    server.thaw()
    with connect(server.url("/cam")) as container:
        before = time.time_ns()
        frames = seen(container, 20)
    assert frames[-1][3] - before > 0.2e9, "what was missed must not be made up for in a burst"


def test_a_paused_mount_keeps_its_clients_and_a_dropped_one_does_not(
    server: RtspServer, clips: dict[str, Path]
) -> None:
    server.mount("/cam", clips["h264"], fps=50)
    with connect(server.url("/cam"), timeout="300000") as container:
        seen(container, 3)
        server.pause("/cam")
        with pytest.raises((TimeoutError, av.ExitError)):
            seen(container, 1000)
        assert server.stats()["/cam"].clients == 1
    server.resume("/cam")
    with connect(server.url("/cam")) as container:
        seen(container, 3)
        server.drop("/cam")
        list(container.demux())
    server.wait_clients("/cam", 0)


def test_a_camera_may_have_sound_with_its_picture_or_nothing_else(
    server: RtspServer, clips: dict[str, Path]
) -> None:
    server.mount("/sound", None)
    server.mount("/both", clips["h264"], audio=True)
    with connect(server.url("/sound")) as container:
        assert [s.type for s in container.streams] == ["audio"]
        assert next(container.decode(audio=0)).samples > 0
        with pytest.raises(IndexError):
            next(container.decode(video=0))
    with connect(server.url("/both")) as container:
        assert sorted(s.type for s in container.streams) == ["audio", "video"]
        seen(container, 2)


@pytest.mark.parametrize("shared", [True, False])
def test_two_clients_are_counted_and_watch_the_same_moment(
    server: RtspServer, clips: dict[str, Path], shared: bool
) -> None:
    server.mount("/cam", clips["h264"], fps=50, shared=shared)
    assert server.stats()["/cam"].clients == 0
    with connect(server.url("/cam")) as one:
        seen(one, 2)
        with connect(server.url("/cam")) as two:
            seen(two, 1)
            assert server.stats()["/cam"].clients == 2
        server.wait_clients("/cam", 1)
    server.wait_clients("/cam", 0)
    server.unmount("/cam")
    with pytest.raises(av.HTTPNotFoundError):
        connect(server.url("/cam"))


def test_push_times_tell_when_a_frame_was_sent(server: RtspServer, clips: dict[str, Path]) -> None:
    server.mount("/cam", clips["h264"], fps=50)
    began = time.time_ns()
    with connect(server.url("/cam")) as container:
        frames = seen(container, 60)
        log = server.stats()["/cam"].log
    assert [p.serial for p in log] == list(range(1, len(log) + 1))
    assert consecutive([p.frame for p in log])
    assert began < log[0].time_ns and log[-1].time_ns < time.time_ns()
    steps = np.diff([p.time_ns for p in log])
    assert (steps > 0).all() and 10e6 < np.mean(steps) < 80e6  # every 20 ms, and later on a busy machine
    # The k-th frame decoded is the k-th pushed, and is seen one frame time (the parser waits for the
    # next one) after its push.
    sent: list[Push] = log[: len(frames)]
    assert [p.frame for p in sent] == [f[0] for f in frames]
    delays = np.array([f[3] - p.time_ns for f, p in zip(frames, sent, strict=True)]) / 1e6
    assert (delays > 0).all() and 15 < np.median(delays) < 500, delays


def test_an_answer_given_up_is_not_taken_for_the_next_one(
    server: RtspServer, clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.freeze()
    with monkeypatch.context() as patch:
        patch.setattr("support.rtsp.TIMEOUT", 0.1)
        with pytest.raises(RtspError, match="no answer"):
            server.stats()
    server.thaw()
    server.mount("/cam", clips["h264"])
    assert list(server.stats()) == ["/cam"]


def test_a_refused_request_says_why(server: RtspServer, clips: dict[str, Path], tmp_path: Path) -> None:
    server.mount("/cam", clips["h264"])
    with pytest.raises(RtspError, match="mounted already"):
        server.mount("/cam", clips["h264"])
    with pytest.raises(RtspError, match="FileNotFoundError"):
        server.switch("/cam", tmp_path / "none.h264")


@pytest.mark.parametrize("frozen", [False, True])
def test_the_server_dies_with_the_process_that_started_it(frozen: bool) -> None:
    if reason := rtsp_available():
        missing(reason)
    script = (
        "import os, signal, sys\n"
        "from support.rtsp import RtspServer\n"
        "server = RtspServer(deadline=60)\n"
        "server.start()\n"
        f"{'server.freeze()' if frozen else ''}\n"
        "print(server.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=30,
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline, f"{pid} lives on"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("codec", FORMATS)
@pytest.mark.parametrize("size", [(160, 96), (854, 480)])
def test_numbers_survive_the_codec_and_scaling(tmp_path: Path, codec: str, size: tuple[int, int]) -> None:
    clip = footage.encode(tmp_path / "clip", size, 10, codec=codec, first=0xA5F0)
    with av.open(str(clip), format=FORMATS[codec]) as container:
        for n, frame in enumerate(container.decode(video=0)):
            for format in ("rgb24", "bgr24", "gray8"):
                pixels = frame.to_ndarray(format=format.replace("gray8", "gray"))
                assert footage.read_index(pixels, format) == 0xA5F0 + n
            for width, height in [(80, 48), (1280, 720)]:
                scaled = frame.to_ndarray(format="rgb24", width=width, height=height)
                assert footage.read_index(scaled) == 0xA5F0 + n
    assert n == 9


@pytest.mark.parametrize("levels", ["limited", "full"])
@pytest.mark.parametrize("space", [None, "bt709", "bt601"])
def test_colours_are_right_in_every_colour_space(tmp_path: Path, space: str | None, levels: str) -> None:
    clip = footage.encode(tmp_path / "clip", frames=3, colorspace=space, range=levels)
    with av.open(str(clip), format="h264") as container:
        frames = list(container.decode(video=0))
    means = footage.read_patches(frames[-1].to_ndarray(format="rgb24"))
    assert np.abs(np.array(means) - footage.PATCHES).max() < 6
    assert frames[0].colorspace == {None: 2, "bt709": 1, "bt601": 6}[space]


def test_a_picture_without_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="no number"):
        footage.read_index(np.full((96, 160, 3), 128, np.uint8))


@pytest.mark.parametrize("fetch", [footage.vtest, footage.bikes])
def test_real_footage_can_be_served(
    server: RtspServer, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, fetch: Any
) -> None:
    try:
        video = fetch(tmp_path_factory.getbasetemp() / "footage")
    except footage.FootageUnavailable as e:
        missing(str(e))
    clip = footage.to_elementary(video, tmp_path / "real.h264", frames=25)
    server.mount("/real", clip)
    with connect(server.url("/real")) as container:
        frame = next(container.decode(video=0))
    assert frame.to_ndarray(format="gray").std() > 10


@in_netns
def test_a_namespace_has_loopback_and_nothing_else() -> None:
    names = [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
    assert names == ["lo"]
