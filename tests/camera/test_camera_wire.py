"""Packets of RTP over TCP, of which some were seen before FFmpeg hands them out."""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple, cast

import av
from hypothesis import given, settings
from hypothesis import strategies as st

from valkka_async.camera.mp4 import nal
from valkka_async.camera.source import _rtp
from valkka_async.camera.source.wire import Wire

PICTURE, SOUND = 0, 1  # streams; their channels are twice that
FIRST, INNER, LAST = b"\x7c\x81", b"\x7c\x01", b"\x7c\x41"  # a unit in pieces (RFC 6184, FU-A)
BASE = 900_000


class Given(NamedTuple):
    """As FFmpeg hands a packet out."""

    stream_index: int
    pts: int
    size: int


class Found:
    """Stands for a Deadline that knows the connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.sockets = [connection]

    def find(self, *, counted: bool) -> None: ...

    def found(self) -> list[socket.socket]:
        found, self.sockets = self.sockets, []
        return found


def rtp(stream: int, number: int, pts: int, payload: bytes, *, marked: bool = False) -> bytes:
    head = struct.pack(">BBHII", 0x80, marked << 7 | 96 + stream, number, BASE + pts, 7)
    return struct.pack(">cBH", b"$", 2 * stream, len(head + payload)) + head + payload


def test_sound_between_the_pieces_of_a_frame_is_handed_out_between_them() -> None:
    more = bytes(100)
    handed = [
        *(Given(PICTURE, pts, 105) for pts in (0, 3600)),  # frames of one packet
        Given(PICTURE, 7200, 105), Given(PICTURE, 7200, 100), Given(SOUND, 160, 60),
        Given(PICTURE, 7200, 100), Given(PICTURE, 7200, 100),
    ]  # fmt: skip
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for number, pts in enumerate((0, 3600)):
            theirs.sendall(rtp(PICTURE, number, pts, b"\x65" + more, marked=True))
        theirs.sendall(
            rtp(PICTURE, 2, 7200, FIRST + more)
            + rtp(PICTURE, 3, 7200, INNER + more)
            + rtp(SOUND, 0, 160, bytes(60))
            + rtp(PICTURE, 4, 7200, INNER + more)
            + rtp(PICTURE, 5, 7200, LAST + more, marked=True)
        )
        wire = Wire(cast(Any, Found(ours)), nal.H264)
        step = cast(Any, iter(handed).__next__)
        got: list[Any] = []
        while len(got) < len(handed):
            packet, marked, _ = wire.read(step)
            got.append(packet)
            if packet is not None and packet.stream_index == PICTURE and not marked:
                marked = wire.pieces(step, cast(Any, packet), got)
        wire.close()
    assert got == handed and marked


_BITS = [b"\0\0\0\1", b"\0\0\1", b"\0", b"\1", b"\x65\x88", b"\x41", b"\x02\x01\x80", b"ab"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(_BITS), max_size=8).map(b"".join), st.sampled_from([nal.H264, nal.H265]))
def test_a_packet_is_taken_for_one_unit_only_if_it_is_one(data: bytes, codec: nal.Codec) -> None:
    lead = _rtp.lead(data, codec.header)
    assert (lead == _rtp.NONE) == (not data.startswith(b"\0\0\0\1"))
    if lead >= 0:
        assert list(nal.units(data, 0)) == [(4, len(data))]
        assert lead.to_bytes(2, "little") == bytes([data[4], data[4 + codec.header]])


def test_packets_are_in_the_order_of_their_numbers_and_each_is_there_once() -> None:
    window = _rtp.Window(0x1F, 1, (28,), (24,), (25,), lambda data: None)
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    with ours, theirs:
        for number in (65534, 0, 65535, 0, 65534, 1):
            theirs.send(rtp(PICTURE, number, number, b"\x41" + bytes(number % 7 + 1))[4:])
            window.take(ours.fileno())
            ours.recv(100)
        flow = window.flows[ours.fileno()]
    assert len(flow) == 4
    assert flow.match(Given(PICTURE, 65534, 4 + 1 + 65534 % 7 + 1)) is not None
    for number in (65535, 0, 1):
        assert flow.next(Given(PICTURE, number, 4 + 1 + number % 7 + 1)) == (False, BASE + number)


def test_datagrams_that_make_no_frame_are_not_read_for_ever() -> None:
    """One that comes again and again, while there is always another one to read."""
    one = rtp(PICTURE, 1, 0, b"\x41" + bytes(100))[4:]
    packet = av.Packet(bytes(105))
    packet.pts = 0
    left, packets = iter([True] * 20 + [False] * 20), iter([packet] * 99)
    ours, theirs = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
    with ours, theirs:
        ours.bind(("127.0.0.1", 0))
        theirs.connect(ours.getsockname())

        def step() -> Any:
            ours.recv(2000)
            theirs.send(one)
            return next(packets)

        theirs.send(one)
        wire = Wire(cast(Any, Found(ours.dup())), nal.H264, goes_on=left.__next__)
        assert wire.read(step)[0] is packet
        assert wire.read(step)[0] is None
        wire.close()


def test_a_datagram_has_a_marker_only_if_it_is_surely_the_one_that_has_it() -> None:
    """All look the same. Some come while FFmpeg waits, and are not seen."""
    window = _rtp.Window(0x1F, 1, (28,), (24,), (25,), lambda data: None)
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    same = Given(PICTURE, 0, 24)
    with ours, theirs:

        def see(*numbers: int, marked: bool = False) -> _rtp.Flow:
            for number in numbers:
                theirs.send(rtp(PICTURE, number, 0, b"\x7c\x41" + bytes(24), marked=marked)[4:])
                window.take(ours.fileno())
                ours.recv(100)
            return window.flows[ours.fileno()]

        flow = see(1)
        flow.match(same)
        see(2, marked=True)
        assert flow.next(same) == (True, BASE)
        see(4, marked=True)
        assert flow.next(same) == (False, BASE)  # 3, which was not seen
        assert flow.next(same) == (True, BASE)
        assert flow.match(same) is None  # 5, and nobody knows
        see(6, marked=True)
        assert flow.next(same) == (False, BASE)
        see(6, marked=True)
        assert flow.next(same) is None and flow.twice(same)
        see(3, 5, marked=True)
        assert not len(flow)  # FFmpeg says that these are too late
