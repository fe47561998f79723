"""Packets to fragmented MP4: what a player sees of it, and when; headers, and one time axis for them all."""

from __future__ import annotations

import io
import itertools
import random
import struct
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from camera_tools import FRAMES, Clips
from proxy import Proxy

import valkka_async as va
from support import footage
from support.playback import ffmpeg_finds_no_fault, packets, play
from support.program import Child
from support.require import missing
from support.rtsp import RtspServer
from valkka_async.camera.mp4 import boxes, nal
from valkka_async.camera.mp4.fragments import TIME_BASE, Fragment, Muxer, Timeline, codec_string
from valkka_async.camera.mp4.timeline import TIMESCALE, Place
from valkka_async.camera.source.packet import VideoPacket
from valkka_async.camera.source.secrets import parse
from valkka_async.camera.source.source import Source

FRAME = TIMESCALE // 25


def received(url: str) -> Iterator[tuple[Source, VideoPacket, int]]:
    """What a source sends. Close it."""
    source = Source(parse(url), transport="tcp", open_timeout=10, read_timeout=10)
    try:
        assert source.open()
        stream = source.packets()
        try:
            for packet, arrival in stream:
                yield source, packet, arrival
        finally:
            stream.close()
    finally:
        source.dispose()


class Streams:
    """What an output publishes: fragments, each under its header, of muxers that follow each other."""

    def __init__(self, timeline: Timeline | None = None) -> None:
        self.timeline = timeline or Timeline()
        self.muxer: Muxer | None = None
        self.parts: list[tuple[bytes, list[Fragment]]] = []

    def take(self, stream: Any, packet: Any, arrival: int = 0) -> list[Fragment]:
        if self.muxer is None or not self.muxer.fits(packet):
            self.muxer = Muxer(stream, self.timeline)
        fragments = self.muxer.mux(packet, arrival)
        if fragments and (not self.parts or self.parts[-1][0] != self.muxer.init_segment):
            self.parts.append((self.muxer.init_segment, []))
        if fragments:
            self.parts[-1][1].extend(fragments)
        return fragments

    @property
    def fragments(self) -> list[Fragment]:
        return [fragment for _, fragments in self.parts for fragment in fragments]

    def file(self, part: int = 0, first: int = 0) -> bytes:
        """A header and its fragments from one of them on."""
        header, fragments = self.parts[part]
        return header + b"".join(fragment.data for fragment in fragments[first:])


def remux(path: Path | str) -> Streams:
    streams = Streams()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            streams.take(stream, packet)
    return streams


def remux_clip(path: Path) -> Streams:
    streams = Streams()
    for stream, packet in packets(path):
        streams.take(stream, packet)
    return streams


def pictures(path: Path | str) -> list[Any]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def decode_times(fragments: Iterable[Fragment]) -> list[int]:
    return [boxes.decode_time(fragment.data) for fragment in fragments]


def check_times(fragments: list[Fragment]) -> None:
    """What every player asks for, and what Media Source Extensions do."""
    times = decode_times(fragments)
    for (a, b), fragment in zip(itertools.pairwise(times), fragments, strict=False):
        assert 0 < b - a <= 2 * fragment.duration, times


@pytest.mark.parametrize(("codec", "bframes"), [("h264", 0), ("h264", 2), ("h265", 0), ("h265", 2)])
def test_what_comes_over_rtsp_is_shown_as_it_was_encoded(
    rtsp: RtspServer, clips: Clips, codec: str, bframes: int
) -> None:
    clip = clips(codec, bframes=bframes)
    rtsp.mount("/cam", clip, codec=codec, fps=25)
    streams = Streams()
    times = []
    for source, packet, arrival in received(rtsp.url("/cam")):
        (fragment,) = streams.take(source.stream, packet, arrival)  # at once, not with the next packet
        assert (fragment.timestamp_ns, fragment.key) == (arrival, packet.is_keyframe)
        assert [box.kind for box in boxes.boxes(fragment.data)] == [b"moof", b"mdat"]
        times.append(packet.pts or 0)
        if len(times) == 2 * 10:  # whole groups
            break
    shown = play(streams.file())
    wanted = pictures(clip)
    assert len(shown) == 20
    first = shown[0].number
    assert [one.number for one in shown] == [(first + n) % FRAMES for n in range(20)]
    assert all(np.array_equal(one.image, wanted[one.number]) for one in shown)
    assert [f.pts - streams.fragments[0].pts for f in streams.fragments] == times
    assert sorted(f.pts for f in streams.fragments) == sorted(round(one.seconds * TIMESCALE) for one in shown)
    check_times(streams.fragments)


