# SPDX-License-Identifier: MIT
"""The synthetic camera of the demo: a real process on a real port, read as any camera is."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import valkka_async as va
from support.program import SECONDS, Program
from support.until import wait_for
from valkka_async.camera.source.secrets import parse
from valkka_async.camera.source.source import Source
from valkka_async.cli.demo.pattern import Pattern
from valkka_async.cli.demo.place import reserve, url


class Synthetic(Program):
    """A synthetic camera."""

    def __init__(self, size: str, fps: float, port: int) -> None:
        super().__init__("_camera", "demo1", size, str(fps), "0.3", str(port), stdin=subprocess.PIPE)
        self.port = port
        self.url = url("demo1", port)

    def cpu(self) -> float:
        """Seconds that it has computed."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def sockets(self) -> int:
        """How many it has open."""
        count = 0
        for fd in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                count += os.readlink(fd).startswith("socket:")
        return count


@contextlib.contextmanager
def synthetic(size: str = "320x180", fps: float = 25) -> Iterator[Synthetic]:
    """One that can be connected to. Leaving ends its standard input, and it must go then."""
    with reserve() as place, Synthetic(size, fps, place.getsockname()[1]) as camera:
        assert camera.line() == camera.url
        yield camera
        camera.end_input()
        assert camera.finish() == (0, "")


@contextlib.contextmanager
def source(camera: Synthetic) -> Iterator[Source]:
    """An open connection, as a va.Camera makes it."""
    opened = Source(parse(camera.url), transport="tcp", open_timeout=SECONDS, read_timeout=SECONDS)
    try:
        assert opened.open()
        yield opened
    finally:
        opened.dispose()


def test_whoever_connects_gets_a_live_stream_that_begins_with_a_key_frame() -> None:
    with synthetic("320x180", 25) as camera:
        for _ in range(2):  # the second one comes in the middle of it
            with source(camera) as opened:
                context = opened.stream.codec_context
                assert opened.live and (context.name, context.width, context.height) == ("h264", 320, 180)
                packets = opened.packets()
                taken = [next(packets)[0] for _ in range(6)]
                packets.close()
            assert taken[0].is_keyframe
            times = [float(packet.pts * packet.time_base) for packet in taken]
            assert times == sorted(set(times)) and times[-1] - times[0] > 0.15  # five frames of 25 per second


def test_a_frame_has_the_time_at_which_it_was_taken_although_it_is_handed_over_with_the_next() -> None:
    # The stream's own times are those of CLOCK_MONOTONIC, which is the same in each process.
    with synthetic(fps=4) as camera, source(camera) as opened:
        lateness = []
        packets = opened.packets()
        next(packets)
        while len(lateness) < 60 and min(lateness, default=1.0) >= 0.125:  # a busy machine is late at times
            packet, arrival_ns = next(packets)
            arrival = time.monotonic() - (time.time() - arrival_ns / 1e9)
            lateness.append((arrival - float(packet.pts * packet.time_base)) % (2**33 / 90_000))
        packets.close()
    assert min(lateness) < 0.125  # of 0.25 s for a frame


def test_nothing_is_drawn_while_nobody_is_connected() -> None:
    with synthetic("1280x720", 120) as camera:
        with source(camera) as opened:
            packets = opened.packets()
            before = camera.cpu()
            for _ in range(60):
                next(packets)
            packets.close()
            busy = camera.cpu() - before
        assert busy > 0.03

        def rests() -> bool:
            before = camera.cpu()
            time.sleep(1.0)
            return camera.cpu() - before <= 0.03

        wait_for(rests)  # when it has seen that nobody is there


