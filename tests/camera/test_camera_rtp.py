"""RTP as no camera should send it, and as networks change it: frames are whole, and early if that is sure."""

from __future__ import annotations

import itertools
import socket
import struct
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from test_camera_early import Film, film, frames, opened, watched

from support.netns import in_netns
from support.rtsp_camera import RtspCamera, h264, h265, nals
from valkka_async.camera.mp4 import nal
from valkka_async.camera.source import _rtp, units

START = b"\0\0\0\1"


def shown(made: Film, camera: RtspCamera, **options: Any) -> bool:
    """Every frame of it is shown as it should be, also the last one. Are they early?"""
    wanted = made.pictures()
    with watched(camera, "yuv420p", **options) as (own, (reader,)):
        for number, frame in enumerate(frames(reader, len(wanted))):
            assert np.array_equal(frame.array, wanted[number]), number
            assert frame.pts == 900 * number
        assert own.status().errors == 0
        return own.status().early


def counting(
    change: Callable[[int, list[bytes]], Iterable[bytes]],
) -> Callable[[int, list[bytes]], list[bytes]]:
    """`change` makes more packets of a frame's; each has the number that is its own."""
    numbers = itertools.count(65500)

    def sending(number: int, packets: list[bytes]) -> list[bytes]:
        made = change(number, packets) if number > 5 else packets
        return [one[:2] + struct.pack(">H", next(numbers) & 0xFFFF) + one[4:] for one in made]

    return sending


# ------------------------------------------------------------------------- what is in packets


@pytest.mark.parametrize(
    ("codec", "empty"), [("h264", b"\x78"), ("h264", b"\x78\0\0"), ("h265", b"\x60\1\0\0")]
)
def test_a_packet_of_several_units_that_has_none_does_not_end_a_frame(codec: str, empty: bytes) -> None:
    pack = {"h264": h264, "h265": h265}[codec]

    def payloads(unit: bytes) -> list[bytes]:
        first, *others = pack(unit)
        return [first, empty, *others[:-1], empty, *others[-1:]]

    made = film(codec, grain=60)
    assert shown(made, made.camera(payloads=payloads, fps=50))


