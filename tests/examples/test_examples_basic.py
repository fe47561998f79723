"""The examples of one camera and its readers do what they promise, with a real camera and without any."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import valkka_async as va
from support.program import ROOT, Example
from support.rtsp import RtspServer


def test_a_camera_and_its_client_are_started_in_whatever_order(street: RtspServer, tmp_path: Path) -> None:
    with Example("client.py", "camera", folder=tmp_path) as client:
        client.match("^waiting for 'camera'$")
        for _ in range(2):  # the second time it is the camera that comes back
            with Example("camera.py", street.url("/bikes"), folder=tmp_path) as camera:
                seen = client.match(
                    r"^frame \d+: rgb24 \(270, 480, 3\), taken \S+, (-?\d+) ms old, \d+ missed"
                )
                assert -1000 < int(seen[1]) < 20_000
                camera.match(r"^live, 640x272: 1 readers, [1-9]\d* frames decoded, [1-9]\d* published$")
                assert camera.interrupt() == ""
            client.skip()
        assert client.interrupt() == ""


def test_a_camera_without_readers_is_not_decoded(street: RtspServer, tmp_path: Path) -> None:
    with Example("camera.py", street.url("/bikes"), folder=tmp_path) as camera:
        camera.match(r"^live, 640x272: 0 readers, 0 frames decoded, 0 published$")
        with va.attach("camera") as reader:
            first = reader.recv(20).pts
            second = reader.recv(20).pts
            assert first is not None and second is not None
            assert 80_000 <= second - first <= 100_000  # one per second, in RTP's units of 1/90000 s
        assert camera.interrupt() == ""


def test_the_client_says_that_it_waits_for_a_camera_that_sends_nothing(
    street: RtspServer, tmp_path: Path
) -> None:
    street.pause("/bikes")
    try:
        with Example("client.py", street.url("/bikes"), folder=tmp_path) as client:
            client.match("^no frame from 'client' within 2 s; still waiting$")
            street.resume("/bikes")
            client.match(r"^frame 1: rgb24 \(270, 480, 3\)")
            assert client.interrupt() == ""
    finally:
        street.resume("/bikes")


def test_the_plain_reader_tells_all_of_a_frame_and_gives_it_back(street: RtspServer, tmp_path: Path) -> None:
    with Example("plain.py", street.url("/bikes"), folder=tmp_path) as plain:
        for _ in range(2):
            plain.match(r"^frame \d+ of plain: rgb24 \(270, 480, 3\), 388800 bytes$")
            taken = int(plain.match(r"^  taken (\d+) ns \(Unix\), published \d+ ns \(monotonic\)$")[1])
            assert abs(time.time_ns() - taken) < 30e9
            plain.match(r"^  pts \d+ x 1/90000 s, key True, meta \{.*\}, missed \d+$")
            plain.match(
                r"^  mean \d+\.\d, writable False, leases 1, then 0 \(frame \d+ of plain was released;"
            )
        assert plain.interrupt() == ""


def test_a_plain_reader_ends_with_its_server(tmp_path: Path) -> None:
    with va.serve("short") as server, Example("plain.py", "short", folder=tmp_path) as plain:
        server.publish(np.zeros((4, 6), np.uint8))
        plain.match(r"^frame 1 of short: gray8 \(4, 6\), 24 bytes$")
        server.close()
        assert plain.ends() == ""


def test_a_blurred_picture_is_written_where_there_is_no_window(street: RtspServer, tmp_path: Path) -> None:
    with Example("blur.py", street.url("/bikes"), folder=tmp_path) as blur:
        assert blur.match(r"^frame \d+: wrote (.*)$")[1] == str(tmp_path / "blurred.jpg")
        with va.attach("blur") as reader:
            sharp = reader.recv(20).copy().array
        assert blur.interrupt() == ""
    blurred = cv2.imread(str(tmp_path / "blurred.jpg"))
    assert blurred is not None and blurred.shape == (204, 480, 3)  # as 640x272 is
    # Detail is gone, the light is not: another picture of the same street.
    assert cv2.Laplacian(blurred, cv2.CV_64F).var() < 0.2 * cv2.Laplacian(sharp, cv2.CV_64F).var()
    assert abs(blurred.mean() - sharp.mean()) < 20


@pytest.mark.parametrize("format", ["rgb24", "yuv420p"])
def test_a_ring_is_blurred_in_its_own_colours(tmp_path: Path, format: va.FrameFormat) -> None:
    red = np.zeros((90, 160, 3), np.uint8)
    red[:, :, 0] = 200
    with va.serve("red") as server, Example("blur.py", "red", folder=tmp_path) as blur:
        image = red if format == "rgb24" else cv2.cvtColor(red, cv2.COLOR_RGB2YUV_I420)
        server.publish(image, format=format)
        blur.match("^frame 1: wrote ")
        server.close()
        assert blur.ends() == ""
    blurred = cv2.imread(str(tmp_path / "blurred.jpg"))
    assert blurred is not None
    b, g, r = blurred[45, 80]
    assert (b < 20, g < 20, abs(int(r) - 200) < 20) == (True, True, True)


def test_opencv_is_loaded_before_pyav_where_it_may_open_a_window() -> None:
    """The other way round its windows hang: the wheels bring an X library each."""
    for name in ("window", "blur", "all_at_once"):
        code = f"""if True:
            import sys
            sys.path.insert(0, "examples")
            import {name}
            assert "cv2" in sys.modules and "av" not in sys.modules
        """
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=30)


def test_in_one_file_the_slow_task_does_not_hold_up_the_quick_one(street: RtspServer, tmp_path: Path) -> None:
    with Example("one_file.py", street.url("/bikes"), folder=tmp_path) as example:
        example.match(r"^slow: frame \d+, -?\d+ ms old, \d+ left out$")
        assert int(example.match(r"^slow: frame \d+, -?\d+ ms old, ([1-9]\d*) left out$")[1]) >= 2
        # It pauses for a second in every ten frames: frames as old as that would have waited for it.
        for _ in range(10):  # on a machine that has better to do one or the other may be late
            quick = example.match(r"^quick: \d+ frames, (-?\d+) ms old at most, brightness \d+$")
            if int(quick[1]) < 500:
                break
        else:
            pytest.fail(quick[0])
        assert example.interrupt() == ""


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_workers_are_spawned_or_forked_beside_threads(
    street: RtspServer, tmp_path: Path, method: str
) -> None:
    with Example("processes.py", method, street.url("/bikes"), folder=tmp_path) as example:
        example.match(rf"^parent: frame \d+, and now {method}$")
        if method == "fork":
            example.match(r"^worker [12], forked: the reader of 'processes' belongs to the parent process")
        for who in ("worker 1", "worker 2", "parent"):  # whose own reader still works beside theirs
            example.match(rf"^{who}: frame \d+, brightness \d+$")
        assert example.interrupt() == ""


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    with Example("processes.py", "spawn", folder=tmp_path) as example:
        for worker in (1, 2):
            example.match(rf"^worker {worker}: frame")
        example.signal(signal.SIGKILL)
        # The workers hold the other ends of its standard output: read to the end, which comes with theirs.
        with pytest.raises(EOFError):
            example.match("^nothing of the kind$", 20)
        assert "Traceback" not in example.stderr()
    va.serve("processes").close()  # tidies up what the killed one left


def test_what_is_published_onwards_has_the_time_in_it_and_metadata(tmp_path: Path) -> None:
    taken = 1_700_000_000_123_456_789
    grey = np.full((270, 480, 3), 90, np.uint8)
    with va.serve("mine") as server, Example("publish.py", "mine", folder=tmp_path) as example:
        server.publish(grey, timestamp_ns=taken)
        with va.attach("publish") as reader, reader.recv(20) as frame:
            assert frame.meta == {"from": "mine", "frame": 1, "brightness": 90.0}
            assert (frame.timestamp_ns, frame.format, frame.shape) == (taken, "rgb24", (270, 480, 3))
            assert np.array_equal(frame.array[60:], grey[60:])  # below the clock nothing is changed
            assert (frame.array[:60] == (255, 255, 0)).all(axis=2).sum() > 200
        server.close()
        assert example.ends() == ""


def test_a_ring_of_frames_made_in_python_is_read_like_any_other(street: RtspServer, tmp_path: Path) -> None:
    with (
        Example("publish.py", street.url("/bikes"), folder=tmp_path) as publish,
        Example("client.py", "publish", folder=tmp_path) as client,
    ):
        client.match(r"^frame \d+: rgb24 \(204, 480, 3\), .* meta \{'from': 'publish.source', 'frame': \d+, ")
        publish.match(r"^\d+ frames published, 1 readers, ")
        assert publish.interrupt() == ""
        assert client.interrupt() == ""


def test_without_a_camera_and_all_at_the_same_time(tmp_path: Path) -> None:
    """Each with its own synthetic picture: their names do not get into each other's way."""
    promises = {
        "camera.py": r"^live, 1920x1080: 0 readers, 0 frames decoded",
        "client.py": r"^frame \d+: rgb24 \(270, 480, 3\), taken",
        "plain.py": r"leases 1, then 0",
        "blur.py": r"wrote .*blurred\.jpg",
        "one_file.py": r"^quick: 10 frames",
        "processes.py": r"^parent: frame \d+, brightness",
        "publish.py": r"^5 frames published, 0 readers, \{'from': 'publish.source'",
    }
    with contextlib.ExitStack() as stack:
        examples = [stack.enter_context(Example(name, folder=tmp_path)) for name in promises]
        for example, promise in zip(examples, promises.values(), strict=True):
            example.match(promise, 40)
        for example in examples:
            assert example.interrupt() == ""