@pytest.mark.parametrize(("codec", "bframes"), [("h264", 0), ("h264", 2), ("h265", 0), ("h265", 2)])
def test_another_player_finds_no_fault(clips: Clips, tmp_path: Path, codec: str, bframes: int) -> None:
    streams = remux_clip(clips(codec, bframes=bframes))
    for first in (0, 10):
        out = tmp_path / "out.mp4"
        out.write_bytes(streams.file(first=first))
        ffmpeg_finds_no_fault(out)


def test_whoever_joins_late_gets_the_header_and_starts_at_a_key_frame(clips: Clips) -> None:
    for codec in ("h264", "h265"):
        streams = remux_clip(clips(codec, bframes=2))
        assert [n for n, f in enumerate(streams.fragments) if f.key] == [0, 10, 20]
        assert [one.number for one in play(streams.file(first=10))] == list(range(10, 30))


def test_nothing_comes_before_the_first_key_frame(clips: Clips) -> None:
    with av.open(str(clips())) as container:
        stream = container.streams.video[0]
        muxer = Muxer(stream)
        for n, packet in enumerate(container.demux(stream)):
            if n in (3, 4, 5):
                assert muxer.fits(packet) and muxer.mux(packet, 0) == [] and muxer.init_segment == b""
            elif 10 <= n < 30:
                assert len(muxer.mux(packet, 0)) == 1 and muxer.init_segment


def test_a_stream_that_is_described_only_by_its_key_frames(rtsp: RtspServer, clips: Clips) -> None:
    rtsp.mount("/cam", clips(), fps=25)
    streams = Streams()
    with Proxy(rtsp.port, rb"sprop-parameter-sets=[^;\r]*;?") as proxy:
        for source, packet, arrival in received(f"rtsp://127.0.0.1:{proxy.port}/cam"):
            streams.take(source.stream, packet, arrival)
            if len(streams.fragments) == 5:
                break
        assert proxy.removed == 1
    assert len(play(streams.file())) == 5


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_another_resolution_in_mid_stream_is_another_header_on_the_same_time_axis(
    rtsp: RtspServer, clips: Clips, codec: str
) -> None:
    larger = clips(codec, size=(640, 368), first=1000)  # now: the camera does not wait
    rtsp.mount("/cam", clips(codec), codec=codec, fps=25)
    streams = Streams()
    for source, packet, arrival in received(rtsp.url("/cam")):
        streams.take(source.stream, packet, arrival)
        if len(streams.fragments) == 4:
            rtsp.switch("/cam", larger)
        if len(streams.parts) == 2 and len(streams.parts[1][1]) == 5:
            break
        assert len(streams.fragments) < 100
    (before, _), (after, _) = streams.parts
    assert boxes.frame_size(before) == (320, 192)
    assert boxes.frame_size(after) == (640, 368)
    assert codec_string(before) != codec_string(after)  # the level rises with the size
    old, new = play(streams.file(0)), play(streams.file(1))
    assert {one.size for one in old} == {(320, 192)}
    assert [(one.number, one.size) for one in new] == [(1000 + n, (640, 368)) for n in range(5)]
    assert 0 < new[0].seconds - old[-1].seconds < 5  # as far apart as the server sent them
    for _, fragments in streams.parts:
        check_times(fragments)


