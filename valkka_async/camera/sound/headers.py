# SPDX-License-Identifier: MIT
"""What AAC and Opus say of themselves. No PyAV here."""

from __future__ import annotations

from typing import NamedTuple

RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_LC = 2  # the object type of AAC with low complexity
_ESCAPE = 15  # a rate in full follows
_OPUS_MS = (10, 20, 40, 60), (10, 20), (2.5, 5, 10, 20)  # a frame's: SILK, hybrid, CELT


class AacConfig(NamedTuple):
    """Of an AudioSpecificConfig (ISO/IEC 14496-3, 1.6.2.1)."""

    rate: int  # samples per second, of its core
    channels: int
    samples: int  # in a packet


def aac_config(config: bytes) -> AacConfig | None:
    """What the config of AAC says; None: nothing that makes sense."""
    bits = int.from_bytes(config[:8].ljust(8, b"\0"), "big")
    at = 64

    def read(count: int) -> int:
        nonlocal at
        at -= count
        return bits >> at & (1 << count) - 1

    def rate() -> int:
        place = read(4)
        return read(24) if place == _ESCAPE else RATES[place] if place < len(RATES) else 0

    if len(config) < 2:
        return None
    kind = read(5)
    if kind == 31:
        kind = 32 + read(6)
    core, channels = rate(), read(4)
    if kind in (5, 29):  # with SBR: the rate that comes out, and the core's type
        rate()
        read(5)
    short = read(1)
    if not core or channels > 7:
        return None
    return AacConfig(core, 8 if channels == 7 else channels or 1, 960 if short else 1024)


def make_aac_config(rate: int, channels: int) -> bytes:
    """The config of AAC-LC. Raises ValueError for a rate that it has no number for."""
    number = _LC << 11 | RATES.index(rate) << 7 | (7 if channels == 8 else channels) << 3
    return number.to_bytes(2, "big")


def adts(data: bytes) -> tuple[bytes, int] | None:
    """Of a packet with a header of ADTS (ISO/IEC 13818-7, 6.2), as in MPEG-TS: the config that this stands
    for, and where the packet begins behind it."""
    if len(data) < 7 or data[0] != 0xFF or data[1] & 0xF6 != 0xF0:
        return None
    kind, place = (data[2] >> 6) + 1, data[2] >> 2 & 15
    channels = (data[2] & 1) << 2 | data[3] >> 6
    if place >= len(RATES):
        return None
    config = (kind << 11 | place << 7 | channels << 3).to_bytes(2, "big")
    return config, 7 if data[1] & 1 else 9


def opus_seconds(data: bytes) -> float:
    """How long a packet of Opus lasts (RFC 6716, 3.1); 0.0: it is none."""
    if not data:
        return 0.0
    mode, code = data[0] >> 3, data[0] & 3
    frame: float
    if mode < 12:
        frame = _OPUS_MS[0][mode & 3]
    elif mode < 16:
        frame = _OPUS_MS[1][mode & 1]
    else:
        frame = _OPUS_MS[2][mode & 3]
    count = (1, 2, 2, data[1] & 0x3F if len(data) > 1 else 0)[code]
    return frame * count / 1000
