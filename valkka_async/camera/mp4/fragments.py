# SPDX-License-Identifier: MIT
"""Packets -> fragmented MP4, one fragment for each, never re-encoded.

PyAV's MP4 muxer writes the init segment (ftyp and moov), because FFmpeg knows best what parameter sets mean.
It does not write the fragments: with frag_every_frame it holds each frame back until the next one comes, and
PyAV has no way to flush it (mux() takes packets only); it derives each decode time from the durations
before it, and refuses times that do not rise. A fragment of one sample is 112 bytes and the packet, whose
start codes become lengths; made here it leaves with its packet. The times are timeline.py's. Packets of AV1,
VP9, MPEG-4 and Motion JPEG have neither start codes nor parameter sets of their own: they go in as they are.

Fragments are cut by the picture, and leave with it. Sound goes in the first one that ends after it begins.
"""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Literal, NamedTuple, TypedDict

import av
from av.video.stream import VideoStream

from valkka_async.camera.mp4 import nal
from valkka_async.camera.mp4 import sound as sounds
from valkka_async.camera.mp4.boxes import CARRIED, codec_string, fragment
from valkka_async.camera.mp4.sound import SoundFormat
from valkka_async.camera.mp4.soundqueue import SoundQueue
from valkka_async.camera.mp4.timeline import TIMESCALE, Timeline
from valkka_async.camera.source.packet import VideoPacket
from valkka_async.camera.source.rational import Rational, fraction
from valkka_async.camera.source.source import codec_name
from valkka_async.errors import CameraFormatError

__all__ = ["TIME_BASE", "Fragment", "Muxer", "Timeline", "codec_string"]

TIME_BASE = Fraction(1, TIMESCALE)

_FORMATS = {"h264": None, "hevc": "hvc1"}  # FFmpeg's name: the sample entry, where its default will not do
_FRAME = TIMESCALE // 25  # if the stream does not say how long a frame takes
_MOVFLAGS = "empty_moov+default_base_moof+skip_trailer"


_DELIMITER = b"\x12\0"  # between AV1's access units, and not in MP4


def opens(stream: VideoStream, packet: VideoPacket) -> bool:
    """Can a Muxer begin with it? True as well for a codec that it does not take, which it says."""
    codec = stream.codec_context.codec
    return packet.is_keyframe or codec.intra_only or codec.canonical_name not in CARRIED


class About(TypedDict):
    """The arguments of publish() that describe a fragment."""

    key: bool
    format: Literal["fmp4"]
    timestamp_ns: int
    pts: int
    dts: int
    duration: int
    time_base: Fraction


class Fragment(NamedTuple):
    """moof and mdat of one packet. Its times are those in the boxes, on the output's timeline: not the
    camera's."""

    data: bytes
    key: bool
    pts: int
    dts: int  # rises strictly from fragment to fragment of a timeline
    duration: int  # an estimate: see timeline.py
    time_base: Fraction
    timestamp_ns: int

    def about(self) -> About:
        return {
            "key": self.key,
            "format": "fmp4",
            "timestamp_ns": self.timestamp_ns,
            "pts": self.pts,
            "dts": self.dts,
            "duration": self.duration,
            "time_base": self.time_base,
        }


