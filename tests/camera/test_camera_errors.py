"""What cannot be played says why and what to do, and never with a password."""

from __future__ import annotations

import logging
import random
import socket
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import av.logging
import pytest
from camera_tools import Clips

import valkka_async as va
from support.rtsp import RtspServer
from valkka_async.camera.play import play

PASSWORD = "s3cr et/@%#?:ü"
ENCODED = "s3cr%20et%2F%40%25%23%3F%3A%C3%BC"
TRACES = ("s3cr", "czNjc")  # plain, percent-encoded and base64 (Authorization: Basic) begin like this


@pytest.fixture(autouse=True)
def loud(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """FFmpeg says all it has to say, and Python logs all of it."""
    libav = logging.getLogger("libav")
    level = libav.level
    libav.setLevel(1)
    av.logging.set_level(av.logging.TRACE)
    caplog.set_level(1)
    yield
    av.logging.set_level(None)
    libav.setLevel(level)


def failure(
    url: str, caplog: pytest.LogCaptureFixture, limit: float = 10.0, **options: float
) -> va.CameraError:
    """What the player ends with, after a search for the password wherever it could show."""
    with va.serve("cam") as server, play(url, server, **options) as player:  # type: ignore[arg-type]
        begin = time.monotonic()
        with pytest.raises(va.CameraError) as caught:
            player.join(20)
        assert time.monotonic() - begin < limit
        error = caught.value
        texts = [str(error), repr(error), repr(player), str(player.error), caplog.text]
        texts += traceback.format_exception(error)
        assert error.__context__ is None and error.__cause__ is None
    for text in texts:
        for trace in TRACES:
            assert trace not in text
    assert "***@" in str(error) or "@" not in url
    return error


def test_a_wrong_password(rtsp: RtspServer, clips: Clips, caplog: pytest.LogCaptureFixture) -> None:
    for user, method in (("basil", "basic"), ("dora", "digest")):
        rtsp.mount(f"/{method}", clips(), auth=(user, "right", method))
        error = failure(rtsp.url(f"/{method}", user, PASSWORD), caplog)
        assert type(error) is va.CameraAuthError and "password" in str(error)
        assert f"rtsp://{user}:***@127.0.0.1" in str(error)
    error = failure(rtsp.url("/basic"), caplog)
    assert type(error) is va.CameraAuthError and "user:password@" in str(error)
    assert any("libav" in record.name for record in caplog.records)  # FFmpeg did speak


def test_the_right_password_however_it_is_written(rtsp: RtspServer, clips: Clips) -> None:
    for user, method in (("anna", "basic"), ("axel", "digest")):
        rtsp.mount(f"/{method}", clips(), auth=(user, PASSWORD, method))
        for password in (PASSWORD, ENCODED):
            url = f"rtsp://{user}:{password}@127.0.0.1:{rtsp.port}/{method}"
            with va.serve("cam") as server, va.attach("cam") as reader, play(url, server) as player:
                reader.recv(timeout=10).release()
                assert "s3cr" not in repr(player)


def test_no_such_path(rtsp: RtspServer, caplog: pytest.LogCaptureFixture) -> None:
    error = failure(rtsp.url("/none", "me", PASSWORD), caplog)
    assert type(error) is va.CameraNotFoundError and "/none" in str(error)


def test_sound_only(rtsp: RtspServer, caplog: pytest.LogCaptureFixture) -> None:
    rtsp.mount("/sound", audio=True)
    error = failure(rtsp.url("/sound", "me", PASSWORD), caplog)
    assert type(error) is va.CameraFormatError and "audio" in str(error)


def test_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = failure(f"rtsp://me:{ENCODED}@127.0.0.1:{port}/x", caplog)
    assert type(error) is va.CameraOpenError and "refused" in str(error)


def test_no_such_host(caplog: pytest.LogCaptureFixture) -> None:
    error = failure(f"rtsp://me:{ENCODED}@no-such-host.invalid/x", caplog, 15, open_timeout=10)
    assert type(error) in (va.CameraOpenError, va.CameraTimeoutError)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_host_that_says_nothing(silent_port: int, caplog: pytest.LogCaptureFixture, scheme: str) -> None:
    error = failure(f"{scheme}://me:{ENCODED}@127.0.0.1:{silent_port}/x", caplog, 4, open_timeout=0.5)
    assert type(error) is va.CameraTimeoutError and isinstance(error, TimeoutError)
    assert "0.5 s" in str(error) and "open_timeout" in str(error)


def test_a_host_that_does_not_even_answer_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        url = f"rtsp://me:{ENCODED}@127.0.0.1:{address[1]}/x"
        assert type(failure(url, caplog, 4, open_timeout=0.5)) is va.CameraTimeoutError
        with va.serve("cam") as server:
            player = play(url, server, open_timeout=60)
            time.sleep(0.2)
            begin = time.monotonic()
            player.close()
            assert time.monotonic() - begin < 30 and player.error is None
        for filler in fillers:
            filler.close()


def test_a_host_that_speaks_something_else(caplog: pytest.LogCaptureFixture) -> None:
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        stop = threading.Event()

        def answer() -> None:
            while not stop.is_set():
                try:
                    with listener.accept()[0] as connection:
                        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
                except TimeoutError:
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"rtsp://me:{ENCODED}@127.0.0.1:{listener.getsockname()[1]}/x"
        error = failure(url, caplog, 8, open_timeout=3.0)
        stop.set()
        thread.join()
    assert isinstance(error, va.CameraFormatError | va.CameraOpenError | va.CameraTimeoutError)


def test_files_that_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = tmp_path / "noise.bin"
    noise.write_bytes(random.Random(1).randbytes(10_000))
    assert type(failure(str(noise), caplog)) is va.CameraFormatError
    assert type(failure(str(tmp_path / "none.mp4"), caplog)) is va.CameraNotFoundError
    assert type(failure(str(tmp_path), caplog)) is va.CameraOpenError
    assert type(failure("lavfi:nosuchfilter=3", caplog)) is va.CameraOpenError
    assert type(failure("lavfi:sine=frequency=440:duration=1", caplog)) is va.CameraFormatError


def test_odd_pictures_in_a_format_that_needs_even_ones(caplog: pytest.LogCaptureFixture) -> None:
    with va.serve("cam") as server, play("lavfi:testsrc=size=65x49", server, format="nv12") as player:
        with pytest.raises(va.CameraFormatError, match="65x49.*even"):
            player.join(10)


@pytest.mark.parametrize("count", [1, 3])
def test_close_while_blocked_in_open_is_quick(silent_port: int, count: int) -> None:
    with va.serve("cam") as server:
        players = [play(f"rtsp://127.0.0.1:{silent_port}/x", server, open_timeout=60) for _ in range(count)]
        time.sleep(0.3)
        begin = time.monotonic()
        players[0].close()
        assert time.monotonic() - begin < 30
        time.sleep(0.1)
        assert [player.running for player in players[1:]] == [True] * (count - 1)
        for player in players[1:]:
            player.close()
        assert [player.error for player in players] == [None] * count


def test_close_at_once(silent_port: int) -> None:
    with va.serve("cam") as server:
        for _ in range(20):
            play(f"rtsp://127.0.0.1:{silent_port}/x", server, open_timeout=60).close()
            play("lavfi:testsrc=size=64x48", server).close()
