# SPDX-License-Identifier: MIT
"""PyAV's rational numbers, time bases and rates, as Fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Protocol


class Rational(Protocol):
    """Any of these: Fraction, AVRational."""

    @property
    def numerator(self) -> int: ...

    @property
    def denominator(self) -> int: ...


def fraction(rational: Any) -> Fraction | None:
    """None where nothing is known. PyAV 18 gives a Fraction or None; PyAV 19 gives an AVRational of its own,
    which is falsy where nothing is known."""
    return Fraction(rational.numerator, rational.denominator) if rational else None
