"""What becomes of packets, one by one: no frame is shown that is not as the camera saw it."""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

import av
import pytest
from av.packet import Packet
from test_camera_keys import film

import valkka_async as va
from support.feeding import NAMES, Feeding, off
from valkka_async.camera import feed, turns
from valkka_async.camera.decode import Decoder, another_context
from valkka_async.camera.mp4 import nal
from valkka_async.camera.source.sets import ParameterSets
from valkka_async.errors import CameraFormatError

GRADUAL = "intra-refresh=1:b-adapt=0"
EVERY, KEYS = va.Output("every", "yuv420p"), va.Output("keys", "yuv420p", key_frames=True)
Parts = tuple[tuple[str, int, int], ...]  # options of the encoder, frames, and the key frames' distance


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others that catch up on this machine are not waited for."""
    monkeypatch.setattr(turns, "_PREFIX", f"\0alone-{os.getpid()}")


@contextlib.contextmanager
def feeding(
    codec: str,
    parts: Parts,
    *outputs: va.Output,
    once: bool = False,
    count: int | None = None,
    threads: int = 1,
) -> Iterator[Feeding]:
    """Streams behind each other. `once`: each has its parameter sets in the beginning alone. `count`: what is
    said of the frames to recover."""
    units: list[bytes] = []
    shown: list[int] = []
    for more, frames, gop in parts:
        made, order = film(codec, more, frames, gop)
        made = [made[0], *(without_sets(unit, codec) for unit in made[1:])] if once else made
        shown += [len(units) + place for place in order]
        units += made
    if count is not None:
        units = [to_recover(unit, count) for unit in units]
    fed = Feeding(codec, units, shown, *outputs, threads=threads)
    try:
        yield fed
    finally:
        fed.end()


def parts_of(unit: bytes) -> list[bytes]:
    return [unit[begin:end] for begin, end in nal.units(unit, 0)]


def without_sets(unit: bytes, codec: str) -> bytes:
    kinds = nal.CODECS[NAMES[codec]]
    kept = [part for part in parts_of(unit) if part[0] >> kinds.shift & kinds.mask not in kinds.sets]
    return nal.annexb(kept)


def recovery_point(count: int, codec: str = "h264") -> bytes:
    number = count + 1 if codec == "h264" else 2 * count
    bits = f"{number:b}"
    bits = "0" * (len(bits) - 1) + bits + ("0000" if codec == "h264" else "10") + "1"
    bits += "0" * (-len(bits) % 8)
    payload = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    return (b"\x06" if codec == "h264" else b"\x4e\x01") + bytes([6, len(payload)]) + payload + b"\x80"


def to_recover(unit: bytes, count: int) -> bytes:
    """x264's, with another count."""
    return nal.annexb([recovery_point(count) if part[:2] == b"\x06\x06" else part for part in parts_of(unit)])


# --------------------------------------------------------------------------------- parameter sets