def test_a_viewer_that_does_not_read_is_cut_and_costs_the_others_nothing() -> None:
    with synthetic("640x360", 120) as camera, socket.socket() as slow, source(camera) as opened:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(SECONDS)
        alone = camera.sockets()
        slow.connect(("127.0.0.1", camera.port))
        slow.sendall(b"GET /demo1.ts HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        wait_for(lambda: camera.sockets() > alone, SECONDS)
        packets = opened.packets()
        deadline = time.monotonic() + SECONDS
        times = []
        while camera.sockets() > alone:
            packet, _ = next(packets)
            times.append(float(packet.pts * packet.time_base))
            assert time.monotonic() < deadline
        packets.close()
        assert len(times) > 120
        assert max(b - a for a, b in pairwise(times)) < 2.0  # for which frames wait for the other


def test_a_new_size_is_seen_although_nothing_is_decoded() -> None:
    with synthetic("320x180", 25) as camera, va.Camera("demo1", camera.url) as reader:
        wait_for(lambda: (reader.status().width, reader.status().height) == (320, 180), SECONDS)
        wait_for(lambda: reader.status().state == "live", SECONDS)
        camera.tell("resize 1")
        wait_for(lambda: (reader.status().width, reader.status().height) == (160, 90), SECONDS)
        wait_for(lambda: (reader.status().width, reader.status().height) == (320, 180), SECONDS)
        assert (reader.status().decoded, reader.status().attempts) == (0, 1)


def test_its_faults_are_those_of_real_cameras_and_pass() -> None:
    with (
        synthetic("320x180", 25) as camera,
        va.Camera("demo1", camera.url, retry_max=0.5) as reader,
        va.attach("demo1") as client,
    ):
        wait_for(lambda: reader.status().state == "live", SECONDS)
        with client.recv(SECONDS) as frame:
            assert frame.shape == (180, 320, 3)
        attempts = reader.status().attempts

        camera.tell("resize 2")
        shapes = [frame.shape]  # before that
        deadline = time.monotonic() + SECONDS
        while shapes[-1:] != [(180, 320, 3)] or len(shapes) < 3:
            with client.recv(SECONDS) as frame:
                if shapes[-1:] != [frame.shape]:
                    shapes.append(frame.shape)
            assert time.monotonic() < deadline, shapes
        assert shapes == [(180, 320, 3), (90, 160, 3), (180, 320, 3)]
        assert reader.status().attempts == attempts  # one and the same connection

        camera.tell("stall 3")
        wait_for(lambda: reader.status().state == "stalled", SECONDS)
        wait_for(lambda: reader.status().state == "live", SECONDS)
        assert reader.status().attempts == attempts

        camera.tell("drop 1")
        wait_for(lambda: "refused" in reader.status().reason, SECONDS)
        wait_for(lambda: reader.status().state == "live", SECONDS)
        assert reader.status().attempts > attempts


@pytest.mark.parametrize("size", [(2, 2), (64, 36), (160, 90), (1280, 720)])
def test_the_pattern_writes_every_pixel_and_changes_with_each_frame(size: tuple[int, int]) -> None:
    pattern = Pattern("demo1", size, 0.25)
    on_black, on_white = _planes(size, 0), _planes(size, 255)
    pattern.draw(on_black, 7, 1_700_000_000_123_456_789)
    pattern.draw(on_white, 7, 1_700_000_000_123_456_789)
    assert all(np.array_equal(a, b) for a, b in zip(on_black, on_white, strict=True))
    if size[0] > 100:
        following, other = _planes(size, 0), _planes(size, 0)
        pattern.draw(following, 8, 1_700_000_000_163_456_789)
        assert not np.array_equal(on_black[0], following[0])
        Pattern("demo2", size, 0.5).draw(other, 7, 1_700_000_000_123_456_789)
        assert max(abs(a.mean() - b.mean()) for a, b in zip(other[1:], on_black[1:], strict=True)) > 15


def _planes(size: tuple[int, int], value: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    width, height = size
    half = height // 2, width // 2
    return (
        np.full((height, width), value, np.uint8),
        np.full(half, value, np.uint8),
        np.full(half, value, np.uint8),
    )
