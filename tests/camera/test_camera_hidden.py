"""Whatever address somebody gives: its secret is in nothing that anybody sees."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import valkka_async as va
from support.until import wait_for
from valkka_async.camera.source.secrets import parse
from valkka_async.camera.status import before_start
from valkka_async.cli.probe.findings import Findings
from valkka_async.cli.program import without_secrets
from valkka_async.service.config.file import load
from valkka_async.service.config.problems import ConfigError

# Where people, and cameras' manuals, put a password
LOGINS = [
    "rtsp://me:{}@10.0.0.7/live",
    "rtsp://me:{}@10.0.0.7:99999/live",
    "http://cam/v.cgi?loginuse=me&loginpas={}",
    "http://cam/v.cgi?user=me&pw={}&channel=1",
    "http://cam/v.cgi?u=me&p={}",
    "http://cam/v.cgi?credentials={}",
    "http://cam/v.cgi?foo={}",
    "http://cam/v.cgi?Zugang={}#t=1",
    "http://cam/v.cgi?{}",
    "http://cam/v.cgi?a=1;b={};c=2",
    "http://cam/v.cgi#{}=1",
    "rtsp://cam/user=me_password={}_channel=1_stream=0.sdp",
    "rtsp://cam/user=me&password={}&channel=1.sdp?real_stream",
    "rtsp://cam/me:{}/live",
    "rtsp://cam/me:{}@/live",
    "rtsp://cam/password/{}/live",
    "rtmp://cam/app playpath=x pubPasswd={}",
    "srt://cam:9000?mode=caller&passphrase={}",
    "concat:http://me:{}@cam/1|http://cam/2",
    "cache://http://me:{}@cam/v",
    "crypto+http://me:{}@cam/v",
    "subfile,,start,1,end,2,,:http://me:{}@cam/x.ts",
    "lavfi:movie=http\\://me:{}@cam/x",
    "file://me:{}@cam/x",
]
# How they mistype an address: before the scheme, and within
BEFORE = [
    "",
    " ",
    "\t",
    "\n",
    "\ufeff",
    "\u200b",
    "\u00a0",
    '"',
    "'",
    "`",
    "\u201c",
    "<",
    "(",
    "[",
    "url=",
    "-",
    "/",
    "//",
    "= ",
]
WITHIN = [
    ("://", mistake)
    for mistake in (
        "://",
        ":/",
        ":",
        "//",
        "/",
        " ://",
        "://\ufeff",
        "\uff1a//",
        ":\\\\",
        ";//",
        ":// ",
        ":///",
    )
]
BEHIND = ["", " ", "\n", '"', "'", "\u201d", ">", "\ufeff", "\udc80"]

# Nothing that is in an address, a text or a path by itself
secrets = st.text("bdfgjkqvwxzBDFGJKQVWXZ23456789", min_size=6, max_size=14).filter(
    lambda text: any(c.isdigit() for c in text) and any(c.isalpha() for c in text)
)


@st.composite
def addresses(draw: st.DrawFn) -> tuple[str, str]:
    """(an address as somebody may have written it, the secret in it)"""
    secret = draw(secrets)
    special = draw(st.sampled_from(["", "%", "@", "/", ":", "#", "?", "&", " ", "ä", "+", "="]))
    written = secret + special
    if draw(st.booleans()):
        written = quote(written, safe="")
    url = draw(st.sampled_from(LOGINS)).format(written)
    url = url.replace(*draw(st.sampled_from(WITHIN)), 1)
    url = draw(st.sampled_from(BEFORE)) + url + draw(st.sampled_from(BEHIND))
    assume(not re.match(r"/\w+/\w+/", url))  # the path of a file
    return url, secret


def seen(url: str) -> list[str]:
    """All that is said of an address."""
    try:
        spec = va.CameraSpec("cam", url)
    except ValueError as e:
        return [str(e), repr(e)]
    address = parse(url)
    status = before_start(spec)
    foreign = [f"[in#0 @ 0x5] Error opening {address.url}: refused"]  # FFmpeg quotes what it opens
    if "://" in address.url:
        foreign.append(f"Opening '{unquote(address.url)}' for reading")
    outputs = (va.Output("cam"), va.Output("cam.fmp4", "fmp4"))
    both = va.CameraSpec("cam", outputs=outputs, streams={"main": "rtsp://10.0.0.7/", "sub": url})
    texts = [str(address), repr(address), repr(spec), repr(status), repr(spec.outputs)]
    texts += [repr(both), repr(before_start(both))]
    return [*texts, *map(address.scrub, foreign), *Findings(address.shown, "tcp")._config()]


@given(addresses())
@settings(max_examples=200)
def test_no_secret_is_in_what_is_said_of_an_address(given: tuple[str, str]) -> None:
    url, secret = given
    for text in seen(url):
        assert secret not in text


@given(addresses())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_secret_is_in_what_check_says_of_a_config(tmp_path: Path, given: tuple[str, str]) -> None:
    url, secret = given
    quoted = url.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    quoted = quoted.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    path = tmp_path / "c.yaml"
    for keys in (
        f'url: "{quoted}"',
        f'url: "{quoted}", user: admin, password: x',
        f'streams: {{main: "{quoted}"}}',
        f'streams: {{main: "{quoted}", sub: "rtsp://10.0.0.7/"}}, user: admin, password: x',
        f'streams: {{"{quoted}": main}}',
    ):
        path.write_text(f"cameras: {{a: {{{keys}}}}}", encoding="utf-8")
        try:
            config = load(path)
        except ConfigError as e:
            said = str(e)
        else:
            said = repr(config)
            for spec in config.specs().values():
                said += repr(spec) + repr(before_start(spec))
        assert secret not in said


@given(addresses())
@settings(max_examples=100)
def test_no_secret_is_in_what_the_command_line_says_of_its_arguments(given: tuple[str, str]) -> None:
    url, secret = given
    argv, sys.argv = sys.argv, ["valkka-async", "probe", url, f"--url={url}"]
    try:
        for text in (f"Got unexpected extra argument ({url})", f"No such option: --url={url}", f"'{url}'?"):
            assert secret not in without_secrets(text)
    finally:
        sys.argv = argv


@pytest.mark.parametrize(
    "url",
    [
        "\ufeffrtsp://me:{}@127.0.0.1:9/x",
        "rtsp://127.0.0.1:9/me:{}@/live",
        "http://127.0.0.1:9/v?loginpas={}&pw={}&p={}&credentials={}&what={}",
    ],
)
def test_no_secret_is_in_a_running_cameras_status_log_or_error(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = url.replace("{}", "hunter2")
    said = io.StringIO()
    with contextlib.redirect_stderr(said), va.Camera("cam", url) as camera, va.serve("other") as server:
        with va.play(url, server) as player, pytest.raises(va.CameraError) as caught:
            player.join(10)
        said.write(repr(player) + repr(caught.value))
        wait_for(lambda: camera.status().reason)
        said.write(repr(camera) + repr(camera.status()) + repr(camera.spec))
    assert "hunter2" not in said.getvalue() + caplog.text
    assert "127.0.0.1" in said.getvalue()


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://10.0.0.7:554/Streaming/Channels/101?transportmode=unicast&profile=Profile_1",
        "rtsp://me@10.0.0.7/cam/realmonitor?channel=1&subtype=0".replace("me@", ""),
        "rtsp://cam/h264Preview_01_main",
        "rtsp://cam/axis-media/media.amp?resolution=1280x720&fps=25&videocodec=h264",
        "http://cam/mjpg/video.mjpg?camera=1&compression=30",
        "udp://239.1.1.1:5004?fifo_size=1000000&reuse=1&timeout=5000000",
        "srt://cam:9000?mode=listener&latency=200",
        "http://cam/?action=stream",
        "rtsp://cam/videoinput_1:0/h264_1/onvif.stm",
        "rtsp://cam/live/ch00_0?user=admin",
        "/videos/2024-01-01T12:30:00/front.mp4",
    ],
)
def test_what_is_no_secret_is_shown(url: str) -> None:
    assert parse(url).shown == url


@pytest.mark.parametrize("port", ["0", "65536", "99999", "123456789", "٣"])
def test_a_port_that_is_none_is_refused_and_not_repeated(port: str) -> None:
    with pytest.raises(ValueError, match="1 to 65535|no host") as caught:
        parse(f"rtsp://10.0.0.7:{port}/live")
    assert port not in str(caught.value).replace("65535", "")
    assert parse(f"rtsp://me:{port}@10.0.0.7/live").shown == "rtsp://me:***@10.0.0.7/live"


@pytest.mark.parametrize("mark", ["\ud800", "\udc80", "\u202e", "\n", "\x1b", "\u200b"])
def test_what_no_address_has_is_refused_when_it_is_given(mark: str) -> None:
    for url in (f"rtsp://me:hunter2{mark}@cam/x", f"rtsp://cam/hunter2{mark}x", f"http://ca{mark}m/x"):
        with pytest.raises(ValueError) as caught:
            va.CameraSpec("cam", url)
        assert "hunter2" not in str(caught.value)


def test_a_blank_or_a_byte_order_mark_around_an_address_is_left_out() -> None:
    for before, behind in ((" ", "\n"), ("\ufeff", ""), ("\u200b\t", "\u00a0")):
        assert parse(f"{before}rtsp://me:pw@cam/x{behind}").url == "rtsp://me:pw@cam/x"
        assert parse(f"{before}lavfi:testsrc{behind}").scheme == "lavfi"


def test_words_that_may_be_a_value_are_not_cut_out_of_the_log() -> None:
    address = parse("http://cam/v?what=camera&how=frame")
    assert address.shown == "http://cam/v?what=***&how=***"
    assert address.scrub("the camera sent a frame") == "the camera sent a frame"
    assert address.scrub(f"open {address.url}&x") == f"open {address.shown}&x"
