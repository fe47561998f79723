# SPDX-License-Identifier: MIT
"""What a camera is to do, as data: where it is, how to read it, which rings it feeds.

No PyAV here: a process that only supervises cameras describes them with this.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from valkka_async.camera.source.secrets import parse
from valkka_async.ring.rendezvous import check_name

PIXELS = ("rgb24", "bgr24", "rgba", "bgra", "gray8", "nv12", "yuv420p")
STREAMS = ("fmp4", "packets", "jpeg")
_HALVED = ("nv12", "yuv420p")  # colour at half the resolution
_SIDE = 16384  # pixels at most

Transport = Literal["tcp", "udp"]


@dataclass(frozen=True)
class Output:
    """One ring that a camera feeds.

    Parameters
    ----------
    name
        The ring's name, which readers give to ``connect``.
    format
        Pixels: "rgb24", "bgr24", "rgba", "bgra", "gray8", "nv12", "yuv420p"; "jpeg": the picture as a
        JPEG; "fmp4": fragmented MP4 of H.264 or H.265, never re-encoded, one fragment for each frame, with
        ftyp+moov as the ring's header; "packets": the encoded packets as they come, whose frames have
        the format "h264" or "h265" (Annex B), "jpeg", or "bytes" for other codecs.
    size
        (width, height) in pixels to scale to; None: the camera's own, and follows when that changes. With
        None for one of the two, (640, None), that one is what keeps the proportions, rounded to an even
        number.
    fps
        At most so many frames per second, evenly spaced; the others are left out before they cost a
        conversion, and before they cost decoding where the stream allows.
    key_frames
        Only the pictures that need no other, which are a hundredth of the work to decode, and few.
    slots
        As for ``serve``.
    quality
        Of "jpeg": 1 to 100.

    Raises ValueError for what cannot be.
    """

    name: str
    format: str = "rgb24"
    size: tuple[int | None, int | None] | None = None
    fps: float | None = None
    key_frames: bool = False
    slots: int = 16
    quality: int = 80

    def __post_init__(self) -> None:
        check_name(self.name)
        what = f"output {self.name!r}"
        if self.format not in (*PIXELS, *STREAMS):
            raise ValueError(
                f"{what}: format is one of {', '.join((*PIXELS, *STREAMS))}, not {self.format!r}"
            )
        pixels = self.format in PIXELS or self.format == "jpeg"
        if self.size is not None:
            size = tuple(self.size)
            given = [n for n in size if n is not None]
            if len(size) != 2 or not given or not all(isinstance(n, int) and 0 < n <= _SIDE for n in given):
                raise ValueError(
                    f"{what}: size is (width, height) in pixels, one of which may be None, not {self.size!r}"
                )
            if self.format in _HALVED and any(n % 2 for n in given):
                raise ValueError(f"{what}: {self.format} needs an even width and height, not {self.size!r}")
            object.__setattr__(self, "size", size)  # a list, where it came from a file
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"{what}: fps is above 0, not {self.fps!r}")
        if not pixels and (self.size is not None or self.fps is not None or self.key_frames):
            raise ValueError(
                f"{what}: {self.format} is not decoded, so size, fps and key_frames do not apply"
            )
        if not 1 <= self.quality <= 100:
            raise ValueError(f"{what}: quality is 1 to 100, not {self.quality!r}")
        if not 2 <= self.slots:
            raise ValueError(f"{what}: slots is at least 2, not {self.slots!r}")


def fitted(size: tuple[int | None, int | None] | None, width: int, height: int) -> tuple[int, int] | None:
    """An output's size for pictures of this width and height: one without None in it."""
    if size is None:
        return None
    across, down = size
    if across is None:
        assert down is not None
        return _even(width * down / height), down
    return across, _even(height * across / width) if down is None else down


def _even(pixels: float) -> int:
    return min(max(2, round(pixels / 2) * 2), _SIDE)


class CameraSettings(TypedDict, total=False):
    """The keyword arguments of :class:`Camera` and CameraSpec, for functions that pass them on."""

    transport: Transport
    open_timeout: float
    read_timeout: float
    retry_max: float
    retry_refused: float
    thread_count: int
    hwaccel: str | None
    options: Mapping[str, str] | None


@dataclass(frozen=True)
class CameraSpec:
    """All that makes a camera; see :class:`Camera` for what each setting means. `repr()` shows no
    credentials."""

    name: str
    url: str = field(repr=False)
    outputs: tuple[Output, ...] = ()
    transport: Transport = "tcp"
    open_timeout: float = 10.0
    read_timeout: float = 10.0
    retry_max: float = 30.0
    retry_refused: float = 60.0
    thread_count: int = 1
    hwaccel: str | None = None
    options: Mapping[str, str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        object.__setattr__(self, "url", os.fspath(self.url))
        parse(self.url)
        outputs = tuple(self.outputs) if self.outputs else (Output(self.name),)
        object.__setattr__(self, "outputs", outputs)
        names = [output.name for output in outputs]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"camera {self.name!r}: two outputs are called {name!r}; names are rings")
        if self.transport not in ("tcp", "udp"):
            raise ValueError(f'camera {self.name!r}: transport is "tcp" or "udp", not {self.transport!r}')
        for key in ("open_timeout", "read_timeout", "retry_max", "retry_refused"):
            value = getattr(self, key)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"camera {self.name!r}: {key} is above 0 seconds, not {value!r}")
        if self.thread_count < 0:
            raise ValueError(
                f"camera {self.name!r}: thread_count is 0 (all cores) or more, not {self.thread_count!r}"
            )
