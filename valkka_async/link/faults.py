# SPDX-License-Identifier: MIT
"""What is wrong with what another host sends, as codes. Texts with sizes in them differ each time, so what
is logged is decided by these."""

from __future__ import annotations

import logging
from enum import StrEnum

from valkka_async.errors import ProtocolError
from valkka_async.seldom import Seldom

_LINES = 60  # a minute, of all cameras of a host

log = logging.getLogger("valkka_async.link")


class Fault(StrEnum):
    """Why a unit was refused, or was lost here."""

    DESCRIPTION = "description"  # it has none, or one that cannot be
    CONTENT = "content"  # not what was asked for
    SIZE = "size"  # too large for what it is
    GEOMETRY = "geometry"  # a raw frame whose bytes do not fit its shape
    REPEAT = "repeat"  # it came before
    SLOTS = "slots"  # readers hold all slots of the ring
    RING = "ring"  # the ring does not take it: no memory, too large
    DECODE = "decode"  # the decoder cannot read it
    PIXELS = "pixels"  # what was decoded cannot be converted
    MUX = "mux"  # it cannot be in fragmented MP4
    INTERNAL = "internal"  # nobody foresaw this one: the log has it


class UnitError(ProtocolError):
    """What came is no unit, or not one that was asked for."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


class Complaints:
    """Logs what is wrong with one camera: a line a minute of each kind (a code or a type, of which there are
    few), and of all cameras of its `host` together as many as that has room for."""

    def __init__(self, name: str, host: Seldom | None = None) -> None:
        self._name = name
        self._host = host or lines_of_a_host()
        self._kinds: dict[Fault | type[Exception], Seldom] = {}

    def __call__(self, kind: Fault | type[Exception], why: object, *, trace: bool = False) -> None:
        """`trace`: with the exception that is being handled."""
        if self._kinds.setdefault(kind, Seldom())() and self._host():
            log.warning("%s: %s", self._name, why, exc_info=trace)


def lines_of_a_host() -> Seldom:
    """What its Complaints share."""
    return Seldom(_LINES)
