# SPDX-License-Identifier: MIT
"""Opening a source and reading its packets: deadlines, arrival times, errors without credentials."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias, TypeVar

import av
import av.logging
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from valkka_async.camera.source.deadline import Deadline
from valkka_async.camera.source.secrets import Address
from valkka_async.camera.spec import Transport
from valkka_async.errors import (
    CameraAuthError,
    CameraEndedError,
    CameraError,
    CameraFormatError,
    CameraNotFoundError,
    CameraOpenError,
    CameraTimeoutError,
)

T = TypeVar("T")
VideoPacket: TypeAlias = "Packet[VideoStream]"  # a string: PyAV cannot subscript it at run time

_LOCAL = {"file", "lavfi"}
_MAYBE_FILES = {"http", "https"}
# libavformat learns where such a frame ends when the next one begins (AVSTREAM_PARSE_FULL in rtpdec_*.c and
# mpegts.c).
_ENDED_BY_THE_NEXT = {"h264", "hevc", "mpeg4"}
_WITHOUT_ENDS = {"rtsp", "mpegts"}
_RAW = {"wrapped_avframe", "rawvideo"}  # frames that are not encoded
_INSTANT_NS = 2_000_000  # a packet that came sooner was lying in FFmpeg's buffer
_MAX_BACKLOG = 1024
_GRACE = 0.25  # s for a playing source to say goodbye (RTSP TEARDOWN) before its socket is cut

log = logging.getLogger("valkka_async.camera")


def codec_name(stream: VideoStream) -> str:
    """As FFmpeg calls the codec: "h264", "hevc", "mjpeg"; but "raw video" for frames that are not encoded."""
    name = stream.codec_context.name
    return "raw video" if name in _RAW else name


class Source:
    """One open source of video. All of it belongs to one thread, which makes it; except cut().

    `packets()` yields (packet, arrival): the packets of the first video stream, and when the first bytes
    of each arrived, in Unix nanoseconds. For H.264, H.265 and MPEG-4 over RTSP or in MPEG-TS that is when the
    packet *before* was handed over: FFmpeg hands a frame over when the next one begins.
    """

    def __init__(
        self,
        address: Address,
        *,
        transport: Transport,
        open_timeout: float,
        read_timeout: float,
        hwaccel: HWAccel | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.address = address
        self.live = address.scheme not in _LOCAL  # revised in open() for http(s)
        self._transport = transport
        self._open_timeout = open_timeout
        self._read_timeout = read_timeout
        self._hwaccel = hwaccel
        self._user_options = dict(options or {})
        self._deadline = Deadline()
        self._cut = False
        self._playing = False
        self._container: InputContainer | None = None
        self._stream: VideoStream | None = None
        self._opened_ns = 0
        self._probed = False
        self._logs = av.logging.Capture()  # what this thread's FFmpeg calls say, which may contain the URL
        self._lines: list[tuple[int, str, str]] = self._logs.__enter__()

    @property
    def stream(self) -> VideoStream:
        """The video stream. Only while open."""
        assert self._stream is not None
        return self._stream

    def cut(self) -> None:
        """End open() or packets(), also when they are blocked: both return. From any thread."""
        self._cut = True
        self._deadline.cut(_GRACE if self._playing else 0.0)

    def close(self) -> None:
        """Close the connection. Idempotent. The source can be opened again, unless it was cut."""
        self._playing = False
        container, self._container, self._stream = self._container, None, None
        if container is not None:
            self._call(container.close, self._open_timeout)

    def dispose(self) -> None:
        """close(), and it cannot be opened again."""
        self.close()
        self._deadline.close()
        self._logs.__exit__(None, None, None)

    def open(self) -> bool:
        """Connect and find the video stream. False when cut. Raises CameraError."""
        began = time.monotonic()
        attempts = self._attempts()
        for number, options in enumerate(attempts, start=1):
            last = number == len(attempts)
            left = began + self._open_timeout - time.monotonic() if self.live else math.inf
            container, failure = self._call(partial(self._connect, options), left)
            if self._cut:
                if container is not None:
                    container.close()
                return False
            if container is None:
                error = self._explain(failure, opening=True)
                if last or not isinstance(error, CameraFormatError | CameraOpenError):
                    raise error
                if isinstance(failure, OSError):  # refused, no route, no such host: no options help
                    raise error
                continue
            self._container = container
            self._opened_ns = time.time_ns()
            self._probed = last
            self._stream = _decodable(container)
            if self._stream is not None:
                if self.address.scheme in _MAYBE_FILES:
                    self.live = container.duration is None
                return True
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            self.close()
            if last:
                raise CameraFormatError(
                    f"{self.address}: no video that can be decoded, only {kinds}; check the URL's path"
                )
        raise AssertionError("unreachable")

    def packets(self) -> Generator[tuple[VideoPacket, int], None, None]:
        """Each packet of the video stream with its arrival time; packets without data at the very end,
        which make the decoder give what it holds back.

        Ends at the end of a file, and when cut. Raises CameraTimeoutError when a live source sends no frame
        for `read_timeout` seconds, CameraEndedError when it ends.
        """
        container = self._container
        assert container is not None
        timeout = self._read_timeout if self.live else math.inf
        codec = self.stream.codec_context.name
        early = container.format.name in _WITHOUT_ENDS and codec in _ENDED_BY_THE_NEXT
        previous = self._opened_ns
        backlog: list[tuple[VideoPacket, int]] = []
        filling = self.live and self._probed  # FFmpeg has read ahead, for up to seconds
        demux = container.demux(self.stream)
        step = partial(next, demux, None)
        self._playing = True
        try:
            while True:
                before = time.time_ns()
                packet, failure = self._call(step, timeout)
                now = time.time_ns()
                if self._cut:
                    return
                if filling:
                    if packet is not None and now - before < _INSTANT_NS and len(backlog) < _MAX_BACKLOG:
                        backlog.append((packet, now))
                        continue
                    filling = False
                    yield from _spread(backlog, early)
                    backlog.clear()
                if packet is None:
                    break
                yield packet, previous if early else now
                previous = now
        finally:
            # Here and not when the generator is collected: it looks at the container once more.
            demux.close()  # type: ignore[attr-defined]
        if self._deadline.expired:
            raise self._late()
        if failure is not None:
            raise self._explain(failure, opening=False)
        if self.live:
            raise CameraEndedError(
                f"{self.address}: the stream ended: the camera closed the connection, was restarted or "
                "switched off"
            )

    def _attempts(self) -> list[dict[str, str]]:
        """The FFmpeg options to try to open with, one after the other."""
        # Only for where Deadline cannot work, and then per read: hence the second.
        micro = str(int((max(self._open_timeout, self._read_timeout) + 1) * 1e6))
        mine = self._user_options
        match self.address.scheme:
            case "rtsp" | "rtsps":
                options = {
                    "rtsp_transport": self._transport,
                    "timeout": micro,
                    "buffer_size": str(1 << 20),  # of the UDP sockets: a key frame comes at once
                }
                # What the SDP says is enough to decode, as a rule. Looking at the stream first takes
                # 1 to 2 s, which are then a backlog of old frames.
                quick = {"probesize": "32", "allowed_media_types": "video"}
                if mine.keys() & {"probesize", "analyzeduration", *quick}:
                    return [options | mine]
                return [options | quick | mine, options | mine]
            case "http" | "https" | "tcp" | "udp":
                # FFmpeg would read twenty frames to learn a rate that is not needed.
                return [{"timeout": micro, "fpsprobesize": "0"} | mine]
            case scheme if scheme not in _LOCAL:
                return [{"rw_timeout": micro} | mine]
        return [mine]

    def _connect(self, options: dict[str, str]) -> InputContainer:
        kind = "lavfi" if self.address.scheme == "lavfi" else None
        return av.open(self.address.url, "r", format=kind, options=options, hwaccel=self._hwaccel)

    def _call(self, function: Callable[[], T], timeout: float) -> tuple[T | None, Exception | None]:
        """(result, None) or (None, error) of a call into FFmpeg that may block.

        The error is returned and not raised: raised, it would be the context of what is raised in its
        place, and its text contains the URL.
        """
        self._deadline.begin(max(0.0, timeout))
        try:
            return function(), None
        except Exception as e:  # what a library finds to raise
            return None, e.with_traceback(None)
        finally:
            self._deadline.end()
            if self._lines:
                self._relay()

    def _relay(self) -> None:
        """FFmpeg's log lines, which exist once av.logging.set_level() was called, without secrets."""
        lines = self._lines[:]
        self._lines.clear()
        for level, name, message in lines:
            target = logging.getLogger("libav." + name if name else "libav.generic")
            target.log(av.logging.adapt_level(level), "%s", self.address.scrub(message.strip()))

    def _late(self) -> CameraTimeoutError:
        return CameraTimeoutError(
            f"{self.address}: no frame for {self._read_timeout:g} s: the camera hangs or the network is "
            "down; raise read_timeout for a camera that sends less often"
        )

    def _explain(self, e: Exception | None, *, opening: bool) -> CameraError:
        """The exception for a failure of FFmpeg's. Nothing of FFmpeg's but its fixed error strings."""
        where = self.address
        reason = self.address.scrub(getattr(e, "strerror", None) or type(e).__name__)
        if self._deadline.expired or isinstance(e, TimeoutError | av.error.ExitError):
            if not opening:
                return self._late()
            return CameraTimeoutError(
                f"{where}: not open after {self._open_timeout:g} s: check the address and the port, and "
                "that the camera can be reached from here; or raise open_timeout"
            )
        if isinstance(e, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
            if "@" not in self.address.url:
                return CameraAuthError(
                    f"{where}: wants a user and a password: {where.scheme}://user:password@..."
                )
            return CameraAuthError(
                f"{where}: refuses the user or the password ({reason}); special characters in a password "
                "are best percent-encoded: urllib.parse.quote(password, safe='')"
            )
        if isinstance(e, av.error.HTTPNotFoundError | FileNotFoundError):
            return CameraNotFoundError(f"{where}: there is no such stream or file; check the path")
        if self.address.scheme == "lavfi":
            return CameraOpenError(f"{where}: no such filter graph ({reason})")
        if isinstance(e, av.error.ProtocolNotFoundError):
            return CameraFormatError(
                f"{where}: this FFmpeg has no {where.scheme}://; use another address of the camera, or a "
                "PyAV built on an FFmpeg that has it"
            )
        if isinstance(e, av.error.InvalidDataError | av.error.LookupError):
            return CameraFormatError(f"{where}: this is not video that can be decoded ({reason})")
        if not opening and self.live:
            return CameraEndedError(f"{where}: the stream broke off ({reason})")
        if not opening:
            return CameraFormatError(f"{where}: cannot be read to its end ({reason})")
        if self.address.scheme == "file":
            return CameraOpenError(f"{where}: cannot be opened ({reason})")
        hint = "check the host name or address, the port, and the network"
        if isinstance(e, av.error.HTTPServerError):
            hint = "the fault is the camera's; perhaps it has too many viewers"
        elif isinstance(e, av.error.HTTPError):
            hint = f"the camera refuses the request; perhaps it does not do transport={self._transport!r}"
        return CameraOpenError(f"{where}: cannot be opened ({reason}): {hint}")


def _decodable(container: InputContainer) -> VideoStream | None:
    # Where there is no decoder, PyAV has no codec context, whatever its annotations say.
    context: Any
    for stream in container.streams.video:
        context = stream.codec_context
        if context is not None:
            return stream
    return None


def _spread(backlog: list[tuple[VideoPacket, int]], early: bool) -> Iterator[tuple[VideoPacket, int]]:
    """Packets that FFmpeg had collected before it handed out the first: the last one has just arrived,
    the others came before it by as much as their timestamps say. `early`: as in packets()."""
    if not backlog:
        return
    newest, now = backlog[-1]
    times = []
    for packet, _ in backlog:
        age = 0.0
        if packet.dts is not None and newest.dts is not None:
            age = max(0.0, float((newest.dts - packet.dts) * packet.time_base))
        times.append(now - int(age * 1e9))
    if early:
        times = [2 * times[0] - times[min(1, len(times) - 1)], *times[:-1]]
    for (packet, _), arrival in zip(backlog, times, strict=True):
        yield packet, arrival
