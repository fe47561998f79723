"""The web services serve what they promise, and end as they should, with clients that leave and that stay."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from support import footage
from support.program import ROOT, Example
from support.require import missing
from support.rtsp import RtspServer
from support.until import wait_for
from valkka_async.ring.connection import report


@pytest.fixture(autouse=True)
def installed() -> None:
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as e:
        missing(f"{e}: pip install --group test")


def started(example: Example, workers: int) -> int:
    """Its port, when it answers."""
    port = int(example.logged(r"running on http://127\.0\.0\.1:(\d+)")[1])
    wait_for(lambda: example.stderr().count("Started server process") >= workers, 25)
    wait_for(lambda: answers(port), 25)  # it says that it runs before it listens
    return port


def get(port: int, path: str, timeout: float = 15) -> tuple[int, str | None, bytes]:
    """Over a connection of its own, which any worker may take."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.getheader("content-type"), answer.read()
    finally:
        connection.close()


def answers(port: int) -> bool:
    try:
        get(port, "/")
    except ConnectionRefusedError:
        return False
    return True


def counts(port: int) -> Any:
    return json.loads(get(port, "/")[2])


def size_of(jpeg: bytes) -> tuple[int, int]:
    with av.open(io.BytesIO(jpeg), format="mjpeg") as file:
        picture = next(file.decode(video=0))
        assert not picture.is_corrupt
        return picture.width, picture.height


def readers(ring: str) -> int:
    values: Any = report(ring, 5)
    return int(values["readers"])


def workers(port: int, count: int, seconds: float = 25) -> dict[int, dict[str, int]]:
    """What each of so many workers has counted, once all have frames of every camera."""
    seen: dict[int, dict[str, int]] = {}
    deadline = time.monotonic() + seconds
    while len(seen) < count:
        assert time.monotonic() < deadline, seen
        answer = counts(port)
        if len(answer["frames"]) == 2 and all(answer["frames"].values()):
            seen[answer["worker"]] = answer["frames"]
    return seen


def test_two_workers_share_the_cameras(street: RtspServer, tmp_path: Path) -> None:
    sources = street.url("/bikes"), footage.bikes(ROOT / ".cache")
    with Example("web_service.py", *sources, folder=tmp_path, PORT="0") as example:
        port = started(example, 2)
        before = workers(port, 2)
        assert street.stats()["/bikes"].clients == 1  # however many workers
        for name in ("web1", "web2"):
            status, kind, jpeg = get(port, f"/{name}")
            assert (status, kind, size_of(jpeg)) == (200, "image/jpeg", (640, 272))
        assert get(port, "/not%20a%20name")[0] == 504
        assert readers("web1.jpg") == 2  # those of the requests have left
        wait_for(lambda: (a := counts(port))["frames"]["web1.jpg"] > before[a["worker"]]["web1.jpg"])
        # A worker that dies is replaced, and the others and the camera go on.
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: example.stderr().count("Started server process") == 3, 25)
        assert victim not in workers(port, 2)
        # A request that waits for a camera that is not there does not keep the service from ending.
        waiting: list[int] = []
        thread = threading.Thread(target=lambda: waiting.append(get(port, "/nobody", 20)[0]))
        thread.start()
        time.sleep(0.3)
        log = example.interrupt()
        thread.join()
    assert waiting == [504] and "ERROR" not in log
    street.wait_clients("/bikes", 0)


def test_the_service_without_cameras(tmp_path: Path) -> None:
    with Example("web_service.py", folder=tmp_path, PORT="0") as example:
        port = started(example, 2)
        wait_for(lambda: counts(port)["frames"].get("web1.jpg", 0) > 0)
        status, _, jpeg = get(port, "/web1")
        assert (status, size_of(jpeg)) == (200, (1280, 720))
        assert "ERROR" not in example.interrupt()


class Stream:
    """The body of /live, as a browser reads it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        self.answer = http.client.HTTPResponse(self.socket, method="GET")
        self.answer.begin()
        assert self.answer.getheader("content-type") == "multipart/x-mixed-replace; boundary=next"

    def pictures(self) -> Iterator[bytes]:
        """Until the stream ends."""
        data = b""
        while piece := self.answer.read1(65536):
            *whole, data = (data + piece).split(b"--next\r\nContent-Type: image/jpeg\r\n\r\n")
            yield from (jpeg for jpeg in whole if jpeg)

    def close(self) -> None:
        self.answer.close()
        self.socket.close()


def test_a_live_picture_for_clients_that_leave_and_that_stay(street: RtspServer, tmp_path: Path) -> None:
    with Example("web_service_live.py", street.url("/bikes"), folder=tmp_path, PORT="0") as example:
        port = started(example, 1)
        status, kind, page = get(port, "/")
        assert (status, kind) == (200, "text/html; charset=utf-8") and b'<img src="live"' in page
        one, other = Stream(port), Stream(port)
        sizes = {size_of(jpeg) for jpeg, _ in zip(one.pictures(), range(5), strict=False)}
        assert sizes == {(640, 272)}
        assert readers("live.jpg") == 2
        assert street.stats()["/bikes"].clients == 1
        one.close()
        wait_for(lambda: readers("live.jpg") == 1)
        rest = other.pictures()
        assert next(rest)
        log = example.interrupt()  # though a client still looks on
        assert all(map(size_of, rest))  # what was on its way; and then it ends
        other.close()
    assert "ERROR" not in log
    street.wait_clients("/bikes", 0)


def test_a_live_picture_without_a_camera(tmp_path: Path) -> None:
    with Example("web_service_live.py", folder=tmp_path, PORT="0") as example:
        stream = Stream(started(example, 1))
        assert size_of(next(stream.pictures())) == (1280, 720)
        stream.close()
        assert "ERROR" not in example.interrupt()
