# SPDX-License-Identifier: MIT
"""play(): one run of a source's session, into the ring of a server that is there already."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Self

import av
from av.video.frame import VideoFrame

from valkka_async.camera.outputs import PixelRing
from valkka_async.camera.session import Session
from valkka_async.camera.source.sendertime import Stamp
from valkka_async.camera.spec import PIXELS, CameraSpec, Output, PixelFormat, Transport
from valkka_async.camera.thread import SourceThread
from valkka_async.errors import CameraFormatError, ConnectionClosedOK, NoFreeSlotError, ValkkaError
from valkka_async.ring.server import Server

_ROOM = 0.1  # s between looks whether to stop, while a file waits for a reader

log = logging.getLogger("valkka_async.camera")


@dataclass(frozen=True, slots=True)
class PlayerStats:
    """What a player has done so far. All are counts but the last.

    Each frame is published, or dropped (no free slot in the ring: slow readers), or skipped (by `fps`; before
    it is decoded where each frame stands for itself; or undecoded, as frames came faster than they are
    decoded).
    """

    packets: int  # received from the source
    decoded: int  # frames
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
    size: tuple[int | None, int | None] | None = None,
    format: PixelFormat = "rgb24",
    transport: Transport = "tcp",
    open_timeout: float = 10.0,
    read_timeout: float = 10.0,
    realtime: bool | None = None,
    loop: bool = False,
    poll: float = 1.0,
    thread_count: int = 1,
    hwaccel: str | None = None,
    options: Mapping[str, str] | None = None,
    input_format: str | None = None,
    tls_verify: bool = False,
    tls_ca_file: str | os.PathLike[str] | None = None,
) -> Player:
    """Publish the frames of a camera or a file on `server`, from a thread of its own.

    Returns at once; what goes wrong with the source later is raised by `join()` or `await player`::

        with va.serve("door") as server, va.play("rtsp://10.0.0.7/live", server) as player:
            player.join()

    `url`: ``rtsp://``, ``rtsps://``, ``http(s)://`` and whatever else FFmpeg opens; a path; or
    ``lavfi:testsrc=size=1920x1080:rate=30``, frames that FFmpeg makes up. Percent-encode credentials
    that have special characters; they appear in no message, log or repr.

    `fps`: at most so many frames per second, evenly spaced; others are skipped before they cost a
    conversion. `size`: (width, height) to scale to, one of which may be None as for :class:`Output`; None
    leaves the source's, and follows when it changes. `format`: "rgb24", "bgr24" (H, W, 3), "rgba", "bgra"
    (H, W, 4), "gray8" (H, W), "nv12", "yuv420p" (H*3/2, W), all uint8, and "gray16" (H, W) uint16; in the
    source's own size with the very pixels of PyAV's ``frame.to_ndarray(format=...)``. "nv12" and "yuv420p"
    are the cheapest and need an even size.

    `transport`: "tcp", "udp", "multicast" or "http", for RTSP. `open_timeout`: seconds until the stream must
    be open. `read_timeout`: seconds without a frame after which a live source counts as dead.

    `realtime`: a file (local, or of known length over HTTP) or a lavfi source is paced by its timestamps;
    False takes it as fast as it decodes, True paces a live source too, which delays it. `loop`: begin
    again at the end of a file, with pts that go on rising. `poll`: seconds from one snapshot to the next, of
    an address of HTTP that answers with a single image, or of such a file in a `loop`. `thread_count`:
    threads for decoding; 0 is one per core. `hwaccel`: as for :class:`Camera`. `options`: FFmpeg's, which
    override those made from the arguments. `input_format`, `tls_verify` and `tls_ca_file`: as for
    :class:`Camera`.

    A frame's `timestamp_ns` is when its first bytes arrived here; of a paced source, when its turn came.
    `pts` and `time_base` are the source's. A live source never waits: with no free slot, frames are
    dropped and counted. A file waits for "lossless" readers. The server stays open when the player ends;
    the player ends when the server is closed.

    Raises ValueError for arguments that make no sense, CameraError for a `hwaccel` that does not open here
    or when no thread can be started. Plain function: call it with or without a running event loop, from any
    thread.
    """
    if format not in PIXELS:
        raise ValueError(f"format is one of {', '.join(PIXELS)}, not {format!r}")
    if isinstance(server, str):
        raise TypeError(f"play() needs a server, and {server!r} is a name: va.serve({server!r}) makes one")
    output = Output(server.name, format, size=size, fps=fps)
    spec = CameraSpec(
        server.name,
        os.fspath(url),
        (output,),
        transport=transport,
        open_timeout=open_timeout,
        read_timeout=read_timeout,
        poll=poll,
        thread_count=thread_count,
        hwaccel=hwaccel,
        options=options,
        input_format=input_format,
        tls_verify=tls_verify,
        tls_ca_file=None if tls_ca_file is None else os.fspath(tls_ca_file),
    )
    return Player(spec, server, realtime=realtime, loop=loop)


class Player:
    """A source that is being published; made by `play()`.

    `with` and `async with` close it at their end. All methods may be called from any thread; those that
    wait for the end have a plain and an asyncio form::

        player.join()       await player
        player.close()      await player.aclose()
    """

    def __init__(self, spec: CameraSpec, server: Server, *, realtime: bool | None, loop: bool) -> None:
        self._server = server
        self._loop = loop
        self._error: ValkkaError | None = None
        self._thread = SourceThread(
            f"valkka-play {server.name}", self._run, max(spec.open_timeout, spec.read_timeout)
        )
        self._session = Session(spec, self._thread, self._goes_on, realtime=realtime, loops=loop)
        self._ring = _ServedRing(spec.outputs[0], server, self._wait_for_room)
        self._thread.start()

    def __repr__(self) -> str:
        state = "running" if self.running else "ended" if self._error is None else type(self._error).__name__
        return f"<Player {self._session.address} {state}>"

    @property
    def running(self) -> bool:
        """Whether the thread is at work. False after the end of a file, an error, or close()."""
        return self._thread.alive

    @property
    def error(self) -> ValkkaError | None:
        """What the player ended with: a CameraError or another ValkkaError. None while it runs, after the
        end of a file, after close(), and after the server was closed."""
        return self._error

    def stats(self) -> PlayerStats:
        """The counters, of this moment."""
        meter, ring = self._session.meter, self._ring
        return PlayerStats(
            packets=meter.packets,
            decoded=meter.decoded,
            published=ring.published,
            dropped=ring.dropped,
            skipped=ring.skipped,
            errors=meter.errors,
            last_timestamp_ns=ring.last_timestamp_ns,
        )

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end, in a plain program.

        Raises what the player ended with (see `error`). Raises TimeoutError after `timeout` seconds; the
        player goes on. (CameraTimeoutError is a TimeoutError too; `running` tells them apart.)
        """
        if not self._thread.join(timeout):
            raise TimeoutError(f"{self._session.address} is still playing after {timeout} s")
        self._raise()

    async def wait(self) -> None:
        """Wait for the end, in asyncio; the same as ``await player``.

        Raises what the player ended with (see `error`). Cancelling the wait neither stops the player nor
        loses anything: wait again. Any number of tasks may wait.
        """
        await self._thread.wait()
        self._raise()

    def __await__(self) -> Generator[object, None, None]:
        return self.wait().__await__()

    def close(self) -> None:
        """Stop, and return when the thread has ended and the connection is closed. Idempotent.

        Takes as long as the frame in work, or up to 0.3 s when nothing comes from the source; calls that
        block in a dead network are cut short. (A DNS lookup is not, nor are sources without a TCP connection,
        as udp:// or srt://: they run into the time-outs given to `play()`.) In asyncio, `aclose()` does the
        same without blocking the loop. Never raises what the player ended with.
        """
        self._thread.close()

    async def aclose(self) -> None:
        """close() for asyncio. Cancelling it leaves the player closing by itself."""
        await self._thread.aclose()

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

    # ------------------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        while True:
            error = self._session.run([self._ring])
            if error is not None or not self._loop or self._session.live or not self._goes_on():
                break
        if error is not None and self._goes_on():
            log.warning("%s", str(error))  # the text: a log record should not hold the error
            self._error = error

    def _goes_on(self, seconds: float = 0.0) -> bool:
        return not (self._thread.stopping or self._server.closed)

    def _wait_for_room(self) -> bool:
        """A file waits for "lossless" readers; a camera cannot. False: it is not to go on."""
        with contextlib.suppress(ConnectionClosedOK):
            while not self._session.live and self._server.lossless and self._goes_on():
                if self._server.wait_writable(_ROOM):
                    break
        return self._goes_on()


class _ServedRing(PixelRing):
    """A ring whose server the caller owns. It gets each frame of the source, whether it has readers or
    not, and what cannot be published ends the session."""

    eager = True

    def __init__(self, output: Output, server: Server, wait_for_room: Callable[[], bool]) -> None:
        super().__init__(output, server)
        self._wait_for_room = wait_for_room
        self.last_timestamp_ns = 0

    def wanted(self) -> bool:
        return True

    def pause(self) -> None:
        """The newest frame stays: its server may have other sources."""

    def key_frames_do(self, key_interval: float) -> bool:
        return False

    def offer(self, frame: VideoFrame, time_base: Fraction | None, stamp: Stamp, address: object) -> None:
        if self._wait_for_room():
            before = self.published
            super().offer(frame, time_base, stamp, address)
            if self.published > before:
                self.last_timestamp_ns = stamp.arrival_ns

    def failed(self, error: ValkkaError | av.error.FFmpegError, address: object) -> None:
        if isinstance(error, NoFreeSlotError):
            self.dropped += 1
        elif isinstance(error, av.error.FFmpegError):
            raise CameraFormatError(f"{address}: FFmpeg: {error.strerror}")
        elif not isinstance(error, ConnectionClosedOK):
            raise error
