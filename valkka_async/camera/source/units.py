# SPDX-License-Identifier: MIT
"""Access units of H.264 and H.265 from the packets of RTP, each complete when its last packet is here.

FFmpeg's parser, which does this as a rule, hands a unit out when it sees the next one: a frame late. Without
it (`UNPARSED`) FFmpeg gives what each packet of RTP has: a unit of the codec's (NAL), several, or a piece of
one, with the packet's time. What belongs together is told here as the parser does, from the bytes. That it is
complete is told from the marker of its last packet (wire.py), once the camera was seen to set that as it
should; else, as ever, from the beginning of the next one.

Where there is sound, too, FFmpeg moves the times of both when a report of the sender comes (RTCP), also
between the packets of one frame. Here times go on by RTP's own, as far as wire.py sees them.
"""

from __future__ import annotations

import bisect
import itertools
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from av.video.stream import VideoStream

from valkka_async.camera.mp4 import nal
from valkka_async.camera.source import _rtp
from valkka_async.camera.source.fields import WITH_HEADER, Field, Pairing, Slices, joined
from valkka_async.camera.source.geometry import Geometry
from valkka_async.camera.source.packet import AnyPacket, SoundPacket, VideoPacket
from valkka_async.camera.source.rational import fraction
from valkka_async.camera.source.wire import Wire

UNPARSED = "+noparse+nofillin"  # FFmpeg's fflags
UNPARSED_FLAGS = 0x30  # the same in a container's flags: AVFMT_FLAG_NOPARSE, _NOFILLIN

_TRUSTED = 2  # so many markers where a frame ended, a key frame once: then they are believed ...
_DOUBTED = 250  # ... and again that much later, after one that was elsewhere ...
_MORE = 4  # ... and so many times later, each time they were believed before
_SETS = 8  # that are remembered
_MOST = 64 << 20  # bytes of one access unit: a stream whose frames do not end is cut there
_EACH = 1024  # more for each packet
_BEFORE = 256  # parts before the slices of a unit, where they are of other times
_DEEPEST = 16  # frames by which H.264 and H.265 can be reordered
_SAME = 450  # 5 ms: times that are no further apart may be those of one unit, moved by a report
_JUMP = 10 * 90000  # between the times of two units, beyond which the clock was set
_FASTEST = 1000  # frames per second; FFmpeg says 90000 where it does not know


class _Kind(NamedTuple):
    """What a part has."""

    piece: bool  # it goes on with the unit (NAL) of the part before
    slices: bool
    begins: bool  # the first slice of a picture
    after: bool  # what ends an access unit, and no slice
    key: bool
    fields: tuple[Field | None, ...]  # of its slices; empty where there are none but whole frames

    def going_on(self) -> _Kind:
        """That of a part which goes on with one of this kind."""
        return self._replace(piece=True, begins=False, fields=self.fields[-1:])


class _Part(NamedTuple):
    """What FFmpeg gave at once, and the pieces of the same unit (NAL) that came behind it."""

    packets: list[VideoPacket]
    arrival_ns: int
    kind: _Kind
    pts: int | None


class Markers:
    """Whether a camera marks the ends of its frames and nothing else; over all of its connections."""

    def __init__(self) -> None:
        self._right = 0
        self._key = False  # one of them was a key frame's, which may have slices where others have one
        self._doubt = _DOUBTED
        self._sets: list[bytes] = []
        self.trusted = False

    def judge(self, right: bool, key: bool) -> None:
        """One was where it should be, or was not. `key`: that of a key frame."""
        if not right and self.trusted:
            self._doubt = min(_MORE * self._doubt, 1 << 20)
        self._right = min(self._right + 1, _TRUSTED) if right else -self._doubt
        self._key = right and (self._key or key)
        self.trusted = self._key and self._right >= _TRUSTED

    def undivided(self) -> None:
        """A key frame was one slice, of which nobody saw whether it was marked: it has no place for a marker
        but its end."""
        self._key = True

    def note(self, unit: bytes) -> None:
        """A parameter set (SPS). With another one the camera may mark otherwise."""
        if unit in self._sets:
            return
        if self._sets:
            self._right, self._key, self.trusted = min(self._right, 0), False, False
        self._sets = [unit, *self._sets[: _SETS - 1]]


