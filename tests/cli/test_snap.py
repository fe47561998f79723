# SPDX-License-Identifier: MIT
"""`valkka-async snap`: an image of whatever a ring has, or one line that says why there is none."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from numpy.typing import NDArray

import valkka_async as va
from support.footage import PATCHES, draw, read_index, read_patches
from support.program import SECONDS, Program, one_line, run
from support.until import wait_for
from valkka_async.camera import spec
from valkka_async.cli.names import Ring, absent, complete, pick
from valkka_async.cli.still import PIXELS, as_jpeg, as_png, from_pixels
from valkka_async.ring.connection import report

SIZE = (320, 192)
NUMBER = 1234
Image = NDArray[np.uint8]


pytestmark = pytest.mark.usefixtures("here")


def in_format(format: str, image: Image) -> Image:
    """An rgb24 image as a camera's ring of another format has it."""
    return cast(Image, av.VideoFrame.from_ndarray(image, format="rgb24").to_ndarray(format=PIXELS[format]))


def opened(data: bytes | Path) -> tuple[str, Image]:
    """(codec, rgb24) of an image file."""
    with av.open(io.BytesIO(data) if isinstance(data, bytes) else str(data), "r") as file:
        image = next(file.decode(video=0)).to_ndarray(format="rgb24")
        return file.streams.video[0].codec_context.name, cast(Image, image)


def check_image(image: Image, *, exact: bool = False) -> None:
    assert image.shape == (SIZE[1], SIZE[0], 3)
    assert read_index(image) == NUMBER
    for patch, colour in zip(read_patches(image), PATCHES, strict=True):
        assert patch == pytest.approx(colour, abs=1 if exact else 12)


def jpeg(image: Image) -> bytes:
    context = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt = SIZE[0], SIZE[1], "yuvj420p"
    context.time_base = 1  # type: ignore[assignment]
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuvj420p")
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def soon() -> int:
    """A capture time that is not old before a command has run, so that it need not wait for a newer frame."""
    return time.time_ns() + 60_000_000_000


# --------------------------------------------------------------------------------------- what it takes


def test_a_ring_of_pixels_becomes_a_jpeg_with_the_time_in_its_name(here: Path) -> None:
    with va.serve("cam1") as server:
        server.publish(draw(NUMBER, SIZE), timestamp_ns=soon())
        done = run("snap", "cam1")
    assert (done.returncode, done.stderr) == (0, "")
    (file,) = here.iterdir()
    assert re.fullmatch(r"cam1-\d{8}-\d{6}\.jpg", file.name)
    assert re.fullmatch(rf"{file.name}: 320x192, .* old, from the ring cam1\n", done.stdout)
    codec, image = opened(file)
    assert codec == "mjpeg"
    check_image(image)


def test_each_format_of_pixels_becomes_an_image() -> None:
    assert {*PIXELS} == {*spec.PIXELS}
    for format in PIXELS:
        whole = from_pixels(in_format(format, draw(NUMBER, SIZE)), format)
        for data in (as_png(whole), as_jpeg(whole, None)):
            codec, image = opened(data)
            if format in ("gray8", "gray16"):
                assert read_index(image) == NUMBER and np.ptp(image, axis=2).max() == 0
            else:
                check_image(image, exact=codec == "png" and format not in ("nv12", "yuv420p"))


def test_a_jpeg_is_written_as_it_came_unless_another_is_wanted(here: Path) -> None:
    data = jpeg(draw(NUMBER, SIZE))
    with va.serve("cam1") as server:
        server.publish(data, format="jpeg", timestamp_ns=soon())
        assert run("snap", "cam1", "as-it-is.jpg").returncode == 0
        assert run("snap", "cam1", "coarse.jpeg", "--quality", "20").returncode == 0
        assert run("snap", "cam1", "other.png").returncode == 0
    assert (here / "as-it-is.jpg").read_bytes() == data
    assert (here / "coarse.jpeg").stat().st_size < len(data)
    for name in ("coarse.jpeg", "other.png"):
        check_image(opened(here / name)[1])


