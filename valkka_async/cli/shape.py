# SPDX-License-Identifier: MIT
"""Frames and durations in words."""

from __future__ import annotations

from valkka_async.ring.formats import size_of


def describe(shape: tuple[int, ...], format: str) -> str:
    """ "1280x720 rgb24"; of a stream, whose frames are bytes, "48.8 kB h264"; of arrays "2x3x4 array"."""
    if format == "array":
        return f"{'x'.join(map(str, shape))} {format}"
    size = size_of(format, shape)
    return f"{shape[0] / 1000:.1f} kB {format}" if size is None else f"{size[0]}x{size[1]} {format}"


def seconds(value: float) -> str:
    """A duration, short: "12 ms", "3.4 s", "2 min"."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.0f} h"
