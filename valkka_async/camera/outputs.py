# SPDX-License-Identifier: MIT
"""The rings that a source feeds: what becomes of a packet or a frame on its way into each."""

from __future__ import annotations

import logging
from fractions import Fraction

import av
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from valkka_async.camera.mp4.fragments import Fragment, Muxer, Timeline, carries
from valkka_async.camera.pace import RateLimit
from valkka_async.camera.pixels.convert import Converter
from valkka_async.camera.pixels.jpeg import JpegEncoder
from valkka_async.camera.source.sendertime import Stamp
from valkka_async.camera.source.source import VideoPacket
from valkka_async.camera.spec import Output, fitted
from valkka_async.camera.status import OutputStatus
from valkka_async.errors import ConnectionClosedOK, NoFreeSlotError, ValkkaError
from valkka_async.ring.formats import FrameFormat
from valkka_async.ring.server import Server, serve

log = logging.getLogger("valkka_async.camera")

TROUBLE = (ValkkaError, av.error.FFmpegError)
# FFmpeg's name: the frame's format
_PACKETS: dict[str, FrameFormat] = {"h264": "h264", "hevc": "h265", "mjpeg": "jpeg"}


class Ring:
    """One output's server, and what it counts. Its owner makes and closes the server; all the rest runs in
    the thread that reads the source."""

    eager = False  # wants each frame from the very first on, readers or not

    def __init__(self, output: Output, server: Server) -> None:
        self.output = output
        self.server = server
        self.published = 0
        self.dropped = 0  # no free slot, or no memory
        self.skipped = 0  # left out by the output's fps
        self._asleep = True
        self._said = ""

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
        o = self.output
        return OutputStatus(o.name, o.format, self.server.readers, self.published, self.dropped, self.skipped)

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

    def _maker(self) -> JpegEncoder | Converter:
        if self.output.format == "jpeg":
            return JpegEncoder(self.output.quality, self._size)
        return Converter(self.output.format, self._size)

    def key_frames_do(self, key_interval: float) -> bool:
        """Do key frames, which come every `key_interval` seconds (0: not known), satisfy it?"""
        o = self.output
        return o.key_frames or (o.fps is not None and 0 < key_interval <= 1.05 / o.fps)

    def admit(self, seconds: float) -> bool:
        """Is the frame of this time wanted? Asked once for each, in the order in which they are shown."""
        if self._limit.admit(seconds):
            return True
        self.skipped += 1
        return False

    def offer(self, frame: VideoFrame, time_base: Fraction | None, stamp: Stamp, address: object) -> None:
        try:
            size = fitted(self.output.size, frame.width, frame.height)
            if size != self._size:
                self._size = size
                self._make = self._maker()
            if isinstance(self._make, JpegEncoder):
                self.count(self._publish_jpeg(self._make, frame, time_base, stamp))
            else:
                self.count(self._publish_pixels(self._make, frame, time_base, stamp))
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
        self, converter: Converter, frame: VideoFrame, time_base: Fraction | None, stamp: Stamp
    ) -> bool:
        slot = self.server.loan(  # raises NoFreeSlotError, and then nothing is converted
            converter.shape(frame),
            converter.format,
            timestamp_ns=stamp.arrival_ns,
            pts=frame.pts,
            duration=frame.duration or None,
            time_base=time_base,
            meta=stamp.meta,
        )
        try:
            converter.write(frame, slot.array)
            return slot.publish()
        except BaseException:
            slot.discard()
            raise


class PacketRing(Ring):
    """Encoded packets as they come. The ring's header is the codec's (the parameter sets), if it has one."""

    def begin(self, stream: VideoStream) -> None:
        """The packets to come are of this stream."""
        self._format: FrameFormat = _PACKETS.get(stream.codec_context.name, "bytes")
        self._header = stream.codec_context.extradata or b""
        self._base = stream.time_base

    def take(self, packet: VideoPacket, stamp: Stamp, address: object) -> None:
        if not self.wanted():
            return
        try:
            self.server.set_header(self._header)
            self.count(
                self.server.publish(
                    memoryview(packet),
                    format=self._format,
                    key=packet.is_keyframe,
                    timestamp_ns=stamp.arrival_ns,
                    pts=packet.pts,
                    dts=packet.dts,
                    duration=packet.duration or None,
                    time_base=self._base,
                    meta=stamp.meta,
                )
            )
        except TROUBLE as e:
            self.failed(e, address)

    def end(self) -> None:
        """The connection is over."""


class FragmentRing(Ring):
    """Fragmented MP4, muxed only while it has readers."""

    def __init__(self, output: Output, server: Server) -> None:
        super().__init__(output, server)
        self._timeline = Timeline()
        self._stream: VideoStream | None = None
        self._muxer: Muxer | None = None

    def begin(self, stream: VideoStream) -> None:
        self._stream = stream

    def take(self, packet: VideoPacket, stamp: Stamp, address: object) -> None:
        if not self.wanted():
            self._muxer = None
            return
        try:
            if self._muxer is not None and packet.is_keyframe and not self._muxer.fits(packet):
                self._muxer = None
            if self._muxer is None:
                assert self._stream is not None
                if not packet.is_keyframe and carries(self._stream):
                    return  # of other codecs, which may have no key frames, the muxer tells
                self._muxer = Muxer(self._stream, self._timeline)
            self._publish(self._muxer.mux(packet, stamp.arrival_ns), stamp)
        except TROUBLE as e:
            self.failed(e, address)

    def end(self) -> None:
        self._muxer = None

    def _publish(self, fragments: list[Fragment], stamp: Stamp) -> None:
        for f in fragments:
            assert self._muxer is not None
            self.server.set_header(self._muxer.init_segment)  # nothing, if it is the same
            self.count(
                self.server.publish(
                    f.data,
                    format="fmp4",
                    key=f.key,
                    timestamp_ns=f.timestamp_ns,
                    pts=f.pts,
                    dts=f.dts,
                    duration=f.duration,
                    time_base=f.time_base,
                    meta=stamp.meta,
                )
            )


def make_ring(output: Output) -> PixelRing | PacketRing | FragmentRing:
    """Serve an output. Raises NameInUseError, ConnectError."""
    server = serve(output.name, slots=output.slots)
    try:
        if output.format == "fmp4":
            return FragmentRing(output, server)
        if output.format == "packets":
            return PacketRing(output, server)
        return PixelRing(output, server)
    except BaseException:
        server.close()
        raise