def _ignore(packet: SoundPacket) -> None:
    pass


class _Times:
    """The stream's times, which go on by RTP's own where these are known."""

    def __init__(self) -> None:
        self._newest: int | None = None
        self._raw = 0  # RTP's time of the newest
        self._moved = 0  # from FFmpeg's times to ours

    def of(self, pts: int | None, raw: int | None) -> int | None:
        """That of the next packet."""
        if pts is None:
            return None
        if raw is not None:
            if self._newest is not None:
                step = (raw - self._raw) & 0xFFFFFFFF
                step -= (step & 1 << 31) << 1
                self._moved = self._newest + step - pts if abs(step) < _JUMP else self._moved
            self._raw, self._newest = raw, pts + self._moved
        return pts + self._moved


class Units:
    """Puts access units together. `step` is a call into FFmpeg that gives its next packet, and `aside` gets
    those of sound. `moving`: FFmpeg may move the times of all."""

    def __init__(
        self,
        stream: VideoStream,
        step: Callable[[], AnyPacket | None],
        wire: Wire,
        markers: Markers,
        aside: Callable[[SoundPacket], None] = _ignore,
        *,
        moving: bool = False,
    ) -> None:
        self.early = False  # the newest unit was complete with its last packet
        self.arrival_ns = 0  # when the first packet of the newest unit came
        self._stream, self._base = stream, fraction(stream.time_base)
        self._codec = nal.CODECS[stream.codec_context.codec.canonical_name]
        self._alone = _alone(self._codec)
        self._step = step
        self._index = stream.index
        self._aside = aside
        self._times = _Times() if moving else None
        self._same = _SAME if moving else 0
        self._wire = wire
        self._order = _Order(stream)
        self._slices = Slices(stream) if self._codec is nal.H264 else None
        self._pairing = Pairing()  # of the unit that is put together ...
        self._paired = False  # ... which has fields
        self._parts: list[_Part] = []
        self._body = 0  # so many of them are of this unit; the others may be the next one's
        self._held = 0  # bytes that the packets in them take
        self._pictures = False  # the first slice of a picture is among them
        self._pts: int | None = None  # of the newest part
        self._ended: int | None = None  # the time of the unit that was handed out last, if by its marker
        self._markers = markers
        self._marked = False  # the newest part was, and nothing has come yet that tells whether rightly
        self._key = False  # that was in a key frame, which had no other
        self._wrong = False  # one of this unit was
        self._end: VideoPacket | None = None  # a packet without data and time, which is as a rule the last
        self._ready: deque[tuple[VideoPacket, int, bool]] = deque()
        for unit in nal.sets_in_extradata(stream.codec_context.extradata or b"", self._codec):
            self._note(unit)

    def next(self) -> VideoPacket | None:
        """The next access unit; a packet without data, and then None, at the end."""
        read: Any
        while not self._ready:
            if self._end is None:
                read, marked, raw = self._wire.read(self._step)
            else:  # nothing is to be waited for
                read, marked, raw = self._step(), None, None
            if read is not None and read.stream_index != self._index:
                self._aside(cast("SoundPacket", read))
                continue
            packet: VideoPacket | None = read
            if packet is None:
                self._close(early=False)
                if self._end is not None:
                    self._ready.append((self._end, time.time_ns(), self.early))
                    self._end = None
                elif not self._ready:
                    return None
            elif packet.size:
                self._end = None
                pts = packet.pts if self._times is None else self._times.of(packet.pts, raw)
                self._take(packet, pts, bool(marked))
                if 0 < len(self._parts) == self._body and not (self._marked or self._ready):
                    packets = self._parts[-1].packets
                    before = len(packets)
                    marked = self._wire.pieces(self._step, packet, packets)
                    self._held += _weight(packets[before:])
                    if marked:
                        self._mark()
            elif packet.pts is None:  # else a camera has sent several units (NAL) in one packet, but none
                self._end = packet
        packet, self.arrival_ns, self.early = self._ready.popleft()
        return packet

    def _is(self, pts: int | None, other: int | None) -> bool:
        """Are these the times of one unit?"""
        return pts == other or (pts is not None and other is not None and abs(pts - other) < self._same)

    def _take(self, packet: VideoPacket, pts: int | None, marked: bool) -> None:
        parts = self._parts
        lead = _rtp.lead(packet, self._codec.header)
        # Most are one of many pieces, and what is around such a one has been looked at.
        if (
            lead != _rtp.NONE
            or pts != self._pts
            or self._marked
            or not 0 < len(parts) == self._body
            or self._held > _MOST
        ):
            kind = self._look(packet, lead)
            if not self._belongs(kind, pts):
                return
            self._pts = pts
            self._parts.append(_Part([packet], time.time_ns(), kind, pts))
            if kind.slices or kind.after:
                self._body = len(self._parts)
                self._pictures = self._pictures or kind.begins
            for field in kind.fields:
                self._pairing.take(field)
                self._paired = True
        else:
            parts[-1].packets.append(packet)
        self._held += packet.size + _EACH
        self._marked = False
        if marked and self._body:
            self._mark()

    def _mark(self) -> None:
        """The newest part has the marker."""
        self._marked = True
        if not self._markers.trusted:
            self._key = not self._wrong and any([part.kind.key for part in self._parts])
        elif self._pairing.half is None:
            self._ended = self._pts
            self._close(early=True)

    def _belongs(self, kind: _Kind, pts: int | None) -> bool:
        """Hand out what this is the end of. Does it belong to a unit that can be put together?"""
        if kind.begins and not self._parts:  # as a rule
            if self._marked:
                self._judge(True, kind)
            return True
        other = not self._is(pts, self._pts)
        if self._marked:
            self._judge(other, kind)
        over = other or (kind.begins and self._pictures)
        if self._body and ((over and not self._goes_on(kind)) or self._held > _MOST):
            if kind.fields and kind.fields[0] is not None and kind.fields[0].mistaken(self._pairing.half):
                self._keep(self._parts[self._body :])  # a field whose other one was lost
                self._body = 0
            self._close(early=False)
        if not self._body:
            # Of a unit that was thought to be complete, or whose beginning was lost.
            gone = self._is(pts, self._ended) and kind.slices and not kind.begins
            if gone or kind.after or (kind.piece and (other or not self._parts)):
                return False
            if self._held > _MOST:
                self._keep([])
            elif other and self._parts:
                self._keep([part for part in self._parts if not part.kind.piece][-_BEFORE:])
        return True

    def _keep(self, parts: list[_Part]) -> None:
        """These alone."""
        self._parts, self._held = parts, sum([_weight(part.packets) for part in parts]) if parts else 0

    def _goes_on(self, kind: _Kind) -> bool:
        """Is the unit that is here the first of two fields, and this of the second, or before it?"""
        half = self._pairing.half
        if half is None or kind.after:
            return False
        if not kind.slices:
            return True
        first = kind.fields[0] if kind.fields else None
        return first is not None and first.completes(half)

    def _judge(self, other: bool, kind: _Kind) -> None:
        """This comes behind a marker. Was that the end of a unit? Parameter sets do not tell."""
        right = other or kind.begins
        if right or kind.slices:
            self._marked, self._wrong = False, not right
            if not (right and self._markers.trusted):
                self._markers.judge(right, self._key)

    def _look(self, packet: VideoPacket, lead: int) -> _Kind:
        if lead == _rtp.NONE:
            before = self._parts[-1].kind if self._parts else _NOTHING
            return before.going_on()
        codec = self._codec
        if lead != _rtp.MORE and not (self._slices is not None and self._slices.may_be):
            alone = self._alone[lead >> 15][(lead & 0xFF) >> codec.shift & codec.mask]
            if alone is not None:
                return alone
        data = bytes(packet)
        slices = begins = after = key = False
        fields: list[Field | None] = []
        for begin, end in nal.units(data, 0):
            kind = data[begin] >> codec.shift & codec.mask
            if kind in codec.slices:
                slices = True
                begins = begins or nal.begins_picture(data, begin, codec)
                key = key or kind in codec.keys
                if self._slices is not None and self._slices.may_be and kind in WITH_HEADER:
                    fields.append(self._slices.field(data[begin:end]))
            elif kind in codec.sets:
                self._note(data[begin:end])
            elif kind in codec.after:
                after = True
            elif kind == codec.sei:
                key = key or nal.is_recovery_point(data[begin:end], codec)
        return _Kind(False, slices, begins, after and not slices, key, tuple(fields))

    def _note(self, unit: bytes) -> None:
        """A parameter set."""
        if unit[0] >> self._codec.shift & self._codec.mask == self._codec.sps:
            self._markers.note(unit)
        if self._slices is not None:
            self._slices.note(unit)

    def _close(self, *, early: bool) -> None:
        """Hand out the unit that is here, if there is one."""
        parts, self._parts = self._parts, []
        if self._body < len(parts):
            self._parts = parts[self._body :]
            del parts[self._body :]
        self._held = sum([_weight(part.packets) for part in self._parts]) if self._parts else 0
        wrong, self._wrong = self._wrong, False
        self._body, self._pictures = 0, False
        if self._paired:
            self._pairing, self._paired = Pairing(), False
        if not parts:
            return
        first, packets = parts[0], parts[0].packets
        pts, key = first.pts, first.kind.key
        if len(parts) > 1:
            pts = next((part.pts for part in parts if part.kind.slices), None)
            first = next((part for part in parts if self._is(part.pts, pts)), first)
            packets = [packet for part in parts for packet in part.packets]
            key = any([part.kind.key for part in parts])
        if key and not (early or wrong):
            slices = [part.kind.begins for part in parts if part.kind.slices and not part.kind.piece]
            if slices == [True]:
                self._markers.undivided()
        packet = first.packets[0]
        if len(packets) > 1:
            packet = joined(self._stream, self._base, packets, packet)
        packet.pts, packet.is_keyframe = pts, key
        packet.dts, packet.duration = self._order.place(packet, pts)
        self._ready.append((packet, first.arrival_ns, early))


