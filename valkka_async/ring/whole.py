# SPDX-License-Identifier: MIT
"""What a whole number may be."""

from __future__ import annotations

import operator
import sys
from typing import SupportsIndex


def whole(value: SupportsIndex, what: str, least: int, most: int = sys.maxsize) -> int:
    """A whole number from ``least`` to ``most``, of any type that is one (numpy's, say). Raises ValueError,
    which names ``what`` it is."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number <= most:
        limits = f"from {least} to {most}" if most < sys.maxsize else f"of at least {least}"
        raise ValueError(f"{what} is a whole number {limits}, not {value!r}")
    return number
