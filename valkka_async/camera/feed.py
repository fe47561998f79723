# SPDX-License-Identifier: MIT
"""One connection's packets on their way into a camera's rings: nothing is decoded that nobody looks at."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence

from av.video.frame import VideoFrame

from valkka_async.camera.decode import Decoder
from valkka_async.camera.meter import Meter
from valkka_async.camera.outputs import FragmentRing, PacketRing, PictureRing
from valkka_async.camera.pace import LiveClock
from valkka_async.camera.source.geometry import Geometry
from valkka_async.camera.source.sendertime import Stamp, sender_time_ns
from valkka_async.camera.source.source import Source, VideoPacket
from valkka_async.errors import CameraFormatError

_UNDECODABLE = 30.0  # s of packets in the decoder without a picture
_KEYLESS = 30.0  # s without a key frame after which the decoder has to make do without
# What is kept since the last key frame, so that who begins to look sees something at once.
_KEPT_PACKETS = 600
_KEPT_BYTES = 16 << 20


class Mode(enum.Enum):
    """What is decoded now."""

    NOTHING = 0
    KEYS = 1  # key frames, each for itself
    ALL = 2


class Feed:
    """Made for each connection. `alive` is called between steps that may take long, and says whether to
    go on."""

    def __init__(
        self,
        source: Source,
        rings: Sequence[PictureRing | PacketRing | FragmentRing],
        meter: Meter,
        thread_count: int,
        alive: Callable[[], bool],
    ) -> None:
        self._address = source.address
        self._pictures = [ring for ring in rings if isinstance(ring, PictureRing)]
        self._streams = [ring for ring in rings if not isinstance(ring, PictureRing)]
        self._meter = meter
        self._errors_before = meter.errors
        self._alive = alive
        self._base = source.stream.time_base  # of every packet and picture; each would make a new Fraction
        codec = source.stream.codec_context.codec
        self._intra = codec.intra_only or codec.name == "wrapped_avframe"  # of lavfi: not even encoded
        self._decoder: Decoder[Stamp] = Decoder(source.stream, thread_count)
        self._clock = LiveClock()
        self._geometry = Geometry(source.stream)
        self._mode = Mode.NOTHING
        self._kept: list[tuple[VideoPacket, Stamp]] | None = []  # from the last key frame on; None: too much
        self._kept_bytes = 0
        self._key = time.monotonic()  # when there was a key frame
        self._seen = self._key  # when there was a picture, or none was to be expected
        for ring in self._streams:
            ring.begin(source.stream)

    def take(self, packet: VideoPacket, arrival_ns: int) -> None:
        """Take a packet, or one without data: the end of the stream. Raises CameraFormatError when there
        are no pictures in all of them."""
        if packet.size:
            ticks = packet.dts if packet.dts is not None else packet.pts
            seconds = self._clock.seconds(ticks, self._base, arrival_ns)
            self._meter.take(packet, seconds)
            if (size := self._geometry.look(packet)) is not None:
                self._meter.size = size
            stamp = Stamp(arrival_ns, sender_time_ns(packet))
            for ring in self._streams:
                ring.take(packet, stamp, self._address)
            if not self._intra:
                self._keep(packet, stamp)
        else:
            seconds, stamp = arrival_ns / 1e9, Stamp(arrival_ns, None)
        wanting = [ring for ring in self._pictures if ring.wanted()]
        if not wanting:
            self._mode = Mode.NOTHING
            self._seen = time.monotonic()
        elif self._intra:
            takers = [ring for ring in wanting if ring.admit(seconds)]
            if takers:
                self._offer(self._decode(packet, stamp), takers)
        elif all(ring.key_frames_do(self._meter.key_interval) for ring in wanting):
            self._take_key(packet, stamp, seconds, wanting)
        else:
            self._take_any(packet, stamp, wanting)
        if time.monotonic() - self._seen > _UNDECODABLE:
            raise CameraFormatError(
                f"{self._address}: not one picture could be decoded in {_UNDECODABLE:g} s "
                f"({self._meter.codec}); check that the camera sends what it says it does"
            )

    def end(self) -> None:
        """The connection is over."""
        for ring in self._streams:
            ring.end()
        for any_ring in (*self._pictures, *self._streams):
            any_ring.pause()

    # ---------------------------------------------------------------------------------- decoding

    def _take_key(
        self, packet: VideoPacket, stamp: Stamp, seconds: float, wanting: list[PictureRing]
    ) -> None:
        if self._mode is not Mode.KEYS:
            self._decoder.reset()
            if self._mode is Mode.NOTHING and not packet.is_keyframe and self._kept:
                packet, stamp = self._kept[0]  # what there is to see until the next one comes
            self._mode = Mode.KEYS
        if not packet.is_keyframe or not packet.size:
            self._seen = time.monotonic()
            return
        takers = [ring for ring in wanting if ring.admit(seconds)]
        if takers:
            pictures = self._decoder.decode_alone(packet, stamp)
            self._count(pictures)
            self._offer(pictures[-1:], takers)

    def _take_any(self, packet: VideoPacket, stamp: Stamp, wanting: list[PictureRing]) -> None:
        if self._mode is Mode.ALL:
            for picture in self._decode(packet, stamp):
                frame, at = picture
                seconds = self._clock.seconds(frame.pts, self._base, at.arrival_ns)
                self._offer([picture], [ring for ring in wanting if ring.admit(seconds)])
            return
        if not self._kept and time.monotonic() - self._key < _KEYLESS:
            self._seen = time.monotonic()  # no key frame yet, or too much has come since
            return
        # Someone begins to look: through all since the last key frame, quickly, to the newest picture.
        self._decoder.reset()
        self._mode = Mode.ALL
        newest: list[tuple[VideoFrame, Stamp]] = []
        for kept, at in self._kept or [(packet, stamp)]:
            newest = self._decode(kept, at)[-1:] or newest
            if not self._alive():
                return
        self._offer(newest, [ring for ring in wanting if ring.admit(stamp.arrival_ns / 1e9)])

    def _decode(self, packet: VideoPacket, stamp: Stamp) -> list[tuple[VideoFrame, Stamp]]:
        pictures = self._decoder.decode(packet, stamp)
        self._count(pictures)
        return pictures

    def _count(self, pictures: list[tuple[VideoFrame, Stamp]]) -> None:
        for frame, _ in pictures:
            self._meter.show(frame)
        self._meter.errors = self._errors_before + self._decoder.errors
        if pictures:
            self._seen = time.monotonic()

    def _offer(self, pictures: list[tuple[VideoFrame, Stamp]], takers: list[PictureRing]) -> None:
        for frame, stamp in pictures:
            for ring in takers:
                ring.offer(frame, self._base, stamp, self._address)

    def _keep(self, packet: VideoPacket, stamp: Stamp) -> None:
        if packet.is_keyframe:
            self._key = time.monotonic()
            self._kept = []
            self._kept_bytes = 0
        elif not self._kept:
            return
        self._kept_bytes += packet.size
        if len(self._kept) >= _KEPT_PACKETS or self._kept_bytes > _KEPT_BYTES:
            self._kept = None
        else:
            self._kept.append((packet, stamp))
