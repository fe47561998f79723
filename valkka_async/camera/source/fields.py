# SPDX-License-Identifier: MIT
"""Fields of H.264: which two are one frame, where a camera codes them as pictures of their own (PAFF).

Each field is an access unit of its own, and FFmpeg's parser hands out one after the other. A frame is both:
MP4 wants them in one sample (ISO/IEC 14496-15, 5.2.2), and half a key frame is no frame.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple, cast

from av.packet import Packet
from av.video.stream import VideoStream

from valkka_async.camera.mp4 import nal, sps
from valkka_async.camera.source import _rtp
from valkka_async.camera.source.packet import VideoPacket
from valkka_async.camera.source.rational import fraction

_SPS = nal.H264.sets[0]
_IDR = nal.H264.keys[0]
WITH_HEADER = (1, 2, 5)  # slices; other parts of one (3, 4) have none
_HEAD = 32  # bytes that have all of a slice's header that is read here


class Field(NamedTuple):
    """Which one a slice is of."""

    number: int  # frame_num
    bottom: bool
    idr: bool = False

    def completes(self, other: Field | None) -> bool:
        """Are the two one frame, of which this is the second field? That is no IDR picture (7.4.1.2.4)."""
        return not self.idr and self._fits(other)

    def mistaken(self, other: Field | None) -> bool:
        """Would FFmpeg take the two for one frame, although they are not?"""
        return self.idr and self._fits(other)

    def _fits(self, other: Field | None) -> bool:
        return other is not None and self.number == other.number and self.bottom != other.bottom


class Slices:
    """Reads parameter sets, and the headers of slices where those say that there may be fields."""

    def __init__(self, stream: VideoStream) -> None:
        extradata = stream.codec_context.extradata or b""
        self.lengths = nal.length_size(extradata, nal.H264)
        self._frames: dict[int, sps.Frames] = {}
        self._chosen: dict[int, int] = {}  # by PPS: its SPS
        self.may_be = False  # fields
        for unit in nal.sets_in_extradata(extradata, nal.H264):
            self.note(unit)

    def note(self, unit: bytes) -> None:
        """A parameter set."""
        if unit[0] & 0x1F == _SPS:
            if (said := sps.frames(unit)) is not None:
                self._frames[said.id] = said
                self.may_be = any(one.fields for one in self._frames.values())
            return
        bits = sps.Bits(unit[1:_HEAD])
        try:
            self._chosen[bits.number()] = bits.number()
        except ValueError:
            pass  # damaged

    def field(self, unit: bytes) -> Field | None:
        """That of a slice. None: it is of a frame that is one picture, or nobody knows."""
        bits = sps.Bits(unit[1:_HEAD].replace(b"\0\0\3", b"\0\0"))
        try:
            bits.number()  # first_mb_in_slice
            bits.number()  # slice_type
            said = self._frames.get(self._chosen.get(bits.number(), -1))
        except ValueError:
            return None
        if said is None or not said.fields:
            return None
        if said.colour_planes:
            bits.take(2)
        number = bits.take(said.number_bits)
        return Field(number, bool(bits.take(1)), unit[0] & 0x1F == _IDR) if bits.take(1) else None


class Pairing:
    """Goes from slice to slice of one access unit."""

    def __init__(self) -> None:
        self.half: Field | None = None  # the field whose other one has not come
        self._newest: Field | None = None

    def take(self, field: Field | None) -> None:
        """That of the next slice."""
        if field is None or field.completes(self.half):
            self.half = None
        elif field != self._newest:
            self.half = field
        self._newest = field


class Pairs:
    """Joins the packets of H.264 that are fields of one frame. `step` gives the next packet of the picture.

    A first field is held until its second comes, or what shows that there is none. Other packets are not
    looked into, and go on at once."""

    def __init__(self, stream: VideoStream, step: Callable[[], VideoPacket | None]) -> None:
        self._stream, self._step = stream, step
        self._base = fraction(stream.time_base)
        self._slices = Slices(stream)
        self._held: VideoPacket | None = None
        self._half: Field | None = None
        self._next: list[VideoPacket | None] = []

    def next(self) -> VideoPacket | None:
        """The next frame; a packet without data, and then None, at the end."""
        while True:
            packet = self._next.pop() if self._next else self._step()
            if packet is None or not packet.size:
                fields: list[Field | None] = []
            else:
                fields = self._fields(packet)
            held = self._held
            if held is not None:
                self._held = None
                first = fields[0] if fields else None
                if packet is not None and first is not None and first.completes(self._half):
                    return self._frame(held, packet)
                self._next.append(packet)
                if first is not None and first.mistaken(self._half):
                    continue  # its own other one was lost
                return held
            pairing = Pairing()
            for field in fields:
                pairing.take(field)
            if packet is None or pairing.half is None:
                return packet
            self._held, self._half = packet, pairing.half

    def _frame(self, first: VideoPacket, second: VideoPacket) -> VideoPacket:
        frame = joined(self._stream, self._base, [first, second], first)
        frame.pts, frame.dts, frame.is_keyframe = first.pts, first.dts, first.is_keyframe
        frame.duration = (first.duration or 0) + (second.duration or 0)
        return frame

    def _fields(self, packet: VideoPacket) -> list[Field | None]:
        slices = self._slices
        if not (slices.may_be or packet.is_keyframe):
            return []
        data = bytes(packet)
        found = []
        for begin, end in nal.units(data, slices.lengths):
            kind = data[begin] & 0x1F
            if kind in nal.H264.sets:
                slices.note(data[begin:end])
            elif kind in WITH_HEADER and slices.may_be:
                found.append(slices.field(data[begin : min(end, begin + _HEAD)]))
        return found


def joined(
    stream: VideoStream, base: Fraction | None, parts: list[VideoPacket], first: VideoPacket
) -> VideoPacket:
    """Packets of a stream, whose time base is `base`, in one, with what else is known of `first`; when it is,
    and whether it is a key frame, is the caller's to say."""
    whole = _rtp.joined(cast("Callable[[int], VideoPacket]", Packet), parts)
    whole.stream = stream
    if base is not None:
        whole.time_base = base
    for known in first.iter_sidedata():  # of RTP: what the sender says of its time
        whole.set_sidedata(known, move=True)
    return whole
