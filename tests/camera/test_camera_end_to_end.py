"""A real RTSP camera, a process that plays it into a ring, and readers in other processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import valkka_async as va
from support import footage
from support.netns import in_netns
from support.program import Child
from support.require import missing
from support.rtsp import RtspServer, rtsp_available

CAMERA = """
with va.serve("cam1", slots=64) as server, va.play(sys.argv[1], server, transport=sys.argv[2]) as player:
    say("up")
    sys.stdin.readline()
"""

# An OpenCV-style program: no event loop; says each frame's number in the picture, and its shape.
WATCHER = """
from support.footage import read_index
with va.attach("cam1", policy="ordered") as reader:
    for frame in reader:
        say(read_index(frame.array, "rgb24"), *frame.shape, frame.dropped)
"""


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[RtspServer]:
    if (why := rtsp_available()) is not None:
        missing(why)
    with RtspServer() as server:
        server.mount("/cam", footage.encode(tmp_path / "small.h264", size=(640, 360), frames=50), fps=25)
        footage.encode(tmp_path / "large.h264", size=(854, 480), frames=50)
        yield server


async def follow(camera: RtspServer, tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    with Child(WATCHER) as watcher, Child(CAMERA, camera.url("/cam"), transport) as process:
        await asyncio.to_thread(process.line)
        async with asyncio.timeout(40), va.connect("cam1") as client, va.merge("cam*") as merged:

            async def sees(height: int, width: int) -> None:
                for stream in (client, merged):
                    async for frame in stream:
                        with frame:
                            if frame.shape == (height, width, 3):
                                assert 0 <= footage.read_index(frame.array, "rgb24") < 50
                                assert 0 <= frame.age < 20
                                break
                while True:
                    index, h, w, _, dropped = map(int, (await asyncio.to_thread(watcher.line)).split())
                    assert (dropped, 0 <= index < 50) == (0, True)
                    if (h, w) == (height, width):
                        break

            await sees(360, 640)
            await asyncio.to_thread(camera.switch, "/cam", tmp_path / "large.h264")
            await sees(480, 854)
            await asyncio.to_thread(camera.switch, "/cam", tmp_path / "small.h264")
            await sees(360, 640)
        process.tell("enough")
        assert await asyncio.to_thread(process.wait) == 0
        assert await asyncio.to_thread(watcher.wait) == 0


@pytest.mark.one_loop
async def test_every_reader_follows_a_change_of_resolution(
    camera: RtspServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await follow(camera, tmp_path, "tcp", monkeypatch)


@in_netns
@pytest.mark.long
@pytest.mark.one_loop
async def test_every_reader_follows_a_change_of_resolution_over_udp(
    camera: RtspServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await follow(camera, tmp_path, "udp", monkeypatch)


def test_real_footage_arrives_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pedestrians from a CCTV camera, through RTSP and a ring, to a reader in another process."""
    if (why := rtsp_available()) is not None:
        missing(why)
    try:
        clip = footage.bikes(Path(__file__).parents[2] / ".cache")
    except footage.FootageUnavailable as e:
        missing(str(e))
    with RtspServer() as server:
        server.mount("/real", footage.to_elementary(clip, tmp_path / "bikes.h264", frames=100), fps=25)
        with (
            Child(CAMERA, server.url("/real"), "tcp") as process,
            va.attach("cam1", policy="ordered") as reader,
        ):
            process.line()
            first = reader.recv(20)
            assert first.shape == (272, 640, 3)
            last, means = first.seq, {int(first.array.mean())}
            end = time.monotonic() + 3
            while time.monotonic() < end:
                with reader.recv(20) as frame:
                    assert (frame.seq, frame.dropped) == (last + 1, 0)
                    last = frame.seq
                    means.add(int(frame.array.mean()))
            assert last > 30, "25 frames a second were sent"
            assert len(means) > 1, "the picture moves"
            del first, frame
            process.tell("enough")
            process.wait()
