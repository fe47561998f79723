# SPDX-License-Identifier: MIT
"""A camera: one connection, one decode, many rings, for as long as it is not closed."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import random
import threading
import time
import traceback
import weakref
from collections.abc import Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from valkka_async import typed
from valkka_async.backoff import Backoff
from valkka_async.camera.feed import Feed
from valkka_async.camera.meter import Meter
from valkka_async.camera.outputs import FragmentRing, PacketRing, PictureRing, make_ring
from valkka_async.camera.pace import FileClock, Pacer
from valkka_async.camera.source.hwaccel import hwaccel as find_hwaccel
from valkka_async.camera.source.secrets import parse
from valkka_async.camera.source.source import Source, VideoPacket
from valkka_async.camera.spec import CameraSpec, Output
from valkka_async.camera.status import CameraState, CameraStatus, Cause, cause_of
from valkka_async.errors import (
    CameraAuthError,
    CameraEndedError,
    CameraError,
    CameraFormatError,
    CameraNotFoundError,
    ValkkaError,
)

_CLOSING = 5.0  # s beyond the time-outs that close() waits for a thread which cannot be interrupted
_STALLED = 2.0  # s without a packet, or so many frames' time, after which a live camera is called stalled
_STALLED_FRAMES = 5
_STUCK = 15.0  # s beyond its deadlines after which a thread is thought to be lost in a library

log = logging.getLogger("valkka_async.camera")
_cameras: weakref.WeakSet[Camera] = weakref.WeakSet()


class Camera:
    """One camera, read in a thread of this process and published in any number of rings::

        with va.Camera("front", "rtsp://me:secret@10.0.0.7/live", [
            va.Output("front", size=(640, 360), fps=5),
            va.Output("front.mp4", "fmp4"),
        ]):
            ...

    A frame's ``timestamp_ns`` is when its first bytes arrived here, and ``meta["sender_time_ns"]``, where an
    RTSP camera sends reports, when it was taken by the camera's own clock.

    It returns at once; readers get frames as soon as there are any, and whatever happens to the camera
    costs them a gap. Pictures are decoded, and fragments made, only while somebody reads them.

    Parameters
    ----------
    name
        What it is called in messages; the name of its ring, if no outputs are given.
    url
        ``rtsp://``, ``rtsps://``, ``http(s)://`` and whatever else FFmpeg opens; a path or
        ``lavfi:testsrc=size=1920x1080:rate=30``, which are played at their own speed and begin again at
        their end. Percent-encode credentials that have special characters; they appear in no message,
        log, repr or status.
    outputs
        :class:`Output`; by default one ring of rgb24.
    transport
        "tcp" or "udp", for RTSP.
    open_timeout, read_timeout
        Seconds until the stream must be open, and without a video packet after which it is given up.
    retry_max
        The longest pause in seconds before it is tried again. Pauses grow from half a second, with
        random parts, and start anew after a minute of frames.
    retry_refused
        The same where trying again soon does not help or does harm: a wrong password (cameras lock
        accounts), a wrong path, nothing that can be decoded.
    thread_count
        Threads for decoding. More than 1 makes each frame later and dearer; 0 is one per core.
    hwaccel
        "auto", or a device type as "vaapi" or "cuda": decode there; None: on the CPU.
    options
        FFmpeg's, which override those made from the arguments.

    Raises ValueError for arguments that make no sense, CameraError for a `hwaccel` that is not here,
    NameInUseError, ConnectError. In asyncio it is made and closed in the loop's thread.
    """

    def __init__(
        self,
        name: str,
        url: str | os.PathLike[str],
        outputs: Iterable[Output] | None = None,
        *,
        transport: str = "tcp",
        open_timeout: float = 10.0,
        read_timeout: float = 10.0,
        retry_max: float = 30.0,
        retry_refused: float = 60.0,
        thread_count: int = 1,
        hwaccel: str | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._start(
            CameraSpec(
                name,
                os.fspath(url),
                tuple(outputs or ()),
                transport,
                open_timeout,
                read_timeout,
                retry_max,
                retry_refused,
                thread_count,
                hwaccel,
                options,
            )
        )

    @classmethod
    def from_spec(cls, spec: CameraSpec) -> Self:
        """The camera that a spec describes. Raises NameInUseError, ConnectError."""
        camera = cls.__new__(cls)
        camera._start(spec)
        return camera

    def _start(self, spec: CameraSpec) -> None:
        self._spec = spec
        self._address = parse(spec.url)
        self._hwaccel = find_hwaccel(spec.hwaccel)
        self._meter = Meter()
        self._stop = threading.Event()
        self._source: Source | None = None
        self._attempts = self._successes = 0
        self._cause: Cause | None = None
        self._reason = ""
        self._state, self._since_ns = CameraState.CONNECTING, time.time_ns()
        self._retry_at = 0.0
        self._expected = time.monotonic() + _STUCK  # when the thread will have shown that it lives
        self._cpu_clock: int | None = None
        self._cpu_s = 0.0
        self._rings: list[PictureRing | PacketRing | FragmentRing] = []
        try:
            for output in spec.outputs:
                self._rings.append(make_ring(output))
        except BaseException:
            self._close_rings()
            raise
        for ring in self._rings:
            ring.server.describe(self._describe)
        self._thread = threading.Thread(target=self._run, name=f"valkka-camera {spec.name}", daemon=True)
        self._thread.start()
        _cameras.add(self)

    def __repr__(self) -> str:
        return f"<Camera {self._spec.name} {self._address} {self.status().state}>"

    @property
    def name(self) -> str:
        """What it is called."""
        return self._spec.name

    @property
    def spec(self) -> CameraSpec:
        """All its settings, with the URL's credentials."""
        return self._spec

    def status(self) -> CameraStatus:
        """How it is, at this moment. From any thread; never blocks."""
        m = self._meter
        state, since, cause, reason = self._state, self._since_ns, self._cause, self._reason
        if state == CameraState.LIVE:
            fps = m.fps
            quiet = time.monotonic() - m.last_packet
            if quiet > max(_STALLED, _STALLED_FRAMES / fps if fps else 0.0):
                state, since = CameraState.STALLED, m.last_packet_ns
                cause, reason = Cause.TIMEOUT, f"no frame for {quiet:.0f} s"
        return CameraStatus(
            name=self._spec.name,
            pid=os.getpid(),
            url=self._address.shown,
            state=state,
            cause=cause,
            reason=reason,
            since_ns=since,
            attempts=self._attempts,
            reconnects=max(0, self._successes - 1),
            retry_in=max(0.0, self._retry_at - time.monotonic())
            if state in (CameraState.WAITING, CameraState.FAILED)
            else None,
            codec=m.codec,
            width=m.size[0],
            height=m.size[1],
            fps=round(m.fps, 2),
            key_interval=round(m.key_interval, 3),
            packets=m.packets,
            decoded=m.decoded,
            errors=m.errors,
            last_packet_ns=m.last_packet_ns,
            cpu_s=self._cpu(),
            outputs=tuple(ring.status() for ring in self._rings),
        )

    def stuck(self) -> bool:
        """Has its thread not come back from a library for much longer than its deadlines, or ended unasked?
        Then only the end of the process helps. For supervisors."""
        if not self._thread.is_alive():
            return not self._stop.is_set()
        return time.monotonic() > self._expected

    def close(self) -> None:
        """Stop, and return when the thread has ended and the rings are closed. Idempotent.

        Takes as long as the frame in work; calls that block in a dead network are cut short. (Not so a DNS
        lookup, and sources without a TCP connection, as udp:// or srt://: they run into the time-outs.) In
        asyncio, `aclose()` does the same without blocking the loop.
        """
        self._request_stop()
        try:
            self._thread.join(self._patience())
        except BaseException:  # a second Ctrl-C
            self._close_rings()
            raise
        self._closed()

    async def aclose(self) -> None:
        """close() for asyncio. Cancelling it leaves the camera closing by itself."""
        self._request_stop()
        try:
            until = time.monotonic() + self._patience()
            # On its way out; nobody else waits for it.
            while self._thread.is_alive() and time.monotonic() < until:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        except BaseException:  # cancelled: nobody knows yet whether it ends
            self._close_rings()
            raise
        self._closed()

    def _patience(self) -> float:
        return max(self._spec.open_timeout, self._spec.read_timeout) + _CLOSING

    def _closed(self) -> None:
        if self._thread.is_alive():
            log.warning("%s: does not end; its thread is left alone", self._spec.name)
        self._close_rings()

    def _close_rings(self) -> None:
        for ring in self._rings:
            ring.server.describe(None)
            ring.server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def _request_stop(self) -> None:
        self._stop.set()
        # The thread stores its source, then looks at the flag; we set the flag, then look for the source.
        if (source := self._source) is not None:
            source.cut()

    def _describe(self) -> dict[str, Any]:
        return {"camera": typed.encode(self.status())}

    def _cpu(self) -> float:
        if self._cpu_clock is not None:
            with contextlib.suppress(OSError):  # the thread has ended
                self._cpu_s = time.clock_gettime(self._cpu_clock)
        return round(self._cpu_s, 3)

    # ---------------------------------------------------------------------- what the thread does

    def _run(self) -> None:
        # Asked for here: for a thread that has ended it would be undefined (pthread_getcpuclockid(3)).
        self._cpu_clock = time.pthread_getcpuclockid(threading.get_ident())
        s = self._spec
        soon = Backoff(last=s.retry_max)
        seldom = Backoff(first=min(2.0, s.retry_refused), last=s.retry_refused)
        clock = FileClock()
        while not self._stop.is_set():
            self._attempts += 1
            before = self._successes
            began = time.monotonic()
            error = self._connect(clock)
            lived = time.monotonic() - began if self._successes > before else 0.0
            soon.lived(lived)
            seldom.lived(lived)
            if self._stop.is_set():
                break
            if error is None:  # a file, which begins again
                continue
            delay = self._delay(error, soon, seldom)
            refused = isinstance(error, CameraAuthError | CameraNotFoundError | CameraFormatError)
            self._say(str(error), delay)
            self._retry_at = time.monotonic() + delay
            self._expect(delay)
            state = CameraState.FAILED if refused else CameraState.WAITING
            self._become(state, str(error), cause_of(error))
            self._stop.wait(delay)
        self._become(CameraState.STOPPED, "")

    def _delay(self, error: CameraError, soon: Backoff, seldom: Backoff) -> float:
        if isinstance(error, CameraAuthError):
            # Never quickly: cameras lock accounts after a few wrong passwords.
            return self._spec.retry_refused * random.uniform(0.5, 1.0)
        if isinstance(error, CameraNotFoundError | CameraFormatError):
            return seldom.next()
        return soon.next()

    def _connect(self, clock: FileClock) -> CameraError | None:
        """One connection, to its end. None: told to stop, or the end of a file."""
        try:
            self._play(clock)
        except CameraError as e:
            # Without the frames of this thread, which would keep the connection and its URL alive.
            return e.with_traceback(None)
        except ValkkaError as e:
            return CameraError(f"{self._address}: {e}")
        except BaseException as e:
            log.error("%s", self._address.scrub(traceback.format_exc()))
            return CameraError(
                f"{self._address}: unexpected {type(e).__name__}: {self._address.scrub(str(e))}"
            )
        return None

    def _play(self, clock: FileClock) -> None:
        s = self._spec
        source = Source(
            self._address,
            transport=s.transport,
            open_timeout=s.open_timeout,
            read_timeout=s.read_timeout,
            hwaccel=self._hwaccel,
            options=s.options,
        )
        self._source = source
        feed: Feed | None = None
        try:
            if self._stop.is_set():
                return
            self._expect(2 * s.open_timeout)
            self._become(CameraState.CONNECTING, self._reason, self._cause)
            if not source.open():
                return
            self._meter.begin(source.stream)
            feed = Feed(source, self._rings, self._meter, s.thread_count, self._alive)
            some = False
            with contextlib.closing(self._packets(source, clock)) as packets:
                for packet, arrival in packets:
                    if self._stop.is_set():
                        return
                    self._expect(s.read_timeout)
                    feed.take(packet, arrival)
                    if not some:
                        some = True
                        self._successes += 1
                        self._become(CameraState.LIVE, "")
            if not some:
                raise CameraEndedError(f"{self._address}: ended without a single packet")
        finally:
            self._expect(s.open_timeout)
            if feed is not None:
                feed.end()
            source.dispose()
            self._source = None

    def _packets(self, source: Source, clock: FileClock) -> Generator[tuple[VideoPacket, int], None, None]:
        """A live source's packets; those of a file when their time has come, with timestamps that go on
        rising when the file begins again."""
        if source.live:
            yield from source.packets()
            return
        clock.rewind(source.stream.average_rate)
        pacer = Pacer(self._stop)
        for packet, _ in source.packets():
            if packet.size:
                known = packet.dts if packet.dts is not None else packet.pts
                stamp, seconds = clock.stamp(known, packet.time_base)
                if known is not None and stamp is not None:
                    packet.dts = stamp
                    if packet.pts is not None:
                        packet.pts += stamp - known
                self._expect(self._spec.read_timeout)
                pacer.wait(seconds)
            yield packet, time.time_ns()

    def _alive(self) -> bool:
        self._expect(self._spec.read_timeout)
        return not self._stop.is_set()

    def _expect(self, seconds: float) -> None:
        self._expected = time.monotonic() + seconds + _STUCK

    def _become(self, state: CameraState, reason: str, cause: Cause | None = None) -> None:
        if state != self._state:
            self._state, self._since_ns = state, time.time_ns()
        self._cause, self._reason = cause, reason

    def _say(self, text: str, delay: float) -> None:
        if text != self._reason:
            log.warning("%s: %s; trying again in %.1f s", self._spec.name, text, delay)


def _close_all() -> None:
    """At interpreter exit: no thread may be inside FFmpeg when Python is taken down."""
    for camera in list(_cameras):
        camera.close()


atexit.register(_close_all)
