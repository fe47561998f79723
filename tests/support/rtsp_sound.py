"""Sound for the misbehaving camera (rtsp_camera.py), and a picture that flashes when it clicks."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

SECONDS = 10  # after which both begin again
CLICK = 0.01  # s


def pcm(rate: int) -> NDArray[np.float32]:
    """A click at each whole second, else nothing."""
    at = np.arange(SECONDS * rate) / rate
    tone = 0.8 * np.sin(2 * np.pi * 1000 * at)
    return np.where(at % 1 < CLICK, tone, 0).astype(np.float32)


@dataclass
class RtspSound:
    """A track of sound. `packets` has (when a packet begins, its payload), in samples of its clock, for
    SECONDS.

    `stamp` gives the RTP time of a packet from its number and its samples; `sent` says of each, from its
    number and the seconds at which it begins, whether it is sent. `report`: whether reports (RTCP) relate its
    clock to that of the picture. `late`: seconds that it comes after it was taken.
    """

    sdp: str
    rate: int  # of its RTP clock
    samples: int  # in a packet
    packets: list[tuple[int, bytes]]
    type: int = 97
    stamp: Callable[[int, int], int] = lambda _, samples: samples
    sent: Callable[[int, float], bool] = lambda _, seconds: True
    report: bool = True
    base: int = 0x1234567
    late: float = 0.0
    number: int = field(default=0, init=False)

    def begins(self, number: int) -> int:
        """When a packet begins, in samples from the first second on."""
        loops, place = divmod(number, len(self.packets))
        return loops * SECONDS * self.rate + self.packets[place][0]

    def due(self, number: int) -> float:
        """When it has been taken and can be sent, in seconds."""
        return (self.begins(number) + self.samples) / self.rate + self.late

    def payload(self, number: int) -> bytes:
        return self.packets[number % len(self.packets)][1]

    def time(self, number: int) -> int:
        """Its RTP time."""
        return self.base + self.stamp(number, self.begins(number)) & 0xFFFFFFFF


def _encoded(codec: str, rate: int, format: str) -> list[tuple[int, bytes]]:
    """(time, packet) of the clicks. What an encoder needs before its first sample is left out."""
    context = cast(AudioCodecContext, av.CodecContext.create(codec, "w"))
    context.sample_rate, context.layout, context.format = rate, "mono", format
    context.time_base = Fraction(1, rate)
    context.open()
    samples = pcm(rate)
    size = context.frame_size or rate // 50
    packets = []
    for at in range(0, len(samples) - size + 1, size):
        piece = samples[None, at : at + size]
        if format != "fltp":
            piece = piece if format == "flt" else (piece * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(piece, format, "mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, at, context.time_base
        packets += context.encode(frame)
    packets += context.encode(None)
    return [(cast(int, one.pts), bytes(one)) for one in packets if (one.pts or 0) >= 0]


@functools.cache
def _made(codec: str) -> tuple[str, int, int, list[tuple[int, bytes]], int]:
    match codec:
        case "pcm_alaw" | "pcm_mulaw":
            type, name = (8, "PCMA") if codec == "pcm_alaw" else (0, "PCMU")
            return f"a=rtpmap:{type} {name}/8000\r\n", 8000, 160, _encoded(codec, 8000, "s16"), type
        case "aac":
            packets = [
                (at, struct.pack(">HH", 16, len(data) << 3) + data)
                for at, data in _encoded("aac", 16000, "fltp")
            ]
            more = (
                "streamtype=5;profile-level-id=1;mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3"
            )
            sdp = f"a=rtpmap:97 mpeg4-generic/16000/1\r\na=fmtp:97 {more};config=1408\r\n"
            return sdp, 16000, 1024, packets, 97
        case "aac in pairs":
            sdp, rate, samples, singles, type = _made("aac")
            packets = [
                (at, struct.pack(">H", 32) + one[2:4] + other[2:4] + one[4:] + other[4:])
                for (at, one), (_, other) in zip(singles[::2], singles[1::2], strict=False)
            ]
            return sdp, rate, 2 * samples, packets, type
        case "libopus":
            packets = [(max(0, at), data) for at, data in _encoded("libopus", 48000, "flt")]
            return "a=rtpmap:97 opus/48000/2\r\n", 48000, 960, packets, 97
    raise ValueError(codec)


def clicks(codec: str = "pcm_alaw", **differing: Any) -> RtspSound:
    """A click at each whole second, coded as "pcm_alaw", "pcm_mulaw", "aac", "aac in pairs" or "libopus"."""
    sdp, rate, samples, packets, type = _made(codec)
    return RtspSound(sdp, rate, samples, packets, type, **differing)


@functools.cache
def flashes(fps: int = 25, size: tuple[int, int] = (160, 96)) -> tuple[bytes, ...]:
    """Access units of H.264 for SECONDS: white, and a key frame, at each whole second, else dark."""
    context = cast(VideoCodecContext, av.CodecContext.create("libx264", "w"))
    context.width, context.height = size
    context.pix_fmt, context.framerate, context.time_base = "yuv420p", Fraction(fps), Fraction(1, fps)
    common = f"keyint={fps}:min-keyint={fps}:scenecut=0:bframes=0:repeat-headers=1"
    context.options = {"preset": "veryfast", "x264-params": f"sliced-threads=0:threads=1:{common}"}

    def units() -> Iterator[bytes]:
        for number in range(SECONDS * fps):
            level = 235 if number % fps == 0 else 16
            image = np.full((size[1] * 3 // 2, size[0]), 128, np.uint8)
            image[: size[1]] = level
            frame = av.VideoFrame.from_ndarray(image, "yuv420p")
            frame.pts = number
            yield from map(bytes, context.encode(frame))
        yield from map(bytes, context.encode(None))

    return tuple(units())
