"""Addresses that answer with one image are cameras; and nothing is opened faster than it should be."""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from camera_tools import Clips
from PIL import Image

import valkka_async as va
from support.http import Answer, HttpServer, Request
from support.until import wait_for

POLL = 0.1


def image(level: int, kind: str = "JPEG") -> bytes:
    """A grey image of this level."""
    out = io.BytesIO()
    Image.fromarray(np.full((48, 64, 3), level, np.uint8)).save(out, kind)
    return out.getvalue()


class Camera:
    """Answers each request with another image: its level is ten times the request's number."""

    def __init__(self, kind: str = "JPEG", **headers: str) -> None:
        self.kind, self.headers, self.count = kind, headers, 0

    def __call__(self, request: Request) -> Answer:
        self.count += 1
        body = image(10 * min(self.count, 25), self.kind)
        return 200, {"Content-Type": f"image/{self.kind.lower()}"} | self.headers, body


def levels(reader: va.Reader, count: int) -> list[int]:
    """Those of the next frames."""
    found = []
    for _ in range(count):
        with reader.recv(timeout=10) as frame:
            found.append(round(float(frame.array.mean()) / 10))
    return found


@pytest.mark.parametrize("path", ["/snap.jpg", "/cgi-bin/snapshot.cgi?channel=1", "/"])
def test_a_snapshot_address_is_asked_again_after_each_pause(path: str) -> None:
    with HttpServer(Camera()) as server, va.Camera("cam", server.url(path), poll=POLL) as camera:
        with va.attach("cam", policy="ordered") as reader:
            seen = levels(reader, 4)
        assert seen == sorted(set(seen))  # each is another one
        status = camera.status()
        assert (status.state, status.attempts, status.reconnects) == ("live", 1, 0)
        # Each may be seen late here, but none before its time.
        times = [request.time for request in server.requests]
        assert times[-1] - times[0] > 0.8 * POLL * (len(times) - 2)
        assert server.connections == 1  # which is held


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_snapshots_of_every_kind(kind: str) -> None:
    with HttpServer(Camera(kind)) as server, va.Camera("cam", server.url("/now"), poll=POLL) as camera:
        with va.attach("cam", policy="ordered") as reader:
            assert len(set(levels(reader, 3))) == 3
        assert camera.status().cause is None


@pytest.mark.parametrize(
    ("answer", "asks"),
    [("ETag", "If-None-Match"), ("Last-Modified", "If-Modified-Since")],
)
def test_what_has_not_changed_is_not_sent_again(answer: str, asks: str) -> None:
    body = image(70)

    def serve(request: Request) -> Answer:
        if request.headers.get(asks) == '"1"':
            return 304, {}, b""
        return 200, {answer: '"1"'}, body

    with HttpServer(serve) as server, va.Camera("cam", server.url("/snap.jpg"), poll=POLL):
        with va.attach("cam", policy="ordered") as reader:
            assert levels(reader, 4) == [7] * 4  # it is what the camera sees now
    assert len(server.asked(asks)) >= 2
    assert len(server.requests) - len(server.asked(asks)) == 2  # to open it, and the first one again


def digest(
    algorithm: str, make: Callable[[bytes], str], qop: str = ', qop="auth"'
) -> Callable[[Request], Answer]:
    def serve(request: Request) -> Answer:
        given = dict(re.findall(r'(\w+)="?([^",]+)', request.headers.get("Authorization", "")))
        if given.get("nonce") == "n1":
            ours, what = make(b"me:cam:s3c ret"), make(f"GET:{request.path}".encode())
            middle = f"n1:{given['nc']}:{given['cnonce']}:auth" if qop else "n1"
            if given["response"] == make(f"{ours}:{middle}:{what}".encode()):
                return 200, {}, image(50)
        challenge = f'Digest realm="cam", nonce="n1"{qop}, algorithm={algorithm}'
        return 401, {"WWW-Authenticate": challenge}, b""

    return serve


def basic(request: Request) -> Answer:
    if request.headers.get("Authorization") == "Basic bWU6czNjIHJldA==":
        return 200, {}, image(50)
    return 401, {"WWW-Authenticate": 'Basic realm="cam"'}, b""


@pytest.mark.parametrize(
    "serve",
    [
        basic,
        digest("MD5", lambda data: hashlib.md5(data).hexdigest()),
        digest("MD5", lambda data: hashlib.md5(data).hexdigest(), ""),
    ],
)
def test_snapshots_with_a_password(serve: Callable[[Request], Answer]) -> None:
    with HttpServer(serve) as server:
        with va.Camera("cam", server.url("/snap.jpg", "me:s3c%20ret@"), poll=POLL) as camera:
            with va.attach("cam", policy="ordered") as reader:
                assert levels(reader, 3) == [5] * 3
            assert camera.status().attempts == 1
        # The login is given unasked from the second request of ours on.
        assert len(server.requests) - len(server.asked("Authorization")) <= 2


