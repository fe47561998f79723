"""The camera's own time of a frame: against the clock of a real RTSP server."""

from __future__ import annotations

import statistics
import struct
import time
from typing import Any, cast

import av
import pytest
from av.packet import Packet, PacketSideData, packet_sidedata_type_from_literal
from camera_tools import FRAMES, Clips

from support import footage
from support.rtsp import RtspServer
from valkka_async.camera.source.sendertime import sender_time_ns

FPS = 10
PERIOD_MS = 1000 / FPS
WANTED = 10
OPTIONS = {"rtsp_transport": "tcp", "timeout": "5000000", "probesize": "32", "allowed_media_types": "video"}


@pytest.mark.parametrize("codec", ["h264", "h265", "mjpeg"])
def test_it_is_when_the_server_took_the_picture(rtsp: RtspServer, clips: Clips, codec: str) -> None:
    rtsp.mount("/cam", clips(codec), codec=codec, fps=FPS)
    times: dict[int | None, int] = {}  # by pts
    numbers: dict[int | None, int] = {}
    before_the_first_report = 0
    deadline = time.monotonic() + 20
    with av.open(rtsp.url("/cam"), options=OPTIONS) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            assert time.monotonic() < deadline, "no sender report came"
            taken = sender_time_ns(packet)
            if taken is not None:
                times[packet.pts] = taken
            elif times:
                pytest.fail("a packet after the first report has no time")
            else:
                before_the_first_report += 1
            for frame in packet.decode():
                numbers[frame.pts] = footage.read_index(frame.to_ndarray(format="rgb24"))
            if len(times) > WANTED:
                break
        log = rtsp.stats()["/cam"].log
    assert before_the_first_report > 0
    known = [pts for pts in times if pts in numbers]
    pushes: dict[int, list[int]] = {number: [] for number in range(FRAMES)}
    for push in log:
        pushes[push.frame].append(push.time_ns)
    errors = [
        min(((times[pts] - pushed) / 1e6 for pushed in pushes[numbers[pts]]), key=abs)
        for pts in known[1:]  # the first may have the time of the second
    ]
    assert len(errors) >= WANTED - 2
    assert abs(statistics.median(errors)) < 0.4 * PERIOD_MS, errors  # this picture's, and no other's


def test_a_packet_without_a_time_has_none(clips: Clips) -> None:
    assert sender_time_ns(Packet(b"nothing")) is None
    with av.open(str(clips())) as container:
        assert {sender_time_ns(packet) for packet in container.demux(video=0)} == {None}


@pytest.mark.parametrize(
    ("microseconds", "wanted"),
    [
        (1_700_000_000_123_456, 1_700_000_000_123_456_000),
        (86_400_000_000, 86_400_000_000_000),  # a clock that began on the 1st of January 1970
        (0, None),
        (-2_208_988_800_000_000, None),  # an NTP time of 0, which means that it has no clock
    ],
)
def test_microseconds_become_nanoseconds_and_a_clock_that_is_not_set_is_none(
    microseconds: int, wanted: int | None
) -> None:
    packet = Packet(b"picture")
    packet.set_sidedata(prft(microseconds))
    assert sender_time_ns(packet) == wanted


def prft(microseconds: int) -> PacketSideData:
    """FFmpeg's AVProducerReferenceTime."""
    data = struct.pack("=qii", microseconds, 24, 0)
    make: Any = PacketSideData
    made = make(packet_sidedata_type_from_literal("prft"), len(data))
    memoryview(made)[:] = data
    return cast(PacketSideData, made)
