# SPDX-License-Identifier: MIT
"""play(): one thread that takes a source's pictures into a server's ring."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import math
import os
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, Self

from av.video.frame import VideoFrame

from valkka_async.camera.decode import Decoder
from valkka_async.camera.outputs import publish_picture
from valkka_async.camera.pace import FileClock, LiveClock, Pacer, RateLimit
from valkka_async.camera.pixels.convert import Converter
from valkka_async.camera.source.secrets import Address, parse
from valkka_async.camera.source.sendertime import Stamp
from valkka_async.camera.source.source import Source
from valkka_async.errors import (
    CameraError,
    CameraFormatError,
    ConnectionClosedOK,
    NoFreeSlotError,
    ValkkaError,
)

if TYPE_CHECKING:
    from valkka_async.ring.server import Server

_CLOSING = 5.0  # s beyond the time-outs that close() waits for a thread which cannot be interrupted
_ROOM = 0.1  # s between looks whether we are to stop, while a file waits for a reader
_UNDECODABLE = 30.0  # s of packets without a picture; key frames are rarely further apart

log = logging.getLogger("valkka_async.camera")
_players: weakref.WeakSet[Player] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class PlayerStats:
    """What a player has done so far. All are counts but the last.

    Each decoded frame is published, or dropped (no free slot in the ring: slow readers), or skipped (by
    `fps`).
    """

    packets: int  # received from the source
    decoded: int  # pictures
    published: int
    dropped: int
    skipped: int
    errors: int  # packets that could not be decoded
    last_timestamp_ns: int  # capture time of the newest published frame, Unix; 0: none yet


def play(
    url: str | os.PathLike[str],
    server: Server,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    format: str = "rgb24",
    transport: str = "tcp",
    open_timeout: float = 10.0,
    read_timeout: float = 10.0,
    realtime: bool | None = None,
    loop: bool = False,
    thread_count: int = 1,
    options: Mapping[str, str] | None = None,
) -> Player:
    """Publish the pictures of a camera or a file on `server`, from a thread of its own.

    Returns at once; what goes wrong with the source later is raised by `join()` or `await player`::

        with va.serve("door") as server, va.play("rtsp://10.0.0.7/live", server) as player:
            player.join()

    `url`: ``rtsp://``, ``rtsps://``, ``http(s)://`` and whatever else FFmpeg opens; a path; or
    ``lavfi:testsrc=size=1920x1080:rate=30``, a picture that FFmpeg makes up. Percent-encode credentials
    that have special characters; they appear in no message, log or repr.

    `fps`: at most so many frames per second, evenly spaced; others are skipped before they cost a
    conversion. `size`: (width, height) to scale to; None leaves the source's, and follows when it changes.
    `format`: "rgb24", "bgr24" (H, W, 3), "rgba", "bgra" (H, W, 4), "gray8" (H, W), "nv12", "yuv420p"
    (H*3/2, W), all uint8; in the source's own size with the very pixels of PyAV's
    ``frame.to_ndarray(format=...)``. "nv12" and "yuv420p" are the cheapest and need an even size.

    `transport`: "tcp" or "udp", for RTSP. `open_timeout`: seconds until the stream must be open.
    `read_timeout`: seconds without a picture after which a live source counts as dead.

    `realtime`: a file (local, or of known length over HTTP) or a lavfi source is paced by its timestamps;
    False takes it as fast as it decodes, True paces a live source too, which delays it. `loop`: begin
    again at the end of a file, with pts that go on rising. `thread_count`: threads for decoding; 0 is one
    per core. `options`: FFmpeg's, which override those made from the arguments.

    A frame's `timestamp_ns` is when its first bytes arrived here; of a paced source, when its turn came.
    `pts` and `time_base` are the source's. A live source never waits: with no free slot, frames are
    dropped and counted. A file waits for "lossless" readers. The server stays open when the player ends;
    the player ends when the server is closed.

    Raises ValueError for arguments that make no sense. Plain function: call it with or without a running
    event loop, from any thread.
    """
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be above 0, not {fps!r}")
    if transport not in ("tcp", "udp"):
        raise ValueError(f'transport must be "tcp" or "udp", not {transport!r}')
    for name, value in (("open_timeout", open_timeout), ("read_timeout", read_timeout)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be above 0 seconds, not {value!r}")
    if thread_count < 0:
        raise ValueError(f"thread_count must be 0 (all cores) or more, not {thread_count!r}")
    address = parse(url)
    extra = dict(options or {})
    settings = _Settings(transport, open_timeout, read_timeout, realtime, loop, thread_count, extra)
    return Player(address, server, Converter(format, size), RateLimit(fps), settings)


@dataclass(frozen=True)
class _Settings:
    transport: str
    open_timeout: float
    read_timeout: float
    realtime: bool | None
    loop: bool
    thread_count: int
    options: dict[str, str]


class Player:
    """A source that is being published; made by `play()`.

    `with` and `async with` close it at their end. All methods may be called from any thread; those that
    wait for the end have a plain and an asyncio form::

        player.join()       await player
        player.close()      await player.aclose()
    """

    def __init__(
        self, address: Address, server: Server, converter: Converter, limit: RateLimit, settings: _Settings
    ) -> None:
        self._address = address
        self._server = server
        self._converter = converter
        self._limit = limit
        self._settings = settings
        self._stop = threading.Event()
        self._source: Source | None = None
        self._error: Exception | None = None
        self._ended = False
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._packets = self._decoded = self._published = self._dropped = self._skipped = self._errors = 0
        self._last_timestamp_ns = 0
        self._thread = threading.Thread(target=self._run, name=f"valkka-play {server.name}", daemon=True)
        self._thread.start()
        _players.add(self)

    def __repr__(self) -> str:
        state = "running" if self.running else "ended" if self._error is None else type(self._error).__name__
        return f"<Player {self._address} {state}>"

    @property
    def running(self) -> bool:
        """Whether the thread is at work. False after the end of a file, an error, or close()."""
        return self._thread.is_alive()

    @property
    def error(self) -> Exception | None:
        """What the player ended with: a CameraError or another ValkkaError. None while it runs, after the
        end of a file, after close(), and after the server was closed."""
        return self._error

    def stats(self) -> PlayerStats:
        """The counters, of this moment."""
        return PlayerStats(
            packets=self._packets,
            decoded=self._decoded,
            published=self._published,
            dropped=self._dropped,
            skipped=self._skipped,
            errors=self._errors,
            last_timestamp_ns=self._last_timestamp_ns,
        )

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end, in a plain program.

        Raises what the player ended with (see `error`). Raises TimeoutError after `timeout` seconds; the
        player goes on. (CameraTimeoutError is a TimeoutError too; `running` tells them apart.)
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"{self._address} is still playing after {timeout} s")
        self._raise()

    async def wait(self) -> None:
        """Wait for the end, in asyncio; the same as ``await player``.

        Raises what the player ended with (see `error`). Cancelling the wait neither stops the player nor
        loses anything: wait again. Any number of tasks may wait.
        """
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if self._ended:
            self._wake()
        try:
            await waiter
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)
        while self._thread.is_alive():  # noqa: ASYNC110 - it is on its last line
            await asyncio.sleep(0)
        self._raise()

    def __await__(self) -> Generator[object, None, None]:
        return self.wait().__await__()

    def close(self) -> None:
        """Stop, and return when the thread has ended and the connection is closed. Idempotent.

        Takes as long as the frame in work, or up to 0.3 s when nothing comes from the source; calls that
        block in a dead network are cut short. (Not so a DNS lookup, and sources without a TCP connection,
        as udp:// or srt://: they run into the time-outs given to `play()`.) In asyncio, `aclose()` does the
        same without blocking the loop. Never raises what the player ended with.
        """
        self._request_stop()
        if threading.current_thread() is self._thread:
            return
        self._thread.join(max(self._settings.open_timeout, self._settings.read_timeout) + _CLOSING)
        if self._thread.is_alive():
            log.warning("%s: does not end; its thread is left alone", self._address)

    async def aclose(self) -> None:
        """close() for asyncio. Cancelling it leaves the player closing by itself."""
        self._request_stop()
        with contextlib.suppress(Exception):
            await self.wait()

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

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(None)

    def _request_stop(self) -> None:
        self._stop.set()
        # The thread stores its source, then looks at the flag; we set the flag, then look for the source.
        if (source := self._source) is not None:
            source.cut()

    def _wake(self) -> None:
        while self._waiters:
            try:
                waiter = self._waiters.popleft()
            except IndexError:  # another thread was faster
                return
            with contextlib.suppress(RuntimeError):  # its loop is closed, nobody waits any more
                waiter.get_loop().call_soon_threadsafe(_resolve, waiter)

    # What follows runs in the thread.

    def _run(self) -> None:
        error: Exception | None = None
        try:
            self._play()
        except ValkkaError as e:
            # Without the frames of this thread, which would keep the connection and its URL alive.
            error = e.with_traceback(None)
        except BaseException as e:
            text = self._address.scrub(str(e))
            error = CameraError(f"{self._address}: unexpected {type(e).__name__}: {text}")
            log.error("%s", self._address.scrub(traceback.format_exc()))
        if self._stop.is_set() or self._server.closed:
            error = None
        if error is not None:
            log.warning("%s", str(error))  # the text: whoever keeps the record should not keep the error
        self._error = error
        self._ended = True
        self._wake()

    def _play(self) -> None:
        s = self._settings
        source = Source(
            self._address,
            transport=s.transport,
            open_timeout=s.open_timeout,
            read_timeout=s.read_timeout,
            options=s.options,
        )
        self._source = source
        try:
            if self._stop.is_set():
                return
            clock = FileClock()
            pacer = Pacer(self._stop)
            while source.open():
                paced = not source.live if s.realtime is None else s.realtime
                if source.live:
                    self._play_live(source, pacer if paced else None)
                else:
                    self._play_file(source, clock, pacer if paced else None)
                if not s.loop or source.live or self._finished():
                    return
                source.close()
        finally:
            self._source = None
            source.dispose()

    def _play_live(self, source: Source, pacer: Pacer | None) -> None:
        clock = LiveClock()
        for frame, arrival in self._pictures(source):
            base = frame.time_base or source.stream.time_base
            seconds = clock.seconds(frame.pts, base, arrival)
            if not self._limit.admit(seconds):
                self._skipped += 1
                continue
            if pacer is not None:
                pacer.wait(seconds)
                arrival = time.time_ns()
            self._publish(frame, frame.pts, base, arrival)

    def _play_file(self, source: Source, clock: FileClock, pacer: Pacer | None) -> None:
        clock.rewind(source.stream.average_rate)
        for frame, arrival in self._pictures(source):
            base = frame.time_base or source.stream.time_base
            pts, seconds = clock.stamp(frame.pts, base)
            if pacer is not None:
                pacer.wait(seconds)
                arrival = time.time_ns()
            if self._finished():
                return
            if not self._limit.admit(seconds):
                self._skipped += 1
                continue
            self._wait_for_room()
            if self._finished():
                return
            self._publish(frame, pts, base, arrival)

    def _wait_for_room(self) -> None:
        """A file waits for "lossless" readers; a camera could not."""
        with contextlib.suppress(ConnectionClosedOK):
            while self._server.lossless and not self._finished():
                if self._server.wait_writable(_ROOM):
                    break

    def _pictures(self, source: Source) -> Iterator[tuple[VideoFrame, int]]:
        """Decoded frames with their arrival times, until the source ends or somebody closes something."""
        decoder: Decoder[int] = Decoder(source.stream, self._settings.thread_count)
        before = self._errors
        seen, first = False, time.monotonic()
        with contextlib.closing(source.packets()) as packets:
            for packet, arrival in packets:
                if self._finished():
                    return
                self._packets += packet.size > 0
                pictures = decoder.decode(packet, arrival)
                self._errors = before + decoder.errors
                for picture in pictures:
                    seen = True
                    self._decoded += 1
                    yield picture
                if not seen and time.monotonic() - first > _UNDECODABLE:
                    break
        if not seen and not self._finished():
            raise CameraFormatError(
                f"{self._address}: not one picture could be decoded of {self._packets} packets "
                f"({source.stream.codec_context.name}); check that the camera sends what it says it does"
            )

    def _publish(
        self, frame: VideoFrame, pts: int | None, time_base: Fraction | None, timestamp_ns: int
    ) -> None:
        try:
            published = publish_picture(
                self._server, self._converter, frame, pts, time_base, Stamp(timestamp_ns, None)
            )
        except NoFreeSlotError:
            published = False
        if published:
            self._published += 1
            self._last_timestamp_ns = timestamp_ns
        else:
            self._dropped += 1

    def _finished(self) -> bool:
        return self._stop.is_set() or self._server.closed


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _close_all() -> None:
    """At interpreter exit: no thread may be inside FFmpeg when Python is taken down."""
    for player in list(_players):
        player.close()


atexit.register(_close_all)
