# SPDX-License-Identifier: MIT
"""What a camera does, as data: where it is, how to read it, which rings it feeds.

No PyAV here: a process that only supervises cameras describes them with this.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Literal, TypeAlias, TypedDict, get_args

from valkka_async.camera.source.secrets import parse
from valkka_async.ring.frame import MAX_SLOTS
from valkka_async.ring.rendezvous import check_name

PixelFormat: TypeAlias = Literal["rgb24", "bgr24", "rgba", "bgra", "gray8", "gray16", "nv12", "yuv420p"]
OutputFormat: TypeAlias = Literal[PixelFormat, "jpeg", "fmp4", "packets"]
Transport: TypeAlias = Literal["tcp", "udp", "multicast", "http"]
ConnectMode: TypeAlias = Literal["always", "on_demand"]

PIXELS: tuple[PixelFormat, ...] = get_args(PixelFormat)
FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)
TRANSPORTS: tuple[Transport, ...] = get_args(Transport)
CONNECT: tuple[ConnectMode, ...] = get_args(ConnectMode)

MAIN, SUB = "main", "sub"  # what cameras call their large and their small stream
_STREAM = re.compile(r"[A-Za-z0-9_-]{1,32}")
STREAMS = 16  # of a camera, at most
STREAM_NAME = "the name of a stream is 1 to 32 of A-Z a-z 0-9 _ -"

# FFmpeg's types of devices (libavutil/hwcontext.c), whichever of them were compiled in
_DEVICES = frozenset(
    "amf cuda d3d11va d3d12va drm dxva2 mediacodec opencl qsv vaapi vdpau videotoolbox vulkan".split()
)
_HALVED = ("nv12", "yuv420p")  # colour at half the resolution
_SIDE = 16384  # pixels at most
_FORMAT = re.compile(r"[a-z0-9_,]{1,64}", re.ASCII)
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
        as thermal cameras), "nv12", "yuv420p"; "jpeg": each frame as a JPEG; "fmp4": fragmented MP4 of H.264,
        H.265, AV1, VP9, MPEG-4 or Motion JPEG, never re-encoded, one fragment for each frame, with the init
        segment (ftyp+moov) as the ring's header, and with the camera's sound; "packets": the encoded packets
        as they come, whose frames have the format "h264" or "h265" (Annex B), "jpeg", or "bytes" for other
        codecs.
    size
        (width, height) in pixels to scale to; None: the camera's own, and follows when that changes. With
        None for one of the two, (640, None), that one is what keeps the proportions, rounded to an even
        number.
    fps
        At most so many frames per second, evenly spaced. The others are left out before they cost a
        conversion, and before they cost decoding where the stream allows.
    key_frames
        Only frames that need no other, which are few, and a hundredth of the work to decode. Of an encoder
        that refreshes frames bit by bit and has none (intra refresh), one for each time that it begins to.
    upright
        Turn frames that the source says are rotated, and make their pixels square. Otherwise
        ``meta["rotation"]`` (degrees to turn counterclockwise) and ``meta["pixel_aspect"]`` ([width, height])
        say what is left to do. For rgb24, bgr24, rgba, bgra, gray8 and gray16.
    slots
        As for ``serve``. By default 16, and for "fmp4" and "packets" 320: a GOP of 10 s at 30 frames per
        second, which readers that come late get from its key frame on.
    quality
        Of "jpeg": 1 to 100.
    stream
        Which of the camera's `streams` it is made of. By default the one called "sub", if there is one, for
        pixels and "jpeg", and "main" for "fmp4" and "packets".

    Raises ValueError for settings that make no sense.
    """

    name: str
    format: OutputFormat = "rgb24"
    size: tuple[int | None, int | None] | None = None
    fps: float | None = None
    key_frames: bool = False
    slots: int | None = None
    quality: int = 80
    upright: bool = False
    stream: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        what = f"output {self.name!r}"
        if self.stream is not None and not is_stream_name(self.stream):
            raise ValueError(f"{what}: {STREAM_NAME}")  # not repeated: it may be an address
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
        if not isinstance(self.upright, bool):
            raise ValueError(f"{what}: upright is True or False, not {self.upright!r}")
        if self.upright and self.format not in PIXELS[:6]:
            raise ValueError(f"{what}: upright is for {', '.join(PIXELS[:6])}, not {self.format}")
        if not isinstance(self.key_frames, bool):
            raise ValueError(f"{what}: key_frames is True or False, not {self.key_frames!r}")
        if not _is_int(self.quality) or not 1 <= self.quality <= 100:
            raise ValueError(f"{what}: quality is 1 to 100, not {self.quality!r}")
        if self.slots is not None and not (_is_int(self.slots) and 2 <= self.slots <= MAX_SLOTS):
            raise ValueError(f"{what}: slots is a number from 2 to {MAX_SLOTS}, not {self.slots!r}")