def test_parameter_sets_that_come_beside_the_packets(clips: Clips, tmp_path: Path) -> None:
    """As in FLV, where the packets of a camera that was switched over do not contain them."""
    joined = tmp_path / "joined.flv"
    one, other = (flv(clips(size=size, first=first)) for size, first in (((320, 192), 0), ((640, 368), 1000)))
    joined.write_bytes(one + other[13:])  # without its file header
    streams = remux(joined)
    assert [boxes.frame_size(header) for header, _ in streams.parts] == [(320, 192), (640, 368)]
    old, new = play(streams.file(0)), play(streams.file(1))
    assert [one.number for one in old + new] == [*range(30), *range(1000, 1030)]
    assert 0.03 < new[0].seconds - old[-1].seconds < 5
    for _, fragments in streams.parts:
        check_times(fragments)


def flv(path: Path) -> bytes:
    out = io.BytesIO()
    bare = io.BytesIO(remux(path).file())  # there, the header alone has the parameter sets
    with av.open(bare, "r") as container, av.open(out, "w", format="flv") as sink:
        stream = container.streams.video[0]
        track = sink.add_stream_from_template(stream, opaque=True)
        for n, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
            packet.pts = packet.dts = n
            packet.time_base, packet.stream = Fraction(1, 25), track
            sink.mux(packet)
    return out.getvalue()


def test_a_connection_made_anew_goes_on_after_about_the_time_that_it_took(
    rtsp: RtspServer, clips: Clips
) -> None:
    rtsp.mount("/cam", clips(), fps=25)
    rtsp.mount("/other", clips("h265"), codec="h265", fps=25)
    streams = Streams()
    seen: list[tuple[int, float]] = []  # pts, when
    for path in ("/cam", "/cam", "/other"):
        streams.muxer = None
        for source, packet, arrival in received(rtsp.url(path)):
            now = time.monotonic()
            (fragment,) = streams.take(source.stream, packet, arrival)
            seen.append((fragment.pts, now))
            if len(seen) % 5 == 0:
                break
    assert [codec_string(header).split(".")[0] for header, _ in streams.parts] == ["avc1", "hvc1"]
    assert len(streams.fragments) == 15
    times = decode_times(streams.fragments)
    assert times == sorted(set(times))
    for before, after in ((4, 5), (9, 10)):
        passed = seen[after][1] - seen[before][1]
        assert (seen[after][0] - seen[before][0]) / TIMESCALE == pytest.approx(passed, abs=0.5)


def test_real_footage_from_an_mp4_file(tmp_path: Path) -> None:
    """Cyclists in a street; units behind lengths, B frames, decode times before 0."""
    try:
        video = footage.bikes(Path(__file__).parents[2] / ".cache")
    except footage.FootageUnavailable as e:
        missing(str(e))
    streams = remux(video)
    out = tmp_path / "out.mp4"
    out.write_bytes(streams.file())
    with av.open(str(video)) as a, av.open(str(out)) as b:
        count = 0
        for one, other in zip(a.decode(video=0), b.decode(video=0), strict=True):
            assert np.array_equal(one.to_ndarray(), other.to_ndarray())
            assert one.time is not None and other.time is not None
            if not count:
                shift = other.time - one.time
            assert other.time - one.time == pytest.approx(shift, abs=0.0001)
            count += 1
    assert count == 250
    check_times(streams.fragments)


def test_a_key_frame_damaged_beyond_use_is_passed_over(clips: Clips) -> None:
    with av.open(str(clips())) as container:
        stream = container.streams.video[0]
        muxer = Muxer(stream)
        for n, packet in enumerate(container.demux(stream)):
            if n == 0:
                data = bytes(packet)
                sps, pps = data.index(b"\x00\x00\x01\x67"), data.index(b"\x00\x00\x01\x68")
                broken: Any = av.Packet(data[: sps + 6] + data[pps:])
                broken.is_keyframe = True
                broken.time_base = packet.time_base
                assert muxer.mux(broken, 0) == []
            elif n == 10:
                assert muxer.mux(packet, 0)[0].key
                assert boxes.frame_size(muxer.init_segment) == (320, 192)


