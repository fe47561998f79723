# SPDX-License-Identifier: MIT
"""One connection's sound on its way into fragments: carried, in step with the picture, and counted."""

from __future__ import annotations

import logging
import time

import av
from av.audio.stream import AudioStream

from valkka_async.camera.mp4.sound import SoundFormat
from valkka_async.camera.pace import LiveClock
from valkka_async.camera.sound.carry import Carrier, Sample, carrier
from valkka_async.camera.sound.step import Step
from valkka_async.camera.source.packet import SoundPacket
from valkka_async.camera.source.rational import fraction
from valkka_async.camera.source.sendertime import sender_time_ns
from valkka_async.camera.status import SoundState, SoundStatus

_QUIET = 2.0  # s without a packet after which there is no sound now
_HOPELESS = 50  # packets in a row that cannot be decoded, after which that is given up

log = logging.getLogger("valkka_async.camera")


class SoundMeter:
    """What is known and counted of a camera's sound. Fed by its thread; may be read from any."""

    def __init__(self, asked: bool) -> None:
        self.state = SoundState.NONE if asked else SoundState.OFF  # but for whether packets come
        self.codec = ""
        self.rate = self.channels = 0
        self.carried: SoundFormat | None = None
        self.packets = self.errors = 0
        self.last = 0.0  # monotonic, of a packet
        self.wanted = False
        self.said: SoundState | None = None  # in the log

    def begin(self, state: SoundState, stream: AudioStream | None) -> None:
        """A new connection."""
        self.state, self.carried, self.wanted = state, None, False
        self.codec, self.rate, self.channels = "", 0, 0
        # Where there is no decoder, PyAV has no codec context, whatever its annotations say.
        context = None if stream is None else stream.codec_context
        if context is not None:
            self.codec = context.codec.canonical_name
            self.rate, self.channels = context.sample_rate, context.channels
        self.last = time.monotonic()

    def status(self) -> SoundStatus:
        """How it is, at this moment."""
        state = self.state
        if state is SoundState.LIVE and time.monotonic() - self.last > _QUIET:
            state = SoundState.SILENT
        elif state is SoundState.LIVE and not self.wanted:
            state = SoundState.IDLE
        carried = self.carried.codec_string if self.carried is not None else ""
        return SoundStatus(state, self.codec, self.rate, self.channels, carried, self.packets, self.errors)


class Sound:
    """Made for each connection that has a stream of sound. `live`: its packets come when they are sent;
    `shared`: the container has the times of both from one clock."""

    def __init__(
        self, stream: AudioStream, meter: SoundMeter, address: object = "", *, live: bool, shared: bool
    ) -> None:
        self._stream = stream
        self._meter = meter
        self._address = address
        self._base = fraction(stream.time_base)
        self._live = live
        self._shared = shared
        self._clock = LiveClock()
        self._disagreed = False
        self._by_arrival: bool | None = None  # the picture's axis is arrival
        self._step = Step(shared=shared)
        self._carrier: Carrier | None = None
        self._next: tuple[float, float] | None = None  # when a packet without a time is, on both axes
        self._in_vain = 0
        self._open()

    @property
    def format(self) -> SoundFormat | None:
        """What samples are coded as; None: not known, or there will be none."""
        return None if self._carrier is None else self._carrier.format

    def picture(self, at: float, arrival_ns: int, sender_ns: int | None, *, by_arrival: bool) -> None:
        """A frame of the picture is at `at`, in seconds on the axis that sound is to be placed on.
        `by_arrival`: its own times are not to be trusted, and this is when it came."""
        if not self._live:
            return
        if by_arrival != self._by_arrival:
            self._by_arrival = by_arrival
            self._step.restart()
        self._step.picture(at, arrival_ns / 1e9, None if sender_ns is None else sender_ns / 1e9)

    def take(self, packet: SoundPacket, arrival_ns: int) -> list[Sample]:
        """The samples that are ready with this packet."""
        meter = self._meter
        meter.packets += 1
        meter.last, meter.wanted = time.monotonic(), True
        if self._carrier is None:
            return []
        try:
            at, stamp = self._place(packet, arrival_ns)
            samples, lasts = self._carrier.take(packet, at)
        except (av.error.FFmpegError, ValueError):
            meter.errors += 1
            self._in_vain += 1
            if self._in_vain > _HOPELESS:
                self._give_up(SoundState.BROKEN)
            return []
        except Exception:  # a mistake in here must not cost the picture
            log.exception("%s: no sound", self._address)
            self._give_up(SoundState.BROKEN)
            return []
        self._in_vain = 0
        self._next = at + lasts, stamp + lasts
        meter.carried = self._carrier.format
        return samples

    def skip(self, packet: SoundPacket) -> None:
        """Nobody wants it. What comes later does not follow what was before."""
        meter = self._meter
        meter.packets += 1
        meter.last = time.monotonic()
        if meter.wanted:
            meter.wanted = False
            if self._carrier is not None:
                self._open()

    def _open(self) -> None:
        meter = self._meter
        if self._stream.codec_context is None:
            self._give_up(SoundState.UNSUPPORTED)
            return
        self._next = None
        try:
            self._carrier = carrier(self._stream)
        except (av.error.FFmpegError, ValueError):
            self._give_up(SoundState.UNSUPPORTED)
            return
        meter.state, meter.carried = SoundState.LIVE, self._carrier.format

    def _give_up(self, state: SoundState) -> None:
        self._carrier = None
        self._meter.state, self._meter.carried = state, None
        if self._meter.said != state:
            self._meter.said = state
            log.warning("%s: no sound: %s (%s)", self._address, state, self._meter.codec or "unknown codec")

    def _place(self, packet: SoundPacket, arrival_ns: int) -> tuple[float, float]:
        """When a packet is, on the picture's axis and on its own."""
        arrival = arrival_ns / 1e9
        stamp = 0.0
        if packet.pts is not None and self._base is not None:
            stamp = packet.pts * self._base.numerator / self._base.denominator
        elif self._next is not None:  # one of several in a packet of RTP
            return self._next
        if not self._live:
            return stamp, stamp
        self._clock.tick(packet.pts, self._base, arrival_ns)
        disagrees = self._clock.disagrees or self._step.wrong
        if disagrees != self._disagreed:
            self._disagreed = disagrees
            self._step.restart()
        sender_ns = None if self._by_arrival else sender_time_ns(packet)
        if self._disagreed:
            stamp, sender_ns = arrival, None
        sender = None if sender_ns is None else sender_ns / 1e9
        return self._step.sound(stamp, arrival, sender), stamp
