# SPDX-License-Identifier: MIT
"""Frames and durations in words."""

from __future__ import annotations


def describe(shape: tuple[int, ...], format: str) -> str:
    """ "1280x720 rgb24"; of a stream, whose frames are bytes, "48.8 kB h264"; of arrays "2x3x4 array"."""
    if format == "array":
        return f"{'x'.join(map(str, shape))} {format}"
    if len(shape) == 1:
        return f"{shape[0] / 1000:.1f} kB {format}"
    height, width = shape[:2]
    if format in ("nv12", "yuv420p"):  # the colour planes lie below the luma
        height = height * 2 // 3
    return f"{width}x{height} {format}"


def seconds(value: float) -> str:
    """A duration, short: "12 ms", "3.4 s", "2 min"."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.0f} h"
