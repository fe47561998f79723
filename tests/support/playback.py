"""What a player makes of a piece of MP4."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.video.stream import VideoStream
from numpy.typing import NDArray

from . import footage
from .require import missing


def packets(path: Path) -> Iterator[tuple[VideoStream, Any]]:
    """The packets of a clip made by footage.encode(), with the times at which they are shown (25 per
    second), which a raw stream does not have."""
    order = Path(f"{path}.order")  # of a clip with B frames
    shown: Iterable[int] = json.loads(order.read_text()) if order.exists() else itertools.count()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        sent = (packet for packet in container.demux(stream) if packet.size)
        for packet, at in zip(sent, shown, strict=False):
            packet.pts, packet.dts, packet.duration, packet.time_base = at, None, 1, Fraction(1, 25)
            yield stream, packet


class Shown(NamedTuple):
    """One frame."""

    number: int  # the one burnt into it
    seconds: float
    size: tuple[int, int]
    image: NDArray[Any]


def play(media: bytes | Path) -> list[Shown]:
    """All pictures, in the order in which they are shown, decoded by PyAV."""
    with av.open(io.BytesIO(media) if isinstance(media, bytes) else str(media), "r") as container:
        shown = []
        for frame in container.decode(video=0):
            assert not frame.is_corrupt
            assert frame.time is not None
            image = frame.to_ndarray(format="rgb24")
            shown.append(Shown(footage.read_index(image), frame.time, (frame.width, frame.height), image))
        return shown


def whole_fragments(data: bytes) -> int:
    """How many complete pairs of moof and mdat there are, whatever follows the last."""
    at, kinds = 0, []
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8 or at + size > len(data):
            break
        kinds.append(kind)
        at += size
    return kinds.count(b"mdat")


def ffmpeg_finds_no_fault(media: Path) -> None:
    """FFmpeg's own program, Debian's and not the one in PyAV, decodes all of it and has nothing to say."""
    if shutil.which("ffmpeg") is None:
        missing("no ffmpeg program (apt-get install --no-install-recommends ffmpeg)")
    done = subprocess.run(
        ["ffmpeg", "-nostdin", "-v", "warning", "-xerror", "-i", media, "-f", "null", "-"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
