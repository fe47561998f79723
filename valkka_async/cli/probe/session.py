# SPDX-License-Identifier: MIT
"""Opens a source as a camera does, listens, and takes notes."""

from __future__ import annotations

import contextlib
import re
import time
from typing import Any

import av
from av.video.frame import VideoFrame

from valkka_async.camera.decode import Decoder
from valkka_async.camera.meter import Meter
from valkka_async.camera.mp4.boxes import codec_string
from valkka_async.camera.mp4.fragments import Muxer
from valkka_async.camera.pace import LiveClock
from valkka_async.camera.source.packet import VideoPacket
from valkka_async.camera.source.rational import fraction
from valkka_async.camera.source.secrets import Address
from valkka_async.camera.source.sendertime import sender_time_ns
from valkka_async.camera.source.source import Source
from valkka_async.camera.spec import Transport
from valkka_async.cli.probe.findings import Findings
from valkka_async.cli.probe.times import Times
from valkka_async.errors import CameraEndedError, CameraError, CameraFormatError

_RTSP = ("rtsp", "rtsps")
_TCP = ("http", "https", "tcp", "rtmp", "rtmps")
_FRAMES_APART = 0.5  # s between key frames that are decoded to see whether they can be
_MOST_FPS = 1000  # a larger one is the clock's rate, and not the frames'
_SOUND_SECONDS = 5.0
_SILENT = 2.0  # s without a frame: such a camera would not open again either
_NOT_ENCODED = "wrapped_avframe"


