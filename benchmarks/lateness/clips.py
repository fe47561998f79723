# SPDX-License-Identifier: MIT
"""Real footage with a number in each frame, which any receiver can read: H.264 as cameras encode it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from support import footage

SIZES = {"360p": (640, 360), "1080p": (1920, 1080), "4K": (3840, 2160)}
FRAMES = 30  # of a clip, which is one GOP, and sent again and again


def units(size: str, video: Path, folder: Path) -> list[bytes]:
    """The clip's access units; it is made unless it exists."""
    width, height = SIZES[size]
    file = folder / f"bench-numbered-{video.stem}-{size}.h264"
    if not file.exists():
        part = file.with_suffix(".part")
        part.write_bytes(b"".join(_encode(video, width, height)))
        part.rename(file)
    with av.open(str(file), format="h264") as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def _encode(video: Path, width: int, height: int) -> list[bytes]:
    context: Any = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.framerate, context.time_base = Fraction(25), Fraction(1, 25)
    context.options = {
        "preset": "veryfast", "profile": "high", "crf": "26",
        "x264-params": f"keyint={FRAMES}:min-keyint={FRAMES}:scenecut=0:bframes=0:ref=1:slices=1:"
        "sliced-threads=0:repeat-headers=1",
    }  # fmt: skip
    made: list[bytes] = []
    rows = 2 * (height // footage.ROW)
    with av.open(str(video)) as source:
        for number, frame in zip(range(FRAMES), source.decode(video=0), strict=False):
            image = frame.to_ndarray(format="rgb24", width=width, height=height)
            image[:rows] = footage.draw(number, (width, rows * footage.ROW // 2))[:rows]
            numbered = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p")
            numbered.pts = number
            made += map(bytes, context.encode(numbered))
    return made + [bytes(packet) for packet in context.encode(None)]


def read(luma: NDArray[np.uint8]) -> int:
    """The number in a frame; -1 if there is none. Looks at 32 pixels (any channel will do)."""
    height, width = luma.shape[:2]
    row = height // footage.ROW
    columns = (np.arange(footage.BITS) * 2 + 1) * width // (2 * footage.BITS)
    above, below = luma[row // 2, columns].astype(int), luma[row + row // 2, columns].astype(int)
    if (abs(above - below) < 64).any():
        return -1
    return int("".join("1" if bit else "0" for bit in above > below), 2)
