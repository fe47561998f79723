# SPDX-License-Identifier: MIT
"""Durations and sizes as people write them."""

from __future__ import annotations

import math
import re

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def parse_seconds(text: str) -> float:
    """ "90", "90s", "1.5m", "1h30m" as seconds, above 0. Raises ValueError."""
    plain = text.strip().lower()
    try:
        value = float(plain)
    except ValueError:
        parts = list(_PART.finditer(plain))
        if not parts or "".join(part[0] for part in parts) != plain:
            raise ValueError(f"{text!r} is not a duration: write it as 60s, 5m or 1h30m") from None
        value = sum(float(number) * _SECONDS[unit] for number, unit in (part.groups() for part in parts))
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{text!r} is not a duration above 0")
    return value


def parse_bytes(text: str) -> int:
    """ "2000000", "500k", "1.5MB", "2GiB" as bytes, at least 1. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: write it as 500M or 2G")
    number, prefix, binary = match.groups()
    value = int(float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " "))
    if value < 1:
        raise ValueError(f"{text!r} is not a size above 0")
    return value


def in_bytes(value: float) -> str:
    """A size, short: "812 B", "3.4 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def clock(value: float) -> str:
    """A duration that is running: "0:07", "1:05:00"."""
    whole = int(value)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
