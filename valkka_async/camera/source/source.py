# SPDX-License-Identifier: MIT
"""Opening a source and reading its packets: deadlines, arrival times, errors without credentials."""

from __future__ import annotations

import io
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from fractions import Fraction
from functools import partial
from typing import Any, cast

import av
from av.audio.stream import AudioStream
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from valkka_async.camera.mp4 import nal
from valkka_async.camera.source import ffmpeg, http, live, units
from valkka_async.camera.source.anchor import Anchor
from valkka_async.camera.source.calls import Calls
from valkka_async.camera.source.demux import Demux, decodable, spread
from valkka_async.camera.source.failures import Failures
from valkka_async.camera.source.fields import Pairs
from valkka_async.camera.source.images import Images, NoImageError, image_format
from valkka_async.camera.source.options import (
    DESCRIBED,
    DEVICES,
    LOCAL,
    MAYBE_FILES,
    kind_of,
    options_for,
    with_password,
)
from valkka_async.camera.source.packet import AnyPacket, SoundPacket, VideoPacket
from valkka_async.camera.source.secrets import Address
from valkka_async.camera.source.tls import Trust
from valkka_async.camera.source.wire import Wire
from valkka_async.camera.spec import Transport
from valkka_async.errors import (
    CameraBusyError,
    CameraEndedError,
    CameraFormatError,
    CameraOpenError,
)

_BARE = {"h264", "hevc", "m4v"}  # formats of which the first frame tells all, whatever its time
_AT_ONCE = {"probesize": "32", "analyzeduration": "1"}
# libavformat learns where such a frame ends when the next one begins (AVSTREAM_PARSE_FULL in rtpdec_*.c and
# mpegts.c).
_ENDED_BY_THE_NEXT = {"h264", "hevc", "mpeg4"}
_WITHOUT_ENDS = {"rtsp", "mpegts", *DESCRIBED}
_RAW = {"wrapped_avframe", "rawvideo"}  # frames that are not encoded
_INSTANT_NS = 2_000_000  # a packet that came sooner was lying in FFmpeg's buffer
_MAX_BACKLOG = 1024
_GLANCE = 0.2  # s after which FFmpeg comes back from where nothing can be shut down
_BEYOND = 1.0  # s after our own deadlines, when it comes back from anywhere
_IMAGE_CLOCK = 90000  # ticks per second of images that have no times
_HEARD = 4096  # packets of sound that wait for a frame
_REDIRECTS = 10  # connections that one call may make to open RTSP
_FORGETS = 1.0  # s, in which a camera that serves one reader notices that the last connection is closed


def codec_name(stream: VideoStream) -> str:
    """As FFmpeg calls the codec: "h264", "hevc", "mjpeg"; but "raw video" for frames that are not encoded."""
    name = stream.codec_context.codec.canonical_name
    return "raw video" if name in _RAW else name


