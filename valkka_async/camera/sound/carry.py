# SPDX-License-Identifier: MIT
"""Packets of sound -> samples of MP4: AAC and Opus as they come, all else as AAC."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream

from valkka_async.camera.mp4.sound import SoundFormat
from valkka_async.camera.sound import headers
from valkka_async.camera.sound.step import Even
from valkka_async.camera.source.packet import SoundPacket

_FRAME = 1024  # samples in a packet of AAC
_SOONER = 16000  # samples per second at least: at 8000 a packet lasts 128 ms, and leaves as late
_BITS = {1: 64_000, 2: 128_000}  # per second, by channels; of speech at low rates a half
_SILENCE = 1.0  # s: a shorter gap is filled with it


class Sample(NamedTuple):
    """A packet of sound. Times in seconds, on the axis of the picture."""

    at: float
    duration: float
    data: bytes


class Carrier(ABC):
    """Makes samples of packets. `format` is None until it is known."""

    format: SoundFormat | None = None

    @abstractmethod
    def take(self, packet: SoundPacket, at: float) -> tuple[list[Sample], float]:
        """The samples that are ready with a packet, which begins at `at`, and how long it lasts. Raises
        FFmpegError."""


class AsItComes(Carrier):
    """AAC and Opus."""

    def __init__(self, stream: AudioStream) -> None:
        context = stream.codec_context
        self._name = context.codec.canonical_name
        self._even = Even()
        self._seconds = 0.0  # that a packet of AAC lasts
        extradata = bytes(context.extradata or b"")
        if self._name == "opus":
            channels = extradata[9] if len(extradata) >= 19 else context.channels
            self.format = SoundFormat("opus", 48000, channels, extradata)
        else:
            config = extradata
            if not extradata and context.sample_rate in headers.RATES and 0 < context.channels <= 8:
                config = headers.make_aac_config(context.sample_rate, context.channels)
            self._use(config)  # in MPEG-TS, until a packet says it

    def _use(self, config: bytes) -> None:
        known = headers.aac_config(config)
        if known is not None and (self.format is None or self.format.config != config):
            self.format = SoundFormat("aac", known.rate, known.channels, config)
            self._seconds = known.samples / known.rate

    def take(self, packet: SoundPacket, at: float) -> tuple[list[Sample], float]:
        data = bytes(packet)
        if self._name == "opus":
            seconds = headers.opus_seconds(data)
        else:
            if packet.has_sidedata("new_extradata"):
                self._use(bytes(packet.get_sidedata("new_extradata")))
            if (header := headers.adts(data)) is not None:
                self._use(header[0])
                data = data[header[1] :]
            seconds = self._seconds
        if not seconds or not data or self.format is None:
            return [], seconds
        place = self._even.place(at, seconds)
        return ([] if place is None else [Sample(place, seconds, data)]), seconds


class AsAac(Carrier):
    """All else that this FFmpeg decodes. Raises FFmpegError where there is no such encoder."""

    def __init__(self, stream: AudioStream) -> None:
        self._decoder = stream.codec_context
        rate, channels = self._decoder.sample_rate, min(2, self._decoder.channels or 1)
        if rate <= _SOONER:
            rate = _SOONER
        elif rate not in headers.RATES:
            rate = 48000
        self.format = SoundFormat("aac", rate, channels, headers.make_aac_config(rate, channels))
        self._rate, self._layout = rate, "stereo" if channels == 2 else "mono"
        self._even = Even()
        self._encoder: AudioCodecContext | None = None
        self._resampler: AudioResampler | None = None
        self._kind: object = None  # of the frames that it takes
        self._fifo = AudioFifo()
        self._given = 0  # samples to the encoder and the fifo
        self._encoded = 0  # samples to the encoder
        self._places: deque[tuple[int, float]] = deque()  # (number of a sample, when it is)

    def take(self, packet: SoundPacket, at: float) -> tuple[list[Sample], float]:
        seconds = 0.0
        for frame in packet.decode():
            lasts = frame.samples / frame.sample_rate
            self._put(frame, at + seconds, lasts)
            seconds += lasts
        return self._encode(), seconds

    def _put(self, frame: AudioFrame, at: float, lasts: float) -> None:
        due = self._even.next
        place = self._even.place(at, lasts)
        if place is None:
            return
        if due is not None and place - due > lasts / 2:
            self._leave_out(place - due)
        self._places.append((self._given, place))
        kind = frame.format.name, frame.layout.name, frame.sample_rate
        if self._resampler is None or kind != self._kind:  # in MPEG-TS sound may change in the middle
            self._kind = kind
            self._resampler = AudioResampler("fltp", self._layout, self._rate)
        frame.pts = None
        for one in self._resampler.resample(frame):
            self._write(one)

    def _write(self, frame: AudioFrame) -> None:
        frame.pts = None
        self._given += frame.samples
        self._fifo.write(frame)

    def _leave_out(self, seconds: float) -> None:
        """Sound is missing: silence, up to the end of the packet if there is too much of that."""
        count = round(seconds * self._rate)
        if seconds > _SILENCE:
            count = -self._given % _FRAME
        if count > 0:
            silence = np.zeros((2 if self._layout == "stereo" else 1, count), np.float32)
            frame = AudioFrame.from_ndarray(silence, format="fltp", layout=self._layout)
            frame.sample_rate = self._rate
            self._write(frame)

    def _encode(self) -> list[Sample]:
        samples = []
        while self._fifo.samples >= _FRAME:
            frame = self._fifo.read(_FRAME)
            assert frame is not None
            encoder = self._encoder or self._open()
            frame.pts, frame.time_base = self._encoded, Fraction(1, self._rate)
            self._encoded += _FRAME
            for packet in encoder.encode(frame):
                begin = packet.pts or 0  # the first is that of what the encoder needs before it begins
                samples.append(Sample(self._when(begin), _FRAME / self._rate, bytes(packet)))
        return samples

    def _open(self) -> AudioCodecContext:
        encoder = av.CodecContext.create("aac", "w")
        encoder.sample_rate, encoder.layout, encoder.format = self._rate, self._layout, "fltp"
        bits = _BITS[2 if self._layout == "stereo" else 1]
        encoder.bit_rate = bits if self._rate > 2 * _SOONER else bits // 2
        encoder.options = {"aac_coder": "fast"}  # half the CPU of the other one
        encoder.thread_count, encoder.time_base = 1, Fraction(1, self._rate)
        self._encoder = encoder
        return encoder

    def _when(self, number: int) -> float:
        """When the sample of this number is."""
        while len(self._places) > 1 and self._places[1][0] <= number:
            self._places.popleft()
        known, seconds = self._places[0]
        return seconds + (number - known) / self._rate


def carrier(stream: AudioStream) -> Carrier:
    """What makes samples of a stream's packets. Raises FFmpegError, ValueError."""
    name = stream.codec_context.codec.canonical_name
    if name == "aac" or (name == "opus" and stream.codec_context.channels <= 2):
        return AsItComes(stream)
    return AsAac(stream)
