"""Decoding that is slower than the camera costs frames. It does not make pictures older and older."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from camera_tools import ring
from test_camera_keys import KINDS, REFRESH, SIZE, decoded, film, number, numbers, whole, with_recovery_points

import valkka_async as va
from support import footage
from support.netns import in_netns
from support.rtsp_camera import RtspCamera
from support.until import wait_for
from valkka_async.camera import lag, meter, turns
from valkka_async.camera.decode import Decoder

FPS = 50
SLOW = 0.15  # s that a frame takes: after 250 frames pictures would be 32 s old
FRAMES = 600
UNEXACT = "H.265, refreshed"  # x265 refreshes not quite all
ALL = {**KINDS, **REFRESH, UNEXACT: ("h265", "intra-refresh=1:bframes=0")}


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set, decoding is slow."""
    slowly, decode = threading.Event(), Decoder.decode
    slowly.set()

    def after_a_while(self: Decoder[Any], packet: Any, stamp: Any) -> Any:
        if slowly.is_set() and packet.size:
            time.sleep(SLOW)
        return decode(self, packet, stamp)

    monkeypatch.setattr(Decoder, "decode", after_a_while)
    yield slowly
    slowly.clear()


class Sender(RtspCamera):
    """Sends numbered frames once, and knows how old each is."""

    def __init__(
        self, gop: int, kind: str = "H.264", *, frames: int = FRAMES, fps: float = FPS, **more: Any
    ) -> None:
        self.began = 0.0
        units, self._shown = film(*ALL[kind], frames, gop)
        if kind == UNEXACT:
            units = with_recovery_points(units, gop, 10)
        super().__init__(units, fps=fps, clock=self._clock, codec=ALL[kind][0], once=True, **more)

    def _clock(self, number: int, passed: float) -> int:
        self.began = self.began or time.monotonic() - passed
        return 90000 + round(self._shown[number] * 90000 / self.fps)  # FFmpeg takes 0 for none

    def age(self, number: int) -> float:
        return time.monotonic() - self.began - number / self.fps


def watched(sender: Sender, *outputs: va.Output, transport: va.Transport = "tcp") -> va.Camera:
    return va.Camera("cam", sender.url(), outputs, read_timeout=60, transport=transport)


BOUNDED = [
    ("H.264", 50),
    ("H.265", 50),
    ("one slice", 50),
    ("one slice", 10),  # what a refresh takes to be decoded is longer than until the next
    ("four slices", 16),
    ("B-frames", 50),
    (UNEXACT, 50),
]


