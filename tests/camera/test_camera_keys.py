"""Key frames: far apart, only begun (intra refresh), or none; and those who come in between."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

import valkka_async as va
from support import footage
from support.netns import in_netns
from support.rtsp_camera import RtspCamera
from support.until import measured, wait_for
from valkka_async.camera import feed, follow
from valkka_async.camera.decode import Decoder
from valkka_async.camera.mp4 import nal

SIZE = (160, 96)
KINDS: dict[str, tuple[str, str]] = {
    "H.264": ("h264", "bframes=0"),
    "H.264 with B-frames": ("h264", "bframes=2:b-adapt=0"),
    "H.265": ("h265", "bframes=0"),
}
REFRESH = {
    "one slice": ("h264", "intra-refresh=1:bframes=0"),
    "four slices": ("h264", "intra-refresh=1:bframes=0:slices=4"),
    "B-frames": ("h264", "intra-refresh=1:bframes=1:b-adapt=0"),
}


@functools.cache  # x264 does not make the same of the same each time
def film(codec: str, more: str, frames: int, gop: int) -> tuple[list[bytes], list[int]]:
    """Numbered frames, as they are decoded; and when each is shown."""
    context = cast(VideoCodecContext, av.CodecContext.create(footage.ENCODERS[codec], "w"))
    context.width, context.height = SIZE
    context.pix_fmt, context.framerate, context.time_base = "yuv420p", Fraction(25), Fraction(1, 25)
    common = f"keyint={gop}:min-keyint={gop}:scenecut=0:repeat-headers=1:{more}"
    if codec == "h264":
        context.options = {"preset": "veryfast", "x264-params": f"sliced-threads=0:threads=1:{common}"}
    else:
        quiet = f"open-gop=0:frame-threads=1:pools=1:log-level=none:{common}"
        context.options = {"preset": "ultrafast", "x265-params": quiet}
    packets = []
    for number in range(frames):
        image = av.VideoFrame.from_ndarray(footage.draw(number, SIZE), "rgb24").reformat(format="yuv420p")
        image.pts = number
        packets += context.encode(image)
    packets += context.encode(None)
    return [bytes(one) for one in packets], [cast(int, one.pts) for one in packets]


def decoded(kind: tuple[str, str], frames: int, gop: int) -> list[NDArray[Any]]:
    """The same frames, whole, in the order in which they are shown."""
    context: Any = av.CodecContext.create({"h264": "h264", "h265": "hevc"}[kind[0]], "r")
    shown = [frame for unit in film(*kind, frames, gop)[0] for frame in context.decode(Packet(unit))]
    return [frame.to_ndarray(format="yuv420p") for frame in (*shown, *context.decode(None))]


def whole(kind: str, image: NDArray[Any], wanted: NDArray[Any]) -> bool:
    """Is it, and not torn? With B-frames x264 refreshes some parts not quite."""
    if kind != "B-frames":
        return np.array_equal(image, wanted)
    return float(np.abs(image.astype(int) - wanted).mean()) < 1


class Gate:
    """Lets so many frames through, so that a slow machine meets the same ones as a fast one."""

    def __init__(self, frames: int) -> None:
        self._changed = threading.Condition()
        self._frames = frames

    def open(self, frames: int) -> None:
        """For so many, in all."""
        with self._changed:
            self._frames = frames
            self._changed.notify_all()

    def sending(self, number: int, packets: list[bytes]) -> list[bytes]:
        with self._changed:
            self._changed.wait_for(lambda: number < self._frames)
        return packets


@contextlib.contextmanager
def playing(
    kind: tuple[str, str],
    frames: int,
    gop: int,
    *outputs: va.Output,
    fps: float = 50,
    start: int = 0,
    transport: va.Transport = "tcp",
    gate: Gate | None = None,
) -> Iterator[tuple[va.Camera, RtspCamera]]:
    codec, more = kind
    units, shown = film(codec, more, frames, gop)
    units, shown = units[start:], shown[start:]
    gate = gate or Gate(frames)

    def clock(number: int, _: float) -> int:
        return round(shown[number] * 90000 / fps)

    with RtspCamera(units, fps=fps, codec=codec, clock=clock, once=True, sending=gate.sending) as server:
        try:
            with va.Camera("cam", server.url(), outputs, read_timeout=60, transport=transport) as camera:
                yield camera, server
        finally:
            gate.open(frames)


def number(frame: va.Frame) -> int:
    return footage.read_index(frame.array)


def numbers(reader: va.Reader, count: int) -> list[int]:
    found = []
    for _ in range(count):
        with reader.recv(timeout=20) as frame:
            found.append(number(frame))
    return found


# --------------------------------------------------------------------------------- intra refresh


@pytest.mark.parametrize("kind", REFRESH)
@pytest.mark.parametrize("start", [0, 30])
def test_a_stream_that_is_refreshed_bit_by_bit_is_seen_from_any_point_on(kind: str, start: int) -> None:
    """Only the very first frame is a key frame; from 30 on, there is none."""
    every, keys, seldom = (
        va.Output("every", slots=64),
        va.Output("keys", key_frames=True),
        va.Output("seldom", fps=2),
    )
    with playing(REFRESH[kind], 400, 25, every, keys, seldom, start=start) as (camera, _):
        with va.attach("keys", policy="ordered") as alone:
            first = numbers(alone, 4)
            with va.attach("every", policy="ordered") as reader, va.attach("seldom") as other:
                seen = numbers(reader, 40)
                assert numbers(other, 2)
            first += numbers(alone, 2)
        status = camera.status()
        assert (status.state, status.warnings, status.errors) == ("live", (), 0)
    assert seen == list(range(seen[0], seen[0] + 40))
    steps = np.diff(first)
    assert (steps >= 20).all()  # one each time that a refresh begins, whoever else looks


@pytest.mark.parametrize("gop", [16, 17, 50])  # frames are counted to 16 (frame_num)
@pytest.mark.parametrize("kind", REFRESH)
def test_decoding_begins_at_each_point_and_shows_nothing_half_refreshed(kind: str, gop: int) -> None:
    units, shown = film(*REFRESH[kind], 400, gop)
    wanted, points = decoded(REFRESH[kind], 400, gop), 0
    for start, unit in enumerate(units[:-60]):
        if not nal.frames_to_recover(unit, nal.H264, 0):
            continue
        points += 1
        context = cast(VideoCodecContext, av.CodecContext.create("h264", "r"))
        decoder: Decoder[int] = Decoder(context, 1)
        found = 0
        for number, data in zip(shown[start : start + 60], units[start : start + 60], strict=True):
            packet: Any = Packet(data)
            packet.pts, packet.is_keyframe = number, data is unit
            for frame, place in decoder.decode(packet, number):
                assert whole(kind, frame.to_ndarray(format="yuv420p"), wanted[place]), (start, place)
                found += 1
        assert found > 30 and decoder.errors == 0
    assert points >= 6


def with_recovery_points(units: list[bytes], each: int, count: int) -> list[bytes]:
    """H.265 with the messages that x265 does not write."""
    bits = f"{2 * count:b}"
    bits = "0" * (len(bits) - 1) + bits + "101"  # se(v); exact, not broken; the payload's end
    bits += "0" * (-len(bits) % 8)
    payload = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    message = b"\0\0\0\1\x4e\x01\x06" + bytes([len(payload)]) + payload + b"\x80"
    made = []
    for number, unit in enumerate(units):
        at = unit.rindex(b"\0\0\1") - (number % each == 0 and unit[unit.rindex(b"\0\0\1") - 1] == 0)
        made.append(unit[:at] + message + unit[at:] if number % each == 0 else unit)
    return made


@pytest.mark.parametrize("start", [0, 30])
def test_recovery_points_of_h265(start: int) -> None:
    """x265 refreshes not quite all, so it is looked at what comes and not at how it looks."""
    units, _ = film("h265", "intra-refresh=1:bframes=0", 300, 25)
    units = with_recovery_points(units, 25, 24)
    assert [nal.frames_to_recover(unit, nal.H265, 0) for unit in units[:51:25]] == [0, 24, 24]
    gate = Gate(120)
    with RtspCamera(units[start:], fps=50, codec="h265", once=True, sending=gate.sending) as server:
        outputs = va.Output("every", slots=64), va.Output("keys", key_frames=True)
        with va.Camera("cam", server.url(), outputs) as camera, va.attach("keys", policy="ordered") as keys:
            for _ in range(3):
                keys.recv(timeout=30).release()
            with va.attach("every", policy="ordered") as reader:
                gate.open(240)
                for _ in range(30):
                    reader.recv(timeout=30).release()
            assert (camera.status().state, camera.status().warnings) == ("live", ())
        gate.open(300)


def test_the_count_of_frames_to_recover_is_read() -> None:
    units, _ = film(*REFRESH["one slice"], 60, 25)
    counts = [nal.frames_to_recover(unit, nal.H264, 0) for unit in units]
    assert counts[0] == 0  # IDR
    assert {n for n in counts if n} and len([n for n in counts if n]) == 2
    plain, _ = film(*KINDS["H.264"], 30, 10)
    assert not any(nal.frames_to_recover(unit, nal.H264, 0) for unit in plain)


# ------------------------------------------------------------------------------------ key frames


@pytest.mark.parametrize("kind", KINDS)
def test_key_frames_are_what_it_says_whoever_else_looks(kind: str) -> None:
    outputs = (
        va.Output("every"),
        va.Output("keys", key_frames=True),
        va.Output("keys.jpeg", "jpeg", key_frames=True),
    )
    with playing(KINDS[kind], 300, 20, *outputs) as (camera, _):
        with va.attach("keys", policy="ordered") as alone:
            found = numbers(alone, 3)
            with va.attach("every", policy="ordered") as reader:
                numbers(reader, 30)
                found += numbers(alone, 2)

                def at_once() -> None:
                    before = camera.status().packets
                    with va.attach("keys.jpeg") as late, late.recv(timeout=20):
                        assert camera.status().packets - before < 20

                # One who comes now sees the newest key frame, as it would be without the others.
                measured(at_once)
    assert [n % 20 for n in found] == [0] * 5
    assert found == sorted(set(found))


# ------------------------------------------------------------------------------------ long GOPs


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Cleared, it holds up decoders that catch up."""
    go = threading.Event()
    go.set()
    decode = Decoder.decode

    def slowly(self: Decoder[Any], packet: Any, stamp: Any) -> Any:
        if threading.current_thread().name == "valkka-catch-up":
            go.wait(20)
        return decode(self, packet, stamp)

    monkeypatch.setattr(Decoder, "decode", slowly)
    yield go
    go.set()


