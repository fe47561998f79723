# SPDX-License-Identifier: MIT
"""Config as data: what cameras inherit, which rings they feed, whose login they have, when two are equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from valkka_async.camera.source.secrets import parse
from valkka_async.camera.spec import CameraSpec, Output
from valkka_async.service.config.config import Config, Record
from valkka_async.service.config.file import load

URL = "rtsp://10.0.0.1/live"


def config(cameras: dict[str, Any], **keys: Any) -> Config:
    return Config.model_validate({"cameras": cameras} | keys)


def spec(camera: dict[str, Any], **keys: Any) -> CameraSpec:
    return config({"cam": {"url": URL} | camera}, **keys).specs()["cam"]


def refused(cameras: dict[str, Any], **keys: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        config(cameras, **keys)
    return str(caught.value)


def test_a_camera_with_nothing_but_an_address() -> None:
    made = config({"cam": {"url": URL}})
    page = (Output("cam.fmp4", "fmp4"), Output("cam.jpeg", "jpeg", fps=10.0))
    assert made.specs() == {"cam": CameraSpec("cam", URL, (Output("cam"), *page))}
    assert made.web is not None and (made.web.host, made.web.port, made.web.token) == (
        "127.0.0.1",
        8088,
        None,
    )
    assert (made.name, made.cameras["cam"].record, made.cameras["cam"].title) == ("service", None, "")


def test_a_camera_s_own_key_wins_over_the_default() -> None:
    defaults = {"transport": "udp", "read_timeout": 3, "record": True, "outputs": [{"fps": 2}]}
    made = config(
        {"a": {"url": URL, "record": False, "read_timeout": 4}, "b": {"url": URL, "outputs": []}},
        defaults=defaults,
    )
    a, b = made.specs()["a"], made.specs()["b"]
    assert (a.transport, a.read_timeout, a.outputs[0]) == ("udp", 4.0, Output("a", fps=2.0))
    assert (b.transport, b.read_timeout, b.outputs[0].name) == ("udp", 3.0, "b.fmp4")
    assert made.cameras["a"].record is None and made.cameras["b"].record == Record(seconds=300)


def test_rings_are_named_after_the_camera_and_the_page_s_are_added() -> None:
    outputs = [{"fps": 5, "size": "640x360"}, {"format": "gray8"}, {"name": "x", "format": "packets"}]
    made = spec({"outputs": outputs, "live": False}).outputs
    assert made == (
        Output("cam", size=(640, 360), fps=5.0), Output("cam.gray8", "gray8"), Output("x", "packets")
    )  # fmt: skip
    assert [o.name for o in spec({"outputs": [], "live": False, "record": True}).outputs] == ["cam.fmp4"]
    own = spec({"outputs": [{"fps": 5}, {"format": "jpeg", "fps": 1}, {"format": "fmp4", "slots": 99}]})
    assert [(o.name, o.fps, o.slots) for o in own.outputs] == [
        ("cam", 5.0, None), ("cam.jpeg", 1.0, None), ("cam.fmp4", None, 99)
    ]  # fmt: skip


def test_a_camera_that_is_not_enabled_feeds_nothing() -> None:
    cameras: dict[str, Any] = {
        "a": {"url": URL, "outputs": [{"name": "ring"}]},
        "b": {"url": URL, "outputs": [{"name": "ring"}]},
    }
    assert "the cameras a and b both feed the ring ring" in refused(cameras)
    cameras["b"]["enabled"] = False
    assert list(config(cameras).specs()) == ["a"]


def test_no_two_cameras_feed_one_ring() -> None:
    page: dict[str, Any] = {"a": {"url": URL, "outputs": [{"name": "b.fmp4"}]}, "b": {"url": URL}}
    assert "the cameras b and a both feed the ring b.fmp4" in refused(page)
    page["b"]["live"] = False
    assert config(page).specs()
    assert "two outputs of a feed the ring a" in refused({"a": {"url": URL, "outputs": [{}, {"name": "a"}]}})
    assert "of format jpeg" in refused({"a": {"url": URL, "outputs": [{"name": "a.jpeg", "format": "rgba"}]}})
    assert "belongs to the service" in refused({"s.control": {"url": URL}}, name="s")


@pytest.mark.parametrize("password", ["p@ss/w#rd", "a:b?c%41", "ü 1", "x"])
def test_user_and_password_reach_the_camera_as_they_are(password: str) -> None:
    address = parse(spec({"user": "me@home", "password": password}).url)
    assert address.shown == "rtsp://me%40home:***@10.0.0.1/live"
    assert password in address.secrets


def test_a_login_in_the_address_wins_over_the_default() -> None:
    made = config(
        {
            "shared": {"url": URL},
            "own": {"url": "rtsp://x:y@10.0.0.2/live"},
            "none": {"url": URL, "user": ""},
            "half": {"url": URL, "password": "other"},
            "file": {"url": "/clip.mp4"},
        },
        defaults={"user": "me", "password": "pw"},
    )
    assert {name: s.url for name, s in made.specs().items()} == {
        "shared": "rtsp://me:pw@10.0.0.1/live",
        "own": "rtsp://x:y@10.0.0.2/live",
        "none": URL,
        "half": "rtsp://me:other@10.0.0.1/live",
        "file": "/clip.mp4",
    }
    assert "it has a user already" in refused({"a": {"url": "rtsp://x:y@h/l", "user": "z"}})


def test_two_configs_are_equal_if_they_ask_for_the_same() -> None:
    one = config({"a": {"url": URL, "outputs": [{"size": "640x360"}], "record": True}})
    two = config({"a": {"url": URL, "outputs": [{"size": [640, 360], "slots": None}], "record": {}}})
    assert one == two and one.specs() == two.specs()
    assert Config.model_validate(one.model_dump()) == one
    for other in ({"password": "x", "user": "y"}, {"title": "A"}, {"live": False}):
        assert config({"a": {"url": URL} | other}) != config({"a": {"url": URL}})
    token = {"host": "127.0.0.1", "token": "0123456789abcdef"}
    assert config({"a": {"url": URL}}, web=token) != config({"a": {"url": URL}})


def test_nothing_that_is_printed_has_a_secret() -> None:
    cameras = {
        "a": {"url": "rtsp://me:hunter1@h/x?token=hunter2", "options": {"headers": "hunter3"}},
        "b": {"url": URL, "user": "me", "password": "hunter4"},
    }
    made = config(cameras, web={"token": "hunter5-hunter5-"}, defaults={"options": {"x": "hunter6"}})
    for text in (repr(made), str(made), repr(made.cameras), repr(made.specs())):
        assert "hunter" not in text
    broken = {
        "a": {"url": "rtsp://me:hunter1@/x", "options": {"headers": ["hunter3"]}},
        "b": {"url": URL, "user": ["hunter4"], "password": ["hunter4"]},
        "c": "hunter7",
    }
    text = refused(broken, web={"token": "hunter5", "port": "hunter8"})
    assert "hunter" not in text and text.count("Input should be a valid string") == 3


def test_true_is_no_number_and_text_is_one_if_it_looks_so() -> None:
    made = config({"a": {"url": URL, "read_timeout": "2.5", "enabled": "yes", "outputs": [{"fps": "5"}]}})
    assert made.cameras["a"].read_timeout == 2.5 and made.cameras["a"].outputs[0].fps == 5.0
    for key in ("read_timeout", "thread_count", "open_timeout"):
        assert "valid number" in refused({"a": {"url": URL, key: True}})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_alone_needs_no_token(host: str) -> None:
    assert config({"a": {"url": URL}}, web={"host": host}).web is not None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.2", "camera-host", "localhost.example.org"])
def test_any_other_address_needs_a_token(host: str) -> None:
    text = refused({"a": {"url": URL}}, web={"host": host})
    assert "secrets.token_urlsafe" in text and "token" in text
    assert config({"a": {"url": URL}}, web={"host": host, "token": "0123456789abcdef"}).web is not None


def test_a_service_without_a_page() -> None:
    assert config({"a": {"url": URL}}, web=False).web is None
    assert config({"a": {"url": URL}}, web=True) == config({"a": {"url": URL}})


@pytest.mark.parametrize(
    ("said", "age", "size"),
    [
        ("14d", 14 * 86400, None),
        ("500GB", None, 500 * 10**9),
        ("14d 500GB", 14 * 86400, 500 * 10**9),
        ("2TiB, 1h30m", 5400, 2 << 40),
        ({"age": "36h", "size": 1000}, 36 * 3600, 1000),
        ({"age": 90}, 90, None),
    ],
)
def test_what_is_kept_is_said_in_short_or_in_full(said: Any, age: float | None, size: int | None) -> None:
    made = config({"a": {"url": URL, "record": {"keep": said}}}, keep=said)
    record = made.cameras["a"].record
    for keep in (made.keep, record.keep if record is not None else None):
        assert keep is not None and (keep.age, keep.size, keep.free) == (age, size, None)


@pytest.mark.parametrize(
    "said", ["x", "14", 14, True, [1], "14d 3d", "GB", {"size": "huge"}, {"age": -1}, "14d x"]
)
def test_what_cannot_be_kept_is_refused(said: Any) -> None:
    assert "keep" in refused({"a": {"url": URL}}, keep=said)
    assert "keep" in refused({"a": {"url": URL, "record": {"keep": said}}})


def test_free_space_is_for_all_cameras() -> None:
    assert config({"a": {"url": URL}}, keep={"free": "20GB"}).keep is not None
    assert "at the top" in refused({"a": {"url": URL, "record": {"keep": {"free": "20GB"}}}})


def test_on_is_a_key_of_record_as_it_stands(tmp_path: Path) -> None:
    """YAML 1.1 takes it for true."""
    path = tmp_path / "c.yaml"
    path.write_text(f"cameras: {{a: {{url: '{URL}', record: {{on: event, before: 5s, after: 1m}}}}}}\n")
    record = load(path).cameras["a"].record
    assert record is not None and (record.on, record.before, record.after) == ("event", 5.0, 60.0)
