# SPDX-License-Identifier: MIT
"""Packets to frames, each with what was known of the packet it came in."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar, cast

import av
from av.codec.context import CodecContext
from av.codec.hwaccel import HWAccel
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from valkka_async.camera.mp4 import nal
from valkka_async.camera.mp4.sps import without_reordering
from valkka_async.camera.source.packet import VideoPacket

T = TypeVar("T")

_IN_ORDER = 10  # so many packets in order, and then there are no B-frames, most likely
_HELD_BACK = 64  # more packets than any decoder holds back (16 reference frames, one per thread)


class Decoder(Generic[T]):
    """Decodes one stream, in this context. `errors` counts the packets that could not be decoded.

    Each packet comes with a stamp (its arrival time, say), and each frame leaves with its packet's. `prompt`:
    nothing is held back for B-frames, which parameter sets allow, once it was seen that there are none.
    """

    def __init__(self, context: VideoCodecContext, thread_count: int, *, prompt: bool = False) -> None:
        self._context = context
        extradata = self._context.extradata or b""
        self._lengths = nal.length_size(extradata, nal.H264) if context.name == "h264" else None
        self._first = True  # the next packet is
        prompt = prompt and self._lengths == 0
        self._prompt = _Prompt(nal.sets_in_extradata(extradata, nal.H264)) if prompt else None
        self._context.thread_count = thread_count
        if thread_count != 1:
            self._context.thread_type = "AUTO"
        self.errors = 0
        self._under_way = 0  # packets of which no frame has come
        self._hurried = False
        self._refreshing = False  # all will be well, and is not yet
        # Decoders give frames in display order, some packets later: (pts, stamp) of the latest ones.
        self._stamps: deque[tuple[int | None, T]] = deque(maxlen=_HELD_BACK)

    def __del__(self) -> None:
        # To free a context PyAV waits, with the GIL, for FFmpeg's threads, which need it for what they log.
        context = getattr(self, "_context", None)
        if context is not None and context.is_open and context.thread_count != 1:
            context.flush_buffers()  # waits for them without it

    @property
    def holds_back(self) -> int:
        """So many packets, without any sign that there is something wrong with them."""
        return self._context.reorder_depth + max(0, self._context.thread_count - 1)

    @property
    def holding(self) -> int:
        """So many it holds back now."""
        return min(self._under_way, self.holds_back)

    def decode(self, packet: VideoPacket, stamp: T) -> list[tuple[VideoFrame, T]]:
        """The frames that this packet brings out of the decoder, with their stamps."""
        if packet.size:
            self._stamps.append((packet.pts, stamp))
            self._under_way += 1
        held: list[VideoFrame] = []
        try:
            if packet.size and self._first:
                self._first = False
                self._begin(packet)
            if packet.size and self._prompt is not None:
                depth = self._context.reorder_depth
                was, active = self._prompt.active, self._prompt.look(packet, depth)
                if (active and depth) or (was and not self._prompt.active):
                    # FFmpeg never lowers it by itself, nor gives two frames for one packet; and where it
                    # rises, some are lost.
                    held = self._context.decode(None)
                    self._context.flush_buffers()
                    self._context.reorder_depth = 0
                if active:
                    packet = self._prompt.rewritten(packet)
            frames = [*held, *self._context.decode(packet)]
        except av.error.EOFError:
            return []
        except av.error.FFmpegError:
            self.errors += 1
            return []
        self._under_way -= len(frames)
        self._refreshing = self._refreshing and not frames
        return [(frame, self._stamp(frame.pts, stamp)) for frame in frames]

    def _begin(self, packet: VideoPacket) -> None:
        """With intra refresh the first frame needs one before it, whatever that shows. FFmpeg makes one up if
        the frame's number (frame_num) tells of a gap. Else the frame is lost, and what it refreshes. So it
        comes twice, and nothing is shown of the first."""
        lengths = self._lengths
        if lengths is not None and packet.is_keyframe:
            if nal.frames_to_recover(bytes(packet), nal.H264, lengths):
                self._refreshing = True
                self._context.decode(packet)

    def decode_alone(self, packet: VideoPacket, stamp: T) -> list[tuple[VideoFrame, T]]:
        """A key frame, now: without the frames around it the decoder would hold it back."""
        frames = self.decode(packet, stamp)
        try:
            frames += [(frame, stamp) for frame in self._context.decode(None)]
        except av.error.FFmpegError:
            pass  # nothing was held back
        self.reset()
        return frames

    def hurry(self, on: bool) -> None:
        """Leave out frames that no other needs, from the next packet on; or leave out none. H.265 says only
        of which frames others of the same layer have no need; and the order of frames is found out by all of
        them. With several threads FFmpeg forgets at each of these when all will be well."""
        on = on and self._context.name != "hevc" and not self._context.reorder_depth
        on = on and not (self._refreshing and self._context.thread_count != 1)
        if on != self._hurried:
            self._hurried = on
            self._context.skip_frame = "NONREF" if on else "DEFAULT"

    def reset(self) -> None:
        """Packets were left out: the next one is a key frame."""
        self._context.flush_buffers()
        self._stamps.clear()
        self._first, self._under_way, self._refreshing = True, 0, False
        if self._prompt is not None:
            self._prompt.reset()

    def _stamp(self, pts: int | None, default: T) -> T:
        stamps = self._stamps
        for place in range(max(0, len(stamps) - 1 - self.holds_back), len(stamps)):
            known, stamp = stamps[place]
            if known == pts:  # the first of several that have the same time, as they come in this order
                del stamps[place]
                return stamp
        for known, stamp in reversed(stamps):
            if known == pts:
                return stamp
        return default


def another_context(stream: VideoStream, hwaccel: HWAccel | None) -> VideoCodecContext:
    """A decoder for the same stream, which knows as much of it as the stream's own did at first."""
    own = stream.codec_context
    made = cast("VideoCodecContext", CodecContext.create(own.codec, "r", hwaccel))
    made.extradata = own.extradata
    made.codec_tag = own.codec_tag
    if own.width and own.height:
        made.width, made.height = own.width, own.height
    return made


