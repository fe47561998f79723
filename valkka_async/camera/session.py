# SPDX-License-Identifier: MIT
"""One connection after the other of one source: opened, read, fed into rings, closed."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from fractions import Fraction

from valkka_async.camera.feed import Feed
from valkka_async.camera.meter import Meter
from valkka_async.camera.outputs import FragmentRing, PacketRing, PixelRing
from valkka_async.camera.pace import FileClock, LiveClock, Pacer
from valkka_async.camera.sound.sound import SoundMeter
from valkka_async.camera.source.hwaccel import hwaccel
from valkka_async.camera.source.packet import SoundPacket, VideoPacket
from valkka_async.camera.source.rational import fraction
from valkka_async.camera.source.secrets import parse
from valkka_async.camera.source.source import Source
from valkka_async.camera.source.tls import Trust
from valkka_async.camera.source.units import Markers
from valkka_async.camera.spec import CameraSpec
from valkka_async.camera.status import SoundState
from valkka_async.camera.thread import SourceThread
from valkka_async.errors import (
    CameraBusyError,
    CameraEndedError,
    CameraError,
    CameraFormatError,
    CameraNotFoundError,
    CameraRefusedError,
    ValkkaError,
)

# What a camera answers that sends the picture, but not together with its sound.
_REFUSALS = CameraBusyError, CameraFormatError, CameraNotFoundError, CameraRefusedError
_WITHOUT = 60.0  # s in which it is not asked for sound again
_AT_LEAST = 0.5  # s from one opening of a file to the next, as between attempts to connect

log = logging.getLogger("valkka_async.camera")


def _ignore() -> None:
    pass


class Session:
    """Reads one source: ``run()`` is one connection, from its opening to its end.

    It never reconnects. Counters and the time axis of a file go on in the next run. It may be made in any
    thread, and runs in `thread`.

    `alive` is asked between steps whether to go on, and told within how many seconds it will be asked again.
    `on_live` is called at the first packet of each connection. `realtime`: None paces a file by its
    timestamps and a live source not at all; True paces both, False neither. `loops`: after the end of a file
    there will be another run.

    Raises CameraError for a `spec.hwaccel` that does not open here, ValueError for one that is unknown.
    """

    def __init__(
        self,
        spec: CameraSpec,
        thread: SourceThread,
        alive: Callable[[float], bool],
        *,
        on_live: Callable[[], None] = _ignore,
        realtime: bool | None = None,
        loops: bool = True,
    ) -> None:
        self.address = parse(spec.url)
        self.meter = Meter()
        self.sound = SoundMeter(spec.asks_for_sound)
        self.live = (
            True  # as far as is known: whether the source is one that only ends when something is wrong
        )
        self._spec = spec
        self._hwaccel = hwaccel(spec.hwaccel)
        self._thread = thread
        self._alive = alive
        self._on_live = on_live
        self._realtime = realtime
        self._loops = loops
        self._markers = Markers()
        self._quick = True  # ask for what is needed, and no more
        self._patient = False  # wait for sound, which was seen to begin late
        self._patient_after = 0.0  # monotonic: it is not waited for before
        self._mute_until = 0.0  # monotonic: sound is not asked for before
        self._asked = self._heard = False  # it was, on this connection; and that was opened
        self._moved = Fraction(0)  # s by which a file's times are moved
        self._file_clock = FileClock()
        self._pacer = Pacer()

    def run(self, rings: Sequence[PixelRing | PacketRing | FragmentRing]) -> ValkkaError | None:
        """One connection. What it ended with; None at the end of a file, and when told to stop."""
        try:
            if self._run(rings):
                self._run(rings)
        except ValkkaError as e:
            if self._asked and not self._heard and isinstance(e, _REFUSALS):
                self._mute_until = time.monotonic() + _WITHOUT
            else:
                if not self._heard:
                    self._mute_until = 0.0  # it was not the sound
                # Asked for video alone, a camera without any may answer as one with too many viewers does.
                self._quick = not (self._quick and isinstance(e, CameraBusyError))
            # Without the frames of this thread, which would keep the connection and its URL alive, and
            # without what FFmpeg said, which may contain the URL.
            e.__context__ = e.__cause__ = None
            return e.with_traceback(None)
        except BaseException as e:
            log.error("%s", self.address.scrub(traceback.format_exc()))
            return CameraError(f"{self.address}: unexpected {type(e).__name__}: {self.address.scrub(str(e))}")
        return None

    def _run(self, rings: Sequence[PixelRing | PacketRing | FragmentRing]) -> bool:
        """True: it is to be opened once more, for sound that was not there."""
        s = self._spec
        patient = self._patient
        muted = time.monotonic() < self._mute_until
        self._asked, self._heard = s.asks_for_sound and not muted, False
        source = Source(
            self.address,
            transport=s.transport,
            open_timeout=s.open_timeout,
            read_timeout=s.read_timeout,
            poll=s.poll,
            quick=self._quick,
            sound=self._asked,
            patient=patient,
            hwaccel=self._hwaccel,
            options=s.options,
            markers=self._markers,
            input_format=s.input_format,
            trust=Trust(s.tls_verify, s.tls_ca_file),
        )
        feed: Feed | None = None
        with self._thread.reading(source):
            try:
                if not self._alive(2 * s.open_timeout) or not source.open():
                    return False
                self.live = source.live
                self.meter.begin(source.stream)
                clock = LiveClock() if source.live else self._file_clock
                self._begin_sound(source)
                paced = self._paces(source)
                feed = Feed(source, rings, self.meter, clock, s.thread_count, self.sound, paced=paced)
                self._read(source, clock, feed)
                return self._patient and not patient and source.live
            finally:
                self._alive(s.open_timeout)
                if feed is not None:
                    feed.end()
                source.dispose()

    def _begin_sound(self, source: Source) -> None:
        self._heard = True
        self._patient = self._patient and source.sound is not None
        state = SoundState.OFF
        if self._spec.asks_for_sound:
            state = SoundState.NONE if self._asked else SoundState.REFUSED
        self.sound.begin(state, source.sound)

    def _read(self, source: Source, clock: LiveClock | FileClock, feed: Feed) -> None:
        some = False
        with contextlib.closing(self._packets(source, clock)) as packets:
            for packet, arrival in packets:
                if not self._in_time():
                    return
                self.meter.early = source.early
                self.meter.pause = self._spec.poll if source.still and source.live else 0.0
                heard = source.heard()
                for one, _ in heard:
                    self._move(one)
                feed.take(packet, arrival, heard)
                if not some:
                    some = True
                    self._on_live()
                if source.outgrown and not self._patient and time.monotonic() > self._patient_after:
                    self._patient = True  # a file has its sound when it is played again
                    self._patient_after = time.monotonic() + _WITHOUT
                    if source.live:
                        return
        if self._in_time():
            if not some:
                raise CameraEndedError(f"{self.address}: ended without a single packet")
            feed.finish()

    def _packets(
        self, source: Source, clock: LiveClock | FileClock
    ) -> Generator[tuple[VideoPacket, int], None, None]:
        """The source's packets with their arrival times, each when its turn has come. Those of a file have
        timestamps that go on rising when the file begins again."""
        paced = self._paces(source)
        turns = clock if isinstance(clock, FileClock) else FileClock()
        turns.rewind(fraction(source.stream.average_rate))
        base = fraction(source.stream.time_base)
        began, number, first = time.monotonic(), 0, None
        with contextlib.closing(source.packets()) as packets:
            for packet, arrival in packets:
                if number == 0:
                    first = packet.pts
                ahead = source.stream.codec_context.reorder_depth - number
                if ahead > 0 and packet.dts is None and first is not None and not source.live:
                    # Matroska has no decode times. FFmpeg finds them out, but not those of the first frames.
                    packet.dts = first - ahead * (packet.duration or 0)
                number += bool(packet.size)
                if packet.size and (paced or turns is clock):
                    seconds, moved = _stamp(packet, turns, base, change=turns is clock)
                    self._moved = moved * base if base is not None and turns is clock else Fraction(0)
                    if paced:
                        self._wait_until(seconds)
                        arrival = time.time_ns()
                yield packet, arrival
        if isinstance(clock, FileClock) and (paced or number == 1):
            # The last frame is to be seen as well. And no file, however short, is opened all the time.
            least = (self._spec.poll if number == 1 else _AT_LEAST) if self._loops else 0.0
            left = least - (time.monotonic() - began)
            end = clock.last(left)
            if paced:
                self._wait_until(end)
            elif left > 0:
                self._sleep(left)

    def _paces(self, source: Source) -> bool:
        """Do packets wait for their turn here?"""
        return not source.live or source.bursts if self._realtime is None else self._realtime

    def _move(self, packet: SoundPacket) -> None:
        """A file's sound goes with its picture, whose times were changed to rise."""
        base = fraction(packet.time_base) if self._moved else None
        if base is not None and packet.pts is not None:
            packet.pts += round(self._moved / base)

    def _wait_until(self, seconds: float) -> None:
        delay = self._pacer.delay(seconds, time.monotonic())
        if delay:
            self._sleep(delay)

    def _sleep(self, seconds: float) -> None:
        if self._alive(seconds + self._spec.read_timeout):
            self._thread.sleep(seconds)

    def _in_time(self) -> bool:
        return self._alive(self._spec.read_timeout + self.meter.pause)


def _stamp(
    packet: VideoPacket, clock: FileClock, base: Fraction | None, *, change: bool
) -> tuple[float, int]:
    """When a packet is, in seconds that rise, and by how many units of its time base that moves it. `change`:
    give it the timestamps that rise, too."""
    known = packet.dts if packet.dts is not None else packet.pts
    stamp, seconds = clock.stamp(known, base)
    if change and known is not None and stamp is not None:
        packet.dts = stamp
        if packet.pts is not None:
            packet.pts += stamp - known
    return seconds, 0 if known is None or stamp is None else stamp - known