class Source:
    """One open source of video. All of it belongs to one thread, which makes it; except cut().

    `packets()` yields (packet, arrival): the packets of the first video stream, and when the first bytes
    of each arrived, in Unix nanoseconds. H.264 and H.265 over RTSP are put together here (units.py): a packet
    is handed over when its last bytes are here if the camera marks those, or else when the next one begins.
    For MPEG-4, and in MPEG-TS, FFmpeg does the latter; there the arrival is when the packet *before* was
    handed over.

    `quick`: over RTSP, ask for video alone and believe what the camera says of it, if that is enough.
    `sound`: ask for sound, too; heard() has it. `patient`: it comes late, and is waited for.

    An address of HTTP that answers with a single image (a snapshot) is asked again each `poll` seconds.
    Images that come one after the other are read here (live.py), and are complete with their last byte.

    `input_format`: FFmpeg's name of what comes, where neither the address nor the first bytes tell.

    `markers`: what is known of the camera from earlier connections.
    """

    def __init__(
        self,
        address: Address,
        *,
        transport: Transport,
        open_timeout: float,
        read_timeout: float,
        poll: float = 1.0,
        quick: bool = True,
        sound: bool = False,
        patient: bool = False,
        hwaccel: HWAccel | None = None,
        options: Mapping[str, str] | None = None,
        markers: units.Markers | None = None,
        input_format: str | None = None,
        trust: Trust = Trust(),  # noqa: B008 - it is frozen
    ) -> None:
        self.address = address
        self._kind = input_format or kind_of(address)
        # Revised in open() for http(s)
        self.live = address.scheme not in LOCAL or self._kind in DEVICES | DESCRIBED
        self.still = False  # it is one image, or a stream of images: known once it is open
        self._transport = transport
        self._open_timeout = open_timeout
        self._read_timeout = read_timeout
        self._poll = poll
        self._quick = quick
        self._sound, self._patient = sound, patient
        self._hwaccel = hwaccel
        self._user_options = dict(options or {})
        self._trust = trust
        self._client: http.Client | None = None
        self._connection: live.Live | None = None  # that is ours, and what it sends
        self._first: bytes | None = None  # image, which has been read to open it
        self._calls = Calls(address)
        self._failures = Failures(
            address,
            self._calls,
            kind=self._kind,
            transport=transport,
            open_timeout=open_timeout,
            read_timeout=read_timeout,
            trust=trust,
        )
        self._cut = False
        self._wake = threading.Event()  # set when cut
        self._container: InputContainer | None = None
        self._stream: VideoStream | None = None
        self._heard: deque[tuple[SoundPacket, int]] = deque(maxlen=_HEARD)
        self._opened_ns = 0
        self._probed = False
        self._unparsed = False
        self._markers = markers or units.Markers()
        self._units: units.Units | None = None
        self._demux: Demux | None = None
        # Had reading to wait for the newest packet, behind the one before it? None: that is not known, as it
        # is over RTSP by TCP alone.
        self.waited: bool | None = None

    @property
    def stream(self) -> VideoStream:
        """The video stream. Only while open."""
        assert self._stream is not None
        return self._stream

    @property
    def hwaccel(self) -> HWAccel | None:
        """What decodes, if it is not the CPU."""
        return self._hwaccel

    @property
    def sound(self) -> AudioStream | None:
        """The stream of sound, if that was asked for and there is one. Only while open."""
        assert self._container is not None
        if not self._sound or not self._container.streams.audio:
            return None
        best = self._container.streams.best("audio")
        return best if isinstance(best, AudioStream) else self._container.streams.audio[0]

    @property
    def is_rtp(self) -> bool:
        """Does each stream have its times from a clock of its own? Only while open."""
        assert self._container is not None
        return self._container.format.name in ("rtsp", "sdp", "rtp")

    @property
    def bursts(self) -> bool:
        """Does a live source come in pieces of some seconds each? Only while open."""
        assert self._container is not None
        return self._container.format.name == "hls"

    def heard(self) -> list[tuple[SoundPacket, int]]:
        """The packets of sound that have come since the last call, and when, in Unix nanoseconds; over RTSP
        they may have lain until the frame after them came."""
        heard = list(self._heard)
        self._heard.clear()
        return heard

    @property
    def outgrown(self) -> bool:
        """Has it more streams than when it was opened, one of which may be the sound that was asked for?"""
        return self._demux is not None and self._demux.more

    def _hear(self, packet: SoundPacket) -> None:
        if packet.size:
            self._heard.append((packet, time.time_ns()))

    @property
    def early(self) -> bool:
        """Was the newest packet handed over as soon as its last bytes were here?"""
        return self._units.early if self._units is not None else not self._ended_by_the_next

    @property
    def _ended_by_the_next(self) -> bool:
        """Does FFmpeg learn where a frame ends when the next one begins?"""
        assert self._container is not None
        codec = self.stream.codec_context.name
        return self._container.format.name in _WITHOUT_ENDS and codec in _ENDED_BY_THE_NEXT

    def cut(self) -> None:
        """End open() or packets(), also when they are blocked: both return. From any thread."""
        self._cut = True
        self._wake.set()
        self._calls.deadline.cut()

    def sleeps(self) -> bool:
        """Does FFmpeg wait for something, now? From any thread; does not block."""
        return self._calls.deadline.sleeps()

    def close(self) -> None:
        """Close the connection. Idempotent. The source can be opened again, unless it was cut."""
        container, self._container, self._stream = self._container, None, None
        self._unparsed, self._units, self._demux = False, None, None
        self._heard.clear()
        if container is not None:
            self._calls.make(container.close, self._open_timeout)
        connection, self._connection, self._first = self._connection, None, None
        client, self._client = self._client, None
        for one in (connection, client):
            if one is not None:
                one.close()

    def dispose(self) -> None:
        """close(), and it cannot be opened again."""
        self.close()
        self._calls.close()

    def open(self) -> bool:
        """Connect and find the video stream. False when cut. Raises CameraError."""
        began = time.monotonic()
        if self._kind is not None and not ffmpeg.has_format(self._kind):
            raise CameraFormatError(f"{self.address}: {ffmpeg.no_format(self._kind)}")
        attempts = options_for(
            self.address,
            self._kind,
            transport=self._transport,
            # Only for where Deadline cannot work, and then per read: hence the second.
            timeout=max(self._open_timeout, self._read_timeout) + 1,
            trust=self._trust,
            mine=self._user_options,
            quick=self._quick,
            sound=self._sound,
            patient=self._patient,
        )
        tried: list[dict[str, str]] = []
        # Is what an SDP says enough? If it is not, that is no reason to give up.
        quick = self.address.scheme in ("rtsp", "rtsps") or self._kind in DESCRIBED
        while attempts:
            options = attempts.pop(0)
            last = not attempts
            again = bool(tried) and options not in tried  # perhaps the attempt before these keeps it busy
            tried.append(options)
            left = began + self._open_timeout - time.monotonic() if self.live else math.inf
            connections = _REDIRECTS if self.address.scheme in ("rtsp", "rtsps") else 0
            container, failure = self._calls.make(partial(self._connect, options), left, connections)
            if self._cut:
                if container is not None:
                    container.close()
                self.close()
                return False
            if container is None:
                self.close()
                error = self._failures.of_opening(failure)
                lost = isinstance(error, CameraEndedError)  # it plays nothing, having no video
                if again and isinstance(error, CameraBusyError):
                    attempts.insert(0, options)
                    self._wake.wait(_FORGETS)
                    continue
                if last or not quick or not (lost or isinstance(error, CameraFormatError | CameraOpenError)):
                    raise error
                if isinstance(failure, OSError):  # refused, no route, no such host: no options help
                    raise error
                del attempts[:-1]  # what is between will not do either
                continue
            self._container = container
            self._opened_ns = time.time_ns()
            images = self._connection is not None and self._connection.images is not None
            self._probed = not images and (last or not quick)
            self._stream = decodable(container)
            if self._stream is not None:
                self.still = container.format.name == "image2" or container.format.name.endswith("_pipe")
                if images and self._connection is not None:
                    self.still = self._connection.still
                    self._stream.time_base = Fraction(1, _IMAGE_CLOCK)
                if self.address.scheme in MAYBE_FILES and self._kind not in DESCRIBED:
                    self.live = self.still or container.duration is None or self._first is not None
                if options.get("fflags") != units.UNPARSED or self._take_apart(container):
                    return True
                self.close()
                continue
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            self.close()
            if last:
                raise CameraFormatError(
                    f"{self.address}: no video that can be decoded, only {kinds}; check the URL's path"
                )
        raise AssertionError("unreachable")

    def _take_apart(self, container: InputContainer) -> bool:
        """The container was opened UNPARSED. False: it should not have been."""
        codec = self.stream.codec_context.codec.canonical_name
        if codec not in nal.CODECS:
            container.flags &= ~units.UNPARSED_FLAGS
            return codec not in _ENDED_BY_THE_NEXT
        self._unparsed = True
        return True

    def packets(self) -> Generator[tuple[VideoPacket, int], None, None]:
        """Each packet of the video stream with its arrival time; packets without data at the very end,
        which make the decoder give what it holds back.

        Ends at the end of a file, and when cut. Raises CameraTimeoutError when a live source sends no frame
        for `read_timeout` seconds, CameraEndedError when it ends.
        """
        container = self._container
        assert container is not None
        timeout = self._read_timeout if self.live else math.inf
        early = self._ended_by_the_next
        previous = self._opened_ns
        backlog: list[tuple[VideoPacket, int]] = []
        filling = self.live and self._probed  # FFmpeg has read ahead, for up to seconds
        first: VideoPacket | None = None  # as long as there is only one
        number = 0
        images = self._connection.images if self._connection is not None else None
        sound = self.sound
        looks = self._sound and sound is None and images is None and not self._unparsed
        demux = self._demux = Demux(container, self.stream, sound, looks=looks)
        step: Callable[[], Any] = demux.next
        if images is not None:
            step = partial(self._next_image, images, time.monotonic())
        elif self._kind in DESCRIBED:
            step = partial(demux.next_in_time, self._goes_on)
        wire: Wire | None = None
        if self._unparsed:
            # TLS has nothing that could be looked at.
            seen = self.address.scheme == "rtsp" or self._kind in DESCRIBED
            deadline = self._calls.deadline if seen else None
            codec = nal.CODECS[self.stream.codec_context.codec.canonical_name]
            counted = self.address.scheme == "rtsp" and self._transport == "tcp"
            tcp = self.address.scheme == "rtsp" and self._transport in ("tcp", "http")
            wire = Wire(deadline, codec, self.stream.index, self._goes_on, counted=counted, tcp=tcp)
            moving = len(container.streams) > 1
            self._units = units.Units(self.stream, step, wire, self._markers, self._hear, moving=moving)
            step = self._units.next
        elif sound is not None:
            anchor = Anchor() if self.is_rtp else None
            step = partial(self._next_frame, step, self.stream.index, anchor)
        if not self._unparsed and self.stream.codec_context.codec.canonical_name == "h264":
            step = Pairs(self.stream, step).next
        self.waited = None
        try:
            while True:
                before = time.time_ns()
                packet, failure = self._calls.make(step, timeout)
                now = time.time_ns()
                if self._cut:
                    return
                if wire is not None:
                    self.waited = wire.has_waited()
                if packet is not None and packet.size:
                    number += 1
                    one = number == 1 and self.live and (self.still or images is not None)
                    first = packet if one else None
                    self.still = self.still and (images is None or number == 1)
                elif packet is not None and first is not None:
                    continue  # the end of a snapshot, after which the decoder has to go on
                if filling:
                    if packet is not None and now - before < _INSTANT_NS and len(backlog) < _MAX_BACKLOG:
                        backlog.append((packet, now))
                        continue
                    filling = False
                    yield from spread(backlog, early)
                    backlog.clear()
                if packet is None:
                    break
                if self._units is not None:
                    yield packet, self._units.arrival_ns
                else:
                    yield packet, previous if early else now
                previous = now
        finally:
            if wire is not None:
                wire.close()
            demux.close()
        if self._calls.deadline.expired:
            raise self._failures.late()
        if failure is not None:
            raise self._failures.of_reading(failure, live=self.live)
        if first is not None:
            self.still = True
            yield from self._snapshots(first)
        elif self.live:
            raise CameraEndedError(
                f"{self.address}: the stream ended: the camera closed the connection, was restarted or "
                "switched off"
            )

    def _goes_on(self) -> bool:
        """Is there time left in this call? From the thread that is in it."""
        return not (self._cut or self._calls.deadline.expired)

    def _next_frame(
        self, step: Callable[[], AnyPacket | None], index: int, anchor: Anchor | None
    ) -> VideoPacket | None:
        """The next packet of the picture; those of sound do not count as a sign of life."""
        while (packet := step()) is not None and packet.stream_index != index:
            self._hear(cast("SoundPacket", packet))
        frame = cast("VideoPacket | None", packet)
        if frame is not None and anchor is not None:
            anchor.hold(frame)
        return frame

    def _snapshots(self, packet: VideoPacket) -> Iterator[tuple[VideoPacket, int]]:
        """A snapshot after the other, beginning `poll` seconds after the first, which has been seen."""
        base = self.stream.time_base
        kind = bytes(packet)[:3]
        began = time.monotonic()
        stamp, due = packet.pts or 0, began + self._poll
        client = self._client or self._make_client()
        source = http.Snapshots(client)
        try:
            while not self._wake.wait(max(0.0, due - time.monotonic())):
                data, failure = self._calls.make(source.fetch, self._read_timeout)
                now = time.monotonic()
                if self._cut:
                    return
                if data is None:
                    raise self._failures.of_snapshot(failure)
                if data[:3] != kind:
                    raise self._failures.other_kind()
                stamp = max(stamp + 1, round((now - began) / base)) if base else stamp + 1
                yield self._image(data, stamp), time.time_ns()
                due = max(due + self._poll, now)
        finally:
            client.close()

    def _next_image(self, images: Images, began: float) -> VideoPacket | None:
        """The next one of a stream of images, whose time is its arrival; None at the end."""
        data, self._first = self._first or images.next(), None
        if data is None:
            return None
        if image_format(data) != self.stream.container.format.name:
            raise self._failures.other_kind()
        return self._image(data, round((time.monotonic() - began) * _IMAGE_CLOCK))

    def _image(self, data: bytes, stamp: int) -> VideoPacket:
        packet = cast("VideoPacket", Packet(data))
        packet.stream, packet.is_keyframe = self.stream, True
        if self.stream.time_base is not None:
            packet.time_base = self.stream.time_base
        packet.pts = packet.dts = stamp
        return packet

    def _connect(self, options: dict[str, str]) -> InputContainer:
        if live.is_for_ours(self.address, self._kind, self._user_options):
            if (container := self._connect_ours(options)) is not None:
                return container
        timeout = None  # costs CPU with each read
        if self._kind in DESCRIBED:
            timeout = (self._open_timeout, _GLANCE)
        elif self.address.scheme in MAYBE_FILES:
            # Between two looks at a playlist FFmpeg sleeps, for a thousand of them if need be.
            timeout = (self._open_timeout + _BEYOND, self._read_timeout + _BEYOND)
        return av.open(
            with_password(self.address),
            "r",
            format=self._kind,
            options=options,
            hwaccel=self._hwaccel,
            timeout=timeout,
        )

    def _connect_ours(self, options: dict[str, str]) -> InputContainer | None:
        """Open it over a connection of ours. None: FFmpeg has to make its own."""
        if self.address.scheme == "tcp":
            self._connection = live.over_tcp(self.address, self._open_timeout, self._kind)
        else:
            self._client = self._make_client()
            self._connection = live.over_http(self._client, self._kind)
        connection = self._connection
        if connection is None:
            return None
        if connection.images is None:
            if (connection.bare or self._kind in _BARE) and "probesize" not in options:
                options = options | _AT_ONCE
            return av.open(connection, "r", format=self._kind, options=options, hwaccel=self._hwaccel)
        self._first = connection.images.next()
        if self._first is None:
            raise NoImageError("there is no image in it")
        kind = image_format(self._first)
        return av.open(io.BytesIO(self._first), "r", format=kind, hwaccel=self._hwaccel)

    def _make_client(self) -> http.Client:
        # The time-out is for where Deadline cannot work.
        timeout = max(self._open_timeout, self._read_timeout) + 1
        return http.Client(self.address.url, timeout, self._user_options, self._trust)
