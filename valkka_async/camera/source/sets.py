# SPDX-License-Identifier: MIT
"""The parameter sets of a stream of H.264 or H.265, as they are now."""

from __future__ import annotations

from typing import cast

from av.packet import Packet
from av.video.stream import VideoStream

from valkka_async.camera.mp4 import nal, sps
from valkka_async.camera.source.fields import joined
from valkka_async.camera.source.packet import VideoPacket
from valkka_async.camera.source.rational import fraction

_LEAD = 8  # bytes with which a packet begins: as far as its first unit's type
_MOST = 65535  # frames that any frame_num tells apart
_NUMBERS = {7: 32, 8: 256, 32: 16, 33: 16, 34: 64}  # by types, of which no two are the same


class ParameterSets:
    """Looks at each packet of a stream, from the first on.

    Most cameras send them with each key frame, others once, when they have changed. A decoder that begins
    later knows what the stream began with, takes the wrong ones, and shows anything. So, once they have
    changed, each key frame gets those that it lacks.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._stream, self._base = stream, fraction(stream.time_base)
        self._codec = nal.CODECS.get(stream.codec_context.codec.canonical_name)
        self._sets: dict[tuple[int, int], bytes] = {}  # the latest, by their type and number
        self._lengths = 0
        self._changed = False
        if self._codec is not None:
            self._begin(stream.codec_context.extradata or b"")
            self._changed = False

    @property
    def most_frames(self) -> int:
        """So many frames at most can be counted from one to another (frame_num), in H.264."""
        sets = [unit for (kind, _), unit in self._sets.items() if kind == nal.H264.sets[0]]
        said = [one.number_bits for one in map(sps.frames, sets) if one is not None]
        return min(_MOST, (1 << max(said)) - 1) if said and self._codec is nal.H264 else _MOST

    def complete(self, packet: VideoPacket) -> VideoPacket:
        """The same packet; or one of the same, if it is a key frame and lacks some."""
        if self._codec is None or not packet.size:
            return packet
        if self._lengths and packet.has_sidedata("new_extradata"):
            self._begin(bytes(packet.get_sidedata("new_extradata")))
        if not packet.is_keyframe and self._is_slice(bytes(memoryview(packet)[:_LEAD])):
            return packet
        own = nal.opening(bytes(packet), self._codec, self._lengths).sets
        for unit in own:
            self._note(unit)
        if not (self._changed and packet.is_keyframe) or set(own) >= set(self._sets.values()):
            return packet
        return self._with_all(packet)

    def _begin(self, extradata: bytes) -> None:
        assert self._codec is not None
        self._lengths = nal.length_size(extradata, self._codec)
        for unit in nal.sets_in_extradata(extradata, self._codec):
            self._note(unit)

    def _note(self, unit: bytes) -> None:
        assert self._codec is not None
        kind = unit[0] >> self._codec.shift & self._codec.mask
        try:
            number = _number(unit, kind, self._codec)
        except ValueError:
            return  # damaged
        if number < _NUMBERS[kind] and self._sets.get((kind, number)) != unit:
            self._sets[kind, number], self._changed = unit, True

    def _is_slice(self, lead: bytes) -> bool:
        """Does a packet that begins like this have no parameter sets, most likely?"""
        assert self._codec is not None
        at = self._lengths or lead.find(b"\1") + 1
        return at < len(lead) and lead[at] >> self._codec.shift & self._codec.mask in self._codec.slices

    def _with_all(self, packet: VideoPacket) -> VideoPacket:
        units = [self._sets[key] for key in sorted(self._sets)]  # in the order in which they need each other
        if self._lengths:
            data = b"".join([len(unit).to_bytes(self._lengths, "big") + unit for unit in units])
        else:
            data = nal.annexb(units)
        lead = cast("VideoPacket", Packet(data))
        whole = joined(self._stream, self._base, [lead, packet], packet)
        whole.pts, whole.dts, whole.duration = packet.pts, packet.dts, packet.duration
        whole.is_keyframe = True
        return whole


def _number(unit: bytes, kind: int, codec: nal.Codec) -> int:
    """That of a parameter set. ValueError: it is cut off."""
    bits = sps.Bits(unit[codec.header :].replace(b"\0\0\3", b"\0\0"))
    if kind == 7:
        bits.take(24)  # profile, and what it is constrained to; level
    elif kind == 32:
        return bits.take(4)
    elif kind == 33:
        bits.take(4)
        layers = bits.take(3)
        bits.take(1 + 88 + 8)  # 7.3.3: profile and level of all ...
        if layers:
            said = [(bits.take(1), bits.take(1)) for _ in range(8)][:layers]
            for profile, level in said:  # ... and of each sub-layer but the highest
                bits.take(88 * profile + 8 * level)
    return bits.number()