OTHERS = {  # a packet that looks like the last piece of a unit, but ...
    "of another type": ("h264", lambda one: b"\x80\xe1" + one[2:13] + bytes([one[13] | 0x40]) + one[14:]),
    "in another order (STAP-B)": ("h264", lambda one: b"\x80\xe0" + one[2:12] + b"\x79" + one[19:]),
    "of another layer": (
        "h265",
        lambda one: b"\x80\xe0" + one[2:12] + b"\x63\1" + bytes([one[14] | 0x40]) + one[15:],
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_the_marker_of_a_packet_that_ffmpeg_drops_ends_no_frame(kind: str) -> None:
    codec, other = OTHERS[kind]
    made = film(codec, grain=60, gop=1)

    def change(number: int, packets: list[bytes]) -> list[bytes]:
        """Before a piece of a frame what looks like it, and has a marker."""
        at = next(place for place in range(2, len(packets)) if len(packets[place]) == len(packets[place - 1]))
        return [*packets[:at], other(packets[at]), *packets[at:]]

    shown(made, made.camera(sending=counting(change), fps=50))


HEADS = {
    "padding": lambda one: b"\xa0" + one[1:] + b"\0\0\3",
    "an extension": lambda one: b"\x90" + one[1:12] + b"\xbe\xde\0\1abcd" + one[12:],
    "sources": lambda one: b"\x82" + one[1:12] + bytes(8) + one[12:],
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_frame_is_early_whatever_is_around_what_packets_say(kind: str) -> None:
    made = film(grain=60)
    sending = counting(lambda _, packets: map(HEADS[kind], packets))
    assert shown(made, made.camera(sending=sending, fps=50))


def test_a_marker_within_a_unit_does_not_make_frames_late() -> None:
    made = film(grain=60)
    assert shown(made, made.camera(marks=lambda *_: True, fps=50))


# ------------------------------------------------------------------------- datagrams


def even(unit: bytes) -> list[bytes]:
    """Payloads of a unit of H.264, of which the last ones are of one size."""
    *before, last = nals(unit)
    size = -(-(len(last) - 1) // 4)
    parts = [last[at : at + size] for at in range(1, len(last), size)]
    parts[-1] += bytes(size - len(parts[-1]))
    flags = [0x80, *[0] * (len(parts) - 2), 0x40]
    return [
        *before,
        *(bytes([0x7C, flag | last[0] & 31]) + part for flag, part in zip(flags, parts, strict=True)),
    ]


DAMAGE: dict[int, Callable[[list[bytes]], list[bytes]]] = {  # of a frame, by its number
    6: lambda packets: [*packets[:-2], packets[-1], packets[-2]],
    7: lambda packets: [one for one in packets for _ in range(2)],
    8: lambda packets: [*packets[:-1], packets[-2], packets[-1]],
    9: lambda packets: [*packets, packets[-1]],
    10: lambda packets: packets + packets,
    11: lambda packets: [*packets[:-2], packets[-1], packets[-2]],
}


@in_netns
def test_datagrams_of_one_size_may_come_double_and_in_the_wrong_order() -> None:
    some = lambda number, packets: DAMAGE[number](packets) if number in DAMAGE else packets  # noqa: E731
    for sending in (some, lambda _, packets: DAMAGE[7](packets)):
        made = film(grain=20)
        assert shown(made, made.camera(payloads=even, sending=sending, fps=50), transport="udp")


# ------------------------------------------------------------------------- looking at a connection


PACKET = b"$\0\0\x0e\x80\xe0" + bytes(10) + b"\x65\x88"


def looked(data: bytes) -> tuple[_rtp.Window, list[bytes]]:
    """What is seen of it, and for which messages of RTSP it was taken."""
    asked: list[bytes] = []
    window = _rtp.Window(0x1F, 1, (28,), (24,), (25,), lambda data: asked.append(data) or 3)  # type: ignore[func-returns-value]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for one in (ours, theirs):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.sendall(data)
        window.look(ours.fileno())
    return window, asked


@pytest.mark.parametrize("size", [0, 8, 11])
def test_a_packet_that_is_shorter_than_a_header_is_not_waited_for(size: int) -> None:
    short = struct.pack(">cBH", b"$", 1, size) + bytes(size)
    assert looked(short)[0].piece is False
    assert looked(short[:-1])[0].piece is True
    assert looked(short + PACKET)[0].seen


@pytest.mark.parametrize("line", [b"\n", b"\r\n", b"\r"])
def test_lines_without_anything_hide_no_packet(line: bytes) -> None:
    window, asked = looked(50 * line + PACKET)
    assert window.seen and not asked


@pytest.mark.parametrize("said", [b"\r\n", b"\n", b"a\n\n"])
def test_nothing_that_a_camera_says_between_packets_is_read_without_end(said: bytes) -> None:
    assert len(looked(60000 // len(said) * said)[1]) < 100


# ------------------------------------------------------------------------- putting units together


class Given(bytearray):
    """A packet as FFmpeg hands it out."""

    __hash__ = object.__hash__
    stream_index, is_keyframe, dts, duration = 0, False, None, 0

    def __init__(self, data: bytes, pts: int | None, marked: bool = False) -> None:
        super().__init__(data)
        self.size, self.pts, self.marked = len(data), pts, marked

    def iter_sidedata(self) -> Iterator[Any]:
        return iter(())


def together(given: Iterable[Given], markers: units.Markers, made: Film) -> Iterator[bytes]:
    """The access units that are made of these packets."""
    codec = nal.H265 if made.codec == "h265" else nal.H264

    def read(step: Callable[[], Given | None]) -> tuple[Given | None, bool, None]:
        packet = step()
        return packet, packet is not None and packet.marked, None

    wire = SimpleNamespace(read=read, pieces=lambda *_: False)
    with opened(made.codec, made.units) as container:
        stream = container.streams.video[0]
        packets = iter(given)
        step = cast(Any, lambda: next(packets, None))
        unit = units.Units(stream, step, cast(Any, wire), markers)
        assert unit._codec is codec
        while (one := unit.next()) is not None:
            yield bytes(one)


def marked(units_of: Iterable[bytes]) -> Iterator[Given]:
    """Each slice has a marker, as some cameras do it."""
    for number, unit in enumerate(units_of):
        for one in nals(unit):
            is_slice = one[0] & 31 in (1, 5) if one[0] & 31 < 9 else one[0] < 0x40
            yield Given(START + one, 3600 * number, is_slice)


SLICE, KEY, ANOTHER = START + b"\x41\x9aa", START + b"\x65\x88a", START + b"\x65\x08a"


def test_a_camera_that_marks_each_slice_of_key_frames_is_believed_never() -> None:
    """Its other frames have one slice, so all seems to be well for hundreds of frames."""
    sent = [KEY + ANOTHER * 2, *[SLICE] * 600] * 3
    for skipped in (0, 500):
        assert [*together(marked(sent[skipped:]), units.Markers(), film())] == sent[skipped:]


@pytest.mark.parametrize(("key", "believed"), [(KEY, True), (KEY + ANOTHER, False), (ANOTHER, False)])
def test_a_key_frame_of_one_slice_may_have_come_before_markers_were_seen(key: bytes, believed: bool) -> None:
    """With several, or without its first, it does not tell how the next one will be marked."""
    unseen = [Given(START + one, 0) for one in nals(key)]
    markers = units.Markers()
    seen = marked([b"", *[SLICE] * 4])
    assert len([*together([*unseen, *seen], markers, film())]) == 5
    assert markers.trusted == believed


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_with_other_parameter_sets_a_camera_is_to_show_again_how_it_marks(codec: str) -> None:
    size = "level-idc" if codec == "h265" else "level"
    before, after = film(codec), film(codec, f":slices=3:{size}=51")
    sent = before.units + after.units
    assert [nals(one) for one in together(marked(sent), units.Markers(), before)] == [
        nals(one) for one in sent
    ]


def test_so_it_is_on_another_connection_whose_sets_are_in_the_description() -> None:
    before, after = film(), film(more=":slices=3:level=51")
    markers = units.Markers()
    assert len([*together(marked(before.units), markers, before)]) == 12 and markers.trusted
    without = [START + START.join(one for one in nals(unit) if one[0] & 31 < 6) for unit in after.units]
    assert [*together(marked(without), markers, after)] == without


def test_markers_that_were_wrong_are_believed_ever_later() -> None:
    markers = units.Markers()
    lengths = []
    for _ in range(3):
        count = 0
        while not markers.trusted:
            markers.judge(True, True)
            count += 1
        lengths.append(count)
        markers.judge(False, True)
    assert lengths == sorted({*lengths})


def of_no_frame() -> dict[str, Iterator[Given]]:
    says, piece = START + b"\x06\x05" + b"a" * 1000, b"a" * 1000
    return {
        "messages": (Given(says, 0) for _ in range(3000)),
        "messages of all times": (Given(says, number) for number in range(3000)),
        "pieces": (Given(piece if number else KEY, 0) for number in range(3000)),
    }


@pytest.mark.parametrize("kind", of_no_frame())
def test_of_frames_that_never_end_little_is_held(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "_MOST", 1 << 20)
    alive: weakref.WeakSet[Given] = weakref.WeakSet()
    most = 0

    def watched_packets() -> Iterator[Given]:
        nonlocal most
        for one in of_no_frame()[kind]:
            alive.add(one)
            most = max(most, len(alive))
            yield one

    for _ in together(watched_packets(), units.Markers(), film()):
        pass
    assert most < (300 if "times" in kind else 600)


def test_a_packet_without_data_ends_the_stream_only_where_nothing_comes_behind() -> None:
    sent = [
        Given(KEY, 0),
        Given(b"", None),
        Given(ANOTHER, 0),
        Given(b"", 0),
        Given(ANOTHER, 0),
        Given(b"", None),
    ]
    assert [*together(sent, units.Markers(), film())] == [KEY + ANOTHER * 2, b""]
    assert [*together(sent[:-1], units.Markers(), film())] == [KEY + ANOTHER * 2]
