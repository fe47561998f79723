# SPDX-License-Identifier: MIT
"""Sequence parameter sets of H.264 (ITU-T H.264, 7.3.2.1.1 and E.1.1): how far their frames are reordered,
and whether each may be two fields."""

from __future__ import annotations

from typing import NamedTuple

_EXTENDED = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)  # profiles that say more of colour
_OWN_ASPECT = 255


class Bits:
    """Reads the bits of a unit. Beyond its end there are zeros."""

    def __init__(self, data: bytes) -> None:
        self._size = len(data) * 8
        self._value = int.from_bytes(data, "big")
        self.at = 0

    def take(self, count: int) -> int:
        self.at += count
        below = self._size - self.at
        value = self._value >> below if below >= 0 else self._value << -below
        return value & ((1 << count) - 1)

    def number(self) -> int:
        """ue(v), and as far as its length goes, se(v)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if self.at >= self._size:
                raise ValueError("the parameter set is cut off")
        return (1 << zeros) - 1 + self.take(zeros)

    def before(self) -> str:
        """What was read."""
        return f"{self._value >> (self._size - self.at):0{self.at}b}"


class Frames(NamedTuple):
    """What a parameter set says of frames and fields."""

    id: int
    colour_planes: bool  # that are coded by themselves
    number_bits: int  # of frame_num
    fields: bool  # a frame may be two


def frames(sps: bytes) -> Frames | None:
    """None: it is damaged."""
    bits = Bits(sps.replace(b"\0\0\3", b"\0\0"))
    try:
        return _to_frames(bits)
    except ValueError:
        return None


def without_reordering(sps: bytes) -> bytes | None:
    """The same without its word on how many frames can be reordered, so that a decoder holds back no more of
    them than it sees to be. None: it has none, or is not understood."""
    bits = Bits(sps.replace(b"\0\0\3", b"\0\0"))
    try:
        if not _to_restriction(bits) or not bits.take(1):
            return None
    except ValueError:
        return None
    kept = bits.before()[:-1] + "01"  # the flag, and the bit that ends the unit
    kept += "0" * (-len(kept) % 8)
    plain = int(kept, 2).to_bytes(len(kept) // 8, "big")
    made, zeros = bytearray(), 0
    for byte in plain:  # what would look like a start code is taken apart
        if zeros >= 2 and byte <= 3:
            made.append(3)
            zeros = 0
        made.append(byte)
        zeros = 0 if byte else zeros + 1
    return bytes(made)


def _to_frames(bits: Bits) -> Frames:
    """Read as far as frame_mbs_only_flag, and what goes with it."""
    bits.take(8)
    profile = bits.take(8)
    bits.take(16)
    id = bits.number()
    planes = profile in _EXTENDED and _skip_colours(bits)
    number_bits = bits.number() + 4
    order = bits.number()  # pic_order_cnt_type
    if order == 0:
        bits.number()
    elif order == 1:
        bits.take(1)
        bits.number()
        bits.number()
        for _ in range(min(bits.number(), 255)):
            bits.number()
    bits.number()  # max_num_ref_frames
    bits.take(1)
    bits.number()
    bits.number()
    fields = not bits.take(1)  # frame_mbs_only_flag
    if fields:
        bits.take(1)
    return Frames(id, planes, number_bits, fields)


def _to_restriction(bits: Bits) -> bool:
    """Read as far as bitstream_restriction_flag. False: there is none."""
    _to_frames(bits)
    bits.take(1)
    if bits.take(1):  # cropping
        for _ in range(4):
            bits.number()
    if not bits.take(1):  # vui_parameters_present_flag
        return False
    if bits.take(1) and bits.take(8) == _OWN_ASPECT:
        bits.take(32)
    if bits.take(1):  # overscan
        bits.take(1)
    if bits.take(1):  # video signal
        bits.take(4)
        if bits.take(1):
            bits.take(24)
    if bits.take(1):  # where chroma is
        bits.number()
        bits.number()
    if bits.take(1):  # timing
        bits.take(65)
    buffers = 0
    for _ in range(2):  # of units, of slices
        if bits.take(1):
            buffers += 1
            _skip_buffer(bits)
    if buffers:
        bits.take(1)
    bits.take(1)  # pic_struct_present_flag
    return True


def _skip_colours(bits: Bits) -> bool:
    """separate_colour_plane_flag"""
    chroma = bits.number()
    separate = chroma == 3 and bool(bits.take(1))
    bits.number()
    bits.number()
    bits.take(1)
    if bits.take(1):  # seq_scaling_matrix_present_flag
        for place in range(8 if chroma != 3 else 12):
            if bits.take(1):
                _skip_scaling(bits, 16 if place < 6 else 64)
    return separate


def _skip_scaling(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.number()
            following = (last + (code + 1) // 2 * (1 if code % 2 else -1)) % 256
        last = following or last


def _skip_buffer(bits: Bits) -> None:
    """hrd_parameters()"""
    count = bits.number() + 1
    bits.take(8)
    for _ in range(min(count, 32)):
        bits.number()
        bits.number()
        bits.take(1)
    bits.take(20)