class _Prompt:
    """Looks whether frames of H.264 are reordered, in the order in which they are decoded.

    Cameras that have no B-frames may still say that frames can be reordered, and FFmpeg takes their word: it
    holds back one or two frames for nothing. Without that word it holds back what it sees to be needed.
    """

    def __init__(self, known: list[bytes]) -> None:
        self._sets = known  # the latest parameter sets
        self._count = 0  # of packets, none of them reordered
        self._newest: int | None = None
        self._reordered = False
        self.active = False  # B-frames are not waited for

    def reset(self) -> None:
        """The next packet does not follow the last."""
        self._newest = None

    def look(self, packet: VideoPacket, depth: int) -> bool:
        """Is this one to be rewritten? `depth` is what the decoder holds back."""
        sets, slice_ = nal.opening(bytes(packet), nal.H264, 0) if packet.is_keyframe else ([], b"")
        idr = bool(slice_) and slice_[0] & 0x1F in nal.H264.keys
        if idr and sets and sets != self._sets:  # it may be another stream from here on
            self._sets, self._count, self._reordered, self.active = sets, 0, False, False
            self._newest = None
        if packet.pts is not None:
            self._reordered = self._reordered or (self._newest is not None and packet.pts < self._newest)
            self._newest = packet.pts
            self._count += 1
        if not idr:
            return False  # what follows a recovery point may need what was before
        enough = self._count > _IN_ORDER and not self._reordered
        self.active = enough and (self.active or depth > 0)
        return self.active

    def rewritten(self, packet: VideoPacket) -> VideoPacket:
        """The key frame with such parameter sets before it."""
        sets = [without_reordering(one) or one if one[0] & 0x1F == 7 else one for one in self._sets]
        data = bytes(packet)
        slices = [
            data[begin:end] for begin, end in nal.units(data, 0) if data[begin] & 0x1F not in nal.H264.sets
        ]
        whole = nal.annexb([*sets, *slices])
        made = cast("VideoPacket", Packet(len(whole)))
        made.update(whole)
        made.pts, made.dts = packet.pts, packet.dts
        made.is_keyframe, made.duration = True, packet.duration
        if packet.time_base is not None:
            made.time_base = packet.time_base
        return made
