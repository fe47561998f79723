"""H.264 and H.265 over RTSP: a frame is there with its last packet, and not with the next one's first."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple, cast

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from numpy.typing import NDArray

import valkka_async as va
from support import footage
from support.netns import in_netns
from support.rtsp_camera import RtspCamera, h264_together, nals
from support.rtsp_sound import clicks
from support.until import measured, wait_for
from valkka_async.camera.mp4 import nal
from valkka_async.camera.source import deadline

SIZE = (320, 192)
BASE = 900_000  # of RTP's times; FFmpeg takes 0 for none


class Film(NamedTuple):
    codec: str
    units: list[bytes]  # access units, in the order in which they are decoded
    shown: list[int]  # which frame each is
    reorder: int = 0

    def __add__(self, other: Film) -> Film:  # type: ignore[override]
        after = [len(self.units) + one for one in other.shown]
        return self._replace(units=self.units + other.units, shown=self.shown + after)

    def pictures(self) -> list[NDArray[Any]]:
        """As decoded in the usual way, whole files at a time."""
        with opened(self.codec, self.units) as container:
            return [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]

    def camera(self, **differing: Any) -> RtspCamera:
        def clock(number: int, _: float) -> int:
            loops, place = divmod(number, len(self.units))
            return BASE + 900 * (loops * len(self.units) + self.shown[place])

        return RtspCamera(
            self.units, codec=self.codec, **{"fps": 100, "once": True, "clock": clock} | differing
        )


def opened(codec: str, units: list[bytes]) -> av.container.InputContainer:
    return av.open(io.BytesIO(b"".join(units)), format={"h265": "hevc"}.get(codec, codec))


def film(
    codec: str = "h264",
    more: str = "",
    *,
    frames: int = 12,
    gop: int = 5,
    bframes: int = 0,
    unused: bool = False,
    grain: int = 0,
) -> Film:
    """Numbered frames, coded as `more` of the encoder's parameters say. `unused`: there could be B-frames."""
    context = cast(VideoCodecContext, av.CodecContext.create(footage.ENCODERS[codec], "w"))
    context.width, context.height = SIZE
    context.pix_fmt, context.framerate, context.time_base = "yuv420p", Fraction(25), Fraction(1, 25)
    context.max_b_frames = bframes
    common = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={bframes}:repeat-headers=1{more}"
    if codec == "h264":
        context.options = {"preset": "veryfast", "x264-params": f"sliced-threads=0:threads=1:{common}"}
    else:
        quiet = f"open-gop=0:frame-threads=1:pools=1:log-level=none:{common}"
        context.options = {"preset": "ultrafast", "x265-params": quiet}
    random = np.random.default_rng(1)
    packets = []
    for number in range(frames):
        image = footage.draw(number, SIZE)
        if grain:  # larger than a packet of RTP
            image = np.clip(image + random.integers(-grain, grain, image.shape), 0, 255).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p")
        frame.pts = number
        if unused:
            frame.pict_type = PictureType.P if number % gop else PictureType.I
        packets += context.encode(frame)
    packets += context.encode(None)
    units = [bytes(one) for one in packets]
    with opened(codec, units) as container:
        reorder = container.streams.video[0].codec_context.reorder_depth
    return Film(codec, units, [cast(int, one.pts) for one in packets], reorder)


def _known() -> bool:
    """Is FFmpeg's connection known? It waits there for the first frame."""
    dog = deadline._watchdog
    return dog is not None and any(one._peers for one in dog.watched)


@contextlib.contextmanager
def watched(camera: RtspCamera, *formats: str, **options: Any) -> Iterator[tuple[va.Camera, list[va.Reader]]]:
    """The camera's rings, with their readers, who are there before the first frame."""
    outputs = [va.Output(f"cam.{one}", cast(Any, one), slots=64) for one in formats]
    camera.go.clear()
    with contextlib.ExitStack() as stack:
        stack.enter_context(camera)
        own = stack.enter_context(va.Camera("cam", camera.url(), outputs, read_timeout=60, **options))
        readers = [stack.enter_context(va.attach(one.name, policy="ordered")) for one in outputs]
        wait_for(lambda: all(output.readers for output in own.status().outputs))
        wait_for(_known)
        camera.go.set()
        yield own, readers


def frames(reader: va.Reader, count: int) -> list[va.Frame]:
    got = []
    for _ in range(count):
        with reader.recv(timeout=30) as frame:
            got.append(frame.copy())
    return got


