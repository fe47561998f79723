"""Decoding that is slower than the camera costs frames. It does not make pictures older and older."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from camera_tools import ring
from test_camera_keys import KINDS, SIZE, decoded, film, number

import valkka_async as va
from support import footage
from support.netns import in_netns
from support.rtsp_camera import RtspCamera
from support.until import wait_for
from valkka_async.camera import lag, meter
from valkka_async.camera.decode import Decoder

FPS = 50
SLOW = 0.15  # s that a frame takes: after 250 frames pictures would be 32 s old
FRAMES = 400


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
        units, _ = film(*KINDS[kind], frames, gop)
        super().__init__(units, fps=fps, clock=self._clock, codec=KINDS[kind][0], once=True, **more)

    def _clock(self, number: int, passed: float) -> int:
        self.began = self.began or time.monotonic() - passed
        return round(number * 90000 / self.fps)

    def age(self, number: int) -> float:
        return time.monotonic() - self.began - number / self.fps


def watched(sender: Sender, *outputs: va.Output, transport: va.Transport = "tcp") -> va.Camera:
    return va.Camera("cam", sender.url(), outputs, read_timeout=60, transport=transport)


@pytest.mark.parametrize("kind", ["H.264", "H.265"])
def test_the_age_of_frames_is_bounded_and_told(
    kind: str, slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "_TOLD", 2.0)
    with Sender(50, kind) as sender, watched(sender, va.Output("cam")) as camera:
        with va.attach("cam", policy="ordered") as reader:
            seen, ages = [0], []
            while seen[-1] < 250:
                with reader.recv(timeout=20) as frame:
                    seen.append(number(frame))
                    ages.append((sender.age(seen[-1]), frame.age))
                    assert frame.dropped == 0
            assert camera.status().warnings == (va.CameraWarning.BEHIND,)
            assert max(true for true, _ in ages) < 10
            assert max(abs(true - told) for true, told in ages) < 2
            assert seen[1:] == sorted(set(seen[1:])) and len(seen) > 10
            status = camera.status()
            assert status.outputs[0].skipped > 100 and not status.clock_disagrees
            slow.clear()
            wait_for(lambda: not camera.status().warnings, 20)


def test_it_comes_up_to_now_where_no_key_frame_helps(
    slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames go on meanwhile, and none is torn."""
    monkeypatch.setattr(lag, "BOUND", 0.5)
    wanted = decoded(KINDS["H.264"], FRAMES, FRAMES)
    with Sender(FRAMES) as sender, watched(sender, va.Output("cam", "yuv420p")) as camera:
        with va.attach("cam", policy="ordered") as reader:
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


def test_key_frames_and_packets_go_on(slow: threading.Event) -> None:
    outputs = va.Output("cam"), va.Output("keys", key_frames=True), va.Output("cam.packets", "packets")
    with Sender(50) as sender, watched(sender, *outputs) as camera:
        with (
            va.attach("cam"),
            va.attach("keys", policy="ordered") as keys,
            va.attach("cam.packets", policy="ordered", max_leases=1) as packets,
        ):
            shown = []
            while camera.status().packets < 300:
                with packets.recv(timeout=20) as packet:
                    assert packet.dropped == 0
                while (key := keys.recv_nowait()) is not None:
                    with key:
                        shown.append(number(key))
            assert all(one % 50 == 0 for one in shown) and shown == sorted(set(shown))
            assert len(shown) >= 2
            assert camera.status().outputs[0].skipped > 100


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
