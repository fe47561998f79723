"""What is no address is refused when it is given, with what was meant; what FFmpeg can open is not."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import av
import av.container.core
import pytest
from camera_tools import Clips
from hypothesis import given
from hypothesis import strategies as st

import valkka_async as va
from support.until import wait_for
from valkka_async.camera.source import schemes
from valkka_async.camera.source.secrets import parse

MISSPELT = [
    ("rtps://h/x", "rtsp://"),
    ("rstp://h/x", "rtsp://"),
    ("rtspp://h/x", "rtsp://"),
    ("rtspt://h/x", "rtsp://"),
    ("tsp://h/x", "rtsp://"),
    ("htpp://h/x", "http://"),
    ("hppts://h/x", "https://"),
    ("rmtp://h/x", "rtmp://"),
    ("RTPS://h/x", "rtsp://"),
    ("rtsp:/h/x", "rtsp://"),
    ("rtsp:h/x", "rtsp://"),
    ("rtsp//h/x", "rtsp://"),
    ("rtsp ://h/x", "rtsp://"),
    ("rtsp;//h/x", "rtsp://"),
    (r"http:\\h\x", "http://"),
    ("rtps:/h/x", "rtsp://"),
    ("lafvi:testsrc=size=64x48", "lavfi:"),
    ("lavf:testsrc=size=64x48", "lavfi:"),
    ("10.0.0.7/live", "rtsp://"),
    ("camera.local:554/live", "rtsp://"),
    ("localhost:8554", "rtsp://"),
    ("me:s3cret@camera/live", "rtsp://"),
    ("me:s3c/ret@camera/live", "rtsp://"),
    ("concat:htpp://me:s3cret@h/1|a.ts", "http://"),
]
OTHERS = ["foo://h/x", "onvif://me:s3cret@h/x", "x" * 1000 + "://h"]


@pytest.mark.parametrize(("url", "meant"), MISSPELT)
def test_a_misspelt_address_is_refused_with_what_was_meant(url: str, meant: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(url)
    assert meant in str(caught.value)
    assert "s3c" not in str(caught.value)


@pytest.mark.parametrize("url", OTHERS)
def test_an_unknown_protocol_is_refused(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(url)
    assert "s3cret" not in str(caught.value)


def test_whoever_is_given_it_refuses_it() -> None:
    with va.serve("cam") as server:
        for give in (
            lambda: va.Camera("x", "rtps://h/x"),
            lambda: va.CameraSpec("x", "rtps://h/x"),
            lambda: va.play("rtps://h/x", server),
        ):
            with pytest.raises(ValueError, match="rtsp://"):
                give()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("path", "for_ffmpeg"),
    [
        ("12:30.mp4", "file:12:30.mp4"),
        ("2024-01-01T12:30:00.mkv", "file:2024-01-01T12:30:00.mkv"),
        ("cam:front.mp4", "file:cam:front.mp4"),
        ("date:1.mp4", "file:date:1.mp4"),
        ("film@12:30.mp4", "film@12:30.mp4"),
        ("a b:c.mp4", "a b:c.mp4"),
        ("/videos/rtsp:/1.mp4", "/videos/rtsp:/1.mp4"),
        ("./rtsp:1.mp4", "./rtsp:1.mp4"),
        ("rtsp.mp4", "rtsp.mp4"),
        ("file:12:30.mp4", "file:12:30.mp4"),
        ("concat:a.ts|b.ts", "concat:a.ts|b.ts"),
        ("subfile,,start,1,end,2,,:x.ts", "subfile,,start,1,end,2,,:x.ts"),
        ("pipe:0", "pipe:0"),
    ],
)
def test_paths_and_local_protocols_are_what_they_were(path: str, for_ffmpeg: str) -> None:
    address = parse(path)
    assert (address.scheme, address.url, address.shown) == ("file", for_ffmpeg, path)


@pytest.mark.parametrize("name", ["12:30.h264", "cam:front.h264", "date:1.h264", "rtsp:1.h264", "a b:c.h264"])
def test_a_file_with_a_colon_in_its_name_plays(
    name: str, clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.link(clips(), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / name, f"./{name}" if name.startswith("rtsp") else name):
        with va.serve("cam") as server, va.play(path, server, realtime=False) as player:
            player.join(20)
            assert player.stats().published


def protocols() -> list[str]:
    """Those that PyAV's FFmpeg reads from. PyAV has no list of its own."""
    enum: Any = ctypes.PyDLL(av.container.core.__file__).avio_enum_protocols
    enum.restype = ctypes.c_char_p
    names, state = [], ctypes.c_void_p()
    while name := enum(ctypes.byref(state), 0):
        names.append(name.decode())
    return names


def test_each_protocol_of_this_ffmpeg_is_accepted() -> None:
    names = protocols()
    assert {"http", "udp", "file", "concat"} < {*names}
    for name in [*names, "rtsp", "rtsps"]:
        assert name in schemes.HOSTED | schemes.WRAPPING, name
        parse(f"{name}://host/path" if name in schemes.HOSTED else f"{name}:x")
    for url in ("crypto+http://h/x", "hls+https://h/x.m3u8", "RTSP://h/x", " rtsp://h/x\n", "lavfi:testsrc"):
        parse(url)


def test_a_protocol_that_this_ffmpeg_lacks_is_said_and_tried_seldom() -> None:
    lacking = sorted(schemes.HOSTED - {*protocols(), "rtsp", "rtsps", "sap", "satip"})
    assert lacking
    with va.Camera("cam", f"{lacking[0]}://127.0.0.1:9/x") as camera:
        wait_for(lambda: camera.status().state == "failed")
        assert f"no {lacking[0]}://" in camera.status().reason
        assert camera.status().cause == "format"


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        parse(text)
    except ValueError:
        pass


@given(st.sampled_from(sorted(schemes.HOSTED)), st.sampled_from(sorted(schemes.HOSTED)))
def test_distances_are_those_of_a_metric(a: str, b: str) -> None:
    assert schemes.distance(a, b) == schemes.distance(b, a)
    assert (schemes.distance(a, b) == 0) == (a == b)
    assert abs(len(a) - len(b)) <= schemes.distance(a, b) <= max(len(a), len(b))
    assert schemes.nearest(a) == a