FILMS = {
    "one slice": ("h264", {}),
    "larger than packets": ("h264", {"grain": 60}),
    "four slices": ("h264", {"more": ":slices=4"}),
    "slices of some size": ("h264", {"more": ":slice-max-size=400"}),
    "delimiters": ("h264", {"more": ":aud=1:slices=2"}),
    "B-frames": ("h264", {"bframes": 2, "gop": 12}),
    "interlaced": ("h264", {"more": ":interlaced=1:tff=1"}),
    "intra refresh": ("h264", {"more": ":intra-refresh=1"}),
    "one slice of H.265": ("h265", {}),
    "three slices of H.265": ("h265", {"more": ":slices=3", "grain": 60}),
    "B-frames of H.265": ("h265", {"bframes": 2, "gop": 12}),
}


@pytest.mark.parametrize("kind", FILMS)
def test_all_frames_come_although_nothing_comes_after_the_last(kind: str) -> None:
    codec, how = FILMS[kind]
    made = film(codec, **how)
    wanted = made.pictures()
    with watched(made.camera(), "yuv420p") as (camera, (reader,)):
        got = frames(reader, len(wanted) - made.reorder)
        assert camera.status().early
        assert camera.status().errors == 0
    for number, frame in enumerate(got):
        assert np.array_equal(frame.array, wanted[number]), number
    assert [frame.pts for frame in got] == [900 * number for number in range(len(got))]


@pytest.mark.parametrize("codec", ["pcm_alaw", "aac", "libopus"])
@pytest.mark.parametrize("kind", ["one slice", "larger than packets", "four slices", "B-frames of H.265"])
def test_sound_between_the_packets_makes_no_frame_late_and_none_torn(kind: str, codec: str) -> None:
    what, how = FILMS[kind]
    made = film(what, frames=60, **how)
    wanted = made.pictures()
    with watched(made.camera(sound=clicks(codec), fps=25), "packets", "fmp4") as (
        camera,
        (packets, fragments),
    ):
        sent = frames(packets, len(made.units))  # the last one, too, after which nothing comes
        muxed = frames(fragments, len(made.units))
        films = bytes(fragments.header) + b"".join(bytes(one.data) for one in muxed)
        assert camera.status().early and camera.status().sound.packets > 20
    assert [nals(bytes(one.data)) for one in sent] == [nals(unit) for unit in made.units]
    assert [one.pts for one in sent] == [900 * shown for shown in made.shown]
    with av.open(io.BytesIO(films)) as result:
        shown = [frame.to_ndarray(format="yuv420p") for frame in result.decode(video=0)]
    assert all(np.array_equal(*pair) for pair in zip(shown, wanted, strict=True))


@pytest.mark.parametrize("kind", ["larger than packets", "three slices of H.265", "B-frames"])
def test_they_are_what_the_camera_sent_for_those_who_do_not_decode(kind: str) -> None:
    codec, how = FILMS[kind]
    made = film(codec, **how)
    with watched(made.camera(), "packets", "fmp4") as (camera, (packets, fragments)):
        sent = frames(packets, len(made.units))
        muxed = frames(fragments, len(made.units))
        film_of_them = bytes(fragments.header) + b"".join(bytes(one.data) for one in muxed)
        assert camera.status().early and not camera.status().decoded
    assert [nals(bytes(one.data)) for one in sent] == [nals(unit) for unit in made.units]
    keys = [place % how.get("gop", 5) == 0 for place in range(len(made.units))]
    assert [one.key for one in sent] == [one.key for one in muxed] == keys
    assert [one.pts for one in sent] == [900 * shown for shown in made.shown]
    dts = [one.dts for one in sent]
    assert dts[: made.reorder] == [None] * made.reorder
    assert dts[made.reorder :] == [900 * number for number in range(len(dts) - made.reorder)]
    with av.open(io.BytesIO(film_of_them)) as result:
        shown = [frame.to_ndarray(format="yuv420p") for frame in result.decode(video=0)]
    assert all(np.array_equal(*pair) for pair in zip(shown, made.pictures(), strict=True))


def test_a_frame_is_dated_by_its_own_first_packet() -> None:
    made = film(grain=60)
    sent: list[tuple[int, int]] = []

    def sending(number: int, packets: list[bytes]) -> Iterator[bytes]:
        began = time.time_ns()
        yield packets[0]
        time.sleep(0.02)
        sent.append((began, time.time_ns()))
        yield from packets[1:]

    def measure() -> None:
        sent.clear()
        with watched(made.camera(sending=sending, fps=20), "gray8") as (_, (reader,)):
            got = frames(reader, len(made.units))
        dated = list(zip(got, sent, strict=True))[3:]  # from then on they are early
        assert all(first <= frame.timestamp_ns for frame, (first, _) in dated)
        late = sum(frame.timestamp_ns > second for frame, (_, second) in dated)
        assert late < len(dated) / 2  # as the machine may have had other things to do

    measured(measure)