def is_stream_name(name: object) -> bool:
    """May a stream be called so?"""
    return isinstance(name, str) and _STREAM.fullmatch(name) is not None


def main_stream(names: Iterable[str]) -> str:
    """The stream to be recorded, of these: "main", or without one the first that is not "sub"."""
    known = list(names)
    return MAIN if MAIN in known else next((name for name in known if name != SUB), known[0])


def stream_for(format: str, names: Iterable[str]) -> str:
    """The stream, of these, of which an output of this format is made that names none."""
    known = list(names)
    decoded = format in PIXELS or format == "jpeg"
    return SUB if decoded and SUB in known else main_stream(known)


def as_outputs(outputs: Output | Iterable[Output] | None) -> tuple[Output, ...]:
    """Outputs as they may be given: one, some, or None."""
    some = (outputs,) if isinstance(outputs, Output) else tuple(outputs or ())
    for one in some:
        if not isinstance(one, Output):
            raise TypeError(f"an output is made by Output(), and is not {type(one).__name__}")
    return some


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_format(value: object) -> bool:
    """Could it be the name of a format of FFmpeg's?"""
    return isinstance(value, str) and _FORMAT.fullmatch(value) is not None


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
    poll: float
    thread_count: int
    hwaccel: str | None
    options: Mapping[str, str] | None
    input_format: str | None
    tls_verify: bool
    tls_ca_file: str | None
    streams: Mapping[str, str] | None
    connect: ConnectMode
    audio: bool