def test_other_codecs_are_refused() -> None:
    with (
        av.open("testsrc=size=64x48", format="lavfi") as container,
        pytest.raises(va.CameraFormatError, match=r"raw video.*H\.264"),
    ):
        Muxer(container.streams.video[0])


def test_headers_say_nothing_but_the_stream(rtsp: RtspServer, clips: Clips) -> None:
    """And are the same each time, so that a reader need not begin again."""
    rtsp.mount("/cam", clips(), fps=25, auth=("somebody", "geheim", "digest"))
    url = rtsp.url("/cam", "somebody", "geheim")
    headers = set()
    for _ in range(2):
        streams = Streams()
        for source, packet, arrival in received(url):
            streams.take(source.stream, packet, arrival)
            break
        data = streams.file()
        for word in (b"geheim", b"somebody", b"rtsp", b"127.0.0.1", b"Lavf"):
            assert word not in data
        headers.add(streams.parts[0][0])
    assert len(headers) == 1


# ---------------------------------------------------------------------------------- the codec's name


def described(entry: bytes, box: bytes, config: bytes) -> bytes:
    """ftyp and moov with nothing in them but what names the codec."""

    def wrap(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", len(content) + 8, kind) + content

    made = wrap(
        b"stsd", bytes(7) + b"\x01" + wrap(entry, bytes(78) + wrap(b"pasp", bytes(8)) + wrap(box, config))
    )
    for kind in (b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        made = wrap(kind, made)
    return wrap(b"ftyp", b"iso5") + made


@pytest.mark.parametrize(
    ("entry", "box", "config", "name"),
    [
        (b"avc1", b"avcC", "0164001fffe1", "avc1.64001f"),
        (b"avc3", b"avcC", "0142c01effe1", "avc3.42c01e"),
        # the examples of ISO/IEC 14496-15, E.3, and of those who quote it
        (b"hvc1", b"hvcC", "01 01 60000000 b00000000000 5d", "hvc1.1.6.L93.B0"),
        (b"hev1", b"hvcC", "01 22 20000000 b02300000000 99", "hev1.2.4.H153.B0.23"),
        (b"hvc1", b"hvcC", "01 41 80000000 000000000000 1e", "hvc1.A1.1.L30"),
        (b"hvc1", b"hvcC", "01 c4 00000001 900010000000 78", "hvc1.C4.80000000.L120.90.0.10"),
    ],
)
def test_codec_strings(entry: bytes, box: bytes, config: str, name: str) -> None:
    assert codec_string(described(entry, box, bytes.fromhex(config) + bytes(10))) == name


def test_who_only_passes_fragments_on_needs_no_pyav() -> None:
    header = described(b"avc1", b"avcC", bytes.fromhex("0164001fffe1") + bytes(10))
    with Child(
        "say(va.codec_string(bytes.fromhex(sys.argv[1])), 'av' in sys.modules)", header.hex()
    ) as child:
        assert child.line() == "avc1.64001f False"


@pytest.mark.parametrize("data", [b"", b"\x00\x00\x00\x08moov", described(b"av01", b"av1C", bytes(4)), b"xy"])
def test_a_codec_without_a_name_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        codec_string(data)


def test_a_header_that_is_cut_off_anywhere_is_a_value_error(clips: Clips) -> None:
    header, _ = remux(clips("h265")).parts[0]
    assert codec_string(header) == "hvc1.1.6.L60.90"
    for end in range(header.index(b"hvcC") + 8):
        for question in (codec_string, boxes.timescale, boxes.frame_size):
            if question is codec_string or end < header.index(b"mdhd"):
                with pytest.raises(ValueError):
                    question(header[:end])


# ------------------------------------------------------------------------------------- NAL units


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4])
def test_units_are_found_whatever_is_between_them(size: int) -> None:
    wanted = [b"\x67abc", b"\x68", b"\x65" + b"\x00\x00\x03\x01" * 20]

    def wrap(unit: bytes) -> bytes:
        return len(unit).to_bytes(size, "big") + unit if size else b"\x00\x00\x01" + unit + b"\x00"

    data = b"".join(wrap(unit) for unit in wanted)
    assert [data[a:b] for a, b in nal.units(data, size)] == wanted
    for end in range(len(data)):  # cut off anywhere: no unit is made up
        found = [data[:end][a:b] for a, b in nal.units(data[:end], size)]
        assert found == wanted[: len(found)] or (not size and found[:-1] == wanted[: len(found) - 1])