@pytest.mark.parametrize("words", ["a" * 60000, "a=" * 30000, 'a="' * 20000])
def test_a_refusal_without_sense_is_a_refusal(words: str) -> None:
    def serve(request: Request) -> Answer:
        return 401, {"WWW-Authenticate": f"Digest {words}"}, b""

    with HttpServer(serve) as server:
        with va.Camera("cam", server.url("/snap.jpg", "me:secret@")) as camera:
            assert wait_for(lambda: camera.status().cause, 20) == "auth"


@pytest.mark.parametrize(("status", "cause"), [(401, "auth"), (404, "not_found"), (503, "busy")])
def test_a_snapshot_that_is_refused_later_is_an_error_with_its_back_off(status: int, cause: str) -> None:
    def serve(request: Request) -> Answer:
        if len(server.requests) > 3:
            return status, {}, b""
        return 200, {}, image(50)

    with HttpServer(serve) as server, va.Camera("cam", server.url("/snap.jpg"), poll=0.02) as camera:
        wait_for(lambda: camera.status().cause)
        assert camera.status().cause == cause
        asked = len(server.requests)
        time.sleep(0.2)
        assert len(server.requests) <= asked + 1


def test_closing_does_not_wait_for_the_next_snapshot() -> None:
    with HttpServer(Camera()) as server:
        with va.Camera("cam", server.url("/snap.jpg"), poll=3600, read_timeout=60) as camera:
            wait_for(lambda: camera.status().packets)
            begin = time.monotonic()
            camera.close()
            assert time.monotonic() - begin < 30
            assert not camera.stuck()


def film(path: Path, frames: int, cover: bytes = b"", *, format: str = "mp4", first: bool = False) -> Path:
    """A short film, with cover art, which is the `first` of its streams or the last."""

    def add_art() -> Any:
        art = out.add_stream("png" if cover.startswith(b"\x89PNG") else "mjpeg", rate=1)
        art.width, art.height = 64, 48
        art.pix_fmt = "rgb24" if cover.startswith(b"\x89PNG") else "yuvj420p"
        art.disposition = av.stream.Disposition.attached_pic
        return art

    with av.open(path, "w", format=format) as out:
        art = add_art() if first else None
        video = out.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        art = add_art() if cover and not first else art
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 80 + 10 * number, np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if art is not None:
            packet = av.Packet(cover)
            packet.stream, packet.pts, packet.dts, packet.time_base = art, 0, 0, Fraction(1, 1)
            packet.is_keyframe = True
            out.mux(packet)
    return path


@pytest.mark.parametrize("name", ["one.jpg", "one.png", "one.mp4"])
def test_a_file_of_one_frame_is_not_opened_all_the_time(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("mp4"):
        film(path, 1)
    else:
        Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(path)
    began = time.monotonic()
    with va.Camera("cam", path, poll=0.2) as camera:
        wait_for(lambda: camera.status().attempts >= 4)
        assert time.monotonic() - began > 0.55
    with va.serve("play") as server:
        for realtime in (None, False):
            began = time.monotonic()
            with va.play(path, server, loop=True, poll=0.2, realtime=realtime) as player:
                wait_for(lambda: player.stats().published >= 3)  # noqa: B023
                assert time.monotonic() - began > 0.35


@pytest.mark.parametrize("format", ["mp4", "matroska", pytest.param("avi", marks=pytest.mark.long)])
def test_the_last_frame_of_a_file_has_its_duration(format: str, tmp_path: Path) -> None:
    path = film(tmp_path / "film", 6, format=format)  # 0.6 s
    with va.serve("play") as server, va.play(path, server, loop=True) as player:
        began = time.monotonic()
        wait_for(lambda: player.stats().packets >= 13)  # the third time begins
        assert time.monotonic() - began > 1.1
    with va.serve("play") as server, va.play(path, server) as player:
        began = time.monotonic()
        player.join(10)
        assert time.monotonic() - began > 0.55


def test_a_looped_file_of_frames_goes_on_as_fast_as_it_can_where_that_is_asked_for(clips: Clips) -> None:
    with va.serve("play") as server, va.play(clips(), server, loop=True, realtime=False) as player:
        wait_for(lambda: player.stats().packets > 100)


@pytest.mark.parametrize(("kind", "first"), [("JPEG", False), ("JPEG", True), ("PNG", False)])
def test_cover_art_is_not_the_film(kind: str, first: bool, tmp_path: Path) -> None:
    path = film(tmp_path / "f.mp4", 5, cover=image(250, kind), first=first)
    with va.Camera("cam", path) as camera, va.attach("cam", policy="ordered") as reader:
        assert max(levels(reader, 5)) < 20
        assert camera.status().codec == "h264"