@pytest.mark.parametrize("kind", KINDS)
def test_catching_up_holds_up_nobody(kind: str, held: threading.Event) -> None:
    outputs = va.Output("late"), va.Output("cam.packets", "packets"), va.Output("keys", key_frames=True)
    with playing(KINDS[kind], 500, 500, *outputs) as (camera, _):
        with va.attach("cam.packets", policy="ordered") as packets:
            wait_for(lambda: camera.status().packets > 40, 20)
            held.clear()
            with va.attach("late") as late:
                for _ in range(camera.status().packets + 25):  # from the key frame on, and beyond now
                    packets.recv(timeout=20).release()
                assert late.recv_nowait() is None
                with va.attach("keys") as keys, keys.recv(timeout=20) as frame:
                    assert number(frame) == 0
                held.set()
                with late.recv(timeout=20) as frame:
                    assert number(frame) > 40
                seen = numbers(late, 3)
                assert seen == sorted(set(seen))
        assert camera.status().errors == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_gop_too_long_to_be_remembered_is_no_reason_to_see_nothing(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valkka_async.camera.gop._PACKETS", 20)
    gate, wanted = Gate(60), decoded(KINDS[kind], 220, 220)
    with playing(KINDS[kind], 220, 220, va.Output("late", "yuv420p"), gate=gate, fps=100) as (camera, _):
        for sent in (60, 110, 160):  # they come and go
            gate.open(sent)
            wait_for(lambda sent=sent: camera.status().packets == sent)
            with va.attach("late", policy="ordered") as late:
                gate.open(sent + 40)
                seen = []
                for _ in range(10):
                    with late.recv(timeout=30) as frame:
                        seen.append(frame.array.copy())
            found = [footage.read_index(image[: SIZE[1]], "gray8") for image in seen]
            assert found[0] >= sent - 20 and found == sorted(set(found))
            assert all(np.array_equal(image, wanted[n]) for n, image in zip(found, seen, strict=True))
            wait_for(lambda sent=sent: camera.status().packets == sent + 40)
            wait_for(lambda: not camera.status().outputs[0].readers)
        assert (camera.status().errors, camera.status().warnings) == (0, ())


@pytest.mark.parametrize("kind", REFRESH)
def test_one_who_comes_during_a_refresh_sees_what_was_whole_before(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if what came before is not remembered, as there was too much."""
    monkeypatch.setattr("valkka_async.camera.gop._PACKETS", 20)
    gate, wanted = Gate(53), decoded(REFRESH[kind], 120, 50)
    with playing(REFRESH[kind], 120, 50, va.Output("late", "yuv420p"), gate=gate) as (camera, _):
        wait_for(lambda: camera.status().packets == 53)
        with va.attach("late") as late:
            gate.open(56)
            with late.recv(timeout=20) as frame:
                place = footage.read_index(frame.array[: SIZE[1]], "gray8")
                assert 50 <= place < 56 and np.array_equal(frame.array, wanted[place])


@in_netns
def test_over_udp_one_comes_in_the_middle_of_a_gop_too() -> None:
    every, keys = va.Output("every"), va.Output("keys", key_frames=True)
    for kind in KINDS:
        with playing(KINDS[kind], 300, 300, every, keys, transport="udp") as (camera, _):
            wait_for(lambda camera=camera: camera.status().packets > 60)
            with va.attach("every", policy="ordered") as late, va.attach("keys") as key:
                seen = numbers(late, 20)
                assert seen[0] > 40 and seen == sorted(set(seen)), kind
                assert numbers(key, 1) == [0], kind
            assert camera.status().errors == 0, kind


def test_one_that_cannot_keep_up_waits_for_the_next_key_frame(
    monkeypatch: pytest.MonkeyPatch, held: threading.Event
) -> None:
    monkeypatch.setattr("valkka_async.camera.gop._PACKETS", 20)
    monkeypatch.setattr(follow, "_BEHIND_PACKETS", 30)
    held.clear()
    with playing(KINDS["H.264"], 300, 150, va.Output("late")) as (camera, _):
        wait_for(lambda: camera.status().packets > 80, 20)
        threading.Timer(0.5, held.set).start()
        with va.attach("late", policy="ordered") as late:
            assert numbers(late, 5) == list(range(150, 155))
        assert camera.status().state == "live"


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_without_key_frames_is_said_to_be_one_and_does_not_fail(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_KEYLESS", 1.0)
    monkeypatch.setattr(feed, "_UNDECODABLE", 0.5)
    monkeypatch.setattr(feed, "_NO_KEY", 0.2)
    outputs = va.Output("late"), va.Output("keys", key_frames=True)
    with playing(KINDS[kind], 400, 250, *outputs, start=10) as (camera, _):
        with va.attach("keys"):
            wait_for(lambda: camera.status().warnings == (va.CameraWarning.NO_KEY_FRAME,), 20)
        wait_for(lambda: not camera.status().warnings, 20)  # nobody wants any
        with va.attach("late", policy="ordered") as late:
            wait_for(lambda: camera.status().warnings == (va.CameraWarning.NO_KEY_FRAME,), 20)
            wait_for(lambda: camera.status().packets > 150, 20)
            assert (camera.status().state, camera.status().attempts) == ("live", 1)
            while (seen := numbers(late, 1)[0]) < 250:  # as well as it can, until there is one
                pass
            assert seen >= 250 and not camera.status().warnings