def test_parameter_sets_in_the_extradata_of_either_kind(clips: Clips, tmp_path: Path) -> None:
    for codec, which in (("h264", nal.H264), ("h265", nal.H265)):
        raw = clips(codec)
        header, _ = remux(raw).parts[0]
        file = tmp_path / f"{codec}.mp4"
        file.write_bytes(remux(raw).file())
        with av.open(str(raw)) as container:
            plain = container.streams.video[0].codec_context.extradata or b""
        with av.open(str(file)) as container:
            boxed = container.streams.video[0].codec_context.extradata or b""
        assert (nal.length_size(plain, which), nal.length_size(boxed, which)) == (0, 4)
        sets = nal.sets_in_extradata(plain, which)
        assert len(sets) == len(which.sets)
        assert nal.sets_in_extradata(boxed, which) == sets
        assert all(unit in header for unit in sets)
        for end in range(len(boxed)):
            nal.sets_in_extradata(boxed[:end], which)  # does not raise


def test_parameter_sets_between_key_frames_stay_in_the_stream(clips: Clips) -> None:
    """The header does not have them; and from then on the key frames keep theirs, to undo them."""
    with av.open(str(clips())) as container:
        stream = container.streams.video[0]
        muxer = Muxer(stream)
        sizes = []
        for n, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
            if n == 5:
                other: Any = av.Packet(b"\x00\x00\x01\x68\xce\x3c\x80" + bytes(packet))
                other.time_base = packet.time_base
                (fragment,) = muxer.mux(other, 0)
                assert b"\x68\xce\x3c\x80" in fragment.data
            else:
                (fragment,) = muxer.mux(packet, 0)
            if fragment.key:
                sizes.append(fragment.data.count(b"\x67\x64\x00"))
        assert sizes == [0, 1, 1]


# ------------------------------------------------------------------------------------ the time axis


class Clock:
    def __init__(self) -> None:
        self.ns = 5_000_000_000

    def __call__(self) -> int:
        return self.ns

    def advance(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


def line(clock: Clock, reorder: int = 0, start: int = 0) -> Timeline:
    made = Timeline(start, clock_ns=clock)
    made.begin(FRAME, reorder)
    return made


def run(
    timeline: Timeline, clock: Clock, times: Iterable[tuple[int | None, int | None]], real: float = 0.04
) -> list[Place]:
    places = []
    for shown, decode in times:
        places.append(timeline.place(shown, decode))
        clock.advance(real)
    return places


def test_the_axis_begins_with_the_monotonic_clock() -> None:
    clock = Clock()
    timeline = Timeline(clock_ns=clock)
    timeline.begin(FRAME, 0)
    assert timeline.place(77, 77) == Place(5 * TIMESCALE, 5 * TIMESCALE, FRAME)


def test_without_any_times_the_frames_follow_each_other() -> None:
    clock = Clock()
    places = run(line(clock), clock, [(None, None)] * 5)
    assert [p.decode for p in places] == [p.shown for p in places] == [n * FRAME for n in range(5)]


def test_a_first_frame_without_a_time_is_where_the_second_one_says() -> None:
    for first in (FRAME, 5 * TIMESCALE, 90_000_000):  # counted from the first; or from anywhere
        clock = Clock()
        places = run(line(clock), clock, [(None, None), (first, first), (first + FRAME, first + FRAME)])
        assert [p.shown for p in places] == [0, FRAME, 2 * FRAME]


def test_reordered_frames_are_shown_when_they_say_and_decoded_in_time() -> None:
    """As FFmpeg gives them over RTSP: the first without times, two without decode times."""
    order = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8]
    times: list[tuple[int | None, int | None]] = [
        (n * FRAME if sent else None, (sent - 2) * FRAME if sent > 2 else None)
        for sent, n in enumerate(order)
    ]
    clock = Clock()
    places = run(line(clock, reorder=2), clock, times)
    assert [p.shown for p in places] == [(2 + n) * FRAME for n in order]
    assert [p.decode for p in places] == [n * FRAME for n in range(10)]


