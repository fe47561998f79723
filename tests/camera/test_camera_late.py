"""Readers that come late, to a camera that sends a key frame each ten seconds, start at that key frame."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import pytest

import valkka_async as va
from support import footage
from support.playback import play
from support.rtsp import RtspServer
from support.until import wait_for
from valkka_async.camera.outputs import make_ring
from valkka_async.camera.source.sendertime import Stamp

FPS = 10
GOP = 30 * FPS  # as long as a machine that is busy takes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("late")


@pytest.fixture(scope="module")
def long_gop(folder: Path) -> Path:
    return clip(folder, "h264")


def clip(folder: Path, codec: str, bframes: int = 0) -> Path:
    name = f"long{bframes}.{codec}"
    return footage.encode(folder / name, (320, 192), GOP, fps=FPS, gop=GOP, codec=codec, bframes=bframes)


def read(reader: va.Reader, count: int) -> list[bytes]:
    """So many frames, from a key frame on, which is the only one: no other was waited for."""
    parts = []
    while len(parts) < count:
        with reader.recv(20) as frame:
            assert (frame.seq, frame.dropped, frame.key) == (len(parts) + 1, 0, not parts)
            parts.append(bytes(frame.data))
    return parts


@pytest.mark.parametrize(
    ("codec", "bframes"), [("h264", 0), pytest.param("h264", 2, marks=pytest.mark.long), ("h265", 0)]
)
def test_the_first_reader_and_those_that_come_after_it(
    rtsp: RtspServer, folder: Path, codec: str, bframes: int
) -> None:
    rtsp.mount("/late", clip(folder, codec, bframes), fps=FPS, codec=codec)
    outputs = [va.Output("late.fmp4", "fmp4"), va.Output("late.packets", "packets")]
    with va.Camera("late", rtsp.url("/late"), outputs) as camera:
        wait_for(lambda: camera.status().packets >= 15, 20)
        before = camera.status()
        assert before.packets < GOP - 50, "too slow a machine to tell"
        assert [(o.published, o.backlog) for o in before.outputs] == [(0, 0)] * 2  # nobody has read
        for output in outputs:
            with (
                va.attach(output.name, policy="ordered", max_leases=1) as first,
                va.attach(output.name) as latest,
            ):
                parts = read(first, before.packets)
                with va.attach(output.name, policy="ordered") as second:
                    again = read(second, len(parts))
                assert again == parts
                assert latest.recv(20).key
                if output.format == "fmp4":
                    shown = play(first.header + b"".join(again))
                    assert [one.number for one in shown] == list(range(len(again)))
        after = camera.status()
        assert not any(o.backlog_outgrown or o.dropped for o in after.outputs)
        assert after.packets < GOP, "too slow a machine to tell"


def test_a_ring_that_is_too_small_for_the_gop_says_so(rtsp: RtspServer, long_gop: Path) -> None:
    rtsp.mount("/small", long_gop, fps=FPS)
    with va.Camera("small", rtsp.url("/small"), va.Output("small", "packets", slots=10)) as camera:
        with va.attach("small"):
            wait_for(lambda: camera.status().outputs[0].backlog_outgrown, 20)
            assert camera.status().outputs[0].backlog == 0


def test_a_stream_without_readers_ends_its_backlog(rtsp: RtspServer, long_gop: Path) -> None:
    """The next reader gets what the camera remembers, up to now, and not what the ring had then."""
    rtsp.mount("/again", long_gop, fps=FPS)
    with va.Camera("again", rtsp.url("/again"), va.Output("again", "packets")) as camera:
        with va.attach("again", policy="ordered") as reader, reader.recv(20) as frame:
            assert frame.key
            first = bytes(frame.data)
        wait_for(lambda: camera.status().outputs[0].backlog == 0, 20)
        with va.attach("again", policy="ordered") as reader, reader.recv(20) as frame:
            assert (frame.key, frame.dropped, bytes(frame.data)) == (True, 0, first)
            assert frame.seq > 1


@pytest.mark.parametrize("format", ["packets", "fmp4"])
def test_what_needs_a_frame_that_found_no_slot_is_left_out_too(
    format: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Readers would see no gap. They go on with the next key frame, and all frames are accounted for."""
    path = footage.encode(tmp_path_factory.mktemp("torn") / "short.h264", (320, 192), 40, fps=FPS, gop=10)
    ring = make_ring(va.Output("s", format, slots=6))
    with ring.server, va.attach("s", policy="lossless") as reader, av.open(str(path)) as source:
        ring.begin(source.streams.video[0])
        seen = []
        for number, packet in enumerate(source.demux(video=0)):
            if not packet.size:
                continue
            packet.pts = packet.dts = number * 48000
            ring.take(packet, Stamp(1_700_000_000_000_000_000, None), (), "camera")
            if number in (12, 24, 39):  # the reader sleeps in between
                while (frame := reader.recv_nowait()) is not None:
                    with frame:
                        seen.append((frame.pts // 48000 if format == "packets" else frame.seq, frame.key))
        status = ring.status()
    assert status.dropped > 0 and status.published == len(seen)
    if format == "packets":
        for (before, _), (number, key) in itertools.pairwise(seen):
            assert number == before + 1 or (key and number % 10 == 0), seen
