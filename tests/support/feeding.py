"""A Feed that is given its packets by hand, and rings that look at what they get: no camera, and no time."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from numpy.typing import NDArray

import valkka_async as va
from support import footage
from support.until import wait_for
from valkka_async.camera.feed import Feed
from valkka_async.camera.meter import Meter
from valkka_async.camera.mp4 import nal
from valkka_async.camera.outputs import PixelRing
from valkka_async.camera.pace import LiveClock
from valkka_async.camera.sound.sound import SoundMeter

NAMES = {"h264": "h264", "h265": "hevc"}
_FROM = 100  # the first frame's time, in frames: no time is 0


class Seen(NamedTuple):
    place: int  # among the frames, as they are shown
    off: float  # by so much it is not the frame that a decoder shows which had all from the start
    at: int  # so many packets had been sent


class Watched(PixelRing):
    """Looks at each frame. `readers` may be changed at any time."""

    def __init__(self, feeding: Feeding, output: va.Output) -> None:
        self._server = SimpleNamespace(readers=0, expire=lambda: None)
        super().__init__(output, cast(Any, self._server))
        self.seen: list[Seen] = []
        self._feeding = feeding

    @property
    def places(self) -> list[int]:
        return [one.place for one in self.seen]

    def watch(self, on: bool = True) -> None:
        self._server.readers = int(on)

    def _publish_pixels(self, converter: Any, frame: VideoFrame, *more: Any) -> bool:
        self.seen.append(self._feeding.look(frame))
        return True


class Feeding:
    """Units of a stream, as they are decoded, with the places in which they are shown."""

    def __init__(
        self, codec: str, units: Sequence[bytes], shown: Sequence[int], *outputs: va.Output, threads: int = 1
    ) -> None:
        self.units, self._shown = units, shown
        self._kinds = nal.CODECS[NAMES[codec]]
        self._opened = av.open(io.BytesIO(b"".join(units[:30])), format=NAMES[codec])
        stream = self._opened.streams.video[0]
        self._base = Fraction(cast(Fraction, stream.time_base))
        self._step = int(1 / (self._base * 25))
        self._whole = self._decoded(codec)
        self.sent = 0
        self.stamps: Callable[[int], int | None] | None = None  # packets' times
        self.rings = [Watched(self, output) for output in outputs]
        source: Any = SimpleNamespace(
            address="camera", stream=stream, live=True, hwaccel=None, sound=None, bursts=False, is_rtp=True
        )
        source.waited = True
        self.meter = Meter()
        self.feed = Feed(source, self.rings, self.meter, LiveClock(), threads, SoundMeter(False))
        # Whether it is behind is the test's to say.
        self.lag = SimpleNamespace(behind=False, note=lambda *_: 0.0, forget=lambda: None)
        self.feed._lag = cast(Any, self.lag)
        self._began = time.time_ns()

    def send(self, until: int, *, start: int = 0) -> None:
        """The units from where it is to this one, which is not sent. Who catches up does so between them."""
        for number in range(max(self.sent, start), until):
            self.feed.take(self._packet(number), self._began + number * 40_000_000)
            self.sent = number + 1
            if (follower := self.feed._follower) is not None:
                wait_for(lambda f=follower: f.lost or not f.alive or f.caught_up())

    def end(self) -> None:
        self.feed.end()
        self._opened.close()

    def look(self, frame: VideoFrame) -> Seen:
        image = frame.to_ndarray(format="yuv420p")
        if self.stamps is None and frame.pts is not None:
            place = frame.pts // self._step - _FROM
        else:
            place = footage.read_index(image[: frame.height], "gray8")
        return Seen(place, off(image, self._whole[place]), self.sent)

    def keys(self) -> list[int]:
        """The places of the key frames."""
        return sorted(self._shown[n] for n in range(len(self.units)) if self._packet(n).is_keyframe)

    def _packet(self, number: int) -> Any:
        unit = self.units[number]
        packet: Any = Packet(unit)
        packet.pts, packet.dts = (one * self._step for one in (self._shown[number] + _FROM, number + _FROM))
        if self.stamps is not None:
            packet.pts, packet.dts = self.stamps(number), None
        packet.time_base = self._base
        for begin, end in nal.units(unit, 0):
            kind = unit[begin] >> self._kinds.shift & self._kinds.mask
            point = kind == self._kinds.sei and nal.is_recovery_point(unit[begin:end], self._kinds)
            packet.is_keyframe = packet.is_keyframe or kind in self._kinds.keys or point
        return packet

    def _decoded(self, codec: str) -> dict[int, NDArray[Any]]:
        context: Any = av.CodecContext.create(NAMES[codec], "r")
        frames = []
        for unit, place in zip(self.units, self._shown, strict=True):
            packet = Packet(unit)
            packet.pts = place
            frames += context.decode(packet)
        return {frame.pts: frame.to_ndarray(format="yuv420p") for frame in (*frames, *context.decode(None))}


def off(image: NDArray[Any], wanted: NDArray[Any]) -> float:
    """How far apart two frames are, on average."""
    return float(np.abs(image.astype(int) - wanted).mean()) if image.shape == wanted.shape else 255.0
