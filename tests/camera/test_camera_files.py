"""Files, lavfi and HTTP: pacing, loops, rates, what reaches the ring, and every way to end."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from camera_tools import FRAMES, SIZE, Clips, ring

import valkka_async as va
from support import footage
from valkka_async.camera.play import Player, play

SECOND = "lavfi:testsrc=size=64x48:rate=25:duration=1"
ENDLESS = "lavfi:testsrc=size=64x48:rate=25"


class Recorder:
    """Stands in for a server; keeps every frame."""

    name = "recorder"
    closed = False

    lossless = False

    def __init__(self, full: bool = False) -> None:
        self.full = full
        self.frames: list[np.ndarray[Any, Any]] = []
        self.said: list[dict[str, Any]] = []

    def loan(self, shape: tuple[int, ...], format: str = "rgb24", **said: Any) -> Any:
        if self.full:
            raise va.NoFreeSlotError("full")
        recorder = self

        class Slot:
            array = np.zeros(shape, np.uint8)

            def publish(self) -> bool:
                recorder.frames.append(self.array)
                recorder.said.append(said | {"format": format})
                return True

            def discard(self) -> None:
                pass

        return Slot()


@pytest.fixture
def recorder() -> Any:
    return Recorder()


def container_file(clip: Path, out: Path) -> Path:
    """The frames of a raw stream in a file with timestamps."""
    with av.open(str(clip)) as source, av.open(str(out), "w") as target:
        stream = target.add_stream("mpeg4", rate=25)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for n, frame in enumerate(source.decode(video=0)):
            frame.pts, frame.time_base = n, Fraction(1, 25)
            for packet in stream.encode(frame):
                target.mux(packet)
        for packet in stream.encode(None):
            target.mux(packet)
    return out


def reference(path: Path, format: str = "rgb24") -> list[Any]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format=format) for frame in container.decode(video=0)]


@pytest.mark.parametrize("bframes", [0, 2])
@pytest.mark.parametrize("codec", ["h264", "h265", "mjpeg"])
def test_every_frame_of_a_file_arrives_in_order_with_the_right_pixels(
    clips: Clips, recorder: Any, codec: str, bframes: int
) -> None:
    clip = clips(codec, bframes=bframes if codec != "mjpeg" else 0)
    player = play(clip, recorder, realtime=False)
    player.join(20)
    wanted = reference(clip)
    assert len(recorder.frames) == len(wanted) == FRAMES
    assert all(np.array_equal(a, b) for a, b in zip(recorder.frames, wanted, strict=True))
    stats = player.stats()
    assert stats.decoded == stats.published == FRAMES
    assert (stats.dropped, stats.skipped, stats.errors) == (0, 0, 0)
    assert player.error is None and not player.running and "ended" in repr(player)


def test_pts_and_time_base_of_the_file_are_passed_on(clips: Clips, recorder: Any, tmp_path: Path) -> None:
    path = container_file(clips(), tmp_path / "clip.mp4")
    before = time.time_ns()
    play(str(path), recorder, realtime=False).join(20)
    seconds = [said["pts"] * said["time_base"] for said in recorder.said]
    assert seconds == [Fraction(n, 25) for n in range(FRAMES)]
    stamps = [said["timestamp_ns"] for said in recorder.said]
    assert stamps == sorted(stamps) and before <= stamps[0] and stamps[-1] <= time.time_ns()


def test_a_file_plays_in_real_time_unless_told_otherwise(recorder: Any) -> None:
    begin = time.monotonic()
    play(SECOND, recorder).join(20)
    assert time.monotonic() - begin > 0.9
    assert len(recorder.frames) == 25
    stamps = [said["timestamp_ns"] for said in recorder.said]
    gaps = np.diff(stamps) / 1e6
    assert 30 < np.median(gaps) < 50
    play(SECOND, recorder, realtime=False).join(20)
    stamps = [said["timestamp_ns"] for said in recorder.said[-25:]]
    assert np.median(np.diff(stamps) / 1e6) < 30


@pytest.mark.parametrize("fps", [10, 5, 2.5, 100])
def test_the_rate_limit_keeps_the_average_and_skips_before_conversion(recorder: Any, fps: float) -> None:
    player = play("lavfi:testsrc=size=64x48:rate=25:duration=8", recorder, fps=fps, realtime=False)
    player.join(20)
    stats = player.stats()
    assert stats.published == pytest.approx(8 * min(fps, 25), abs=1)
    assert stats.published + stats.skipped == stats.packets == 200
    assert stats.decoded == stats.published  # each frame of this source stands for itself


def test_of_a_coded_stream_all_is_decoded_and_the_frames_that_are_shown_are_the_nearest_ones(
    clips: Clips, recorder: Any, tmp_path: Path
) -> None:
    path = container_file(clips(), tmp_path / "clip.mp4")  # a key frame every 12: nearer than 1 in a second
    player = play(path, recorder, fps=1, realtime=False)
    player.join(20)
    stats = player.stats()
    assert (stats.decoded, stats.published + stats.skipped) == (FRAMES, FRAMES)
    assert [footage.read_index(frame) for frame in recorder.frames] == [0, 25]


def test_a_loop_goes_on_with_rising_pts(clips: Clips, recorder: Any, tmp_path: Path) -> None:
    path = container_file(clips(), tmp_path / "clip.mp4")
    with play(path, recorder, loop=True, realtime=False) as player:
        while player.stats().published < 3 * FRAMES:
            assert player.running
            time.sleep(0.01)
    seconds = [said["pts"] * said["time_base"] for said in recorder.said]
    assert seconds == [Fraction(n, 25) for n in range(len(seconds))]
    assert [footage.read_index(f) for f in recorder.frames[: 3 * FRAMES]] == [*range(FRAMES)] * 3


@pytest.mark.parametrize(
    ("format", "pyav"), [("rgb24", "rgb24"), ("gray8", "gray"), ("nv12", "nv12"), ("yuv420p", "yuv420p")]
)
def test_formats_reach_the_ring(clips: Clips, format: str, pyav: str) -> None:
    clip = clips(size=(852, 480), colorspace="bt709")
    wanted = reference(clip, pyav)
    with ring() as (server, reader), play(clip, server, format=format, fps=5, realtime=False) as player:
        with reader.recv(timeout=10) as frame:
            assert frame.format == format
            assert np.array_equal(frame.array, wanted[0])
        player.join(20)


def test_sizes_reach_the_ring(clips: Clips) -> None:
    with ring() as (server, reader), play(clips(), server, size=(426, 240), realtime=False) as player:
        with reader.recv(timeout=10) as frame:
            assert frame.shape == (240, 426, 3)
            assert footage.read_index(frame.array) == 0
        player.join(20)


def test_readers_that_hold_every_slot_cost_frames_which_are_counted(clips: Clips) -> None:
    recorder: Any = Recorder(full=True)
    player = play(clips(), recorder, realtime=False)
    player.join(20)
    assert (player.stats().dropped, player.stats().published) == (FRAMES, 0)


def test_the_player_ends_by_itself_when_the_server_is_closed() -> None:
    with va.serve("gone") as server:
        player = play(ENDLESS, server)
        while not player.stats().published:
            time.sleep(0.01)
    player.join(5)
    assert player.error is None
    player.close()


def test_close_is_quick_idempotent_and_leaves_the_server_open() -> None:
    with va.serve("cam") as server:
        player = play(ENDLESS, server)
        while not player.stats().published:
            time.sleep(0.01)
        with pytest.raises(TimeoutError, match="still playing"):
            player.join(0.01)
        player.close()
        player.close()
        assert not player.running and player.error is None and not server.closed
        player.join()


def test_closing_while_a_file_waits_for_its_time_does_not_wait(recorder: Any) -> None:
    player = play("lavfi:testsrc=size=64x48:rate=1/600", recorder)
    while not recorder.frames:
        time.sleep(0.01)
    player.close()


def test_many_players_share_a_process() -> None:
    servers = [va.serve(f"many-{n}") for n in range(6)]
    players = [play(SECOND, s, realtime=False, fps=5) for s in servers]
    for player, s in zip(players, servers, strict=True):
        player.join(20)
        assert s.stats().published == 5
        s.close()


@pytest.mark.parametrize("body", ["", "player.close()", "import os; os.fork() or os._exit(0); os.wait()"])
def test_a_program_may_end_while_its_player_plays(body: str, silent_port: int) -> None:
    program = f"""