def test_frames_out_of_order_in_a_stream_that_is_said_to_have_none() -> None:
    order = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8, 12, 10, 11]
    clock = Clock()
    places = run(line(clock), clock, [(n * FRAME, n * FRAME) for n in order])
    assert [p.shown for p in places] == [n * FRAME for n in order]
    assert all(a.decode < b.decode for a, b in itertools.pairwise(places))


def test_a_repeated_time_is_told_apart_by_one_unit() -> None:
    clock = Clock()
    places = run(line(clock), clock, [(n * FRAME, n * FRAME) for n in (0, 1, 1, 1, 2)])
    assert [p.decode for p in places] == [0, FRAME, FRAME + 1, FRAME + 2, 2 * FRAME]


@pytest.mark.parametrize("jump", [-3600, -5, 3600, 1e8])
def test_a_camera_that_sets_its_clock_makes_no_gap(jump: float) -> None:
    clock = Clock()
    by = int(jump * TIMESCALE)
    times = [(n * FRAME + by * (n >= 5), n * FRAME + by * (n >= 5)) for n in range(10)]
    places = run(line(clock), clock, times)
    assert [p.shown for p in places] == pytest.approx([n * FRAME for n in range(10)], abs=2)


@pytest.mark.parametrize("gap", [0.5, 5.0, 60.0])
def test_a_pause_in_the_stream_is_a_pause_on_the_axis(gap: float) -> None:
    clock = Clock()
    timeline = line(clock)
    places = run(timeline, clock, [(n * FRAME, n * FRAME) for n in range(5)])
    clock.advance(gap)
    late = int(gap * TIMESCALE)
    places += run(timeline, clock, [(n * FRAME + late, n * FRAME + late) for n in range(5, 40)])
    assert [p.shown for p in places] == [n * FRAME + late * (n >= 5) for n in range(40)]
    if gap < 10:
        for a, b in itertools.pairwise(places):
            assert 0 < b.decode - a.decode <= 2 * a.duration
        assert places[5].duration <= 2 * FRAME


def test_a_burst_after_a_stall_of_the_network_makes_no_gap() -> None:
    clock = Clock()
    timeline = line(clock)
    run(timeline, clock, [(0, 0)])
    clock.advance(8)
    places = run(timeline, clock, [(n * FRAME, n * FRAME) for n in range(1, 100)], real=0)
    assert [p.shown for p in places] == [n * FRAME for n in range(1, 100)]


@pytest.mark.parametrize("seconds", [0.0, 3.0, 86400.0])
def test_the_next_stream_begins_after_the_real_gap(seconds: float) -> None:
    clock = Clock()
    timeline = line(clock, reorder=2)
    places = run(timeline, clock, [((n + 2) * FRAME, n * FRAME) for n in range(5)], real=0.04)
    clock.advance(seconds)
    end = max(p.shown + p.duration for p in places)
    timeline.begin(FRAME, 0)
    place = timeline.place(123456789, 123456789)
    assert place.shown >= end
    assert place.decode - places[-1].decode == pytest.approx(
        max(seconds * TIMESCALE + FRAME, end - places[-1].decode), abs=2
    )


