# SPDX-License-Identifier: MIT
"""How many cameras fit: the cost of decoding is measured here, that of memory is docs/sizing.md's."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from valkka_async.cgroups import Cgroups
from valkka_async.cli.doctor.check import OK, WARNING, Check
from valkka_async.cli.doctor.machine import room

SIZES = ((640, 360), (1920, 1080))
_FPS = 25
_FRAMES = 25
_SLOTS = 3  # that a ring touches as long as its readers keep up
_SERVICE_BYTES = 80e6  # and what its cameras' processes share
_WORKER_BYTES = 14e6  # of a camera's own, without frames
_DECODER_FRAMES = 2  # that it keeps, three halves of a byte a pixel
_RECORDED_CORES = 0.014  # one that is not decoded
_SPARE = 0.8  # of the cores and the memory: what all is planned with


@dataclass(frozen=True)
class Fit:
    """How many cameras of a size, each decoded into one ring of rgb24, and what is short first."""

    size: tuple[int, int]
    decode_ms: float
    camera_bytes: float
    by_cores: int
    by_memory: int
    recorded: int  # if they are not decoded

    @property
    def cameras(self) -> int:
        return min(self.by_cores, self.by_memory)


def cameras(cgroups: Cgroups | None = None, meminfo: Path = Path("/proc/meminfo")) -> Iterator[Check]:
    """How many fit into what is left of this machine, or of this control group."""
    try:
        import av  # noqa: F401
    except ImportError:
        return  # it was said
    groups = cgroups or Cgroups()
    usable = float(len(os.sched_getaffinity(0)))
    cores = min(usable, groups.cores() or usable)
    memory = room(groups, meminfo).left
    for size in SIZES:
        name = "cameras {}x{}".format(*size)
        cost = decode_seconds(size)
        if cost is None:
            yield Check(name, WARNING, "not measured: this FFmpeg cannot encode H.264 (libx264)")
            continue
        one = fit(size, cost, cores, memory)
        found = (
            f"{one.cameras} at {_FPS}/s, each decoded into one ring ({one.decode_ms:.1f} ms a frame, "
            f"{one.camera_bytes / 1e6:.0f} MB), {'memory' if one.by_memory < one.by_cores else 'cores'} "
            f"being short first; or {one.recorded} that are recorded alone"
        )
        if one.cameras:
            yield Check(name, OK, found)
        else:
            fix = "take the camera's smaller stream, limit fps=, or give this more memory and cores"
            yield Check(name, WARNING, found, fix)


def fit(size: tuple[int, int], seconds: float, cores: float, memory: float) -> Fit:
    """By the seconds of a core that a frame takes, and the bytes that are free."""
    pixels = size[0] * size[1]
    each = _WORKER_BYTES + (3 * _SLOTS + 1.5 * _DECODER_FRAMES) * pixels
    spent = seconds * _FPS + _RECORDED_CORES
    free = max(0.0, _SPARE * memory - _SERVICE_BYTES)
    recorded = min(_SPARE * cores / _RECORDED_CORES, free / _WORKER_BYTES)
    return Fit(size, seconds * 1e3, each, int(_SPARE * cores / spent), int(free / each), int(recorded))


def decode_seconds(size: tuple[int, int]) -> float | None:
    """CPU time of decoding and converting a frame of a test picture. None: none can be encoded here."""
    import av

    width, height = size
    try:
        encoder = av.CodecContext.create("libx264", "w")
    except av.error.FFmpegError:
        return None
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base = Fraction(1, _FPS)
    encoder.options = {"preset": "veryfast", "g": "50", "bf": "0"}
    packets = []
    with av.open(f"testsrc2=size={width}x{height}:rate={_FPS}", format="lavfi") as source:
        for number, frame in enumerate(source.decode(video=0)):
            if number == _FRAMES:
                break
            packets += encoder.encode(frame.reformat(format="yuv420p"))
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    began, count = time.thread_time(), 0
    for packet in [*packets, None]:
        for frame in decoder.decode(packet):
            frame.to_ndarray(format="rgb24")
            count += 1
    return (time.thread_time() - began) / max(1, count)
