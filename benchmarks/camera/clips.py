# SPDX-License-Identifier: MIT
"""Real footage, encoded as cameras encode: H.264 high profile, CABAC, one slice, one reference, no B-frames,
a key frame every two seconds, BT.709 said to be so.

A clip is one GOP, which a camera sends again and again: some frames cost twice what others do, and in a
window of that length, or of a multiple, each contender is given the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

BT709 = 1  # in H.273: colours, transfer, matrix
SECONDS = 2  # that a clip lasts
BEFORE = 2  # so many groups are encoded before it, for the encoder to find its rate


@dataclass(frozen=True)
class Clip:
    """What a camera sends."""

    name: str
    width: int
    height: int
    fps: int
    mbit: float  # per second
    every: int = 1  # take every so many frames of the footage

    def file(self, footage: Path, folder: Path) -> Path:
        """The clip, made from a video file unless it exists."""
        file = folder / f"bench-{footage.stem}-{self.width}x{self.height}-{self.fps}-{self.mbit:g}.h264"
        if not file.exists():
            part = file.with_suffix(".part")
            part.write_bytes(self._encode(footage))
            part.rename(file)
        return file

    def _encode(self, footage: Path) -> bytes:
        gop = self.fps * SECONDS
        context: Any = av.CodecContext.create("libx264", "w")
        context.width, context.height = self.width, self.height
        context.pix_fmt = "yuv420p"
        context.framerate, context.time_base = Fraction(self.fps), Fraction(1, self.fps)
        context.bit_rate = int(self.mbit * 1e6)
        context.gop_size, context.max_b_frames = gop, 0
        context.color_primaries = context.color_trc = context.colorspace = BT709
        kbit = int(self.mbit * 1000)
        context.options = {
            "preset": "veryfast",
            "profile": "high",
            "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0:ref=1:weightp=0:slices=1:"
            f"sliced-threads=0:threads=1:repeat-headers=1:vbv-maxrate={kbit * 3 // 2}:vbv-bufsize={kbit * 2}",
        }
        packets = self._packets(footage, context, gop * (BEFORE + 1))
        assert packets[gop * BEFORE].is_keyframe
        return b"".join(map(bytes, packets[gop * BEFORE :]))

    def _packets(self, footage: Path, context: Any, wanted: int) -> list[Any]:
        packets: list[Any] = []
        with av.open(str(footage)) as source:
            for number, frame in enumerate(source.decode(video=0)):
                if number % self.every:
                    continue
                made = frame.reformat(
                    self.width, self.height, "yuv420p", dst_colorspace="ITU709", interpolation="BICUBIC"
                )
                made.pts, made.time_base = number // self.every, context.time_base
                made.pict_type = 0  # the encoder decides
                packets += context.encode(made)
                if number // self.every == wanted - 1:
                    return packets + context.encode(None)
        raise ValueError(f"{footage.name} has fewer than {wanted * self.every} frames")


def fetch(name: str, folder: Path) -> Path:
    """A video file of the tests': "bikes" (cyclists in a street) or "vtest" (a square that hardly moves)."""
    from support import footage

    get: dict[str, Callable[[Path], Path]] = {"bikes": footage.bikes, "vtest": footage.vtest}
    return get[name](folder)
