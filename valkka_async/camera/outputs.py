# SPDX-License-Identifier: MIT
"""The rings that a source feeds: what becomes of a packet or a frame on its way into each."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from valkka_async.camera.mp4.fragments import Fragment, Muxer, Timeline, opens
from valkka_async.camera.mp4.sound import SoundFormat
from valkka_async.camera.mp4.soundqueue import Sample, SoundQueue
from valkka_async.camera.pace import RateLimit
from valkka_async.camera.pixels.convert import Converter
from valkka_async.camera.pixels.jpeg import JpegEncoder
from valkka_async.camera.source.packet import VideoPacket
from valkka_async.camera.source.rational import fraction
from valkka_async.camera.source.sendertime import Stamp
from valkka_async.camera.spec import Output, fitted
from valkka_async.camera.status import OutputStatus
from valkka_async.errors import ConnectionClosedOK, NoFreeSlotError, ValkkaError
from valkka_async.ring.formats import FrameFormat
from valkka_async.ring.server import Server, serve

log = logging.getLogger("valkka_async.camera")

TROUBLE = (ValkkaError, av.error.FFmpegError)
# FFmpeg's name: the frame's format
_PACKETS: dict[str, FrameFormat] = {"h264": "h264", "hevc": "h265", "mjpeg": "jpeg"}
_SLOTS = 16
_STREAM_SLOTS = 320  # a GOP of 10 s at 30 frames per second, and what readers hold
_SPARE = 8  # slots beyond a GOP: those that readers hold, the newest frame, and the one being written


class Ring:
    """One output's server, and what it counts. Its owner makes and closes the server; all the rest runs in
    the thread that reads the source."""

    eager = False  # wants each frame from the very first on, readers or not

    def __init__(self, output: Output, server: Server) -> None:
        self.output = output
        self.server = server
        self.published = 0
        self.dropped = 0  # no free slot, or no memory
        self.skipped = 0  # left out by the output's fps, or as what decodes was behind
        self._asleep = True
        self._said = ""

    @property
    def asleep(self) -> bool:
        """Had it no reader when it was asked last?"""
        return self._asleep

    def wanted(self) -> bool:
        """Does it have a reader now?"""
        wanted = self.server.readers > 0
        if wanted:
            self._asleep = False
        elif not self._asleep:
            self.pause()
        return wanted

    def pause(self) -> None:
        """No frames for a while: a later reader must not take the newest one for a fresh one."""
        self._asleep = True
        self.server.expire()

    def status(self) -> OutputStatus:
        o, ring = self.output, self.server.stats()
        return OutputStatus(
            o.name,
            o.format,
            o.stream or "",
            ring.readers,
            self.published,
            self.dropped,
            self.skipped,
            ring.backlog,
            ring.backlog_outgrown,
        )

    def count(self, published: bool) -> None:
        if published:
            self.published += 1
            self._said = ""
        else:
            self.dropped += 1

    def failed(self, error: ValkkaError | av.error.FFmpegError, address: object) -> None:
        """Something came between a frame and the ring. What one ring cannot do (an odd size for nv12, no
        memory) is no reason to stop the others."""
        if isinstance(error, ConnectionClosedOK):  # by its owner, from another thread
            return
        self.dropped += 1
        if isinstance(error, NoFreeSlotError):
            return
        text = str(error) if isinstance(error, ValkkaError) else f"FFmpeg: {error.strerror}"
        if text != self._said:
            self._said = text
            log.warning("%s: output %s: %s", address, self.output.name, text)


class PixelRing(Ring):
    """Pixels, or JPEGs of them."""

    def __init__(self, output: Output, server: Server) -> None:
        super().__init__(output, server)
        self._size: tuple[int, int] | None = None  # of what is made; None: each frame in its own
        self._make = self._maker()
        self._limit = RateLimit(output.fps)
        self._key_ns = 0  # when the key frame came that was shown last

    def _maker(self) -> JpegEncoder | Converter:
        if self.output.format == "jpeg":
            return JpegEncoder(self.output.quality, self._size)
        return Converter(self.output.format, self._size)

    @property
    def slow(self) -> bool:
        """Are its frames converted the long way?"""
        return isinstance(self._make, Converter) and self._make.slow

    def key_frames_do(self, key_interval: float) -> bool:
        """Do key frames, which come every `key_interval` seconds (0: not known), satisfy it?"""
        o = self.output
        return o.key_frames or (o.fps is not None and 0 < key_interval <= 1.05 / o.fps)

    def admit(self, seconds: float) -> bool:
        """Is the frame of this time wanted? Asked once for each, in the order in which they are shown."""
        if self._limit.admit(seconds):
            return True
        self.leave_out()
        return False

    def leave_out(self, frames: int = 1) -> None:
        """They are not shown."""
        self.skipped += frames

    def takes(self, stamp: Stamp) -> bool:
        """Is it for such frames? Each key frame is seen once, where these are all that is wanted."""
        return not self.output.key_frames or stamp.key_ns not in (0, self._key_ns)

    def pause(self) -> None:
        super().pause()
        self._key_ns = 0

    def offer(self, frame: VideoFrame, time_base: Fraction | None, stamp: Stamp, address: object) -> None:
        self._key_ns = stamp.key_ns or self._key_ns
        try:
            turns, size = _upright(self.output, frame, stamp)
            if self.output.upright:  # then there is nothing left to be done by readers
                stamp = stamp.to_be_shown(0, None)
            if size != self._size:
                self._size = size
                self._make = self._maker()
            if isinstance(self._make, JpegEncoder):
                self.count(self._publish_jpeg(self._make, frame, time_base, stamp))
            else:
                self.count(self._publish_pixels(self._make, frame, time_base, stamp, turns))
        except TROUBLE as e:
            self.failed(e, address)

    def _publish_jpeg(
        self, encoder: JpegEncoder, frame: VideoFrame, time_base: Fraction | None, stamp: Stamp
    ) -> bool:
        return self.server.publish(
            encoder.encode(frame),
            format="jpeg",
            timestamp_ns=stamp.arrival_ns,
            pts=frame.pts,
            duration=frame.duration or None,
            time_base=time_base,
            meta=stamp.meta,
        )

    def _publish_pixels(
        self,
        converter: Converter,
        frame: VideoFrame,
        time_base: Fraction | None,
        stamp: Stamp,
        turns: int,
    ) -> bool:
        shape = made = converter.shape(frame)
        if turns % 2:
            shape = (made[1], made[0], *made[2:])
        slot = self.server.loan(  # raises NoFreeSlotError, and then nothing is converted
            shape,
            converter.format,
            timestamp_ns=stamp.arrival_ns,
            pts=frame.pts,
            duration=frame.duration or None,
            time_base=time_base,
            meta=stamp.meta,
        )
        try:
            if turns:
                lying = np.empty(made, slot.array.dtype)
                converter.write(frame, lying)
                slot.array[:] = np.rot90(lying, turns)
            else:
                converter.write(frame, slot.array)
            return slot.publish()
        except BaseException:
            slot.discard()
            raise


def _upright(output: Output, frame: VideoFrame, stamp: Stamp) -> tuple[int, tuple[int, int] | None]:
    """How often a frame is to be turned by 90 degrees counterclockwise, and the size to make before that."""
    width, height = frame.width, frame.height
    if not output.upright:
        return 0, fitted(output.size, width, height)
    turns = round(stamp.rotation / 90) % 4
    if stamp.aspect is not None:
        width = max(1, round(width * stamp.aspect[0] / stamp.aspect[1]))
    size = fitted(output.size, *((height, width) if turns % 2 else (width, height)))
    if size is not None and turns % 2:
        size = size[1], size[0]
    return turns, size or ((width, height) if width != frame.width else None)


class StreamRing(Ring, ABC):
    """What the camera sends, not decoded, and nothing while it has no readers. After a frame that found no
    slot, those that need it are left out too: readers would see no gap, and could not decode them."""

    _torn = False  # the frames up to the next key frame cannot be decoded

    @abstractmethod
    def begin(self, stream: VideoStream) -> None:
        """The packets to come are of this stream."""

    def take(
        self,
        packet: VideoPacket,
        stamp: Stamp,
        before: Sequence[tuple[VideoPacket, Stamp]],
        address: object,
    ) -> None:
        """Publish a packet for the readers. The first one gets those from the newest key frame on, which came
        `before` it, if the ring can hold them; for later ones the ring has its backlog."""
        woken = self._asleep
        if not self.wanted():
            self.end()
            return
        if woken and not packet.is_keyframe and len(before) + _SPARE <= self.server.stats().slots:
            for one, at in before:
                self._take(one, at, address)
        self._take(packet, stamp, address)

    @abstractmethod
    def _take(self, packet: VideoPacket, stamp: Stamp, address: object) -> None: ...

    def failed(self, error: ValkkaError | av.error.FFmpegError, address: object) -> None:
        self._torn = True
        super().failed(error, address)

    def _publish(self, data: bytes | memoryview, *, key: bool, **about: Any) -> None:
        if self._torn and not key:
            self.count(False)
            return
        self._torn = not self.server.publish(data, key=key, **about)
        self.count(not self._torn)

    @abstractmethod
    def end(self) -> None:
        """The next packet does not follow the one before."""


class PacketRing(StreamRing):
    """Encoded packets as they come. The ring's header is the codec's (the parameter sets), if it has one."""

    def begin(self, stream: VideoStream) -> None:
        self._format: FrameFormat = _PACKETS.get(stream.codec_context.name, "bytes")
        self._header = stream.codec_context.extradata or b""
        self._base = fraction(stream.time_base)

    def _take(self, packet: VideoPacket, stamp: Stamp, address: object) -> None:
        try:
            self.server.set_header(self._header)
            self._publish(
                memoryview(packet),
                key=packet.is_keyframe,
                format=self._format,
                timestamp_ns=stamp.arrival_ns,
                pts=packet.pts,
                dts=packet.dts,
                duration=packet.duration or None,
                time_base=self._base,
                meta=stamp.meta,
            )
        except TROUBLE as e:
            self.failed(e, address)

    def end(self) -> None:
        pass


class FragmentRing(StreamRing):
    """Fragmented MP4, muxed only while it has readers; with sound, if hear() gets any."""

    def __init__(self, output: Output, server: Server) -> None:
        super().__init__(output, server)
        self._timeline = Timeline()
        self._stream: VideoStream | None = None
        self._muxer: Muxer | None = None
        self._sounds = SoundQueue()
        self._format: SoundFormat | None = None  # of the sound to come

    def begin(self, stream: VideoStream) -> None:
        self._stream = stream
        self._format = None

    @property
    def listens(self) -> bool:
        """Is there somebody for sound?"""
        return self.server.readers > 0

    def hear(self, samples: Sequence[Sample], format: SoundFormat | None) -> None:
        """The next samples of sound, coded like this; there may be none yet."""
        self._format = format
        self._sounds.put(samples, format)

    def _take(self, packet: VideoPacket, stamp: Stamp, address: object) -> None:
        try:
            if self._muxer is not None and not self._muxer.fits(packet, self._format):
                self._muxer = None
            if self._muxer is None:
                assert self._stream is not None
                if not opens(self._stream, packet):
                    return
                self._muxer = Muxer(self._stream, self._timeline, self._format)
            for fragment in self._muxer.mux(packet, stamp.arrival_ns, stamp.seconds, self._sounds):
                self._send(fragment, self._muxer.init_segment, stamp)
        except TROUBLE as e:
            self.failed(e, address)

    def end(self) -> None:
        self._muxer = None
        self._sounds.begin()

    def _send(self, fragment: Fragment, header: bytes, stamp: Stamp) -> None:
        self.server.set_header(header)  # nothing, if it is the same
        self._publish(fragment.data, **fragment.about(), meta=stamp.meta)


def make_ring(output: Output) -> PixelRing | PacketRing | FragmentRing:
    """Serve an output. Raises NameInUseError, ConnectError."""
    stream = output.format in ("fmp4", "packets")
    server = serve(
        output.name,
        slots=output.slots or (_STREAM_SLOTS if stream else _SLOTS),
        backlog="gop" if stream else None,
    )
    try:
        if output.format == "fmp4":
            return FragmentRing(output, server)
        if output.format == "packets":
            return PacketRing(output, server)
        return PixelRing(output, server)
    except BaseException:
        server.close()
        raise
