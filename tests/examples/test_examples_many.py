"""The examples of many readers and many cameras do what they promise, with real cameras and without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

import valkka_async as va
from support import footage
from support.program import ROOT, Child, Example
from support.require import missing
from support.rtsp import RtspServer
from support.until import wait_for
from valkka_async.ring.connection import report

OTHER = """
with va.serve("other") as server:
    say("there")
    while True:
        server.publish(np.zeros((90, 160, 3), np.uint8))
        time.sleep(0.05)
"""


def tidy_up(name: str) -> None:
    """What a server that a test has killed left behind."""
    va.serve(name).close()


def size_of(jpeg: Path) -> tuple[int, int]:
    """Raises where it is no whole image."""
    with av.open(str(jpeg)) as file:
        image = next(file.decode(video=0))
        assert not image.is_corrupt
        return image.width, image.height


def frames_of(file: Path) -> int:
    with av.open(str(file)) as video:
        return sum(1 for _ in video.decode(video=0))


def test_all_at_once_from_one_connection(street: RtspServer, tmp_path: Path) -> None:
    with Example("all_at_once.py", street.url("/bikes"), folder=tmp_path) as example:
        motion = [float(example.match(r"^brightness \d+, motion (\d+\.\d)$")[1]) for _ in range(3)]
        assert max(motion) > 0.5  # they do move
        wait_for((tmp_path / "shown.jpg").exists)
        assert street.stats()["/bikes"].clients == 1
        assert example.interrupt() == ""
    assert size_of(tmp_path / "shown.jpg") == (640, 272)
    (film,) = (tmp_path / "rec").iterdir()
    assert frames_of(film) >= 25
    street.wait_clients("/bikes", 0)


def test_all_at_once_without_a_camera(tmp_path: Path) -> None:
    with Example("all_at_once.py", folder=tmp_path) as example:
        example.match(r"^brightness \d+, motion [1-9]")
        wait_for((tmp_path / "shown.jpg").exists)
        assert example.interrupt() == ""
    assert size_of(tmp_path / "shown.jpg") == (1280, 720)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["rec", "shown.jpg"]
    assert all(frames_of(film) for film in (tmp_path / "rec").iterdir())


def test_one_select_for_a_camera_a_file_and_a_ring_that_dies(street: RtspServer, tmp_path: Path) -> None:
    bikes = footage.bikes(ROOT / ".cache")
    with (
        Example("many_select.py", "other", street.url("/bikes"), bikes, folder=tmp_path) as example,
        Child(OTHER) as other,  # after its reader
    ):
        assert other.line() == "there"
        example.match(r"^other [1-9]\d*  select2 [1-9]\d*  select3 [1-9]\d*, -?\d+ ms old at most$")
        other.kill()
        example.match("^other is gone: ")
        example.match(r"^select2 [1-9]\d*  select3 [1-9]\d*, ")
        assert example.interrupt() == ""
    tidy_up("other")


def test_select_ends_with_its_last_ring(tmp_path: Path) -> None:
    code = """
    with va.serve("other") as s:
        s.publish(b"x")
        while not s.readers: time.sleep(0.01)
    """
    with Example("many_select.py", "other", folder=tmp_path) as example, Child(code):
        example.match("^other is gone: ")
        assert example.ends() == ""


def test_one_select_without_cameras(tmp_path: Path) -> None:
    with Example("many_select.py", folder=tmp_path) as example:
        example.match(r"^select1 [1-9]\d*  select2 [1-9]\d*, ")
        assert example.interrupt() == ""


def test_merge_follows_cameras_that_come_and_go(street: RtspServer, tmp_path: Path) -> None:
    with Example("many_merge.py", *map(street.url, ("/bikes", "/people")), folder=tmp_path) as example:
        example.match(r"^frames: merge1 [1-9]\d*  merge2 [1-9]\d*$")
        example.match(r"^frames: merge2 \d+$")
        example.match(r"^frames: merge1 [1-9]")
        assert example.interrupt() == ""


def test_merge_without_cameras(tmp_path: Path) -> None:
    with Example("many_merge.py", folder=tmp_path) as example:
        example.match(r"^frames: merge1 [1-9]\d*  merge2 [1-9]\d*$")
        assert example.interrupt() == ""


def test_a_cancelled_close_is_quiet(tmp_path: Path) -> None:
    """Ctrl-C while a camera is being closed: whether its thread ends is not known, so nothing is said."""
    code = """
    async def main():
        camera = va.Camera("cam", "lavfi:testsrc2=size=1920x1080:rate=25")
        async with va.connect("cam") as client:
            await client.recv()
        closing = asyncio.create_task(camera.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
    asyncio.run(main())
    """
    program = f"import asyncio\nimport valkka_async as va\nif True:{code}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")


# ------------------------------------------------------------------------------------ surveillance


def boxes_around_people(picture: Path) -> bool:
    """Are there upright orange lines, at least 60 pixels long, in the first camera's part? The footage has
    none of its own."""
    blue, green, red = (cv2.imread(str(picture))[60:, :768, n].astype(np.int16) for n in range(3))
    orange = (red > 180) & (abs(green - 140) < 50) & (blue < 90)
    return bool(cv2.erode(orange.astype(np.uint8), np.ones((60, 1), np.uint8)).any())


def motion_process(parent: int, name: str) -> int | None:
    """The OpenCV process of a camera."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        except FileNotFoundError:
            continue
        if len(command) > 2 and command[-2] == name.encode() and b"surveillance_motion" in command[-3]:
            return int(child)
    return None


def read(ring: str) -> bool:
    """Is it served, and has somebody who reads it?"""
    state: Any = report(ring, 5)
    return state is not None and state["readers"] > 0 and state["published"] > 0


@pytest.fixture
def hog() -> None:
    if not hasattr(cv2, "HOGDescriptor"):
        missing(f"OpenCV {cv2.__version__} has no HOG: pip install --group test")


def test_surveillance_finds_people_and_outlives_a_killed_process(
    hog: None, street: RtspServer, tmp_path: Path
) -> None:
    bikes, picture = footage.bikes(ROOT / ".cache"), tmp_path / "seen.jpg"
    arguments = ("--picture", picture, street.url("/people"), bikes)
    with Example("surveillance.py", *arguments, folder=tmp_path) as example:
        example.match(r"^site1: \d+ people, \d+ ms; site2: ")
        example.match("^site1: [1-9]")
        wait_for(lambda: boxes_around_people(picture), 20)
        width, height = size_of(picture)
        assert height == 576 and width == 768 + round(640 * 576 / 272)
        parent = example.pid
        victim = motion_process(parent, "site1")
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: motion_process(parent, "site1") not in (None, victim), 20)
        wait_for(lambda: read("site1.motion"), 20)
        example.skip()
        known = example.match(r"site1: .*?ms")[0]
        deadline = time.monotonic() + 25
        while example.match(r"site1: .*?ms")[0] == known:
            assert time.monotonic() < deadline
        assert example.interrupt() == ""
        assert motion_process(os.getpid(), "site1") is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["seen.jpg"]