@pytest.mark.parametrize(("kind", "gop"), BOUNDED)
def test_the_age_of_frames_is_bounded_and_told(
    kind: str, gop: int, slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go on, none is torn, and each that is left out is counted, however many others catch up."""
    monkeypatch.setattr(meter, "_TOLD", 2.0)
    monkeypatch.setattr(turns.Turn, "take", lambda self, *, idle: False)
    wanted = decoded(ALL[kind], FRAMES, gop) if kind != UNEXACT else []
    with Sender(gop, kind) as sender, watched(sender, va.Output("cam", "yuv420p")) as camera:
        sender.go.clear()
        with va.attach("cam", policy="ordered") as reader:
            sender.go.set()
            seen, ages = [-1], []
            while seen[-1] < 250:
                with reader.recv(timeout=20) as frame:
                    assert frame.dropped == 0
                    if wanted:
                        place = footage.read_index(frame.array[: SIZE[1]], "gray8")
                        assert whole(kind, frame.array, wanted[place])
                    else:
                        assert frame.pts is not None and frame.time_base is not None
                        place = round(frame.pts * frame.time_base * FPS)
                    ages.append((sender.age(place), frame.age))
                    seen.append(place)
            assert camera.status().warnings == (va.CameraWarning.BEHIND,)
            assert max(true for true, _ in ages) < 10
            assert max(abs(true - told) for true, told in ages) < 2
            assert seen == sorted(set(seen)) and len(seen) > 10
            status = camera.status()
            output = status.outputs[0]
            assert output.skipped > 100 and not (status.clock_disagrees or status.errors)
            assert abs(output.published + output.skipped - status.packets) < 5
            slow.clear()
            wait_for(lambda: not camera.status().warnings, 20)


@pytest.mark.parametrize("kind", ["H.264", *REFRESH])
def test_one_who_comes_in_between_sees_frames_though_they_are_late(kind: str, slow: threading.Event) -> None:
    with Sender(50, kind) as sender, watched(sender, va.Output("cam")) as camera:
        wait_for(lambda: camera.status().packets > 130, 20)
        with va.attach("cam", policy="ordered") as reader:
            seen = numbers(reader, 10)
            assert seen == sorted(set(seen)) and sender.age(seen[-1]) < 10


def test_it_comes_up_to_now_where_no_key_frame_helps(
    slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames go on meanwhile, and none is torn, however many others catch up."""
    monkeypatch.setattr(lag, "BOUND", 0.5)
    monkeypatch.setattr(turns.Turn, "take", lambda self, *, idle: False)
    wanted = decoded(KINDS["H.264"], FRAMES, FRAMES)
    with Sender(FRAMES) as sender, watched(sender, va.Output("cam", "yuv420p")) as camera:
        sender.go.clear()
        with va.attach("cam", policy="ordered") as reader:
            sender.go.set()
            last, since = -1, 0  # frames, since it was behind
            while since < 5 or slow.is_set() or sender.age(last) > 1:
                with reader.recv(timeout=20) as frame:
                    place = footage.read_index(frame.array[: SIZE[1]], "gray8")
                    assert last < place < FRAMES - 1, "too slow a machine to tell"
                    assert np.array_equal(frame.array, wanted[place])
                    last = place
                since += camera.status().outputs[0].skipped > 0
                if since == 5:
                    slow.clear()


@pytest.mark.parametrize("kind", ["H.264", "one slice", UNEXACT])
@pytest.mark.parametrize("alone", [False, True])
def test_key_frames_and_packets_go_on(kind: str, alone: bool, slow: threading.Event) -> None:
    outputs = [va.Output("keys", key_frames=True), va.Output("cam.packets", "packets")]
    with Sender(50, kind) as sender, watched(sender, *outputs, va.Output("cam")) as camera:
        with contextlib.ExitStack() as readers:
            keys = readers.enter_context(va.attach("keys", policy="ordered"))
            packets = readers.enter_context(va.attach("cam.packets", policy="ordered", max_leases=1))
            if not alone:
                readers.enter_context(va.attach("cam"))
            shown, count = [], 0
            while count < 400:
                with packets.recv(timeout=20) as packet:
                    assert packet.dropped == 0
                    count += 1
                while (key := keys.recv_nowait()) is not None:
                    with key:
                        assert key.pts is not None and key.time_base is not None
                        shown.append(round(key.pts * key.time_base * FPS))
            if kind == "H.264":
                assert all(one % 50 == 0 for one in shown)
            assert shown == sorted(set(shown)) and 2 <= len(shown) <= 9
            assert alone or camera.status().outputs[2].skipped > 100
            assert camera.status().outputs[0].skipped <= 9


def test_a_player_goes_on(slow: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag, "BOUND", 0.5)
    with Sender(50) as sender, ring() as (server, reader), va.play(sender.url(), server) as player:
        last = -1
        while last < 200:
            with reader.recv(timeout=20) as frame:
                assert number(frame) > last
                last = number(frame)
        assert player.stats().skipped > 100


@pytest.mark.parametrize("pause", [1.0, 3.0])
def test_what_the_network_held_back_is_shown_by_those_who_are_quick(pause: float) -> None:
    def sending(number: int, packets: list[bytes]) -> list[bytes]:
        if number == 20:
            time.sleep(pause)
        return packets

    with (
        Sender(10, frames=80, fps=10, sending=sending) as sender,
        watched(sender, va.Output("cam")) as camera,
    ):
        with va.attach("cam") as reader:
            reader.recv(timeout=20).release()
            wait_for(lambda: camera.status().packets >= 70, 30)
            status = camera.status()
            assert (status.outputs[0].skipped, status.warnings) == (0, ())
            assert status.decoded >= status.packets - 20


@functools.partial(in_netns, seconds=150)
def test_over_udp_nothing_is_left_out() -> None:
    """It is not seen there what lies unread."""
    with pytest.MonkeyPatch.context() as patch:
        decode = Decoder.decode

        def after_a_while(self: Decoder[Any], packet: Any, stamp: Any) -> Any:
            time.sleep(SLOW)
            return decode(self, packet, stamp)

        patch.setattr(Decoder, "decode", after_a_while)
        patch.setattr(lag, "BOUND", 0.2)
        with Sender(50, frames=100) as sender, watched(sender, va.Output("cam"), transport="udp") as camera:
            with va.attach("cam", policy="ordered") as reader:
                for _ in range(10):
                    reader.recv(timeout=20).release()
                assert (camera.status().outputs[0].skipped, camera.status().warnings) == (0, ())
