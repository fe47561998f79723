# SPDX-License-Identifier: MIT
"""Sequence parameter sets of H.264 (ITU-T H.264, 7.3.2.1.1 and E.1.1): how far their frames are reordered."""

from __future__ import annotations

_EXTENDED = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)  # profiles that say more of colour
_OWN_ASPECT = 255


class _Bits:
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


def without_reordering(sps: bytes) -> bytes | None:
    """The same without its word on how many frames can be reordered, so that a decoder holds back no more of
    them than it sees to be. None: it has none, or is not understood."""
    bits = _Bits(sps.replace(b"\0\0\3", b"\0\0"))
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


def _to_restriction(bits: _Bits) -> bool:
    """Read as far as bitstream_restriction_flag. False: there is none."""
    bits.take(8)
    profile = bits.take(8)
    bits.take(16)
    bits.number()
    if profile in _EXTENDED:
        _skip_colours(bits)
    bits.number()  # log2_max_frame_num_minus4
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
    if not bits.take(1):  # frame_mbs_only_flag
        bits.take(1)
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


def _skip_colours(bits: _Bits) -> None:
    chroma = bits.number()
    if chroma == 3:
        bits.take(1)
    bits.number()
    bits.number()
    bits.take(1)
    if bits.take(1):  # seq_scaling_matrix_present_flag
        for place in range(8 if chroma != 3 else 12):
            if bits.take(1):
                _skip_scaling(bits, 16 if place < 6 else 64)


def _skip_scaling(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.number()
            following = (last + (code + 1) // 2 * (1 if code % 2 else -1)) % 256
        last = following or last


def _skip_buffer(bits: _Bits) -> None:
    """hrd_parameters()"""
    count = bits.number() + 1
    bits.take(8)
    for _ in range(min(count, 32)):
        bits.number()
        bits.number()
        bits.take(1)
    bits.take(20)