class Muxer:
    """Muxes one stream, from its first key frame on. Belongs to the thread that reads the packets.

        if muxer is None or not muxer.fits(packet):
            muxer = Muxer(stream, timeline)
        for fragment in muxer.mux(packet, arrival_ns):
            ... muxer.init_segment, fragment.data ...

    Muxers that follow each other on one `timeline` make one stream whose times rise, with a new init segment
    where the parameter sets have changed. `sound`: there is a track for it. Raises CameraFormatError for a
    codec that MP4 does not carry here.
    """

    def __init__(
        self, stream: VideoStream, timeline: Timeline | None = None, sound: SoundFormat | None = None
    ) -> None:
        context = stream.codec_context
        self._name = context.codec.canonical_name
        if self._name not in CARRIED:
            raise CameraFormatError(
                f"fragmented MP4 does not carry {codec_name(stream)} here: choose another format for this "
                "output, or have the camera send H.264"
            )
        self._codec = nal.CODECS.get(self._name, nal.H264)
        self._plain = self._name not in nal.CODECS  # no units to be told apart
        self._intra = context.codec.intra_only
        self._stream = stream
        self._timeline = timeline or Timeline()
        self._sound = sound
        self._base = fraction(stream.time_base) or TIME_BASE
        self._rate = fraction(stream.average_rate or stream.guessed_rate)
        self._use(b"" if self._plain else context.extradata or b"")
        self._sets: list[bytes] = []  # those in the init segment
        self._strip = True
        self._init_segment = b""

    @property
    def init_segment(self) -> bytes:
        """ftyp and moov; b"" before the first fragment."""
        return self._init_segment

    def fits(self, packet: VideoPacket, sound: SoundFormat | None = None) -> bool:
        """Does the init segment hold for it, and for sound like this? False when it brings other parameter
        sets, as a key frame does after the camera was given another resolution: go on with a new Muxer."""
        if not self._init_segment or not (packet.is_keyframe or self._intra):
            return True
        if sound != self._sound:
            return False
        if self._plain:
            return True
        if packet.has_sidedata("new_extradata"):
            extradata = bytes(packet.get_sidedata("new_extradata"))
            if any(unit not in self._sets for unit in nal.sets_in_extradata(extradata, self._codec)):
                return False
        sets = nal.opening(bytes(packet), self._codec, self._lengths).sets
        return all(unit in self._sets for unit in sets)

    def mux(
        self,
        packet: VideoPacket,
        timestamp_ns: int,
        seconds: float | None = None,
        queue: SoundQueue | None = None,
    ) -> list[Fragment]:
        """The packet's fragment, at its own times or, where these are not to be trusted, at `seconds`, with
        what is due of the sound in `queue`. [] for a packet without a slice, and for all before the first key
        frame whose parameter sets are known."""
        began = bool(self._init_segment)
        payload, key = bytes(packet), packet.is_keyframe or self._intra
        if not self._init_segment and not (key and self._begin(packet, payload)):
            return []
        if self._plain:
            payload = payload.removeprefix(_DELIMITER) if self._name == "av1" else payload
            parts, size = [payload], len(payload)
        else:
            parts, size = self._sample(payload, key)
        if not size:
            return []
        base = packet.time_base or self._base
        at: tuple[int | None, int | None] = _ticks(packet.pts, base), _ticks(packet.dts, base)
        if seconds is not None:
            at = None, round(seconds * TIMESCALE)
        decode, shown, duration = self._timeline.place(*at)
        about = self._timeline.next_sequence(), decode, shown - decode, duration, key, size
        pieces = []
        if queue is not None and self._sound is not None:
            if not began:
                queue.begin(shown)
            pieces = queue.due(self._sound, shown + duration, self._timeline.offset)
        if pieces:
            parts += [piece.data for piece in pieces]
            data = b"".join([sounds.fragment(*about, pieces), *parts])
        else:
            data = b"".join([fragment(*about), *parts])
        return [Fragment(data, key, shown, decode, duration, TIME_BASE, timestamp_ns)]

    def _use(self, extradata: bytes) -> None:
        self._lengths = nal.length_size(extradata, self._codec)
        self._known = nal.sets_in_extradata(extradata, self._codec)

    def _begin(self, packet: VideoPacket, data: bytes) -> bool:
        """Make the init segment for a key frame. False: it cannot be made from this one."""
        if self._plain:
            self._init_segment, reorder = self._with_sound(_plain_init_segment(self._stream)), 0
            self._begin_timeline(packet, reorder)
            return True
        if packet.has_sidedata("new_extradata"):
            self._use(bytes(packet.get_sidedata("new_extradata")))
        sets, slice_ = nal.opening(data, self._codec, self._lengths)
        if not slice_:
            return False
        # The packet's own, which are what it was coded with; for each type that it lacks, the stream's.
        chosen = []
        for kind in self._codec.sets:
            of_kind = [unit for unit in sets if self._kind(unit) == kind]
            chosen += of_kind or [unit for unit in self._known if self._kind(unit) == kind]
        chosen = list(dict.fromkeys(chosen))  # some cameras say all twice
        made = _init_segment(self._name, nal.annexb([*chosen, slice_]))
        if made is None:
            return False
        self._init_segment, reorder = self._with_sound(made[0]), made[1]
        self._sets = chosen
        self._begin_timeline(packet, reorder)
        return True

    def _with_sound(self, init_segment: bytes) -> bytes:
        return init_segment if self._sound is None else sounds.with_sound(init_segment, self._sound)

    def _begin_timeline(self, packet: VideoPacket, reorder: int) -> None:
        step = _FRAME
        if packet.duration:
            step = _ticks(packet.duration, packet.time_base or self._base) or _FRAME
        elif self._rate:
            step = int(TIMESCALE / self._rate)
        self._timeline.begin(min(step, TIMESCALE), reorder)

    def _kind(self, unit: bytes) -> int:
        return unit[0] >> self._codec.shift & self._codec.mask

    def _sample(self, data: bytes, key: bool) -> tuple[list[bytes], int]:
        """The packet as MP4 has it, in parts, and its size: each unit behind its length, and without the
        parameter sets that are in the init segment."""
        if self._lengths == 4 and not key:
            return [data], len(data)
        parts: list[bytes] = []
        size = 0
        shift, mask, sets = self._codec[:3]
        for begin, end in nal.units(data, self._lengths):
            unit = data[begin:end]
            if unit[0] >> shift & mask in sets:
                # One that came without a key frame is not in the init segment. From then on what the
                # decoder knows may not be what that says.
                self._strip = self._strip and unit.rstrip(b"\x00") in self._sets
                if self._strip:
                    continue
            parts += ((end - begin).to_bytes(4, "big"), unit)
            size += end - begin + 4
        return parts, size