def test_a_camera_is_known_by_its_name_although_its_rings_have_others(here: Path, clip: Path) -> None:
    outputs = [
        va.Output("front.fmp4", "fmp4"),
        va.Output("front.jpeg", "jpeg"),
        va.Output("small", size=(64, 36)),
    ]
    with va.Camera("front", clip, outputs):
        done = run("snap", "front", "a.jpg")
        assert "from the ring front.jpeg" in done.stdout, done.stderr
        assert 0 <= read_index(opened(here / "a.jpg")[1]) < 50


@pytest.mark.parametrize("format", ["fmp4", "packets"])
def test_encoded_frames_are_decoded(here: Path, clip: Path, format: str) -> None:
    with va.Camera("front", clip, [va.Output("film", format)]):
        done = run("snap", "front", "a.png")
        assert (done.returncode, done.stderr) == (0, "")
        assert "320x192" in done.stdout and "from the ring film" in done.stdout
    assert 0 <= read_index(opened(here / "a.png")[1]) < 50


def test_standard_output_gets_the_image_and_nothing_else(here: Path) -> None:
    with va.serve("cam1") as server:
        server.publish(draw(NUMBER, SIZE), timestamp_ns=soon())
        done = subprocess.run(
            [sys.executable, "-m", "valkka_async", "snap", "cam1", "-"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"\xff\xd8") and done.stdout.endswith(b"\xff\xd9")
    check_image(opened(done.stdout)[1])
    assert list(here.iterdir()) == []


# ---------------------------------------------------------------------------------------------- files


def test_a_file_is_overwritten_only_when_asked_to(here: Path) -> None:
    (here / "folder").mkdir()
    (here / "mine.jpg").write_text("keep me")
    with va.serve("cam1") as server:
        server.publish(draw(NUMBER, SIZE), timestamp_ns=soon())
        done = run("snap", "cam1", "mine.jpg")
        assert done.returncode == 1 and "--force" in one_line(done.stderr)
        assert (here / "mine.jpg").read_text() == "keep me"
        assert run("snap", "cam1", "mine.jpg", "--force").returncode == 0
        assert run("snap", "cam1", "folder").returncode == 0
        missing = run("snap", "cam1", "nowhere/x.jpg")
    check_image(opened(here / "mine.jpg")[1])
    assert sorted(path.name for path in here.iterdir()) == ["folder", "mine.jpg"]  # no half files
    assert [path.name[:5] for path in (here / "folder").iterdir()] == ["cam1-"]
    said = "valkka-async: nowhere/x.jpg: No such file or directory\n"
    assert (missing.returncode, missing.stderr) == (1, said)


def test_a_file_that_is_no_image_is_bad_usage() -> None:
    done = run("snap", "cam1", "x.gif")
    assert done.returncode == 2 and ".png" in one_line(done.stderr)


def test_a_file_that_appears_while_it_waits_is_kept(here: Path) -> None:
    with va.serve("cam1") as server, Program("snap", "cam1", "mine.jpg") as program:
        wait_for(lambda: server.readers, SECONDS)
        (here / "mine.jpg").write_text("keep me")
        server.publish(draw(NUMBER, SIZE))
        status, errors = program.finish()
    assert status == 1 and "--force" in one_line(errors)
    assert [path.read_text() for path in here.iterdir()] == ["keep me"]


# ---------------------------------------------------------------------------------- no frame, or an old one


def test_a_name_that_is_not_there_gets_those_that_are_nearest_first() -> None:
    assert "none is running" in absent("frnt", [])
    with va.serve("yard"), va.serve("front"), va.serve("door"):
        done = run("snap", "frnt")
    assert done.returncode == 1
    assert re.search(r"no server called 'frnt'; there are: front, \w+, \w+$", one_line(done.stderr).strip())


def test_why_there_is_no_frame(here: Path) -> None:
    with va.serve("empty"), va.Camera("gone", "rtsp://me:s3cr3t@127.0.0.1:9/x"):
        wait_for(lambda: json.dumps(report("gone", SECONDS)).find("Connection refused") > 0, SECONDS)
        empty, gone = run("snap", "empty", "--timeout", "0.5"), run("snap", "gone", "--timeout", "0.5")
    assert (empty.returncode, gone.returncode) == (1, 1)
    assert "no frame from 'empty' within 0.5 s: its server publishes no frames" in one_line(empty.stderr)
    assert re.search(
        r"within 0\.5 s: the camera is (waiting|connecting): .*Connection refused", one_line(gone.stderr)
    )
    assert "s3cr3t" not in gone.stderr
    with va.serve("words") as server:
        server.publish(b"no image")
        words = run("snap", "words")
    assert words.returncode == 1 and "'bytes', which are not images" in one_line(words.stderr)
    assert list(here.iterdir()) == []


def test_an_old_frame_is_taken_when_no_other_comes_and_called_old(here: Path) -> None:
    with va.serve("cam1") as server:
        server.publish(draw(NUMBER, SIZE), timestamp_ns=time.time_ns() - 40_000_000_000)
        began = time.monotonic()
        done = run("snap", "cam1", "old.png", "--timeout", "0.5")
        took = time.monotonic() - began
    assert done.returncode == 0
    check_image(opened(here / "old.png")[1], exact=True)
    age = re.search(r"the frame is old: no other has come for (\d+\.\d) s", one_line(done.stderr))
    assert age is not None and 40 <= float(age[1]) <= 41 + took


def test_a_fresh_frame_is_waited_for_where_there_is_an_old_one(here: Path) -> None:
    with va.serve("cam1") as server:
        server.publish(draw(7, SIZE), timestamp_ns=time.time_ns() - 40_000_000_000)
        with Program("snap", "cam1", "new.png") as program:
            wait_for(lambda: server.readers, SECONDS)
            time.sleep(0.2)
            server.publish(draw(NUMBER, SIZE))
            assert program.finish() == (0, "")
    check_image(opened(here / "new.png")[1], exact=True)


# ---------------------------------------------------------------------------------------------- names


def test_which_ring_a_name_means() -> None:
    rings = [
        Ring("front", "front", "rgb24"),
        Ring("front.fmp4", "front", "fmp4"),
        Ring("yard.film", "yard", "fmp4"),
        Ring("door.jpeg"),  # of a server that does not tell
        Ring("door.fmp4"),
        Ring("plain"),
        Ring("garage/cam1/packets"),  # a link has just got it, and its worker is being started
    ]

    def picked(name: str, *formats: str) -> Any:
        ring = pick(name, rings, formats)
        return ring.name if ring is not None else None

    assert picked("front", "jpeg", "rgb24") == "front"
    assert picked("front", "fmp4") == "front.fmp4"
    assert picked("yard", "fmp4") == "yard.film"
    assert picked("door", "jpeg", "fmp4") == "door.jpeg"
    assert picked("door", "fmp4") == "door.fmp4"
    assert picked("plain", "fmp4") == "plain"
    assert picked("front", "jpeg") == "front"  # to say what it is instead
    assert picked("fron", "jpeg", "fmp4") is None
    assert picked("garage/cam1", "jpeg", "rgb24", "fmp4") == "garage/cam1"
    assert picked("garage/cam1", "fmp4") == "garage/cam1/fmp4"
    assert picked("garage/cam2", "fmp4") is None


def test_of_two_streams_a_camera_s_name_means_the_main_one() -> None:
    rings = [Ring("gate.hd.fmp4", "gate", "fmp4", main=False), Ring("gate.fmp4", "gate", "fmp4")]
    for known in (rings, rings[::-1]):
        for name, meant in (("gate", "gate.fmp4"), ("gate.hd", "gate.hd.fmp4")):
            ring = pick(name, known, ("fmp4",))
            assert ring is not None and ring.name == meant


def test_names_to_choose_from_are_few() -> None:
    text = absent("cam7", [Ring(f"cam{n}") for n in range(1, 41) if n != 7])
    assert "and 31 more" in text and text.count(",") == 7


def test_names_for_the_shell(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with va.serve("front.fmp4"), va.serve("front.jpeg"), va.serve("yard"):
        assert complete("") == ["front", "front.fmp4", "front.jpeg", "yard"]
        assert complete("y") == ["yard"]
    monkeypatch.setenv("VALKKA_RUNTIME_DIR", "/dev/null")
    assert complete("") == []
