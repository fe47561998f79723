# SPDX-License-Identifier: MIT
"""The test pattern of a synthetic camera: moving stripes, its name, a clock and a frame counter.

It is drawn for every frame, so it is made of copies: the background is computed once and only rolled, and
the glyphs are ready-made blocks of pixels. It is drawn in the encoder's own format (yuv420p: luma, and two
planes of colour at half the size), since a conversion from RGB would cost more than the encoder. (FFmpeg's
drawtext would do, but PyAV's wheels lack it.)
"""

from __future__ import annotations

import colorsys
import math
import time

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.uint8]

# 5 x 7 pixels, a row of each after the other
_FONT = {
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11111 00010 00100 00010 00001 10001 01110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00010 01100",
    "d": "00001 00001 01101 10011 10001 10001 01111",
    "e": "00000 00000 01110 10001 11111 10000 01110",
    "m": "00000 00000 11010 10101 10101 10001 10001",
    "o": "00000 00000 01110 10001 10001 10001 01110",
    ":": "00000 01100 01100 00000 01100 01100 00000",
    ".": "00000 00000 00000 00000 00000 01100 01100",
    "#": "01010 01010 11111 01010 11111 01010 01010",
    " ": "00000 00000 00000 00000 00000 00000 00000",
}
_INK, _PAPER, _GREY = 235, 16, 128  # white and black as television has them; no colour
_CELL = (9, 6)  # a glyph and the space around it, in its own pixels
_RED, _BLUE = 0.2126, 0.0722  # in luma (BT.709)


class Pattern:
    """Draws the frames of one camera. `size` is (width, height), both even; `hue` is from 0 to 1."""

    def __init__(self, name: str, size: tuple[int, int], hue: float) -> None:
        width, height = size
        self._height = height
        self._scale = max(1, min(width // 160, height // 60))
        self._glyphs = {char: _glyph(rows, self._scale) for char, rows in _FONT.items()}
        self._name = self._line(name)
        # Twice, one below the other: a window that moves down it is one piece of memory, so one memcpy.
        self._background = [np.concatenate([plane, plane]) for plane in _stripes(size, hue)]
        self._step = 2 * max(1, height // 480)  # in luma; half of it in the others
        self._second = (0, "")

    def draw(self, planes: tuple[Plane, Plane, Plane], number: int, time_ns: int) -> None:
        """Write frame `number`, captured at a Unix time, into the planes of an image: every pixel of it."""
        top = -number * self._step % self._height
        for plane, background, offset in zip(
            planes, self._background, (top, top // 2, top // 2), strict=True
        ):
            np.copyto(plane, background[offset : offset + plane.shape[0]])
        margin, line = 4 * self._scale, _CELL[0] * self._scale
        texts = (self._name, self._line(self._clock(time_ns)), self._line(f"#{number:08}"))
        for row, text in enumerate(texts):
            _paste(planes, text, margin + row * line, margin)
        # The bar at the bottom grows once a second: a stutter shows at a glance.
        grown = int(time_ns % 1_000_000_000 / 1e9 * planes[0].shape[1])
        _fill(planes, slice(self._height - 2 * self._scale, self._height), slice(0, grown))

    def _clock(self, time_ns: int) -> str:
        second, rest = divmod(time_ns, 1_000_000_000)
        if second != self._second[0]:
            self._second = second, time.strftime("%H:%M:%S", time.localtime(second))
        return f"{self._second[1]}.{rest // 1_000_000:03}"

    def _line(self, text: str) -> Plane:
        return np.concatenate([self._glyphs.get(char, self._glyphs[" "]) for char in text], axis=1)


def _glyph(rows: str, scale: int) -> Plane:
    cell = np.full(_CELL, _PAPER, np.uint8)
    bits = np.array([[int(bit) for bit in row] for row in rows.split()], np.uint8)
    cell[1:8, :5] = np.where(bits, _INK, _PAPER)
    return cell.repeat(scale, axis=0).repeat(scale, axis=1)


def _paste(planes: tuple[Plane, Plane, Plane], block: Plane, top: int, left: int) -> None:
    """As much of the block as the image has room for."""
    rows, columns = slice(top, top + block.shape[0]), slice(left, left + block.shape[1])
    _fill(planes, rows, columns)
    target = planes[0][rows, columns]
    target[...] = block[: target.shape[0], : target.shape[1]]


def _fill(planes: tuple[Plane, Plane, Plane], rows: slice, columns: slice) -> None:
    """White, and no colour in any pixel that is part of it."""
    planes[0][rows, columns] = _INK
    for plane in planes[1:]:
        plane[rows.start // 2 : (rows.stop + 1) // 2, columns.start // 2 : (columns.stop + 1) // 2] = _GREY


def _stripes(size: tuple[int, int], hue: float) -> tuple[Plane, Plane, Plane]:
    """Diagonal stripes of one hue, whose last row fits on the first."""
    width, height = size
    y = np.arange(height, dtype=np.float32)[:, np.newaxis] / height
    x = np.arange(width, dtype=np.float32)[np.newaxis, :] / width
    wave = np.sin(2 * math.pi * (2 * y + 3 * x)) + 0.5 * np.sin(2 * math.pi * (3 * y - 2 * x))
    value = np.clip(0.55 + 0.25 * wave, 0, 1)
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 1.0)
    luma = _RED * red + (1 - _RED - _BLUE) * green + _BLUE * blue
    half = value[::2, ::2]
    return (
        (16 + 219 * luma * value).astype(np.uint8),
        (128 + 112 * (blue - luma) / (1 - _BLUE) * half).astype(np.uint8),
        (128 + 112 * (red - luma) / (1 - _RED) * half).astype(np.uint8),
    )
