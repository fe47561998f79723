"""Credentials are understood, also careless ones, and never shown."""

from __future__ import annotations

import pytest

from valkka_async.camera.source.secrets import parse

URLS = [  # what the user writes, what FFmpeg gets, what is shown
    ("rtsp://10.0.0.7/live", "rtsp://10.0.0.7/live", "rtsp://10.0.0.7/live"),
    ("rtsp://me:pw@10.0.0.7:554/live", "rtsp://me:pw@10.0.0.7:554/live", "rtsp://me:***@10.0.0.7:554/live"),
    ("RTSP://me:pw@cam", "rtsp://me:pw@cam", "rtsp://me:***@cam"),
    # The same by the book, and not the same to who wrote it: neither shows what may be a password.
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
    import base64
    from urllib.parse import quote, unquote

    address = parse(f"rtsp://me:{password}@cam/live?token=t0k")
    forms = [password, quote(password, safe="%"), unquote(password), address.url, "token=t0k"]
    forms.append("Basic " + base64.b64encode(f"me:{unquote(password)}".encode()).decode())
    for form in forms:
        clean = address.scrub(f"before {form} after")
        assert form not in clean
        assert clean.startswith("before ") and clean.endswith(" after")
