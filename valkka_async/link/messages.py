# SPDX-License-Identifier: MIT
"""What a link and its importing worker say to each other: records (typed.py), a line of JSON each."""

from __future__ import annotations

import json
from dataclasses import dataclass

from valkka_async import typed
from valkka_async.camera.status import AnyState, Cause
from valkka_async.errors import DataError
from valkka_async.link.faults import Fault
from valkka_async.link.spec import Pixels


@dataclass(frozen=True, slots=True)
class Import:
    """A foreign camera: decode NAME/packets into NAME while somebody reads that. `state`, `cause` and
    `reason` are what its ring says of it."""

    name: str
    format: Pixels
    state: AnyState
    cause: Cause | None
    reason: str


@dataclass(frozen=True, slots=True)
class Work:
    """All cameras that there are to be, from the link."""

    imports: tuple[Import, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """Units of a camera that failed in the worker since it said so last."""

    name: str
    count: int
    fault: Fault  # of the newest


@dataclass(frozen=True, slots=True)
class Alive:
    """From the worker, each second: its sign of life. `failures` of some cameras, the others' later."""

    cameras: int
    failures: tuple[Failure, ...]


def encode(message: Work | Alive) -> bytes:
    return json.dumps(typed.encode(message)).encode() + b"\n"


def decode_work(line: bytes) -> Work:
    """Raises DataError."""
    return typed.decode(Work, _data(line))


def decode_alive(line: bytes) -> Alive:
    """Raises DataError."""
    return typed.decode(Alive, _data(line))


def _data(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise DataError("a line that is not JSON") from None