@dataclass(frozen=True)
class CameraSpec:
    """All that makes a camera; see :class:`Camera` for what each setting means. `repr()` shows no
    credentials."""

    name: str
    url: str = field(default="", repr=False)  # "": there are `streams`
    outputs: tuple[Output, ...] = ()
    transport: Transport = "tcp"
    open_timeout: float = 10.0
    read_timeout: float = 10.0
    retry_max: float = 30.0
    retry_refused: float = 60.0
    poll: float = 1.0
    thread_count: int = 1
    hwaccel: str | None = None
    options: Mapping[str, str] | None = field(default=None, repr=False)
    input_format: str | None = None
    tls_verify: bool = False
    tls_ca_file: str | None = None
    streams: Mapping[str, str] | None = field(default=None, repr=False)
    connect: ConnectMode = "always"
    audio: bool = True

    @property
    def asks_for_sound(self) -> bool:
        """Is there an output that carries sound, and is it wanted?"""
        return self.audio and any(output.format == "fmp4" for output in self.outputs)

    def __post_init__(self) -> None:
        check_name(self.name)
        url = "" if self.url is None else os.fspath(self.url)
        object.__setattr__(self, "url", url)
        if self.streams is None:
            if not url:
                raise ValueError(f"camera {self.name!r}: it needs a url, or streams")
            parse(url)
        else:
            object.__setattr__(self, "streams", self._checked_streams(self.streams))
        outputs = as_outputs(self.outputs) or (Output(self.name),)
        object.__setattr__(self, "outputs", self._with_streams(outputs))
        names = [output.name for output in outputs]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"camera {self.name!r}: two outputs are called {name!r}; names are rings")
        if self.transport not in TRANSPORTS:
            known = ", ".join(TRANSPORTS)
            raise ValueError(f"camera {self.name!r}: transport is one of {known}, not {self.transport!r}")
        if self.connect not in CONNECT:
            wanted = '"always" or "on_demand"'
            raise ValueError(f"camera {self.name!r}: connect is {wanted}, not {self.connect!r}")
        for key in ("open_timeout", "read_timeout", "retry_max", "retry_refused", "poll"):
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
        if not isinstance(self.audio, bool):
            raise ValueError(f"camera {self.name!r}: audio is True or False, not {self.audio!r}")
        if not isinstance(self.options, Mapping | None):
            raise TypeError(f"camera {self.name!r}: options are a dict, not {type(self.options).__name__}")
        for key, value in (self.options or {}).items():
            if not isinstance(key, str) or not isinstance(value, str) or "\0" in key + value:
                raise ValueError(f"camera {self.name!r}: options are texts, which {key!r} is not")
        if self.input_format is not None and not is_format(self.input_format):
            raise ValueError(
                f"camera {self.name!r}: input_format is FFmpeg's name of a format, such as mjpeg or v4l2, "
                f"not {self.input_format!r}"
            )
        if not isinstance(self.tls_verify, bool):
            raise ValueError(f"camera {self.name!r}: tls_verify is True or False, not {self.tls_verify!r}")
        if self.tls_ca_file is not None:
            object.__setattr__(self, "tls_ca_file", str(os.fspath(self.tls_ca_file)))
            if not self.tls_verify:
                raise ValueError(f"camera {self.name!r}: tls_ca_file is for tls_verify; set that, too")

    @property
    def urls(self) -> dict[str, str]:
        """The address of each stream, the main one first. Without `streams` its name is ""."""
        return {"": self.url} if self.streams is None else dict(self.streams)

    def parts(self) -> dict[str, CameraSpec]:
        """Each stream as a camera of its own that has one address."""
        if self.streams is None:
            return {"": self}
        return {
            name: replace(
                self,
                url=url,
                streams=None,
                outputs=tuple(replace(o, stream=None) for o in self.outputs if o.stream == name),
            )
            for name, url in self.streams.items()
        }

    def _checked_streams(self, streams: Mapping[str, str]) -> dict[str, str]:
        what = f"camera {self.name!r}"
        if self.url:
            raise ValueError(f"{what}: it has a url or streams, and not both")
        if not isinstance(streams, Mapping):
            raise TypeError(
                f"{what}: streams are a dict of names and addresses, not {type(streams).__name__}"
            )
        if not streams:
            raise ValueError(f'{what}: its streams are empty; {{"main": URL, "sub": URL}} belongs there')
        if len(streams) > STREAMS:
            raise ValueError(f"{what}: it has at most {STREAMS} streams, not {len(streams)}")
        for name, url in streams.items():
            if not is_stream_name(name):
                raise ValueError(f"{what}: {STREAM_NAME}")  # not repeated: it may be an address
            parse(os.fspath(url))
        first = main_stream(streams)
        ordered = sorted(streams, key=lambda name: name != first)  # which keeps the others' order
        return {name: os.fspath(streams[name]) for name in ordered}

    def _with_streams(self, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        """The outputs, each with its stream. Raises ValueError if they do not fit to the streams."""
        what = f"camera {self.name!r}"
        if self.streams is None:
            for output in outputs:
                if output.stream is not None:
                    raise ValueError(
                        f"{what}: its output {output.name!r} is of the stream {output.stream!r}, and it has "
                        "a url and no streams"
                    )
            return outputs
        known = " and ".join(self.streams)
        for output in outputs:
            if output.stream is not None and output.stream not in self.streams:
                raise ValueError(
                    f"{what}: its output {output.name!r} is of the stream {output.stream!r}, and its streams "
                    f"are {known}"
                )
        outputs = tuple(replace(o, stream=o.stream or stream_for(o.format, self.streams)) for o in outputs)
        for name in self.streams:
            if name not in {output.stream for output in outputs}:
                raise ValueError(
                    f'{what}: no output is of the stream {name!r}; give one stream="{name}", or leave it out'
                )
        return outputs