def _ticks(time: int | None, base: Rational) -> int | None:
    if time is None:
        return None
    n, d = base.numerator * TIMESCALE, base.denominator
    return time if n == d else (2 * time * n + d) // (2 * d)


def _init_segment(codec: str, opening: bytes) -> tuple[bytes, int] | None:
    """ftyp and moov for a stream that opens like this, and by how many frames it is reordered.

    None if FFmpeg cannot tell the size of the frames: damaged on the way, most likely.
    """
    try:
        with av.open(io.BytesIO(opening), format=codec) as source:
            stream = source.streams.video[0]
            if not stream.codec_context.width:
                return None
            return _written(stream, _FORMATS[codec]), stream.codec_context.reorder_depth
    except (av.error.FFmpegError, IndexError):
        return None


def _plain_init_segment(stream: VideoStream) -> bytes:
    """The same for a stream whose packets do not say how they are to be decoded."""
    name = stream.codec_context.codec.canonical_name
    if name in ("av1", "mpeg4") and not stream.codec_context.extradata:
        raise CameraFormatError(f"the source does not say how its {name} is coded, which MP4 needs")
    try:
        return _written(stream, None)
    except (av.error.FFmpegError, ValueError):
        raise CameraFormatError(f"FFmpeg cannot describe this {name} in MP4") from None


def _written(stream: VideoStream, entry: str | None) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4", options={"movflags": _MOVFLAGS, "fflags": "+bitexact"}) as sink:
        track = sink.add_stream_from_template(stream, opaque=True)  # no encoder is needed
        track.time_base = TIME_BASE
        if entry:
            track.codec_tag = entry
        sink.start_encoding()
    return out.getvalue()
