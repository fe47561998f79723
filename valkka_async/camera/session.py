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
from valkka_async.camera.source.hwaccel import hwaccel
from valkka_async.camera.source.secrets import parse
from valkka_async.camera.source.source import Source, VideoPacket
from valkka_async.camera.spec import CameraSpec
from valkka_async.camera.thread import SourceThread
from valkka_async.errors import CameraEndedError, CameraError, ValkkaError

log = logging.getLogger("valkka_async.camera")


def _ignore() -> None:
    pass


class Session:
    """Reads one source: ``run()`` is one connection, from its opening to its end.

    It never reconnects. Counters and the time axis of a file go on in the next run. It may be made in any
    thread, and runs in `thread`.

    `alive` is asked between steps whether to go on, and told within how many seconds it will be asked again.
    `on_live` is called at the first packet of each connection. `realtime`: None paces a file by its
    timestamps and a live source not at all; True paces both, False neither.

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
    ) -> None:
        self.address = parse(spec.url)
        self.meter = Meter()
        self.live = (
            True  # as far as is known: whether the source is one that only ends when something is wrong
        )
        self._spec = spec
        self._hwaccel = hwaccel(spec.hwaccel)
        self._thread = thread
        self._alive = alive
        self._on_live = on_live
        self._realtime = realtime
        self._file_clock = FileClock()
        self._pacer = Pacer()

    def run(self, rings: Sequence[PixelRing | PacketRing | FragmentRing]) -> ValkkaError | None:
        """One connection. What it ended with; None at the end of a file, and when told to stop."""
        try:
            self._run(rings)
        except ValkkaError as e:
            # Without the frames of this thread, which would keep the connection and its URL alive, and
            # without what FFmpeg said, which may contain the URL.
            e.__context__ = e.__cause__ = None
            return e.with_traceback(None)
        except BaseException as e:
            log.error("%s", self.address.scrub(traceback.format_exc()))
            return CameraError(f"{self.address}: unexpected {type(e).__name__}: {self.address.scrub(str(e))}")
        return None

    def _run(self, rings: Sequence[PixelRing | PacketRing | FragmentRing]) -> None:
        s = self._spec
        source = Source(
            self.address,
            transport=s.transport,
            open_timeout=s.open_timeout,
            read_timeout=s.read_timeout,
            hwaccel=self._hwaccel,
            options=s.options,
        )
        feed: Feed | None = None
        with self._thread.reading(source):
            try:
                if not self._alive(2 * s.open_timeout) or not source.open():
                    return
                self.live = source.live
                self.meter.begin(source.stream)
                clock = LiveClock() if source.live else self._file_clock
                feed = Feed(source, rings, self.meter, clock, s.thread_count, self._in_time)
                self._read(source, clock, feed)
            finally:
                self._alive(s.open_timeout)
                if feed is not None:
                    feed.end()
                source.dispose()

    def _read(self, source: Source, clock: LiveClock | FileClock, feed: Feed) -> None:
        some = False
        with contextlib.closing(self._packets(source, clock)) as packets:
            for packet, arrival in packets:
                if not self._in_time():
                    return
                feed.take(packet, arrival)
                if not some:
                    some = True
                    self._on_live()
        if self._in_time():
            if not some:
                raise CameraEndedError(f"{self.address}: ended without a single packet")
            feed.finish()

    def _packets(
        self, source: Source, clock: LiveClock | FileClock
    ) -> Generator[tuple[VideoPacket, int], None, None]:
        """The source's packets with their arrival times, each when its turn has come. Those of a file have
        timestamps that go on rising when the file begins again."""
        paced = not source.live if self._realtime is None else self._realtime
        if isinstance(clock, FileClock):
            clock.rewind(source.stream.average_rate)
        base = source.stream.time_base
        with contextlib.closing(source.packets()) as packets:
            for packet, arrival in packets:
                if packet.size and (paced or isinstance(clock, FileClock)):
                    seconds = _stamp(packet, clock, base, arrival)
                    if paced:
                        self._wait_until(seconds)
                        arrival = time.time_ns()
                yield packet, arrival

    def _wait_until(self, seconds: float) -> None:
        delay = self._pacer.delay(seconds, time.monotonic())
        if delay and self._alive(delay + self._spec.read_timeout):
            self._thread.sleep(delay)

    def _in_time(self) -> bool:
        return self._alive(self._spec.read_timeout)


def _stamp(
    packet: VideoPacket, clock: LiveClock | FileClock, base: Fraction | None, arrival_ns: int
) -> float:
    """When a packet is, in seconds. One of a file gets timestamps that rise."""
    known = packet.dts if packet.dts is not None else packet.pts
    if isinstance(clock, LiveClock):
        return clock.seconds(known, base, arrival_ns)
    stamp, seconds = clock.stamp(known, base)
    if known is not None and stamp is not None:
        packet.dts = stamp
        if packet.pts is not None:
            packet.pts += stamp - known
    return seconds
