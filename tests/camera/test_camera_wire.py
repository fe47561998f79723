"""Packets of RTP over TCP, of which some were seen before FFmpeg hands them out."""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple, cast

from valkka_async.camera.mp4 import nal
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
    given = [
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
        step = cast(Any, iter(given).__next__)
        got: list[Any] = []
        while len(got) < len(given):
            packet, marked, _ = wire.read(step)
            got.append(packet)
            if packet is not None and packet.stream_index == PICTURE and not marked:
                got += wire.pieces(step, cast(Any, packet))
        wire.close()
    assert got == given and marked