def _weight(packets: list[VideoPacket]) -> int:
    """What these take."""
    return sum([packet.size + _EACH for packet in packets])


_NOTHING = _Kind(False, False, False, False, False, ())


def _alone(codec: nal.Codec) -> list[list[_Kind | None]]:
    """What a part has that is one slice and no field: by the first bit behind its header, and by its kind."""
    kinds: list[list[_Kind | None]] = [[None] * (codec.mask + 1) for _ in range(2)]
    for bit, kind in itertools.product(range(2), codec.slices):
        begins = nal.begins_picture(bytes([kind << codec.shift, *[bit << 7] * codec.header]), 0, codec)
        kinds[bit][kind] = _Kind(False, True, begins, False, kind in codec.keys, ())
    return kinds


class _Order:
    """When units are to be decoded, of which is known when they are to be shown."""

    def __init__(self, stream: VideoStream) -> None:
        self._geometry = Geometry(stream)
        self._depth = stream.codec_context.reorder_depth
        self._shown: deque[int] = deque(maxlen=_DEEPEST)  # the latest, as they came
        self._waiting: list[int] = []  # those that are not yet decode times, sorted
        self._last: int | None = None  # decode time
        rate = fraction(stream.average_rate or stream.guessed_rate)
        base = fraction(stream.time_base)
        known = rate is not None and base is not None and rate < _FASTEST
        self._steps: deque[int] = deque([round(1 / (rate * base))] if known else [], maxlen=2)  # type: ignore[operator]

    def place(self, packet: VideoPacket, pts: int | None) -> tuple[int | None, int]:
        """(dts, duration) of the next one, which is shown at `pts`; a duration of 0 is not known."""
        if packet.is_keyframe and (said := self._geometry.look(packet)) is not None:
            self._depth = said.reorder
        if pts is None:
            return None, self._step()
        shown = self._shown
        if shown and abs(pts - shown[-1]) > _JUMP:
            shown.clear()
            self._waiting.clear()
            self._last = None
        if shown and (self._depth or pts < shown[-1]):
            self._depth = max(self._depth, sum([one > pts for one in shown]))
        shown.append(pts)
        dts = pts
        if self._depth or self._waiting:
            bisect.insort(self._waiting, pts)
            if len(self._waiting) <= self._depth:
                return None, self._step()
            dts = self._waiting.pop(0)
        if self._last is not None and dts > self._last:
            self._steps.append(dts - self._last)
        elif self._last is not None and self._depth:
            return None, self._step()
        self._last = dts
        return dts, self._step()

    def _step(self) -> int:
        return min(self._steps, default=0)