def test_slices_may_become_more_and_fewer() -> None:
    made = film() + film(more=":slices=4") + film(more=":slices=2") + film()
    wanted = made.pictures()
    with watched(made.camera(), "yuv420p") as (camera, (reader,)):
        for number, frame in enumerate(frames(reader, len(wanted))):
            assert np.array_equal(frame.array, wanted[number]), number
        assert camera.status().early


def test_parameter_sets_and_slices_in_one_packet() -> None:
    made = film(more=":slices=4:aud=1")
    wanted = made.pictures()
    assert any(payload[0] == 0x78 for payload in h264_together(made.units[0]))
    with watched(made.camera(payloads=h264_together), "yuv420p") as (camera, (reader,)):
        for number, frame in enumerate(frames(reader, len(wanted))):
            assert np.array_equal(frame.array, wanted[number]), number
        assert camera.status().early


@pytest.mark.parametrize("grain", [0, 60])
def test_a_camera_that_sends_headers_by_themselves_sends_all_the_same(grain: int) -> None:
    made = film(grain=grain)
    wanted = made.pictures()
    with watched(made.camera(apart=True), "yuv420p") as (camera, (reader,)):
        for number, frame in enumerate(frames(reader, len(wanted) - 1)):  # it depends on the kernel's delays
            assert np.array_equal(frame.array, wanted[number]), number
        assert camera.status().errors == 0


@pytest.mark.parametrize(
    ("says", "sound"),
    [
        pytest.param("", False, marks=pytest.mark.long),
        ("packets: 5\r\n", True),
        pytest.param("$ and\r\n\r\nmore:\n" * 9, False, marks=pytest.mark.long),
    ],
)
def test_answers_between_the_packets_hold_nothing_up(says: str, sound: bool) -> None:
    """To what keeps the connection alive, which is a request every second here."""
    made = film(frames=16)
    wanted = made.pictures()
    source = made.camera(fps=10, forgets=2, says=says, sound=clicks() if sound else None)
    with watched(source, "yuv420p", "fmp4") as (camera, (reader, _)):
        for number, frame in enumerate(frames(reader, len(wanted))):  # the last one, too
            assert np.array_equal(frame.array, wanted[number]), number
        assert camera.status().early
        wait_for(lambda: source.asked("GET_PARAMETER"))


@pytest.mark.parametrize(
    "more", ["", ":colorprim=bt709:nal-hrd=vbr:vbv-maxrate=1000:vbv-bufsize=1000", ":cqm=jvt:interlaced=1"]
)
def test_nothing_is_held_back_for_b_frames_that_never_come(more: str) -> None:
    made = film(bframes=2, unused=True, frames=24, more=more)
    assert made.reorder and made.shown == [*range(24)]
    wanted = made.pictures()
    with watched(made.camera(), "yuv420p") as (_, (reader,)):
        for number, frame in enumerate(frames(reader, len(wanted))):
            assert np.array_equal(frame.array, wanted[number]), number


def test_b_frames_that_come_later_are_shown_in_their_order() -> None:
    made = film(bframes=2, unused=True, frames=24) + film(bframes=2, gop=12, frames=24, more=":ref=4")
    wanted = made.pictures()
    with watched(made.camera(), "yuv420p") as (_, (reader,)):
        for number, frame in enumerate(frames(reader, len(wanted) - 2)):
            assert np.array_equal(frame.array, wanted[number]), number


def slices_marked(place: int, count: int, payload: bytes) -> bool:
    """As some cameras do it, which take each slice for a frame."""
    return payload[0] & 31 in (1, 5)


MARKS = {
    "none": lambda *_: False,
    "all": lambda *_: True,
    "each slice": slices_marked,
    "the first": lambda place, *_: place == 0,
}


@pytest.mark.parametrize("kind", MARKS)
def test_markers_that_mean_nothing_tear_no_frame(kind: str) -> None:
    made = film(more=":slices=3", frames=24)
    wanted = made.pictures()
    with watched(made.camera(marks=MARKS[kind]), "yuv420p", "packets") as (camera, (reader, packets)):
        got = frames(reader, len(wanted) - 1)  # the last one is over when another begins
        sent = frames(packets, len(wanted) - 1)
        assert not camera.status().early and camera.status().errors == 0
    for number, frame in enumerate(got):
        assert np.array_equal(frame.array, wanted[number]), number
    assert [nals(bytes(one.data)) for one in sent] == [nals(unit) for unit in made.units[:-1]]


