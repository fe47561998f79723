# SPDX-License-Identifier: MIT
"""`valkka-async snap`: the newest frame of a running server, as an image file."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import valkka_async as va
from valkka_async.cli import outfile
from valkka_async.cli.names import Ring, absent, ask_why, pick, rings
from valkka_async.cli.shape import seconds as in_words
from valkka_async.errors import ConnectionClosed, ValkkaError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_STDOUT = "-"
_FRESH = 2.0  # s; an older frame gives way to the next, if one comes in time
_ENDINGS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}


class SnapError(ValkkaError):
    """There is no frame."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What was read from a ring: of a stream, from a key frame on."""

    format: str
    header: bytes
    frames: tuple[bytes, ...]
    image: VideoFrame | None  # of a ring of pixels
    timestamp_ns: int


def kind_of(file: str | None) -> str:
    """ "jpeg" or "png", by the file's ending. Raises ValueError for another, and for a terminal."""
    if file == _STDOUT and sys.stdout.isatty():
        raise ValueError(
            "an image cannot be shown on a terminal: name a file, or redirect it: ... - > image.jpg"
        )
    if file is None or file == _STDOUT or os.path.isdir(file):
        return "jpeg"
    ending = os.path.splitext(file)[1].lower()
    if ending not in _ENDINGS:
        raise ValueError(f"{file!r}: an image is a .jpg or a .png file, or - for standard output")
    return _ENDINGS[ending]


def snap(name: str, file: str | None, kind: str, *, timeout: float, quality: int | None, force: bool) -> None:
    """Write the image, of a kind as kind_of() says, and print where it is. Raises SnapError,
    CameraFormatError, ConnectError, OSError."""
    if file is not None and file != _STDOUT and not force and os.path.isfile(file):  # before the wait
        raise outfile.exists(file)
    known = rings()
    from valkka_async.cli.still import FORMATS

    ring = pick(name, known, FORMATS)
    if ring is None:
        raise SnapError(absent(name, known))
    taken = _take(ring, time.monotonic() + timeout, timeout)
    data, size = _encode(taken, kind, quality)
    age = max(0.0, time.time() - taken.timestamp_ns / 1e9)
    said = f"{size[0]}x{size[1]}, {in_words(age)} old, from the ring {ring.name}"
    if file == _STDOUT:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        path = _path(name, file, taken.timestamp_ns)
        outfile.write(path, [data], force)
        print(f"{path}: {said}", flush=True)
    if age > _FRESH:
        why = ask_why(ring.name).text
        print(f"valkka-async: the frame is old: no other has come for {in_words(age)}"
              + (f"; {why}" if why else ""), file=sys.stderr)  # fmt: skip


def _path(name: str, file: str | None, timestamp_ns: int) -> Path:
    if file is not None and not os.path.isdir(file):
        return Path(file)
    when = datetime.fromtimestamp(timestamp_ns / 1e9)
    return Path(file or "", f"{name.replace('/', '-')}-{when:%Y%m%d-%H%M%S}.jpg")


# ------------------------------------------------------------------------------------------- reading


def _take(ring: Ring, due: float, timeout: float) -> Taken:
    """The newest frame. Raises SnapError, ConnectError."""
    from valkka_async.cli.still import is_stream

    # A stream is decoded from every frame. The first frame tells the format, if nothing else has.
    policies: tuple[va.Policy, ...] = ("ordered",) if is_stream(ring.format) else ("latest", "ordered")
    try:
        for policy in policies:
            with va.attach(ring.name, policy=policy, max_leases=1, open_timeout=_left(due)) as reader:
                taken = _read(reader, due, stop_at_stream=policy == "latest")
            if taken is not None:
                return taken
    except ConnectionClosed:
        raise SnapError(f"the server {ring.name!r} went away before it published a frame") from None
    except TimeoutError:
        pass
    why = ask_why(ring.name).text or "its server publishes no frames"
    raise SnapError(f"no frame from {ring.name!r} within {timeout:g} s: {why}")


def _read(reader: va.Reader, due: float, *, stop_at_stream: bool) -> Taken | None:
    """None: it is a stream. Raises TimeoutError, SnapError, ConnectionClosed."""
    from valkka_async.cli.still import is_stream

    taken: Taken | None = None
    parts: list[bytes] = []  # of a stream, from its latest key frame on
    while True:
        # All that is there already; beyond that, only what it takes to have a fresh image.
        frame = reader.recv_nowait()
        if frame is None:
            if taken is not None and _age(taken) < _FRESH:
                return taken
            try:
                frame = reader.recv(_left(due))
            except TimeoutError:
                if taken is None:
                    raise
                return taken
        with frame:
            if not is_stream(frame.format):
                taken = _whole(frame)
                continue
            if stop_at_stream:
                return None
            if frame.key:
                parts = []
            elif not parts or frame.dropped:
                parts = []
                continue
            parts.append(bytes(frame.data))
            taken = Taken(frame.format, reader.header, tuple(parts), None, frame.timestamp_ns)


def _whole(frame: va.Frame) -> Taken:
    from valkka_async.cli.still import PIXELS, from_pixels

    if frame.format in PIXELS:
        return Taken(frame.format, b"", (), from_pixels(frame.array, frame.format), frame.timestamp_ns)
    if frame.format == "jpeg":
        return Taken("jpeg", b"", (bytes(frame.data),), None, frame.timestamp_ns)
    raise SnapError(f"the ring {frame.source!r} has frames of format {frame.format!r}, which are not images")


def _age(taken: Taken) -> float:
    return time.time() - taken.timestamp_ns / 1e9


def _left(due: float) -> float:
    return max(0.0, due - time.monotonic())


# ------------------------------------------------------------------------------------------- writing


def _encode(taken: Taken, kind: str, quality: int | None) -> tuple[bytes, tuple[int, int]]:
    from valkka_async.cli.still import as_jpeg, as_png, decode

    image = taken.image
    if image is None:
        image = decode(taken.format, taken.header, taken.frames)
    size = image.width, image.height
    if kind == "png":
        return as_png(image), size
    if taken.format == "jpeg" and quality is None:  # as the camera made it
        return taken.frames[0], size
    return as_jpeg(image, quality), size