CHANGES: dict[str, tuple[str, Parts]] = {
    "PPS": ("h264", (("bframes=0:8x8dct=1", 40, 20), ("bframes=0:8x8dct=0", 60, 20))),
    "SPS and PPS": ("h264", (("bframes=0:ref=1", 40, 20), ("bframes=2:ref=4:cabac=0", 60, 20))),
    "in a refresh": ("h264", ((f"{GRADUAL}:bframes=0", 32, 20), (f"{GRADUAL}:bframes=0:cabac=0", 70, 20))),
    "H.265": ("h265", (("bframes=0:ctu=32", 40, 20), ("bframes=0:ctu=16", 60, 20))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_parameter_sets_that_come_once_are_known_to_those_who_come_later(change: str) -> None:
    codec, parts = CHANGES[change]
    with feeding(codec, parts, EVERY, KEYS, once=True) as fed:
        every, keys = fed.rings
        fed.send(85)
        every.watch()
        keys.watch()
        fed.send(100)
        assert len(every.seen) >= 12 and keys.seen and not fed.meter.errors
        assert max(one.off for one in (*every.seen, *keys.seen)) == 0


@pytest.mark.parametrize("place", [1, 30, 39])
def test_parameter_sets_that_come_between_key_frames_are_known_at_the_next(place: int) -> None:
    """They may come at any time, for what comes later."""
    parts = (("bframes=0:8x8dct=1", 40, 20), ("bframes=0:8x8dct=0:sps-id=1", 60, 20))
    with feeding("h264", parts, EVERY, once=True) as fed:
        units = list(fed.units)
        kinds = [part[0] & 0x1F for part in parts_of(units[40])]
        slices = len(kinds) - kinds.index(5)
        units[place] = nal.annexb([*parts_of(units[40])[:-slices], *parts_of(units[place])])
        units[40] = nal.annexb(parts_of(units[40])[-slices:])
        fed.units = units
        fed.send(85)
        fed.rings[0].watch()
        fed.send(100)
        assert len(fed.rings[0].seen) >= 12 and max(one.off for one in fed.rings[0].seen) == 0


def flv(parts: Parts) -> bytes:
    """As encoders send it over RTMP: parameter sets by themselves, when each begins."""
    made, number = b"FLV\x01\x01" + struct.pack(">2I", 9, 0), 0

    def tag(flags: bytes, data: bytes) -> bytes:
        body = flags + b"\0\0\0" + data
        head = b"\x09" + len(body).to_bytes(3, "big") + (number * 40).to_bytes(3, "big") + b"\0\0\0\0"
        return head + body + struct.pack(">I", len(head + body))

    for more, frames, gop in parts:
        units, _ = film("h264", more, frames, gop)
        sps, pps = parts_of(units[0])[:2]
        said = b"\1" + sps[1:4] + b"\xff\xe1" + struct.pack(">H", len(sps)) + sps
        made += tag(b"\x17\0", said + b"\1" + struct.pack(">H", len(pps)) + pps)
        for unit in units:
            slices = [part for part in parts_of(unit) if part[0] & 0x1F in (1, 5)]
            data = b"".join(struct.pack(">I", len(part)) + part for part in slices)
            made += tag(b"\x17\1" if slices[0][0] & 0x1F == 5 else b"\x27\1", data)
            number += 1
    return made


@pytest.mark.parametrize("change", ["PPS", "SPS and PPS", "cabac"])
def test_an_encoder_that_begins_again_over_rtmp_is_known_to_those_who_come_later(change: str) -> None:
    codec, parts = CHANGES.get(change, ("h264", (("bframes=0", 40, 20), ("bframes=0:cabac=0", 40, 20))))
    wanted: Any = av.CodecContext.create("h264", "r")
    units = [unit for part in parts for unit in film(codec, *part)[0]]
    shown = [frame for unit in units for frame in wanted.decode(Packet(unit))]
    with av.open(io.BytesIO(flv(parts)), format="flv") as opened:
        stream = opened.streams.video[0]
        sets = ParameterSets(stream)
        packets = [sets.complete(packet) for packet in opened.demux(stream) if packet.size]
        decoder: Decoder[None] = Decoder(another_context(stream, None), 1)
        (frame, _), *_ = decoder.decode_alone(packets[60], None)
        first = next(one for one in shown[55:] if one.key_frame)
        assert off(frame.to_ndarray(format="yuv420p"), first.to_ndarray(format="yuv420p")) == 0


# --------------------------------------------------------------------------------- intra refresh


@pytest.mark.parametrize("bframes", [1, 2, 3])
@pytest.mark.parametrize("threads", [1, 4])
def test_frames_that_no_other_needs_do_not_count_as_refreshed(bframes: int, threads: int) -> None:
    """One who comes before all is well sees what was well before, and at once."""
    parts = ((f"{GRADUAL}:bframes={bframes}:b-pyramid=none", 120, 60),)
    with feeding("h264", parts, EVERY, threads=threads) as fed:
        (every,) = fed.rings
        point = next(n for n, unit in enumerate(fed.units) if nal.frames_to_recover(unit, nal.H264, 0))
        fed.send(point + 14)
        every.watch()
        fed.send(point + 18)
        assert every.seen and max(one.off for one in every.seen) < 1


@pytest.mark.parametrize("bframes", [1, 3])
@pytest.mark.parametrize("threads", [1, 2, 4, 8])
def test_who_comes_between_points_sees_what_has_been_well_for_long(bframes: int, threads: int) -> None:
    """The decoder that is led there leaves out frames, and knows of the point all the same."""
    parts = ((f"{GRADUAL}:bframes={bframes}:b-pyramid=none", 200, 60),)
    with feeding("h264", parts, EVERY, threads=threads) as fed:
        (every,) = fed.rings
        points = [n for n, unit in enumerate(fed.units) if nal.frames_to_recover(unit, nal.H264, 0)]
        fed.send(points[1] - 1, start=3)
        every.watch()
        fed.send(points[1] + 3)
        assert every.seen and max(one.off for one in every.seen) < 1


@pytest.mark.parametrize("count", [15, 250, 65535])
def test_one_who_exaggerates_is_not_waited_for(count: int) -> None:
    """Frames are counted to 16 in this stream, so more cannot be meant."""
    with feeding("h264", ((f"{GRADUAL}:bframes=0", 120, 16),), EVERY, count=count) as fed:
        fed.send(120)
        assert fed.feed._gop.packets is not None and len(fed.feed._gop.packets) <= 32


@pytest.mark.parametrize(("codec", "count"), [("h264", 65536), ("h264", 1 << 20), ("h265", 40000)])
def test_what_cannot_be_is_no_recovery_point(codec: str, count: int) -> None:
    kinds = nal.CODECS[NAMES[codec]]
    assert nal.is_recovery_point(recovery_point(30000, codec), kinds)
    assert not nal.is_recovery_point(recovery_point(count, codec), kinds)


MIXED: dict[str, Parts] = {
    "once": (("bframes=0", 48, 24), (f"{GRADUAL}:bframes=0", 72, 24)),
    "to and fro": ((f"{GRADUAL}:bframes=0", 24, 12), ("bframes=0", 24, 12)) * 2,
    "B-frames": ((f"{GRADUAL}:bframes=1", 72, 24), ("bframes=2:b-adapt=0", 72, 24)),
}


@pytest.mark.parametrize("parts", MIXED.values(), ids=MIXED)
@pytest.mark.parametrize("watched", [False, True])
def test_each_key_frame_is_seen_once_where_some_only_begin_to_be_one(parts: Parts, watched: bool) -> None:
    with feeding("h264", parts, EVERY, KEYS) as fed:
        every, keys = fed.rings
        keys.watch()
        for number in range(len(fed.units)):
            every.watch(watched and number // 7 % 2 == 1)
            fed.send(number + 1)
        begins = fed.keys()
        each = [
            sum(begin <= place < end for place in keys.places)
            for begin, end in zip(begins, [*begins[1:], 10**6], strict=True)
        ]
        assert max(each) == 1 and sum(each) >= len(each) - 2
        assert max(one.off for one in (*keys.seen, *every.seen)) < 1


CLOCKS: dict[str, Callable[[int], int | None]] = {
    "two at a time": lambda number: 1000 + 1000 * (number // 2),
    "stands still": lambda number: 1000,
    "has none": lambda number: None,
    "goes back": lambda number: 1000 * (1 + number % 37),
}


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize(("bframes", "threads"), [(0, 1), (0, 4), (2, 1)])
def test_key_frames_are_told_whatever_the_clock_says(clock: str, bframes: int, threads: int) -> None:
    parts = ((f"{GRADUAL}:bframes={bframes}", 150, 30),)
    with feeding("h264", parts, KEYS, threads=threads) as fed:
        begins = [place for place in fed.keys() if place < 110]
        fed.stamps = CLOCKS[clock]
        (keys,) = fed.rings
        keys.watch()
        fed.send(150)
        assert len(begins) - 1 <= len(keys.seen) <= len(begins) + 1


# ------------------------------------------------------------------------------------- patience

SLOW: dict[str, tuple[str, int, int, int, int]] = {  # options, distance of key frames, start, threads, frames
    "refresh": (f"{GRADUAL}:bframes=0", 25, 25, 1, 60),
    "come in between": (f"{GRADUAL}:bframes=0", 25, 30, 1, 80),
    "refresh with B-frames": (f"{GRADUAL}:bframes=2", 30, 30, 1, 90),
    "threads": ("bframes=0", 20, 0, 12, 30),
    "threads and B-frames": ("bframes=3:b-adapt=0", 20, 0, 6, 30),
}


@pytest.mark.parametrize("kind", SLOW)
def test_what_takes_its_time_is_not_called_undecodable(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera that sends a frame every few seconds, and any number of these before the first is seen."""
    more, gop, start, threads, frames = SLOW[kind]
    monkeypatch.setattr(feed, "_UNDECODABLE", 0.0)
    with feeding("h264", ((more, frames, gop),), EVERY, threads=threads) as fed:
        fed.rings[0].watch()
        fed.send(frames, start=start)
        assert fed.rings[0].seen


@pytest.mark.parametrize("kind", SLOW)
def test_what_cannot_be_decoded_is_still_called_so(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    more, gop, start, threads, frames = SLOW[kind]
    monkeypatch.setattr(feed, "_UNDECODABLE", 0.0)
    with feeding("h264", ((more, frames, gop),), EVERY, threads=threads) as fed:
        fed.units = [unit[: len(unit) // 2] if n % 2 else unit for n, unit in enumerate(fed.units)]
        monkeypatch.setattr("valkka_async.camera.decode.Decoder.decode", lambda *_: [])
        fed.rings[0].watch()
        with pytest.raises(CameraFormatError):
            fed.send(frames, start=start)


# ---------------------------------------------------------------------------------------- counts

COUNTED: dict[str, tuple[str, str, int, int]] = {  # codec, options, distance of key frames, threads
    "plain": ("h264", "bframes=0", 20, 1),
    "threads": ("h264", "bframes=0", 20, 4),
    "B-frames": ("h264", "bframes=3:b-adapt=0", 20, 1),
    "H.265": ("h265", "bframes=3:b-adapt=0", 20, 1),
    "refresh": ("h264", f"{GRADUAL}:bframes=0", 20, 1),
}


@pytest.mark.parametrize("kind", COUNTED)
@pytest.mark.parametrize("until", [15, 18, 45])
def test_frames_shown_and_left_out_are_those_that_came(kind: str, until: int) -> None:
    """However often decoding was behind, until it caught up or there was a key frame."""
    codec, more, gop, threads = COUNTED[kind]
    with feeding(codec, ((more, 200, gop),), EVERY, KEYS, threads=threads) as fed:
        for ring in fed.rings:
            ring.watch()
        for begin in (0, 50, 100, 150):
            fed.send(begin + 12)
            fed.lag.behind = True
            fed.send(begin + until)
            fed.lag.behind = False
            fed.send(begin + 50)
        every, keys = fed.rings
        assert every.skipped >= 4 * (until - 12) - 4
        assert abs(every.published + every.skipped + fed.feed._decoder.holding - 200) <= 4
        assert abs(keys.published + keys.skipped - 10) <= 1
        assert max(one.off for one in (*every.seen, *keys.seen)) == 0
        for ring in fed.rings:
            assert ring.places == sorted(set(ring.places))
