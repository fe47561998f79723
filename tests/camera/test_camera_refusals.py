"""What a camera refuses is told by its cause, asked for once, and left with a goodbye."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from camera_tools import Clips

import valkka_async as va
from support.http import Answer, HttpServer, Request
from support.rtsp_camera import RtspCamera, access_units
from support.until import wait_for
from valkka_async.camera.source.refusals import refusal
from valkka_async.camera.source.secrets import parse
from valkka_async.camera.status import Cause, cause_of


@pytest.fixture(scope="session")
def units(clips: Clips) -> list[bytes]:
    return access_units(clips())


def failure(url: str, **settings: object) -> va.CameraError:
    """What the source ends with."""
    with va.serve("cam") as server, va.play(url, server, **settings) as player:  # type: ignore[arg-type]
        with pytest.raises(va.CameraError) as caught:
            player.join(20)
    return caught.value


RTSP = [
    ("400 Bad Request", "DESCRIBE", "refused"),
    ("401 Unauthorized", "DESCRIBE", "auth"),
    ("403 Forbidden", "DESCRIBE", "auth"),
    ("404 Not Found", "DESCRIBE", "not_found"),
    ("453 Not Enough Bandwidth", "SETUP", "busy"),
    ("453 Not Enough Bandwidth", "PLAY", "busy"),
    ("454 Session Not Found", "PLAY", "busy"),
    ("461 Unsupported Transport", "SETUP", "refused"),
    ("503 Service Unavailable", "DESCRIBE", "busy"),
    ("503 Service Unavailable", "PLAY", "busy"),
    ("500 Internal Server Error", "SETUP", "busy"),
]


@pytest.mark.parametrize(("status", "method", "cause"), RTSP)
def test_a_refusal_of_rtsp_has_its_cause_and_is_asked_once(
    units: list[bytes], status: str, method: str, cause: str
) -> None:
    with RtspCamera(units, refuse={method: (status, [])}) as camera:
        error = failure(camera.url())
        assert cause_of(error) == cause
        assert "host name" not in str(error)  # that is right
        assert camera.connections == 1


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (400, "refused"),
        (403, "auth"),
        (404, "not_found"),
        (429, "busy"),
        (451, "busy"),
        (500, "busy"),
        (503, "busy"),
    ],
)
def test_a_refusal_of_http_has_the_same_cause(status: int, cause: str) -> None:
    def serve(request: Request) -> Answer:
        return status, {}, b""

    with HttpServer(serve) as server:
        assert cause_of(failure(server.url("/video"))) == cause
        assert len(server.requests) == 1


def test_every_status_of_both_protocols_has_a_cause_that_a_program_can_use() -> None:
    for status in range(300, 600):
        error = refusal(status, parse("rtsp://me:secret@cam/x"), "tcp")
        assert cause_of(error) not in (Cause.INTERNAL, Cause.UNREACHABLE)
        assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("transport", "other"),
    [("tcp", "udp"), ("udp", "tcp")],
)
def test_a_camera_without_a_transport_names_the_other_one(
    units: list[bytes], transport: str, other: str
) -> None:
    with RtspCamera(units, refuse={"SETUP": ("461 Unsupported Transport", [])}) as camera:
        assert f"use transport={other!r}" in str(failure(camera.url(), transport=transport))


@pytest.mark.parametrize("login", ["admin@", "admin:@", "admin%20x@"])
def test_an_empty_password_is_one(units: list[bytes], login: str) -> None:
    challenge = {"DESCRIBE": ("401 Unauthorized", ['WWW-Authenticate: Basic realm="cam"'])}
    with RtspCamera(units, refuse=challenge) as camera:
        assert type(failure(camera.url(login=login))) is va.CameraAuthError
        given = [headers.get("authorization") for _, _, headers in camera.requests]
        user = "admin x" if "%20" in login else "admin"
        assert f"Basic {base64.b64encode(f'{user}:'.encode()).decode()}" in given


@pytest.mark.parametrize("length", [100, 127, 128, 500])
def test_a_login_is_given_whole_or_refused(units: list[bytes], length: int) -> None:
    password = "x" * (length - 3)
    challenge = {"DESCRIBE": ("401 Unauthorized", ['WWW-Authenticate: Basic realm="cam"'])}
    with RtspCamera(units, refuse=challenge) as camera:
        url = camera.url(login=f"me:{password}@")
        if length > 127:
            with pytest.raises(ValueError, match="127") as caught:
                parse(url)
            assert password not in str(caught.value)
            return
        failure(url)
        given = [headers.get("authorization") for _, _, headers in camera.requests]
        assert f"Basic {base64.b64encode(f'me:{password}'.encode()).decode()}" in given


@pytest.mark.parametrize("silent", [True, False])
def test_a_session_that_is_closed_ends_with_a_teardown(units: list[bytes], silent: bool) -> None:
    with RtspCamera(units, silent=silent) as camera, va.Camera("cam", camera.url(), read_timeout=600) as live:
        wait_for(lambda: camera.asked("PLAY") and (silent or live.status().packets))
        live.close()
        wait_for(lambda: camera.asked("TEARDOWN"))


def test_a_session_that_is_given_up_ends_with_a_teardown(units: list[bytes]) -> None:
    with RtspCamera(units, silent=True) as camera:
        assert type(failure(camera.url(), open_timeout=0.6, read_timeout=0.4)) is va.CameraTimeoutError
        wait_for(lambda: camera.asked("TEARDOWN"))
        assert camera.connections == 1


class _OneReader(dict[str, tuple[str, list[str]]]):
    """Refuses the readers that come at once after the first."""

    def __init__(self, refused: int) -> None:
        super().__init__(DESCRIBE=("", []))
        self.refused = refused
        self.asked = 0

    def get(self, method: str, default: Any = None) -> tuple[str, list[str]]:
        self.asked += method == "DESCRIBE"
        busy = method == "DESCRIBE" and 1 < self.asked <= 1 + self.refused
        return ("503 Service Unavailable", []) if busy else default


@pytest.mark.parametrize(("refused", "cause"), [(0, "format"), (1, "format"), (9, "busy")])
def test_a_camera_with_one_reader_forgets_the_first_attempt(
    units: list[bytes], refused: int, cause: str
) -> None:
    with RtspCamera(units, refuse=_OneReader(refused)) as camera:
        camera.sdp = camera.sdp.replace("m=video 0 RTP/AVP 96", "m=application 0 RTP/AVP 107").partition(
            "a=rtpmap"
        )[0]
        assert cause_of(failure(camera.url())) == cause


@pytest.mark.parametrize("path", ["/live", "/other?x=1", "/a/b/c"])
def test_a_redirect_in_a_circle_is_bounded(units: list[bytes], path: str) -> None:
    with RtspCamera(units) as camera:
        camera.thinks = 0.005  # or the loopback makes thousands in a second
        camera.refuse["DESCRIBE"] = ("302 Moved", [f"Location: {camera.url(path)}"])
        error = failure(camera.url())
        assert cause_of(error) == "refused" and "redirects" in str(error)
        assert camera.connections < 500


def test_a_redirect_is_followed(units: list[bytes]) -> None:
    with RtspCamera(units) as there, RtspCamera(units) as camera:
        camera.refuse["DESCRIBE"] = ("302 Moved", [f"Location: {there.url()}"])
        with va.Camera("cam", camera.url()) as live:
            wait_for(lambda: live.status().state == "live")
            assert camera.connections == 1
