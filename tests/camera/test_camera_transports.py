"""RTSP over multicast and through HTTP, and TLS whose certificates are looked at."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import av
import pytest
from camera_tools import Clips

import support
import valkka_async as va
from support.http import HttpServer, Request
from support.netns import in_netns
from support.require import missing
from support.rtsp import RtspServer, rtsp_available
from support.rtsp_camera import RtspCamera, access_units, h264_together
from support.until import wait_for


@pytest.fixture
def rtsp() -> Iterator[RtspServer]:
    if reason := rtsp_available():
        missing(reason)
    server = RtspServer()
    try:
        yield server
    finally:
        server.close()


def watch(url: str, transport: va.Transport, count: int = 30) -> va.CameraStatus:
    """The status of a camera after so many frames."""
    with va.Camera("cam", url, transport=transport, read_timeout=600) as camera:
        with va.attach("cam", policy="ordered") as reader:
            for _ in range(count):
                reader.recv(timeout=20).release()
        status = camera.status()
        camera.close()
    return status


@in_netns
def test_multicast(clips: Clips) -> None:
    for codec, payloads in (("h264", None), ("h265", None), ("h264", h264_together)):
        with av.open(clips(codec)) as clip:
            units = [bytes(packet) for packet in clip.demux(video=0) if packet.size]
        with RtspCamera(units, codec=codec, payloads=payloads) as server:
            status = watch(server.url(), "multicast")
        assert (status.state, status.attempts, status.errors) == ("live", 1, 0), (codec, payloads)
        assert status.early, (codec, payloads)


@pytest.mark.parametrize("codec", ["h264", "h265", "mjpeg"])
@pytest.mark.parametrize("method", ["", "basic", "digest"])
def test_a_tunnel_through_http(codec: str, method: str, rtsp: RtspServer, clips: Clips) -> None:
    rtsp.start()
    login = ("me", "p@ss w/rd", method) if method else None
    rtsp.mount("/cam", clips(codec), codec=codec, auth=login)
    url = rtsp.url("/cam", *login[:2]) if login else rtsp.url("/cam")
    status = watch(url, "http")
    assert (status.state, status.attempts, status.errors) == ("live", 1, 0)


@pytest.mark.parametrize("transport", ["multicast", "http"])
def test_a_camera_without_this_transport_says_so(transport: va.Transport, clips: Clips) -> None:
    refuse = {"SETUP": ("461 Unsupported Transport", [])} if transport == "multicast" else {}
    with RtspCamera(access_units(clips()), refuse=refuse) as server:
        with va.Camera("cam", server.url(), transport=transport, open_timeout=2) as camera:
            wait_for(lambda: camera.status().cause)
            assert camera.status().cause == ("refused" if transport == "multicast" else "timeout")


def test_a_transport_is_one_of_these() -> None:
    with pytest.raises(ValueError, match="transport"):
        va.Camera("cam", "rtsp://127.0.0.1:9/x", transport="https")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ TLS


# Certificates that sign themselves, as cameras have, each with its key: for 127.0.0.1, and for cam.local.
CERTIFICATES = {name: Path(support.__file__).with_name(f"tls-{name}.pem") for name in ("address", "name")}


class TlsFront:
    """Takes TLS off, and passes all on to a port."""

    def __init__(self, port: int, certificate: Path) -> None:
        self._port = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for one in self._open:
            _end(one)
        for thread in self._threads:
            thread.join()
        for one in self._open:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                plain = self._listener.accept()[0]
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(plain,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(20)
        try:
            outer = self._context.wrap_socket(plain, server_side=True)
        except OSError:
            plain.close()
            return
        inner = socket.create_connection(("127.0.0.1", self._port))
        self._open += [outer, inner]
        back = threading.Thread(target=_pump, args=(outer, inner))
        back.start()
        _pump(inner, outer)
        back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        _end(sink)


def _end(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


@pytest.fixture(params=["rtsps", "https"])
def camera_of_tls(request: pytest.FixtureRequest, clips: Clips) -> Iterator[tuple[str, int]]:
    """A scheme, and the port of a camera of that without TLS."""
    if request.param == "rtsps":
        with RtspCamera(access_units(clips())) as camera:
            yield "rtsps", int(camera.url().rpartition(":")[2].partition("/")[0])
    else:
        data = clips(codec="mjpeg").read_bytes()
        first = data[: data.index(b"\xff\xd9") + 2]

        def serve(_: Request) -> tuple[int, dict[str, str], bytes]:
            return 200, {"Content-Type": "image/jpeg"}, first

        with HttpServer(serve) as server:
            yield "https", int(server.url().rpartition(":")[2].partition("/")[0])


@pytest.mark.parametrize(
    ("own", "verify", "known", "works"),
    [
        ("address", False, False, True),  # as cameras are, and always were
        ("name", False, False, True),
        ("address", True, True, True),
        ("address", True, False, False),  # not signed by an authority
        ("name", True, True, False),  # of another host
    ],
)
def test_certificates_are_looked_at_on_request(
    own: str,
    verify: bool,
    known: bool,
    works: bool,
    camera_of_tls: tuple[str, int],
) -> None:
    scheme, port = camera_of_tls
    with TlsFront(port, CERTIFICATES[own]) as front:
        url = f"{scheme}://127.0.0.1:{front.port}/live"
        file = CERTIFICATES[own] if known else None
        with va.Camera("cam", url, tls_verify=verify, tls_ca_file=file, poll=0.1) as camera:
            if works:
                with va.attach("cam", policy="ordered") as reader:
                    for _ in range(5):
                        reader.recv(timeout=20).release()
            else:
                wait_for(lambda: camera.status().cause)
                assert (camera.status().state, camera.status().cause) == ("failed", "refused")
                assert "tls_ca_file" in camera.status().reason


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_without_certificates_is_said(
    content: bytes | None, camera_of_tls: tuple[str, int], tmp_path: Path
) -> None:
    scheme, port = camera_of_tls
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    with TlsFront(port, CERTIFICATES["address"]) as front:
        url = f"{scheme}://127.0.0.1:{front.port}/live"
        with va.Camera("cam", url, tls_verify=True, tls_ca_file=tmp_path / "ca.pem") as camera:
            wait_for(lambda: camera.status().cause)
            assert camera.status().cause == "refused"
            assert "tls_ca_file" in camera.status().reason


def test_a_ca_file_without_verifying_is_no_setting(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tls_verify"):
        va.Camera("cam", "rtsps://127.0.0.1:9/x", tls_ca_file=tmp_path / "ca.pem")