def test_surveillance_without_cameras(hog: None, tmp_path: Path) -> None:
    with Example("surveillance.py", folder=tmp_path) as example:
        example.match(r"^site1: \d+ people, \d+ ms; site2: \d+ people, \d+ ms$")
        wait_for((tmp_path / "people.jpg").exists)
        assert example.interrupt() == ""


def test_surveillance_ends_when_its_time_is_over(hog: None, tmp_path: Path) -> None:
    with Example("surveillance.py", "--seconds", 1, folder=tmp_path) as example:
        assert example.ends() == ""


def test_motion_is_told_in_metadata(street: RtspServer, tmp_path: Path) -> None:
    camera = """
    with va.Camera("cam", sys.argv[1], [va.Output("cam", "bgr24")]):
        say("there")
        sys.stdin.read()
    """
    reader = """
    with va.attach("cam.motion", open_timeout=20) as reader:
        for frame in reader:
            for x, y, w, h in frame.meta["boxes"]:
                assert 0 <= x < x + w <= 770 and 0 <= y < y + h <= 578
            say(frame.format, *frame.shape, len(frame.meta["boxes"]), frame.meta.keys() >= {"boxes"})
    """
    with Example("surveillance_motion.py", "cam", folder=tmp_path) as example:
        with Child(camera, street.url("/people")), Child(reader) as seen:
            while not seen.line().startswith("bgr24 576 768 3 ") or int(seen.line().split()[4]) < 1:
                pass
        assert example.interrupt() == ""
    tidy_up("cam")
