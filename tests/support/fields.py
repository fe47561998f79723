"""H.264 whose frames are two fields, or one picture, as the encoder likes (PAFF).

No encoder at hand makes it, so this does: macroblocks are bare samples, or copied from the picture before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 64, 64
_ACROSS = WIDTH // 16
_PCM, _PCM_IN_P = 25, 30  # mb_type of 7.3.5
_ALL_P, _ALL_I = 5, 7  # slice_type


class Field(NamedTuple):
    """One picture, an access unit of H.264: a field, or a whole frame."""

    unit: bytes
    frame: int  # of which it is a part
    second: bool


class _Bits:
    def __init__(self) -> None:
        self._bits: list[str] = []

    def put(self, value: int, count: int) -> None:
        self._bits.append(f"{value:0{count}b}")

    def number(self, value: int) -> None:
        """ue(v), and se(v) of 0"""
        bits = f"{value + 1:b}"
        self._bits.append("0" * (len(bits) - 1) + bits)

    def align(self) -> None:
        self._bits = ["".join(self._bits)]
        self._bits.append("0" * (-len(self._bits[0]) % 8))

    def data(self, data: bytes) -> None:
        self.align()
        self._bits.append(f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}")

    def nal(self, kind: int, reference: bool) -> bytes:
        self.put(1, 1)
        self.align()
        bits = "".join(self._bits)
        data = int(bits, 2).to_bytes(len(bits) // 8, "big")
        escaped = re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", data)
        return b"\0\0\0\1" + bytes([0x60 * reference | kind]) + escaped


def _sets() -> bytes:
    sps, pps = _Bits(), _Bits()
    for value in (77, 0, 30):  # Main profile, level 3
        sps.put(value, 8)
    for value in (0, 0, 2, 2):  # id; 4 bits of frame_num; shown as decoded; two reference frames
        sps.number(value)
    sps.put(0, 1)
    sps.number(_ACROSS - 1)
    sps.number(HEIGHT // 32 - 1)
    sps.put(0b001_00, 5)  # fields are allowed, not macroblock by macroblock; direct_8x8; no cropping, no VUI
    pps.number(0)
    pps.number(0)
    pps.put(0, 2)
    for value in (0, 0, 0):
        pps.number(value)
    pps.put(0, 3)
    for value in (0, 0, 0):
        pps.number(value)
    pps.put(0b100, 3)  # slices say how they are deblocked
    return sps.nal(7, True) + pps.nal(8, True)


def _slice(
    first: int, count: int, fresh: int, seed: int, frame_num: int, bottom: bool | None, key: bool
) -> bytes:
    """`count` macroblocks from `first` on, of which `fresh` are new, or all of a key picture (IDR)."""
    bits, random = _Bits(), np.random.default_rng(seed)
    bits.number(first)
    bits.number(_ALL_I if key else _ALL_P)
    bits.number(0)
    bits.put(frame_num % 16, 4)
    bits.put(bottom is not None, 1)
    if bottom is not None:
        bits.put(bottom, 1)
    if key:
        bits.number(0)
    bits.put(0, 2)  # marks no pictures, or lists none anew
    if not key:
        bits.put(0, 1)
    bits.number(0)
    bits.number(1)  # no deblocking
    for place in range(count if key else fresh):
        if not key:
            bits.number(0)  # none skipped
        bits.number(_PCM if key else _PCM_IN_P)
        level = random.integers(32, 200, 6)
        samples = np.repeat(level, 64) + np.arange(384) % 16 + place
        bits.data(samples.astype(np.uint8).tobytes())
    if not key and count > fresh:
        bits.number(count - fresh)
    return bits.nal(5 if key else 1, True)


def field_coded(kinds: str, *, slices: int = 1, before: bytes = b"", gop: int = 5) -> list[Field]:
    """A frame for each letter: F, one picture; f, two fields. Each `gop`-th is an IDR frame, the others refer
    to what was before. `before`: what comes before each picture, where no parameter sets do."""
    made: list[Field] = []
    for frame, kind in enumerate(kinds):
        number, key = frame % gop, frame % gop == 0
        parities: Sequence[bool | None] = (None,) if kind == "F" else (False, True)
        for bottom in parities:
            start = key and bottom is not True
            size = _ACROSS * HEIGHT // 16 // len(parities)
            each = size // slices
            unit = _sets() if start else before
            for at in range(slices):
                seed = 100 * frame + 10 * (bottom is True) + at
                unit += _slice(at * each, each, each // 2, seed, number, bottom, start)
            made.append(Field(unit, frame, bottom is True))
    return made
