# SPDX-License-Identifier: MIT
"""The stream of a synthetic camera: H.264 in MPEG-TS, as it goes over the wire. No I/O.

MPEG-TS, because a viewer can join at any key frame, a new frame size needs no new header, and everything
plays it. Its price is that a receiver knows the end of a frame only when the next one begins.
"""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame

from valkka_async.cli.demo.pattern import Pattern, Plane
from valkka_async.errors import ValkkaError

_TICKS = 90_000  # a second of MPEG-TS
_KEY_SECONDS = 1.0  # between key frames
_ENCODER = "libx264"


class Stream:
    """Draws and encodes the frames of one camera. Raises ValkkaError where PyAV has no encoder for it.

    `size` is (width, height), both even. A new size applies from the next frame on, which is a key frame.
    """

    def __init__(self, name: str, size: tuple[int, int], fps: float, hue: float) -> None:
        self._name = name
        self._hue = hue
        self._rate = Fraction(fps).limit_denominator(1001)
        self._number = 0
        self._parts: list[bytes] = []
        self._muxer = av.open(
            self,
            "w",
            format="mpegts",
            options={
                "mpegts_copyts": "1",  # else FFmpeg puts 1.4 s before the first frame
                "mpegts_flags": "+pat_pmt_at_frames",  # so that any key frame is a beginning
                "omit_video_pes_length": "0",  # so that a receiver knows where the data of a frame end
                "flush_packets": "1",
            },
        )
        self._track = self._muxer.add_mux_stream("h264", rate=self._rate)
        self._track.time_base = Fraction(1, _TICKS)
        self.size = size

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames."""
        return self._frame.width, self._frame.height

    @size.setter
    def size(self, size: tuple[int, int]) -> None:
        self._pattern = Pattern(self._name, size, self._hue)
        self._frame = VideoFrame(*size, "yuv420p")
        self._planes = _planes(self._frame)
        self._encoder = _encoder(size, self._rate)

    def take(self, time_ns: int, monotonic_ns: int, *, key: bool = False) -> tuple[bytes, bool]:
        """The next frame, captured at this time: what to send, and whether it is a key frame, at which a
        viewer can join; `key` makes it one. Takes a few milliseconds."""
        self._number += 1
        frame = self._frame
        self._pattern.draw(self._planes, self._number, time_ns)
        frame.pts = monotonic_ns * _TICKS // 1_000_000_000
        frame.time_base = self._track.time_base
        frame.pict_type = PictureType.I if key else PictureType.NONE
        for packet in self._encoder.encode(frame):
            key = packet.is_keyframe
            packet.stream = self._track
            self._muxer.mux(packet)
        data = b"".join(self._parts)
        self._parts.clear()
        return data, key

    def write(self, data: bytes) -> int:
        """For the muxer."""
        self._parts.append(bytes(data))
        return len(data)


def _planes(frame: VideoFrame) -> tuple[Plane, Plane, Plane]:
    """Its memory, without what pads the rows."""
    luma, blue, red = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    )
    return luma, blue, red


def _encoder(size: tuple[int, int], rate: Fraction) -> VideoCodecContext:
    try:
        encoder = av.CodecContext.create(_ENCODER, "w")
    except av.codec.codec.UnknownCodecError:
        raise ValkkaError(
            f"the demo's cameras need the encoder {_ENCODER}, which this PyAV lacks: install PyAV's own wheel"
        ) from None
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height = size
    encoder.pix_fmt = "yuv420p"
    encoder.framerate = rate
    encoder.time_base = Fraction(1, _TICKS)
    encoder.thread_count = 1
    parameters = {
        "keyint": round(max(1, _KEY_SECONDS * rate)),
        "scenecut": 0,
        "sliced-threads": 0,  # one slice per frame
        "repeat-headers": 1,  # parameter sets at each key frame
        "aud": 1,
        "colorprim": "bt709",
        "transfer": "bt709",
        "colormatrix": "bt709",
    }
    encoder.options = {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "forced-idr": "1",
        "x264-params": ":".join(f"{key}={value}" for key, value in parameters.items()),
    }
    return encoder