@pytest.mark.parametrize("late", [0.0, 0.15, 1.0])
def test_first_frames_that_come_late_do_not_add_up(late: float) -> None:
    """Each lies in a socket until the connection is open; the others come when they are sent."""
    clock = Clock()
    timeline = line(clock)
    first = began = 0
    for number in range(50):
        timeline.begin(FRAME, 0)
        sent, base = clock.ns, 7 * number * TIMESCALE
        for frame in range(60):
            clock.ns = max(clock.ns, sent + round(1e9 * (frame / 25 if frame else late)))
            place = timeline.place(base + frame * FRAME, base + frame * FRAME)
            if not number and not frame:
                first, began = place.shown, sent
        clock.advance(0.5)
    shown, real = (place.shown - first) / TIMESCALE, (sent - began) / 1e9 + 59 / 25
    assert shown == pytest.approx(real, abs=late + 0.05)


@pytest.mark.parametrize("speed", [0.9, 0.9998, 1.0002, 1.1])
def test_what_a_clock_has_lost_or_won_in_a_stream_is_no_gap_behind_it(speed: float) -> None:
    clock = Clock()
    timeline = line(clock)
    ends: list[int] = []
    for _ in range(4):
        timeline.begin(FRAME, 0)
        places = run(timeline, clock, [(round(n * FRAME * speed),) * 2 for n in range(60 * 25)])
        clock.advance(0.5)
        if ends:
            gap = (places[0].shown - ends[-1]) / TIMESCALE
            assert gap == pytest.approx(0.54, abs=0.05 + 4 * abs(speed - 1))
        ends.append(places[-1].shown)


def test_whatever_comes_in_the_axis_rises() -> None:
    rng = random.Random(5)
    for _ in range(200):
        clock = Clock()
        timeline = line(clock, reorder=rng.choice([0, 2]))
        time, last = 0, -1
        for _ in range(60):
            match rng.randrange(12):
                case 0:
                    time += rng.randrange(-(1 << 50), 1 << 50)
                case 1:
                    time += rng.randrange(-TIMESCALE, 20 * TIMESCALE)
                case 2:
                    timeline.begin(rng.choice([0, 1, FRAME, TIMESCALE]), rng.choice([0, 1, 16]))
                case _:
                    time += rng.choice([0, 1, FRAME, FRAME, FRAME])
            shown = None if rng.random() < 0.1 else time + rng.choice([0, 0, 2 * FRAME, -FRAME])
            decode = None if rng.random() < 0.2 else time
            place = timeline.place(shown, decode)
            assert place.decode > last
            assert 0 < place.duration < 1 << 31
            assert abs(place.shown - place.decode) < 1 << 31
            boxes.fragment(1, place.decode, place.shown - place.decode, place.duration, True, 1)
            last = place.decode
            clock.advance(rng.choice([0.0, 0.04, 0.04, 3.0, 100.0]))


def test_irregular_frames_never_look_like_a_discontinuity() -> None:
    """To Media Source Extensions, that is; and they are shown when they say."""
    rng = random.Random(6)
    clock = Clock()
    timeline = line(clock)
    time, before = 0, None
    for _ in range(2000):
        place = timeline.place(time, time)
        assert place.shown == time
        if before is not None:
            assert 0 < place.decode - before.decode <= 2 * before.duration
        before = place
        step = rng.choice([0.001, 0.02, 0.04, 0.04, 0.04, 0.1, 0.3, 1.0])
        time += round(step * TIMESCALE)
        clock.advance(step)


def test_fragments_are_counted_over_all_streams_of_an_axis(clips: Clips) -> None:
    timeline = Timeline(0)
    numbers = []
    for _ in range(2):
        streams = Streams(timeline)
        with av.open(str(clips())) as container:
            stream = container.streams.video[0]
            for packet in itertools.islice(container.demux(stream), 3):
                for fragment in streams.take(stream, packet):
                    box = boxes.find(fragment.data, b"moof", b"mfhd")
                    numbers.append(int.from_bytes(fragment.data[box.begin + 4 : box.end], "big"))
                    assert fragment.time_base == TIME_BASE == Fraction(1, 90000)
    assert numbers == [1, 2, 3, 4, 5, 6]
