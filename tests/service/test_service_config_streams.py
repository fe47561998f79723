# SPDX-License-Identifier: MIT
"""Several streams of one camera in the config: which ring is of which, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import valkka_async as va
from valkka_async.service.config.config import Config
from valkka_async.service.config.file import load

URLS = {"main": "rtsp://10.0.0.7/1", "sub": "rtsp://10.0.0.7/2"}


def spec(**keys: Any) -> va.CameraSpec:
    return Config.model_validate({"cameras": {"front": {"streams": URLS} | keys}}).specs()["front"]


def rings(**keys: Any) -> dict[str, tuple[str, str | None]]:
    """What is served, by name: format and stream."""
    return {output.name: (output.format, output.stream) for output in spec(**keys).outputs}


def test_the_page_and_programs_have_the_small_stream_and_recordings_the_main_one() -> None:
    assert rings(record=True) == {
        "front": ("rgb24", "sub"),
        "front.sub.fmp4": ("fmp4", "sub"),
        "front.jpeg": ("jpeg", "sub"),
        "front.fmp4": ("fmp4", "main"),
    }
    config = Config.model_validate({"cameras": {"front": {"streams": URLS}}})
    front = config.cameras["front"]
    assert (front.live_ring("front"), front.record_ring("front")) == ("front.sub.fmp4", "front.fmp4")


def test_each_may_be_of_another_stream() -> None:
    outputs = [{"stream": "main"}, {"format": "fmp4", "stream": "sub"}, {"format": "packets"}]
    assert rings(live_stream="main", record={"stream": "sub"}, outputs=outputs) == {
        "front": ("rgb24", "main"),
        "front.sub.fmp4": ("fmp4", "sub"),  # the output is also what is recorded
        "front.packets": ("packets", "main"),
        "front.fmp4": ("fmp4", "main"),
        "front.jpeg": ("jpeg", "main"),
    }


def test_one_stream_is_as_good_as_a_url() -> None:
    assert rings(streams={"x": "rtsp://10.0.0.7/1"}) == {
        "front": ("rgb24", "x"),
        "front.fmp4": ("fmp4", "x"),
        "front.jpeg": ("jpeg", "x"),
    }
    assert spec(connect="on_demand").connect == "on_demand"


def test_a_login_is_for_the_addresses_that_have_none(tmp_path: Path) -> None:
    streams = {"main": "rtsp://10.0.0.7/1", "sub": "rtsp://me:own@10.0.0.7/2", "third": "clip.mp4"}
    keys = {"outputs": [{"stream": name, "name": name} for name in streams]}
    logins = {
        "main": "rtsp://admin:p%40ss@10.0.0.7/1",
        "sub": "rtsp://me:own@10.0.0.7/2",
        "third": "clip.mp4",
    }
    assert spec(streams=streams, user="admin", password="p@ss", **keys).urls == logins
    cameras = {"front": {"streams": streams} | keys, "back": {"url": "rtsp://10.0.0.8/"}}
    config = Config.model_validate({"defaults": {"user": "admin", "password": "p@ss"}, "cameras": cameras})
    assert config.specs()["front"].urls == logins
    assert "p@ss" not in repr(config) and "own" not in repr(config)
    # ${NAME} is encoded in the login of each, and a path is relative to the file.
    (tmp_path / "s.env").write_text("PW=p@ss\n")
    (tmp_path / "s.env").chmod(0o600)
    path = tmp_path / "c.yaml"
    path.write_text(
        "secrets: s.env\ncameras:\n  front:\n    streams:\n"
        "      main: rtsp://admin:${PW}@10.0.0.7/1\n      sub: clip.mp4\n"
    )
    assert load(path).specs()["front"].urls == {"main": logins["main"], "sub": str(tmp_path / "clip.mp4")}


def test_a_default_stream_of_the_page_is_for_cameras_with_streams() -> None:
    cameras = {"front": {"streams": URLS}, "back": {"url": "rtsp://10.0.0.8/"}}
    specs = Config.model_validate({"defaults": {"live_stream": "main"}, "cameras": cameras}).specs()
    assert [(o.name, o.stream) for o in specs["front"].outputs if o.format == "jpeg"] == [
        ("front.jpeg", "main")
    ]
    assert all(output.stream is None for output in specs["back"].outputs)


LINK = {"host": "here", "listen": ["tcp/127.0.0.1:7447"], "peers": {"there": {"export": ["front*"]}}}
URL = {"url": "rtsp://10.0.0.7/1"}


@pytest.mark.parametrize(
    "cameras",
    [
        {"front": {**URL, "outputs": [{"name": "front.packets"}]}},
        {"front": URL, "yard": {**URL, "outputs": [{"name": "front.packets"}]}},
        {"front": URL, "front.packets": {**URL, "live": False}},
        {"front" + "x" * 52: {**URL, "live": False}},  # CAMERA.packets is too long
    ],
)
def test_the_ring_for_other_hosts_is_one_that_may_be_taken(cameras: dict[str, Any]) -> None:
    Config.model_validate({"cameras": cameras}).specs()
    with pytest.raises(ValidationError):
        Config.model_validate({"cameras": cameras, "link": LINK})


def test_a_stream_may_be_there_for_other_hosts_alone() -> None:
    camera = {"streams": URLS, "live": False}
    with pytest.raises(ValidationError):
        Config.model_validate({"cameras": {"front": camera}})
    outputs = Config.model_validate({"cameras": {"front": camera}, "link": LINK}).specs()["front"].outputs
    assert [(o.name, o.stream) for o in outputs] == [
        ("front", "sub"),
        ("front.packets", "main"),
        ("front.sub.packets", "sub"),
    ]
