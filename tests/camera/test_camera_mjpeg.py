"""Motion JPEG over HTTP and TCP, with whatever servers put between the images."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import valkka_async as va
from support.stream import ByteServer, Gate, patient
from support.until import wait_for
from valkka_async.camera.source.images import Images, NoImageError

LEVELS = range(10, 250, 10)


def image(level: int, kind: str = "JPEG", **how: object) -> bytes:
    out = io.BytesIO()
    rows = np.full((48, 64, 3), level, np.uint8)
    rows[::7] //= 2
    Image.fromarray(rows).save(out, kind, **how)
    return out.getvalue()


IMAGES = [image(level) for level in LEVELS]
Wrap = Callable[[bytes], bytes]


def part(
    head: str = "--b\r\nContent-Type: image/jpeg\r\n", length: object = None, tail: bytes = b"\r\n"
) -> Wrap:
    """Puts an image into a part. `length`: what it says of that; None: nothing; True: what is right."""

    def wrap(data: bytes) -> bytes:
        said = len(data) if length is True else length
        more = "" if length is None else f"Content-Length: {said}\r\n"
        return f"{head}{more}\r\n".encode() + data + tail

    return wrap


ENDLESS = [data.removesuffix(b"\xff\xd9") for data in IMAGES]
# name: the header that announces it, and what is done to each image
SERVERS: dict[str, tuple[str, Wrap]] = {
    "as it should be": ("multipart/x-mixed-replace;boundary=b", part(length=True)),
    "no length": ("multipart/x-mixed-replace; boundary=b", part()),
    "length too small": ("multipart/x-mixed-replace; boundary=b", part(length=9)),
    "length too large": ("multipart/x-mixed-replace; boundary=b", part(length=99999999)),
    "length is no number": ("multipart/x-mixed-replace; boundary=b", part(length="many")),
    "boundary with dashes": ("multipart/x-mixed-replace;boundary=--b", part(length=True)),
    "boundary with more": (
        "multipart/x-mixed-replace;boundary=--b",
        part("----b\r\nContent-Type: image/jpeg\r\n"),
    ),
    "boundary without": ("multipart/x-mixed-replace; boundary=b", part("b\r\nContent-Type: image/jpeg\r\n")),
    "boundary in quotes": ('multipart/x-mixed-replace; boundary="b"', part(length=True)),
    "boundary not said": ("multipart/x-mixed-replace", part()),
    "another boundary": ("multipart/x-mixed-replace; boundary=a", part()),
    "boundary behind": (
        "multipart/x-mixed-replace;boundary=b",
        part("Content-Type: image/jpg\r\n", tail=b"\r\n--b\r\n"),
    ),
    "image/jpg": ("multipart/x-mixed-replace;boundary=b", part("--b\r\nContent-Type: image/jpg\r\n")),
    "no type": ("multipart/x-mixed-replace;boundary=b", part("--b\r\n")),
    "line feeds": ("multipart/mixed;boundary=b", part("--b\nContent-Type: image/jpeg\n")),
    "words between": ("multipart/x-mixed-replace;boundary=b", part(tail=b"\r\nhello, you <br>\r\n\0\0\r\n")),
    "nothing between": ("image/jpeg", lambda data: data),
    "video/x-motion-jpeg": ("video/x-motion-jpeg", lambda data: data),
    "of no kind": ("application/octet-stream", part(length=True)),
    "text/html": ("text/html", part()),
}  # fmt: skip


@pytest.mark.parametrize("name", SERVERS)
def test_images_are_read_whatever_is_between_them(name: str) -> None:
    content, wrap = SERVERS[name]
    head = f"HTTP/1.0 200 OK\r\nContent-Type: {content}\r\n\r\n".encode()
    with ByteServer([wrap(data) for data in IMAGES], 20, head=head, http=True) as server:
        with va.Camera("cam", server.url(path="/video.cgi")) as camera:
            with va.attach("cam", policy="ordered") as reader:
                seen = []
                for _ in range(8):
                    with reader.recv(timeout=20) as frame:
                        seen.append(round(float(frame.array[1:7].mean()) / 10) * 10)
            status = camera.status()
    assert seen == list(range(seen[0], seen[0] + 80, 10))  # each, and none twice
    assert (status.codec, status.errors, status.attempts) == ("mjpeg", 0, 1)
    assert status.early and not status.clock_disagrees
    assert server.connections == 1  # cameras with room for one viewer are asked once


def test_an_image_is_here_with_its_last_byte() -> None:
    head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=b\r\n\r\n"
    gate = Gate(0)
    with ByteServer([part()(data) for data in IMAGES], 50, head=head, http=True, gate=gate) as server:
        with patient(server.url()), va.attach("cam", policy="ordered") as reader:
            for number in range(4):
                gate.let(1)
                with reader.recv(timeout=30) as frame:  # before the next one is sent
                    assert round(float(frame.array[1:7].mean()) / 10) - 1 == number
                    assert frame.pts is not None and frame.time_base is not None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_of_every_kind(kind: str) -> None:
    wrap = part(f"--b\r\nContent-Type: image/{kind.lower()}\r\n", length=True)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=b\r\n\r\n"
    pieces = [wrap(image(level, kind)) for level in LEVELS]
    with ByteServer(pieces, 20, head=head, http=True) as server:
        with va.Camera("cam", server.url()), va.attach("cam", policy="ordered") as reader:
            for _ in range(5):
                reader.recv(timeout=20).release()


@pytest.mark.parametrize("format", [None, "mjpeg", "mpjpeg"])
def test_images_over_tcp_are_there_from_the_first_on(format: str | None) -> None:
    gate = Gate(0)
    with ByteServer(IMAGES, 10, gate=gate) as server:
        with patient(server.url("tcp"), input_format=format) as camera:
            with va.attach("cam") as reader:
                gate.let(1)
                reader.recv(timeout=30).release()
            assert camera.status().codec == "mjpeg"
        assert server.connections == 1


def read(data: bytes, sizes: list[int]) -> list[bytes]:
    """The images in what comes in pieces of these sizes."""
    stream, turns = io.BytesIO(data), iter(sizes)
    images = Images(lambda size: stream.read(min(size, next(turns, size))))
    return list(iter(images.next, None))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(SERVERS)), st.lists(st.integers(1, 3000), max_size=40))
def test_images_do_not_depend_on_how_bytes_come(name: str, sizes: list[int]) -> None:
    data = b"".join(map(SERVERS[name][1], IMAGES[:5]))
    assert read(b"\r\n" + data, sizes) == IMAGES[:5]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["no length", "as it should be", "nothing between"]), st.lists(st.integers(1, 3000)))
def test_cameras_that_never_send_the_end_of_an_image(name: str, sizes: list[int]) -> None:
    found = read(b"".join(map(SERVERS[name][1], ENDLESS[:5])), sizes)
    assert len(found) == 5
    for data, right in zip(found, IMAGES[:5], strict=True):
        with Image.open(io.BytesIO(data)) as one, Image.open(io.BytesIO(right)) as other:
            assert np.array_equal(one, other)


@pytest.mark.parametrize("how", [{"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 1}])
def test_encodings_have_ends_of_their_own(how: dict[str, object]) -> None:
    thumbnail = b"\xff\xe1" + (len(IMAGES[0]) + 2).to_bytes(2, "big") + IMAGES[0]  # in EXIF there may be one
    data = image(100, **how)
    whole = data[:2] + thumbnail + data[2:]
    assert read(part()(whole) * 3, [7] * 100) == [whole] * 3


@settings(deadline=None, max_examples=60)
@given(st.integers(0, len(IMAGES[1]) - 1))
def test_a_torn_image_costs_no_other(cut: int) -> None:
    wrap = part(length=True)
    data = wrap(IMAGES[0]) + wrap(IMAGES[1][:cut]) + wrap(IMAGES[2]) + wrap(IMAGES[3])
    found = read(data, [])
    assert found[0] == IMAGES[0] and found[-2:] == IMAGES[2:4]
    assert len(found) == 3


@pytest.mark.parametrize("data", [b"x" * (3 << 20), b"--b\r\nContent-Type: text/html\r\n\r\n" * 99999])
def test_what_has_no_images_is_given_up(data: bytes) -> None:
    with pytest.raises(NoImageError):
        read(data, [])


def test_an_image_without_an_end_does_not_take_all_memory() -> None:
    images = Images(lambda size: b"\x11" * size)
    images._buffer += IMAGES[0][:-2]
    with pytest.raises(NoImageError):
        images.next()


def test_multipart_of_one_image_is_a_snapshot() -> None:
    head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=b\r\n\r\n"
    with ByteServer([part()(IMAGES[0]) + b"--b--\r\n"], 20, head=head, http=True, once=True) as server:
        with va.Camera("cam", server.url(), poll=0.1) as camera, va.attach("cam", policy="ordered") as reader:
            for _ in range(4):
                reader.recv(timeout=20).release()
            assert camera.status().attempts == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=b\r\n\r\n"
        + b"--b\r\n" * 400000,
        b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<html><body>Log in</body></html>",
        b'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"error": "no such channel"}',
    ],
)
def test_what_is_no_video_says_so(answer: bytes) -> None:
    with ByteServer([b""], head=answer, http=True, once=True) as server:
        with va.Camera("cam", server.url()) as camera:
            wait_for(lambda: camera.status().cause)
            assert camera.status().cause == "format"


def test_a_stream_of_images_that_ends_or_falls_silent_is_an_error_with_its_cause() -> None:
    head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=b\r\n\r\n"
    with ByteServer([part()(data) for data in IMAGES[:5]], 20, head=head, http=True, once=True) as server:
        with va.Camera("cam", server.url()) as camera:
            wait_for(lambda: camera.status().cause)
            assert camera.status().cause == "ended"
    with ByteServer([part()(IMAGES[0])], 0.01, head=head, http=True) as server:
        with va.Camera("cam", server.url(), read_timeout=0.5) as camera:
            wait_for(lambda: camera.status().cause)
            assert camera.status().cause == "timeout"


@pytest.mark.parametrize("words", [b"a:b\r\n" * 200, b"a" * 900, b"a:b\r\n" * 200 + b"c\r\n"])
def test_words_that_are_none_cost_no_more_than_they_are_long(words: bytes) -> None:
    """Looked at again and again, they cost more than a test may take."""
    data = (b"\xff\xd8\xff\xda\0\2" + b"x" * 3000 + words) * 3000
    images = Images(io.BytesIO(data).read)
    count = 0
    while images.next() is not None:
        count += 1
    assert count == 3000
