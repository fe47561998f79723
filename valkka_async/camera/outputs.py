# SPDX-License-Identifier: MIT
"""A camera's rings: what becomes of a packet or a picture on its way into each."""

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
from valkka_async.camera.spec import PIXELS, Output, fitted
from valkka_async.camera.status import OutputStatus
from valkka_async.errors import ConnectionClosedOK, NoFreeSlotError, ValkkaError
from valkka_async.ring.formats import FrameFormat
from valkka_async.ring.server import Server, serve

log = logging.getLogger("valkka_async.camera")

TROUBLE = (ValkkaError, av.error.FFmpegError)
# FFmpeg's name: the frame's format
_PACKETS: dict[str, FrameFormat] = {"h264": "h264", "hevc": "h265", "mjpeg": "jpeg"}


class Ring:
    """One output's server, and what it counts. The server is made and closed by the camera's owner; all
    the rest runs in the camera's thread."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.server: Server = serve(output.name, slots=output.slots)
        self.skipped = 0
        self._published = 0
        self._dropped = 0
        self._asleep = True
        self._said = ""

    def wanted(self) -> bool:
        """Does anybody read it now?"""
        wanted = self.server.readers > 0
        if wanted:
            self._asleep = False
        elif not self._asleep:
            self.pause()
        return wanted

    def pause(self) -> None:
        """No frames for a while: who comes later must not take the newest for a fresh one."""
        self._asleep = True
        self.server.expire()

    def status(self) -> OutputStatus:
        o = self.output
        return OutputStatus(
            o.name, o.format, self.server.readers, self._published, self._dropped, self.skipped
        )

    def count(self, published: bool) -> None:
        if published:
            self._published += 1
            self._said = ""
        else:
            self._dropped += 1

    def failed(self, error: ValkkaError | av.error.FFmpegError, address: object) -> None:
        """Something came between a frame and the ring. What one ring cannot do (an odd size for nv12, no
        memory) is no reason to stop the others."""
        if isinstance(error, ConnectionClosedOK):  # by its owner, from another thread
            return
        self._dropped += 1
        if isinstance(error, NoFreeSlotError):
            return
        text = str(error) if isinstance(error, ValkkaError) else f"FFmpeg: {error.strerror}"
        if text != self._said:
            self._said = text
            log.warning("%s: output %s: %s", address, self.output.name, text)


def publish_picture(
    server: Server,
    converter: Converter,
    frame: VideoFrame,
    pts: int | None,
    time_base: Fraction | None,
    stamp: Stamp,
) -> bool:
    """Convert a picture into a slot of the ring. Raises NoFreeSlotError, and then nothing was converted."""
    shape = converter.shape(frame)
    slot = server.loan(
        shape,
        converter.format,
        timestamp_ns=stamp.arrival_ns,
        pts=pts,
        time_base=time_base,
        meta=stamp.meta,
    )
    try:
        converter.write(frame, slot.array)
        return slot.publish()
    except BaseException:
        slot.discard()
        raise


class PictureRing(Ring):
    """Pixels, or JPEGs of them."""

    def __init__(self, output: Output) -> None:
        self._size: tuple[int, int] | None = None  # of what is made; None: each picture in its own
        self._make = self._maker(output)
        self._limit = RateLimit(output.fps)
        super().__init__(output)

    def _maker(self, output: Output) -> JpegEncoder | Converter:
        if output.format == "jpeg":
            return JpegEncoder(output.quality, self._size)
        return Converter(output.format, self._size)

    def key_frames_do(self, key_interval: float) -> bool:
        """Do key frames, which come every `key_interval` seconds (0: not known), satisfy it?"""
        o = self.output
        return o.key_frames or (o.fps is not None and 0 < key_interval <= 1.05 / o.fps)

    def admit(self, seconds: float) -> bool:
        """Is the picture of this time wanted? Asked once for each, in the order in which they are shown."""
        if self._limit.admit(seconds):
            return True
        self.skipped += 1
        return False

    def offer(self, frame: VideoFrame, time_base: Fraction | None, stamp: Stamp, address: object) -> None:
        try:
            size = fitted(self.output.size, frame.width, frame.height)
            if size != self._size:
                self._size = size
                self._make = self._maker(self.output)
            if isinstance(self._make, JpegEncoder):
                published = self.server.publish(
                    self._make.encode(frame),
                    format="jpeg",
                    timestamp_ns=stamp.arrival_ns,
                    pts=frame.pts,
                    time_base=time_base,
                    meta=stamp.meta,
                )
            else:
                published = publish_picture(self.server, self._make, frame, frame.pts, time_base, stamp)
            self.count(published)
        except TROUBLE as e:
            self.failed(e, address)


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
                    time_base=self._base,
                    meta=stamp.meta,
                )
            )
        except TROUBLE as e:
            self.failed(e, address)

    def end(self) -> None:
        """The connection is over."""


class FragmentRing(Ring):
    """Fragmented MP4, muxed only while somebody reads."""

    def __init__(self, output: Output) -> None:
        self._timeline = Timeline()
        self._stream: VideoStream | None = None
        self._muxer: Muxer | None = None
        super().__init__(output)

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
            self.server.set_header(self._muxer.header)  # nothing, if it is the same
            self.count(
                self.server.publish(
                    f.data,
                    format="fmp4",
                    key=f.key,
                    timestamp_ns=f.timestamp_ns,
                    pts=f.pts,
                    time_base=f.time_base,
                    meta=stamp.meta,
                )
            )


def make_ring(output: Output) -> PictureRing | PacketRing | FragmentRing:
    """Serve an output. Raises NameInUseError, ConnectError."""
    if output.format in PIXELS or output.format == "jpeg":
        return PictureRing(output)
    return FragmentRing(output) if output.format == "fmp4" else PacketRing(output)
