"""Credentials are understood, also careless ones, and never shown."""

from __future__ import annotations

import base64
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valkka_async.camera.source.secrets import parse
from valkka_async.camera.spec import CameraSpec
from valkka_async.camera.workers.spawn import environment

URLS = [  # what the user writes, what FFmpeg gets, what is shown
    ("rtsp://10.0.0.7/live", "rtsp://10.0.0.7/live", "rtsp://10.0.0.7/live"),
    ("rtsp://me:pw@10.0.0.7:554/live", "rtsp://me:pw@10.0.0.7:554/live", "rtsp://me:***@10.0.0.7:554/live"),
    ("RTSP://me:pw@cam", "rtsp://me:pw@cam", "rtsp://me:***@cam"),
    # The same by the book, and perhaps not meant so: neither shows what may be a password.
    ("rtsp://me:p%40ss@cam/a@b", "rtsp://me:p%40ss@cam/a@b", "rtsp://me:***@b"),
    ("rtsp://me:p@ss/w:rd#1@cam/live", "rtsp://me:p@ss/w:rd#1@cam/live", "rtsp://me:***@cam/live"),
    ("rtsp://me:pw@[fe80::1]:554/x", "rtsp://me:pw@[fe80::1]:554/x", "rtsp://me:***@[fe80::1]:554/x"),
    ("rtsp://me:p@ss@cam/x", "rtsp://me:p%40ss@cam/x", "rtsp://me:***@cam/x"),
    (
        "rtsp://me:p@ss:w/rd#?@cam:554/x",
        "rtsp://me:p%40ss%3Aw%2Frd%23%3F@cam:554/x",
        "rtsp://me:***@cam:554/x",
    ),
    ("rtsp://me:100%@cam", "rtsp://me:100%25@cam", "rtsp://me:***@cam"),
    ("rtsp://me:pä ss@cam", "rtsp://me:p%C3%A4%20ss@cam", "rtsp://me:***@cam"),
    ("rtsp://t0ken@cam/x", "rtsp://t0ken@cam/x", "rtsp://***@cam/x"),
    ("rtsp://me:@cam/x", "rtsp://me:@cam/x", "rtsp://me:***@cam/x"),
    (
        "http://cam/v?user=me&pwd=pw1&n=1",
        "http://cam/v?user=me&pwd=pw1&n=1",
        "http://cam/v?user=me&pwd=***&n=1",
    ),
    ("udp://@239.1.1.1:5004", "udp://239.1.1.1:5004", "udp://239.1.1.1:5004"),
    ("srt://:9000?mode=listener", "srt://:9000?mode=listener", "srt://:9000?mode=listener"),
    ("/videos/a@b:c.mp4", "/videos/a@b:c.mp4", "/videos/a@b:c.mp4"),
    ("lavfi:testsrc=size=64x64", "testsrc=size=64x64", "lavfi:testsrc=size=64x64"),
    # By the book this is host "me"; it was not meant to be.
    ("rtsp://me:1234/x@cam/live", "rtsp://me:1234/x@cam/live", "rtsp://me:***@cam/live"),
]


def test_urls_are_taken_apart() -> None:
    for url, for_ffmpeg, shown in URLS:
        address = parse(url)
        assert (address.url, address.shown, str(address)) == (for_ffmpeg, shown, shown)
        assert address.shown in repr(address)
        if "***" in shown:
            assert for_ffmpeg not in repr(address)


def test_a_url_without_a_host_is_refused_without_repeating_the_password() -> None:
    for url in ("", "rtsp://", "rtsp:///path", "rtsp://me:s3cret@/path", "rtsp://me:s3cret@:/@"):
        with pytest.raises(ValueError, match="host|non-empty") as caught:
            parse(url)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("password", ["s3cret", "s3 cret/ä", "s3%63ret"])
def test_foreign_text_is_scrubbed_of_every_form_of_the_password(password: str) -> None:
    address = parse(f"rtsp://me:{password}@cam/live?token=t0k")
    written = [password, quote(password, safe="%"), unquote(password), address.url, "token=t0k"]
    written.append("Basic " + base64.b64encode(f"me:{unquote(password)}".encode()).decode())
    for form in written:
        clean = address.scrub(f"before {form} after")
        assert form not in clean
        assert clean.startswith("before ") and clean.endswith(" after")


def forms(password: str) -> set[str]:
    """As it may appear: raw, percent-encoded (also carelessly), and decoded."""
    return {password, quote(password, safe=""), quote(password), unquote(password)}


passwords = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=12)


@given(user=st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), password=passwords)
def test_no_password_is_shown_and_each_is_scrubbed_where_addresses_have_it(user: str, password: str) -> None:
    for written in forms(password):
        try:
            address = parse(f"rtsp://{user}:{written}@10.0.0.7:554/live")
        except ValueError as e:  # a raw one in which a host seems to begin
            assert len(written) < 4 or written not in str(e)
            continue
        assert address.shown == f"rtsp://{user}:***@10.0.0.7:554/live"
        assert repr(address) == f"Address(scheme='rtsp', shown={address.shown!r})"
        for said in (
            f"Opening '{address.url}' for reading",
            f"[rtsp @ 0x55] {address.url}?x: Connection refused",
            f"user info {user}:{written}@10.0.0.7",
        ):
            clean = address.scrub(said)
            assert "***" in clean
            assert not [form for form in {written, unquote(written)} if f":{form}@" in clean], clean


@given(password=st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=3))
def test_a_short_password_does_not_garble_what_has_nothing_to_do_with_it(password: str) -> None:
    try:
        address = parse(
            f"rtsp://me:{quote(password, safe='')}@10.0.0.7/live?token={quote(password, safe='')}"
        )
    except ValueError:
        return
    line = f"frame {password} of 1000 arrived at 12:00:00; {password}{password} e1 o2 (lavfi, x=1)"
    assert address.scrub(line) == line


@pytest.mark.parametrize("password", ["a", "e", "1", "x1", "pwd"])
def test_a_short_password_is_hidden_in_addresses_of_every_kind(password: str) -> None:
    for url, clean in (
        (f"rtsp://me:{password}@cam/live", "rtsp://me:***@cam/live"),
        (f"rtsp://{password}@cam/live", "rtsp://***@cam/live"),
        (f"http://cam/v?user=me&pwd={password}", "http://cam/v?user=me&pwd=***"),
        (f"cache:http://me:{password}@cam/v", "cache:http://me:***@cam/v"),
    ):
        address = parse(url)
        assert address.shown == clean
        assert address.scrub(f"open {url}, failed: {url.upper()}").startswith(f"open {clean}, failed")
        assert address.scrub("the areal example 1 of x1: pwd") == "the areal example 1 of x1: pwd"


def test_a_short_password_does_not_cost_a_worker_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "C")
    monkeypatch.setenv("CAM_PASSWORD", "s3cret")
    specs = [CameraSpec("a", "rtsp://me:C@10.0.0.7/live"), CameraSpec("b", "rtsp://me:s3cret@10.0.0.8/live")]
    left = environment(specs)
    assert left["LANG"] == "C" and "CAM_PASSWORD" not in left


def test_addresses_within_addresses_are_taken_apart() -> None:
    address = parse("concat:http://me:s3cret@cam/1|http://you:an%20other@cam/2|rest.ts")
    assert address.shown == "concat:http://me:***@cam/1|http://you:***@cam/2|rest.ts"
    assert {"s3cret", "an other", "an%20other"} <= {*address.secrets}
    assert parse("crypto+http://me:s3cret@cam/1").shown == "crypto+http://me:***@cam/1"
