# SPDX-License-Identifier: MIT
"""One connection's packets on their way into rings: only what readers need is decoded."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence

from av.video.frame import VideoFrame

from valkka_async.camera.decode import Decoder
from valkka_async.camera.meter import Meter
from valkka_async.camera.outputs import FragmentRing, PacketRing, PixelRing
from valkka_async.camera.pace import FileClock, LiveClock
from valkka_async.camera.source.geometry import Geometry
from valkka_async.camera.source.sendertime import Stamp, sender_time_ns
from valkka_async.camera.source.source import Source, VideoPacket
from valkka_async.errors import CameraFormatError

_UNDECODABLE = 30.0  # s of packets in the decoder without a frame
_AT_LEAST = 3  # so many packets: one that was damaged on its way is no sign of anything
_KEYLESS = 30.0  # s without a key frame after which the decoder has to do without one
# Packets since the last key frame are remembered, so that a new reader sees something at once.
_GOP_PACKETS = 600
_GOP_BYTES = 16 << 20


class Mode(enum.Enum):
    """What is decoded now."""

    NOTHING = 0
    KEYS = 1  # key frames, each by itself
    ALL = 2


class Feed:
    """Made for each connection, whose packets and frames have their times from `clock`. `alive` is called
    between steps that may take long, and says whether to go on."""

    def __init__(
        self,
        source: Source,
        rings: Sequence[PixelRing | PacketRing | FragmentRing],
        meter: Meter,
        clock: LiveClock | FileClock,
        thread_count: int,
        alive: Callable[[], bool],
    ) -> None:
        self._address = source.address
        self._pixels = [ring for ring in rings if isinstance(ring, PixelRing)]
        self._streams = [ring for ring in rings if not isinstance(ring, PixelRing)]
        self._meter = meter
        self._errors_before = meter.errors
        self._packets_before = meter.packets
        self._alive = alive
        self._base = source.stream.time_base  # of every packet and frame; each would make a new Fraction
        codec = source.stream.codec_context.codec
        self._intra = codec.intra_only or codec.name == "wrapped_avframe"  # of lavfi: not even encoded
        self._decoder: Decoder[Stamp] = Decoder(source.stream, thread_count)
        self._clock = clock
        self._geometry = Geometry(source.stream)
        eager = any(ring.eager for ring in self._pixels)
        self._mode = Mode.ALL if eager else Mode.NOTHING
        self._remembers = not (eager or self._intra)
        self._gop: list[tuple[VideoPacket, Stamp]] | None = []  # from the last key frame on; None: too much
        self._gop_bytes = 0
        self._key = time.monotonic()  # when there was a key frame
        self._in_vain = 0  # packets in the decoder since it gave a frame
        self._tried = 0.0  # when the first of these was
        self._decoded = False  # it has given one
        for ring in self._streams:
            ring.begin(source.stream)

    def take(self, packet: VideoPacket, arrival_ns: int) -> None:
        """Take a packet, or one without data: the end of the stream. Raises CameraFormatError when packets go
        into the decoder for long and no frame comes out."""
        stamp = Stamp(arrival_ns, sender_time_ns(packet) if packet.size else None)
        ticks = packet.dts if packet.dts is not None else packet.pts
        seconds = self._clock.seconds(ticks, self._base, arrival_ns)
        if packet.size:
            self._meter.take(packet, seconds)
            if (size := self._geometry.look(packet)) is not None:
                self._meter.size = size
            for ring in self._streams:
                ring.take(packet, stamp, self._address)
            if self._remembers:
                self._remember(packet, stamp)
        wanting = [ring for ring in self._pixels if ring.wanted()]
        if not wanting:
            self._mode = Mode.NOTHING
            self._in_vain = 0
        elif self._intra:
            takers = [ring for ring in wanting if ring.admit(seconds)] if packet.size else wanting
            if takers:
                self._offer(self._decode(packet, stamp), takers)
        elif all(ring.key_frames_do(self._meter.key_interval) for ring in wanting):
            self._take_key(packet, stamp, seconds, wanting)
        else:
            self._take_any(packet, stamp, seconds, wanting)
        if self._in_vain >= _AT_LEAST and time.monotonic() - self._tried > _UNDECODABLE:
            raise self._undecodable()

    def finish(self) -> None:
        """The stream has ended by itself. Raises CameraFormatError if packets were decoded in vain."""
        if self._in_vain and not self._decoded:
            raise self._undecodable()

    def end(self) -> None:
        """The connection is over."""
        for ring in self._streams:
            ring.end()
        for any_ring in (*self._pixels, *self._streams):
            any_ring.pause()

    def _undecodable(self) -> CameraFormatError:
        return CameraFormatError(
            f"{self._address}: no frame could be decoded from {self._meter.packets - self._packets_before} "
            f"packets ({self._meter.codec}); check that the camera sends what it says it does"
        )

    # ---------------------------------------------------------------------------------- decoding

    def _take_key(self, packet: VideoPacket, stamp: Stamp, seconds: float, wanting: list[PixelRing]) -> None:
        if self._mode is not Mode.KEYS:
            self._decoder.reset()
            if self._mode is Mode.NOTHING and not packet.is_keyframe and self._gop:
                packet, stamp = self._gop[0]  # what there is to see until the next one comes
            self._mode = Mode.KEYS
        if not packet.is_keyframe or not packet.size:
            return
        takers = [ring for ring in wanting if ring.admit(seconds)]
        if takers:
            decoded = self._decoder.decode_alone(packet, stamp)
            self._count(packet, decoded)
            self._offer(decoded[-1:], takers)

    def _take_any(self, packet: VideoPacket, stamp: Stamp, seconds: float, wanting: list[PixelRing]) -> None:
        if self._mode is Mode.ALL:
            for frame, at in self._decode(packet, stamp):
                seconds = self._clock.seconds(frame.pts, self._base, at.arrival_ns)
                self._offer([(frame, at)], [ring for ring in wanting if ring.admit(seconds)])
            return
        if not self._gop and time.monotonic() - self._key < _KEYLESS:
            return  # no key frame yet, or too much has come since
        # The first reader: through all since the last key frame, quickly, to the newest frame.
        self._decoder.reset()
        self._mode = Mode.ALL
        newest: list[tuple[VideoFrame, Stamp]] = []
        for remembered, at in self._gop or [(packet, stamp)]:
            newest = self._decode(remembered, at)[-1:] or newest
            if not self._alive():
                return
        self._offer(newest, [ring for ring in wanting if ring.admit(seconds)])

    def _decode(self, packet: VideoPacket, stamp: Stamp) -> list[tuple[VideoFrame, Stamp]]:
        decoded = self._decoder.decode(packet, stamp)
        self._count(packet, decoded)
        return decoded

    def _count(self, packet: VideoPacket, decoded: list[tuple[VideoFrame, Stamp]]) -> None:
        for frame, _ in decoded:
            self._meter.show(frame)
        self._meter.errors = self._errors_before + self._decoder.errors
        if decoded:
            self._in_vain, self._decoded = 0, True
        elif packet.size:
            if not self._in_vain:
                self._tried = time.monotonic()
            self._in_vain += 1

    def _offer(self, decoded: list[tuple[VideoFrame, Stamp]], takers: list[PixelRing]) -> None:
        for frame, stamp in decoded:
            for ring in takers:
                ring.offer(frame, self._base, stamp, self._address)

    def _remember(self, packet: VideoPacket, stamp: Stamp) -> None:
        if packet.is_keyframe:
            self._key = time.monotonic()
            self._gop = []
            self._gop_bytes = 0
        elif not self._gop:
            return
        self._gop_bytes += packet.size
        if len(self._gop) >= _GOP_PACKETS or self._gop_bytes > _GOP_BYTES:
            self._gop = None
        else:
            self._gop.append((packet, stamp))