class Session:
    """One connection. `run()` is a thread's work; all else may be called from another."""

    def __init__(
        self, address: Address, transport: Transport, patience: float, input_format: str | None = None
    ) -> None:
        used = "tcp" if address.scheme in _TCP else "udp" if address.scheme == "udp" else None
        self.findings = Findings(address.shown, transport if address.scheme in _RTSP else used)
        self.error: CameraError | None = None
        self._address = address
        self._transport = transport
        self._patience = patience
        self._input_format = input_format
        self.findings.input_format = input_format
        self._stopped = False
        self._source: Source | None = None  # what is open
        self._listening: Source | None = None  # the same, while packets are read
        self._first = 0.0  # monotonic; when the first packet came
        self._meter = Meter()
        self._bytes = 0
        self._keys = (0, 0)  # which packets were the first and the last key frame

    def listened(self) -> float:
        """Seconds since the first packet."""
        return time.monotonic() - self._first if self._first else 0.0

    def finish_after(self, seconds: float) -> None:
        """End the listening if it has lasted so long: also when nothing comes any more."""
        source = self._listening
        if source is not None and self._first and self.listened() >= seconds:
            source.cut()

    def stop(self) -> None:
        """End it, whatever it is doing. run() returns soon."""
        self._stopped = True
        if (source := self._source) is not None:
            source.cut()

    # What follows runs in the thread.

    def run(self, seconds: float) -> None:
        """Connect and listen for `seconds`. What goes wrong with the source is `error` afterwards."""
        found = self.findings
        try:
            self._look(seconds)
        except CameraError as e:
            self.error = e.with_traceback(None)
        except Exception as e:  # what a library finds to raise, which may contain the URL
            text = self._address.scrub(str(e))
            self.error = CameraError(f"{self._address}: unexpected {type(e).__name__}: {text}")
        if not found.packets and self.error is None and not self._stopped:
            self.error = CameraEndedError(f"{self._address}: ended without a single packet")
        if self.error is not None:
            found.error, found.error_type = str(self.error), type(self.error).__name__
        elif self._address.scheme in _RTSP and not self._stopped and found.silent < _SILENT:
            found.audio = self._sound()
        found.conclude()

    def _make(self, timeout: float, options: dict[str, str] | None = None) -> Source:
        """To be made in the thread that uses it."""
        return Source(
            self._address,
            transport=self._transport,
            open_timeout=timeout,
            read_timeout=self._patience,
            options=options,
            input_format=self._input_format,
        )

    def _look(self, seconds: float) -> None:
        found = self.findings
        began = time.monotonic()
        source = self._source = self._make(self._patience)
        try:
            # stop() sets its flag and then looks for the source; here it is the other way round.
            if self._stopped or not source.open():
                return
            found.opened_in = round(time.monotonic() - began, 3)
            found.live = source.live
            stream = source.stream
            found.container = stream.container.format.name
            if self._address.scheme not in _RTSP:  # for RTSP a camera asks for video only
                found.audio = _sounds(stream.container)
            self._meter.begin(stream)
            self._listening = source
            self._listen(source, seconds)
        finally:
            self._source = self._listening = None
            source.dispose()

    def _listen(self, source: Source, seconds: float) -> None:
        found, meter, stream = self.findings, self._meter, source.stream
        base, context = fraction(stream.time_base), stream.codec_context
        # Each frame stands for itself; those of lavfi are not even encoded, nor called key frames.
        intra = context.codec.intra_only or context.name == _NOT_ENCODED
        clock, times, key_frames = LiveClock(), Times(source.live), _KeyFrames(source)
        offsets: list[int] = []
        last = key = 0.0
        try:
            with contextlib.closing(source.packets()) as packets:
                for packet, arrival in packets:
                    if self._stopped:
                        break
                    if not packet.size:
                        continue
                    ticks = packet.dts if packet.dts is not None else packet.pts
                    at = clock.seconds(ticks, base, arrival) if source.live else _seconds(ticks, base)
                    last = time.monotonic()
                    self._first, key = self._first or last, key or last
                    meter.take(packet, at)
                    self._bytes += packet.size
                    found.packets = meter.packets
                    found.key_gap = max(found.key_gap, last - key)
                    times.take(packet, base, arrival)
                    if packet.is_keyframe or intra:
                        self._keys = (self._keys[0] or found.packets, found.packets)
                        found.key_frames, key = found.key_frames + 1, last
                        key_frames.take(packet, last)
                    if (sent := sender_time_ns(packet)) is not None:
                        offsets.append(sent - arrival)
                    if (last - self._first if source.live else times.span) >= seconds:
                        break
        finally:
            if found.packets:
                found.seconds = round(self.listened() if source.live else times.span, 2)
                found.silent = round(time.monotonic() - last, 2) if source.live else 0.0
                found.key_gap = round(max(found.key_gap, time.monotonic() - key), 2) if source.live else 0.0
                found.times = times.problems()
                if offsets:
                    found.clock_offset = round(sorted(offsets)[len(offsets) // 2] / 1e9, 3)
                self._conclude(times, key_frames)
                found.fps_promised = _promised(stream, context)

    def _conclude(self, times: Times, key_frames: _KeyFrames) -> None:
        found, meter = self.findings, self._meter
        found.codec = key_frames.codec
        found.profile, found.level, found.pixel_format = (
            key_frames.profile,
            key_frames.level,
            key_frames.pixels,
        )
        found.width, found.height = key_frames.size
        found.decoded, found.errors = key_frames.decoded, key_frames.errors
        found.browser_codec = key_frames.browser_codec
        # By the stream's own clock, which is even. By ours where that one is of no use, and a file has none.
        fps = times.rate if not found.times else meter.fps if found.live else 0.0
        found.fps = round(fps, 2)
        interval = meter.key_interval
        if found.key_frames > 1 and fps:
            # By frames: the first times of a connection are guesses.
            interval = (self._keys[1] - self._keys[0]) / (found.key_frames - 1) / fps
        found.key_interval = round(interval, 3)
        if found.codec != _NOT_ENCODED:
            found.bit_rate = round(self._bytes * 8 * fps / meter.packets)

    def _sound(self) -> list[str] | None:
        """The sound that an RTSP camera offers, which takes another connection with all of it."""
        source = self._source = self._make(
            _SOUND_SECONDS, {"allowed_media_types": "video+audio", "probesize": "32"}
        )
        try:
            if self._stopped or not source.open():
                return None
            return _sounds(source.stream.container)
        except CameraError:
            return None
        finally:
            self._source = None
            source.dispose()


class _KeyFrames:
    """The key frames: what is in them, and whether they can be decoded, here and by browsers."""

    def __init__(self, source: Source) -> None:
        self._context = source.stream.codec_context
        self._decoder: Decoder[None] = Decoder(source.stream.codec_context, 1)
        self._muxer: Muxer | None = None
        with contextlib.suppress(CameraFormatError):
            self._muxer = Muxer(source.stream)
        self._next = 0.0
        self.codec = self._context.name
        self.pixels = self._context.pix_fmt or ""
        self.size = self._context.width, self._context.height
        self.decoded = 0
        self.tried = 0
        self.browser_codec = ""

    @property
    def errors(self) -> int:
        return self.tried - self.decoded

    @property
    def profile(self) -> str:
        return self._context.profile or ""

    @property
    def level(self) -> str:
        return level(self.browser_codec)

    def take(self, packet: VideoPacket, now: float) -> None:
        """Take a key frame."""
        if self._muxer is not None and not self.browser_codec:
            with contextlib.suppress(CameraFormatError, ValueError, av.error.FFmpegError):
                self._muxer.mux(packet, 0)
                if self._muxer.init_segment:
                    self.browser_codec = codec_string(self._muxer.init_segment)
        if now < self._next:
            return
        self._next = now + _FRAMES_APART
        self.tried += 1
        frames = [frame for frame, _ in self._decoder.decode_alone(packet, None)]
        if frames:
            self.decoded += 1
            self._see(frames[-1])

    def _see(self, frame: VideoFrame) -> None:
        self.pixels = frame.format.name
        self.size = frame.width, frame.height


def level(browser_codec: str) -> str:
    """The level as the standards write it, "3.1", from RFC 6381's name of a codec; "" if that has none.

    PyAV 18.0 does not have it. H.264: ISO/IEC 14496-10, A.3.4; H.265: 23008-2, A.4; AV1: its
    specification, A.3.
    """
    if found := re.match(r"avc[13]\.([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", browser_codec):
        profile, constraints, value = (int(part, 16) for part in found.groups())
        if value == 9 or (value == 11 and profile in (66, 77, 88) and constraints & 0x10):
            return "1b"
        return f"{value // 10}.{value % 10}"
    if found := re.match(r"h[ve][cv]1\.[^.]*\.[^.]*\.[LH](\d+)", browser_codec):
        value = int(found[1])
        return f"{value // 30}.{value % 30 // 3}"
    if found := re.match(r"av01\.\d\.(\d\d)", browser_codec):
        value = int(found[1])
        return f"{2 + (value >> 2)}.{value & 3}"
    return ""


def _sounds(container: Any) -> list[str]:
    return [
        stream.codec_context.name for stream in container.streams.audio if stream.codec_context is not None
    ]


def _promised(stream: Any, context: Any) -> float:
    # The codec's own first: FFmpeg's average is of fields where a camera speaks of both.
    for rate in (context.framerate, stream.average_rate, stream.guessed_rate):
        if rate and 0 < rate < _MOST_FPS:
            return round(float(rate), 2)
    return 0.0


def _seconds(ticks: int | None, base: Any) -> float:
    return float(ticks * base) if ticks is not None and base else 0.0
