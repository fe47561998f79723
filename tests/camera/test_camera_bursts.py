"""What comes in bursts, or without times, flows at the speed of life."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import av
import pytest
from camera_tools import Clips

import valkka_async as va
from support.http import Answer, HttpServer, Request
from support.rtsp_camera import access_units
from support.until import wait_for

SEGMENT = 2  # s
LOOK = 1.5  # segments


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A stream of 25 frames a second, in pieces of two seconds."""
    folder = tmp_path_factory.mktemp("hls")
    with av.open("testsrc=size=64x48:rate=25:duration=24", format="lavfi") as source:
        options = {"hls_time": str(SEGMENT), "hls_list_size": "0"}
        with av.open(str(folder / "s.m3u8"), "w", format="hls", options=options) as out:
            video = out.add_stream("libx264", rate=25, options={"g": "25", "preset": "ultrafast", "bf": "0"})
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            for frame in source.decode(video=0):
                out.mux(video.encode(frame.reformat(format="yuv420p")))
            out.mux(video.encode(None))
    return [path.read_bytes() for path in sorted(folder.glob("*.ts"), key=lambda p: int(p.stem[1:]))]


@pytest.mark.parametrize("listed", [3, *(pytest.param(count, marks=pytest.mark.long) for count in (2, 6))])
def test_live_hls_flows_evenly(segments: list[bytes], listed: int) -> None:
    began = time.monotonic()
    silent, over = threading.Event(), threading.Event()

    def serve(request: Request) -> Answer:
        if silent.is_set():
            over.wait(50)
        if request.path.endswith(".ts"):
            return 200, {}, segments[int(request.path[1:-3])]
        first = int((time.monotonic() - began) / SEGMENT)
        text = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:{SEGMENT}\n#EXT-X-MEDIA-SEQUENCE:{first}\n"
        for number in range(first, min(first + listed, len(segments))):
            text += f"#EXTINF:{SEGMENT}.0,\n/{number}.ts\n"
        return 200, {"Content-Type": "application/vnd.apple.mpegurl"}, text.encode()

    url, patient = "/live.m3u8", 300.0  # s, for which close() does not wait, whatever FFmpeg waits for
    with HttpServer(serve) as server, va.Camera("cam", server.url(url), read_timeout=patient) as camera:
        times, states = [], set()
        with va.attach("cam", policy="ordered") as reader:
            reader.recv(timeout=20).release()
            end = time.monotonic() + LOOK * SEGMENT
            while time.monotonic() < end:
                with reader.recv(timeout=10):
                    times.append(time.monotonic())
                states.add(camera.status().state)
        assert states == {"live"}
        assert not camera.status().clock_disagrees
        # A segment at once would be fifty; after a second in which this machine stood still it is half of it.
        most = max(sum(at <= other < at + 0.2 for other in times) for at in times)
        assert most < 40
        assert len(times) > 25 * LOOK * SEGMENT / 2
        asked = len(server.requests)
        silent.set()
        wait_for(lambda: len(server.requests) > asked)
        camera.close()
        over.set()


def paced(data: list[bytes], fps: float) -> tuple[socket.socket, threading.Thread, threading.Event]:
    """A port that sends these, one after the other, at this rate, again and again, to whoever comes first."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def send() -> None:
        try:
            with listener.accept()[0] as connection:
                connection.settimeout(0.5)
                if data[0].startswith(b"HTTP"):
                    connection.recv(4096)
                    connection.sendall(data[0])
                number = 0
                while not stop.wait(1 / fps):
                    pieces = data[1:]
                    connection.sendall(pieces[number % len(pieces)])
                    number += 1
        except OSError:
            pass

    thread = threading.Thread(target=send)
    thread.start()
    return listener, thread, stop


def multipart(clips: Clips) -> list[bytes]:
    """An answer of HTTP, and images."""
    data = [b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=b\r\n\r\n--b\r\n"]
    with av.open(clips(codec="mjpeg")) as source:
        for packet in source.demux(video=0):
            if packet.size:
                head = f"Content-Type: image/jpeg\r\nContent-Length: {packet.size}\r\n\r\n".encode()
                data.append(head + bytes(packet) + b"\r\n--b\r\n")
    return data


@pytest.mark.parametrize(
    "kind", ["h264", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("h265", "mjpeg"))]
)
def test_a_stream_without_times_is_recorded_by_arrival(kind: str, clips: Clips) -> None:
    if kind == "mjpeg":
        data = multipart(clips)
    elif kind == "h264":
        data = [b"", *access_units(clips())]
    else:
        with av.open(clips(codec="h265")) as source:
            data = [b"", *(bytes(packet) for packet in source.demux(video=0) if packet.size)]
    listener, thread, stop = paced(data, 50)
    try:
        url = f"{'http' if kind == 'mjpeg' else 'tcp'}://127.0.0.1:{listener.getsockname()[1]}"
        with va.Camera("cam", url, va.Output("cam", "fmp4")), va.attach("cam", policy="ordered") as reader:
            for _ in range(60):  # what FFmpeg had read before it knew what it is
                reader.recv(timeout=20).release()
            with reader.recv(timeout=20) as frame:
                began_ns, first = frame.timestamp_ns, frame.pts
            passed = 0.0
            while passed < 2:
                with reader.recv(timeout=10) as frame:
                    last, base = frame.pts, frame.time_base
                    passed = (frame.timestamp_ns - began_ns) / 1e9  # by arrival
        assert first is not None and last is not None and base is not None
        assert float((last - first) * base) == pytest.approx(passed, abs=0.7)
    finally:
        stop.set()
        listener.close()
        thread.join()


@pytest.mark.parametrize(("kind", "fps", "limit"), [("mjpeg", 10, 2), ("h264", 50, 3)])
def test_streams_without_times_are_limited_by_arrival(
    kind: str, fps: float, limit: float, clips: Clips, tmp_path: Path
) -> None:
    data = multipart(clips) if kind == "mjpeg" else [b"", *access_units(clips())]
    listener, thread, stop = paced(data, fps)
    try:
        scheme = "http" if kind == "mjpeg" else "tcp"
        url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        with va.Camera("cam", url, va.Output("cam", fps=limit)):
            with va.attach("cam", policy="ordered") as reader:
                reader.recv(timeout=20).release()
                reader.recv(timeout=20).release()
                began, count = time.monotonic(), 0
                while time.monotonic() - began < 3:
                    reader.recv(timeout=10).release()
                    count += 1
                passed = time.monotonic() - began
        assert count == pytest.approx(limit * passed, abs=2)
    finally:
        stop.set()
        listener.close()
        thread.join()