import time, valkka_async as va
from valkka_async.camera.play import play
server = va.serve("exit")
player = play("{ENDLESS}", server)
stuck = play("rtsp://127.0.0.1:{silent_port}/x", server, open_timeout=600)
while not player.stats().published: time.sleep(0.01)
{body}
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


class Handler(http.server.BaseHTTPRequestHandler):
    files: dict[str, bytes] = {}

    def do_GET(self) -> None:
        if self.path == "/live.mjpg":
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for jpeg in self.files[self.path].split(b"\xff\xd8\xff")[1:21]:
                part = b"\xff\xd8\xff" + jpeg
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(part)}\r\n\r\n"
                self.wfile.write(head.encode() + part + b"\r\n")
                time.sleep(0.01)
            return
        body = self.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None:
            pass  # a client that has seen enough

    with Quiet(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_a_file_over_http_ends_normally_and_a_live_one_does_not(
    web: str, clips: Clips, recorder: Any, tmp_path: Path
) -> None:
    Handler.files = {
        "/clip.mp4": container_file(clips(), tmp_path / "clip.mp4").read_bytes(),
        "/live.mjpg": clips("mjpeg").read_bytes(),
    }
    play(f"{web}/clip.mp4", recorder, realtime=False).join(20)
    assert len(recorder.frames) == FRAMES
    recorder.frames.clear()
    with pytest.raises(va.CameraEndedError):
        play(f"{web}/live.mjpg", recorder).join(20)
    assert len(recorder.frames) >= 19
    with pytest.raises(va.CameraNotFoundError):
        play(f"{web}/none.mp4", recorder).join(20)


def test_a_broken_picture_is_counted_and_passed_over(clips: Clips, recorder: Any, tmp_path: Path) -> None:
    path = tmp_path / "broken.mjpeg"
    data = clips("mjpeg").read_bytes()
    starts = [n for n in range(len(data) - 2) if data[n : n + 3] == b"\xff\xd8\xff"]
    # A frame header that asks for 0 components
    header = data.index(b"\xff\xc0", starts[5])
    data = data[: header + 9] + b"\x00" + data[header + 10 :]
    path.write_bytes(data)
    player: Player = play(path, recorder, realtime=False)
    player.join(20)
    assert player.stats().errors >= 1
    assert len(recorder.frames) == FRAMES - 1


def test_packets_that_never_become_a_picture_end_the_player(
    recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valkka_async.camera.decode.Decoder.decode", lambda *args: [])
    monkeypatch.setattr("valkka_async.camera.feed._UNDECODABLE", 0.1)
    with pytest.raises(va.CameraFormatError):
        play(ENDLESS, recorder).join(10)


def test_a_file_of_which_nothing_can_be_decoded_ends_the_player(
    recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valkka_async.camera.decode.Decoder.decode", lambda *args: [])
    with pytest.raises(va.CameraFormatError):
        play(SECOND, recorder, realtime=False).join(10)
    assert recorder.frames == []


def test_arguments_that_make_no_sense_raise_at_once(recorder: Any) -> None:
    for name, value in (
        ("fps", 0),
        ("fps", float("nan")),
        ("transport", "carrier pigeon"),
        ("open_timeout", 0),
        ("read_timeout", -1.0),
        ("thread_count", -1),
        ("format", "jpeg"),
        ("size", (0, 0)),
    ):
        arguments: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match=name):
            play(SECOND, recorder, **arguments)
