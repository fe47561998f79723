# SPDX-License-Identifier: MIT
"""What a camera does, as data: where it is, how to read it, which rings it feeds.

No PyAV here: a process that only supervises cameras describes them with this.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Literal, TypeAlias, TypedDict, get_args

from valkka_async.camera.source.secrets import parse
from valkka_async.ring.frame import MAX_SLOTS
from valkka_async.ring.rendezvous import check_name

PixelFormat: TypeAlias = Literal["rgb24", "bgr24", "rgba", "bgra", "gray8", "gray16", "nv12", "yuv420p"]
OutputFormat: TypeAlias = Literal[PixelFormat, "jpeg", "fmp4", "packets"]
Transport: TypeAlias = Literal["tcp", "udp"]

PIXELS: tuple[PixelFormat, ...] = get_args(PixelFormat)
FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)
TRANSPORTS: tuple[Transport, ...] = get_args(Transport)

# FFmpeg's types of devices (libavutil/hwcontext.c), whichever of them were compiled in
_DEVICES = frozenset(
    "amf cuda d3d11va d3d12va drm dxva2 mediacodec opencl qsv vaapi vdpau videotoolbox vulkan".split()
)
_HALVED = ("nv12", "yuv420p")  # colour at half the resolution
_SIDE = 16384  # pixels at most
_THREADS = 1024  # for one decoder, at most


@dataclass(frozen=True)
class Output:
    """One ring that a camera feeds.

    Parameters
    ----------
    name
        The ring's name, which readers give to ``connect``.
    format
        Pixels: "rgb24", "bgr24", "rgba", "bgra", "gray8", "gray16" (uint16: for sources of more than 8 bits,
        as thermal cameras), "nv12", "yuv420p"; "jpeg": each frame as a JPEG; "fmp4": fragmented MP4 of H.264
        or H.265, never re-encoded, one fragment for each frame, with the init segment (ftyp+moov) as the
        ring's header; "packets": the encoded packets as they come, whose frames have the format "h264" or
        "h265" (Annex B), "jpeg", or "bytes" for other codecs.
    size
        (width, height) in pixels to scale to; None: the camera's own, and follows when that changes. With
        None for one of the two, (640, None), that one is what keeps the proportions, rounded to an even
        number.
    fps
        At most so many frames per second, evenly spaced. The others are left out before they cost a
        conversion, and before they cost decoding where the stream allows.
    key_frames
        Only frames that need no other, which are few, and a hundredth of the work to decode.
    slots
        As for ``serve``.
    quality
        Of "jpeg": 1 to 100.

    Raises ValueError for settings that make no sense.
    """

    name: str
    format: OutputFormat = "rgb24"
    size: tuple[int | None, int | None] | None = None
    fps: float | None = None
    key_frames: bool = False
    slots: int = 16
    quality: int = 80

    def __post_init__(self) -> None:
        check_name(self.name)
        what = f"output {self.name!r}"
        if self.format not in FORMATS:
            raise ValueError(f"{what}: format is one of {', '.join(FORMATS)}, not {self.format!r}")
        pixels = self.format in PIXELS or self.format == "jpeg"
        if self.size is not None:
            size = tuple(self.size) if isinstance(self.size, tuple | list) else ()
            given = [n for n in size if n is not None]
            if len(size) != 2 or not given or not all(_is_int(n) and 0 < n <= _SIDE for n in given):
                raise ValueError(
                    f"{what}: size is (width, height) in pixels, one of which may be None, not {self.size!r}"
                )
            if self.format in _HALVED and any(n % 2 for n in given):
                raise ValueError(f"{what}: {self.format} needs an even width and height, not {self.size!r}")
            object.__setattr__(self, "size", size)  # a list, where it came from a file
        if self.fps is not None:
            fps = _positive(self.fps)
            if fps is None:
                raise ValueError(f"{what}: fps is a number above 0, not {self.fps!r}")
            object.__setattr__(self, "fps", fps)
        if not pixels and (self.size is not None or self.fps is not None or self.key_frames):
            raise ValueError(
                f"{what}: {self.format} is not decoded, so size, fps and key_frames do not apply"
            )
        if not isinstance(self.key_frames, bool):
            raise ValueError(f"{what}: key_frames is True or False, not {self.key_frames!r}")
        if not _is_int(self.quality) or not 1 <= self.quality <= 100:
            raise ValueError(f"{what}: quality is 1 to 100, not {self.quality!r}")
        if not _is_int(self.slots) or not 2 <= self.slots <= MAX_SLOTS:
            raise ValueError(f"{what}: slots is a number from 2 to {MAX_SLOTS}, not {self.slots!r}")


def as_outputs(outputs: Output | Iterable[Output] | None) -> tuple[Output, ...]:
    """Outputs as they may be given: one, some, or None."""
    some = (outputs,) if isinstance(outputs, Output) else tuple(outputs or ())
    for one in some:
        if not isinstance(one, Output):
            raise TypeError(f"an output is made by Output(), and is not {type(one).__name__}")
    return some


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(value: object) -> float | None:
    """A number above 0 as one that can be told to a worker; None: it is none."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # beyond all floats
        return None
    if not (math.isfinite(number) and number > 0):
        return None
    return value if isinstance(value, int | float) else number  # of a Fraction or numpy's float32


def fitted(size: tuple[int | None, int | None] | None, width: int, height: int) -> tuple[int, int] | None:
    """An output's size for frames of this width and height: one without None in it."""
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
        outputs = as_outputs(self.outputs) or (Output(self.name),)
        object.__setattr__(self, "outputs", outputs)
        names = [output.name for output in outputs]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"camera {self.name!r}: two outputs are called {name!r}; names are rings")
        if self.transport not in TRANSPORTS:
            raise ValueError(f'camera {self.name!r}: transport is "tcp" or "udp", not {self.transport!r}')
        for key in ("open_timeout", "read_timeout", "retry_max", "retry_refused"):
            seconds = _positive(value := getattr(self, key))
            if seconds is None:
                raise ValueError(f"camera {self.name!r}: {key} is above 0 seconds, not {value!r}")
            object.__setattr__(self, key, seconds)
        if not _is_int(self.thread_count) or not 0 <= self.thread_count <= _THREADS:
            wanted = f"0 (all cores) to {_THREADS}"
            raise ValueError(f"camera {self.name!r}: thread_count is {wanted}, not {self.thread_count!r}")
        if self.hwaccel is not None and str(self.hwaccel).partition(":")[0] not in {"auto", *_DEVICES}:
            raise ValueError(
                f'camera {self.name!r}: hwaccel is "auto", or a type of device as "vaapi" or "cuda:1", not '
                f"{self.hwaccel!r}"
            )
        if not isinstance(self.options, Mapping | None):
            raise TypeError(f"camera {self.name!r}: options are a dict, not {type(self.options).__name__}")
        for key, value in (self.options or {}).items():
            if not isinstance(key, str) or not isinstance(value, str) or "\0" in key + value:
                raise ValueError(f"camera {self.name!r}: options are texts, which {key!r} is not")