def test_a_clock_that_stands_still_does_not_make_one_frame_of_all() -> None:
    made = film(more=":slices=3")
    wanted = made.pictures()
    with watched(made.camera(clock=lambda *_: BASE), "yuv420p") as (_, (reader,)):
        for number, frame in enumerate(frames(reader, len(wanted))):
            assert np.array_equal(frame.array, wanted[number]), number


@pytest.mark.parametrize(("codec", "slices"), [("h264", 2), ("h264", 4), ("h265", 3)])
def test_parameter_sets_before_each_slice_are_no_new_frame(codec: str, slices: int) -> None:
    made = film(codec, f":slices={slices}", grain=60 * (codec == "h265"))
    of_sets = nal.CODECS["hevc" if codec == "h265" else codec]

    def kind(unit: bytes) -> int:
        return unit[0] >> of_sets.shift & of_sets.mask

    sets = b"".join(b"\0\0\0\1" + one for one in nals(made.units[0]) if kind(one) in of_sets.sets)
    units = []
    for unit in made.units:
        slices_of_it = [one for one in nals(unit) if kind(one) in of_sets.slices]
        units.append(b"".join(sets + b"\0\0\0\1" + one for one in slices_of_it))
    with watched(made._replace(units=units).camera(), "packets") as (camera, (reader,)):
        got = frames(reader, len(units))
        assert camera.status().early
    assert [nals(bytes(one.data)) for one in got] == [nals(unit) for unit in units]
    assert [one.key for one in got] == [place % 5 == 0 for place in range(len(units))]


@pytest.mark.parametrize("end", [b"\x06\x05\x04abcd\x80", b"\x0c\xff\xff\x80", b"\x09\xf0"])
def test_what_comes_behind_the_slices_holds_nothing_up(end: bytes) -> None:
    """A message, filler, and the next frame's delimiter, all with the time and the marker of this one."""
    made = film(more=":slices=2")
    wanted = made.pictures()
    units = [unit + b"\0\0\0\1" + end for unit in made.units]
    with watched(made._replace(units=units).camera(), "yuv420p") as (camera, (reader,)):
        for number, frame in enumerate(frames(reader, len(wanted))):
            assert np.array_equal(frame.array, wanted[number]), number
        assert camera.status().early and camera.status().errors == 0


@in_netns
def test_datagrams_in_the_wrong_order_make_the_right_frames() -> None:
    made = film(grain=60, more=":slices=2")
    wanted = made.pictures()

    def sending(number: int, packets: list[bytes]) -> list[bytes]:
        if number % 3 == 2 and len(packets) > 3:
            packets[1], packets[2] = packets[2], packets[1]
            packets[-2:] = reversed(packets[-2:])
        return packets

    with watched(made.camera(sending=sending, fps=20), "yuv420p", transport="udp") as (camera, (reader,)):
        for number, frame in enumerate(frames(reader, len(wanted))):
            assert np.array_equal(frame.array, wanted[number]), number
        assert camera.status().errors == 0


@in_netns
def test_a_lost_datagram_spoils_its_own_frame_and_no_other() -> None:
    made = film(grain=60, gop=1, frames=40)
    wanted = made.pictures()
    for lost in (0, 2, -1):
        lose(lost, made, wanted)


def lose(lost: int, made: Film, wanted: list[NDArray[Any]]) -> None:
    """Of two of its frames this datagram."""
    taken: list[va.Camera] = []

    def sending(number: int, packets: list[bytes]) -> list[bytes]:
        if number in (6, 10):
            del packets[lost]
        with contextlib.suppress(TimeoutError):  # else the kernel loses others where this machine is busy
            wait_for(lambda: taken and number - taken[0].status().packets < 5, 2)
        return packets

    with watched(made.camera(sending=sending), "yuv420p", transport="udp") as (camera, (reader,)):
        taken.append(camera)
        seen = {}
        while 39 not in seen:
            (frame,) = frames(reader, 1)
            seen[(frame.pts or 0) // 900] = frame
        assert camera.status().early  # again: while FFmpeg waits for what is lost, it cannot be watched
    assert {*range(40)} - {6, 10} <= {*seen}
    for number in {*seen} - {6, 10}:
        assert np.array_equal(seen[number].array, wanted[number]), number
