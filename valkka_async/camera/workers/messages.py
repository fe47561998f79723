# SPDX-License-Identifier: MIT
"""Messages between a supervisor and its worker, as lines of bytes. No I/O.

One line is one message: the JSON object of a record, with "op" for its kind::

    supervisor -> worker   BEGIN      the first one
                           CONFIGURE  a camera is to be like this, or to go
                           STOP       close all cameras, and end
    worker -> supervisor   HELLO      the first one: the worker listens
                           APPLIED    a CONFIGURE is done, or has failed and is tried again
                           STATUS     the sign of life: all cameras each `heartbeat`, and in between those
                                      that have changed
                           LOG        a log record
                           HAPPENED   an event: a reader has come, gone or fallen behind

URLs with their passwords come only this way: every user may read a command line, and children inherit an
environment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from valkka_async import typed
from valkka_async.camera.spec import CameraSpec
from valkka_async.camera.status import CameraStatus
from valkka_async.errors import DataError

PROTOCOL = 4  # raised with each change of the messages
LONGEST = 1 << 20  # bytes in a line
_RECORDS = 800  # in a STATUS: cameras, their streams and outputs. Most have less than 700 bytes


@dataclass(frozen=True, slots=True)
class Begin:
    heartbeat: float  # seconds
    stop_timeout: float  # seconds
    level: int  # of logging


@dataclass(frozen=True, slots=True)
class Configure:
    name: str
    version: int  # of this camera's settings; APPLIED repeats it
    camera: CameraSpec | None  # None: close it


@dataclass(frozen=True, slots=True)
class Stop:
    pass


@dataclass(frozen=True, slots=True)
class Hello:
    protocol: int  # PROTOCOL


@dataclass(frozen=True, slots=True)
class Applied:
    name: str
    version: int
    camera: CameraStatus | None  # None: it is closed


@dataclass(frozen=True, slots=True)
class Status:
    cpu_s: float  # CPU seconds of the process
    rss: int  # bytes of memory
    cameras: tuple[CameraStatus, ...]
    stuck: tuple[str, ...]  # cameras that do not come back from a library


@dataclass(frozen=True, slots=True)
class Log:
    name: str  # the logger's
    level: int
    created: float  # Unix seconds
    thread: str
    camera: str  # which camera it is about; "": none
    text: str


@dataclass(frozen=True, slots=True)
class Happened:
    code: str
    camera: str
    time_ns: int
    text: str
    fields: Mapping[str, str | int]


Message = Begin | Configure | Stop | Hello | Applied | Status | Log | Happened

_KINDS: dict[str, type[Message]] = {
    "begin": Begin,
    "configure": Configure,
    "stop": Stop,
    "hello": Hello,
    "applied": Applied,
    "status": Status,
    "log": Log,
    "happened": Happened,
}
_OPS = {kind: op for op, kind in _KINDS.items()}


def in_parts(cameras: Iterable[CameraStatus]) -> Iterator[tuple[CameraStatus, ...]]:
    """Cameras for one STATUS each, which must not be too long. At least one, if there are no cameras."""
    part: list[CameraStatus] = []
    records = 0
    for camera in cameras:
        own = 1 + len(camera.streams) + len(camera.outputs)
        if part and records + own > _RECORDS:
            yield tuple(part)
            part, records = [], 0
        part.append(camera)
        records += own
    yield tuple(part)


def encode(message: Message) -> bytes:
    """A message as a line. Raises DataError if it is too long, or a field has a wrong type."""
    data = {"op": _OPS[type(message)]} | typed.encode(message)
    line = json.dumps(data).encode() + b"\n"
    if len(line) > LONGEST:
        raise DataError(f"a message of {len(line)} bytes is too long")
    return line


def decode(line: bytes) -> Message:
    """The message in a line. Raises DataError for anything else, whatever the bytes are."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise DataError("not a message")
    op = data.pop("op", None)
    kind = _KINDS.get(op) if isinstance(op, str) else None
    if kind is None:
        raise DataError("a message of an unknown kind", field="op")
    return typed.decode(kind, data)
