# SPDX-License-Identifier: MIT
"""What happens, as frames of a ring of its own, NAME.events: JSON with a code, of whom it is, and when.

The payload is ``{"code": "camera.live", "camera": "front", "text": "", "fields": {}}``; the frame's time is
the event's. Keys and codes that are not known are let pass: another version may have more of them.
"""

from __future__ import annotations

import fnmatch
import json
import math
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from valkka_async.errors import DataError, FrameError, InvalidNameError
from valkka_async.ring import fork
from valkka_async.ring._shm import Frame
from valkka_async.ring.names import EVENTS, check_source, is_source, matches

EVENT_BYTES = 16 << 10  # of a payload
EVENT_SLOTS = 256  # events that a reader may be behind before it misses any
_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CODES = re.compile(r"[A-Za-z0-9._*?\[\]!-]{1,64}")
_TEXT = 1000  # characters
# Readers find a new ring within some hundredths of a second, and get what was in it by then.
_OPENING_SECONDS = 2.0
_OPENING_EVENTS = 200
_FIRST_SECONDS = 1.0  # for which a thread waits for the one that publishes the first
_MOMENT = 0.0005
_DEPTH = 32  # of fields in fields: whoever passes them on has a stack, too


class EventCode(StrEnum):
    """What this version tells. Analysers have codes of their own, so :attr:`Event.code` may be any text."""

    CAMERA_CONNECTING = "camera.connecting"  # states of a camera of a service: see CameraState
    CAMERA_LIVE = "camera.live"
    CAMERA_STALLED = "camera.stalled"
    CAMERA_WAITING = "camera.waiting"
    CAMERA_IDLE = "camera.idle"
    CAMERA_STOPPED = "camera.stopped"
    CAMERA_FAILED = "camera.failed"
    CAMERA_REMOVED = "camera.removed"  # by a change of the config
    RECORDING_WAITING = "recording.waiting"  # for frames, which the camera does not send
    RECORDING_ARMED = "recording.armed"  # for an event
    RECORDING_WRITING = "recording.writing"
    RECORDING_FAILED = "recording.failed"
    RECORDING_STOPPED = "recording.stopped"
    RECORDING_EVENT = "recording.event"  # what happens is recorded, with the seconds around it
    RECORDING_FILE = "recording.file"  # one is complete
    RECORDINGS_DELETED = "recordings.deleted"  # to keep within the bounds of `keep`
    RECORDINGS_PROBLEM = "recordings.problem"  # the index cannot be written, or files not be deleted
    READER_JOINED = "reader.joined"
    READER_LEFT = "reader.left"
    READER_BEHIND = "reader.behind"  # an "ordered" one has missed frames
    WORKER_ENDED = "worker.ended"  # a camera's process, unasked
    SERVICE_STARTED = "service.started"  # all cameras were tried
    SERVICE_RELOADED = "service.reloaded"
    SERVICE_STOPPING = "service.stopping"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened; published by :meth:`Server.emit` and by services."""

    #: What: an EventCode, or one that an analyser has made up.
    code: str
    #: Of which camera, or server; of another host, HOST/NAME.
    camera: str
    #: When, Unix time.
    time_ns: int
    #: For people. Programs decide by code and fields.
    text: str = ""
    #: What else is known, as JSON has it.
    fields: Mapping[str, Any] = field(default_factory=dict)
    #: The server or service that told it, and its number there.
    source: str = ""
    seq: int = 0
    #: How many of that source's events before this one this reader has missed.
    missed: int = 0

    @staticmethod
    def of(frame: Frame) -> Event:
        """The event in a frame of a ring of events. Raises DataError if there is none."""
        return decode(frame)

    def is_one_of(self, codes: Collection[str], cameras: Collection[str]) -> bool:
        """Do some of these patterns mean its code, and some its camera? No codes: any will do."""
        if codes and not any(fnmatch.fnmatchcase(self.code, pattern) for pattern in codes):
            return False
        return any(matches(self.camera, pattern) for pattern in cameras)

    def to_json(self) -> dict[str, Any]:
        """As data for JSON."""
        return {
            "code": str(self.code),
            "camera": self.camera,
            "time_ns": self.time_ns,
            "text": self.text,
            "fields": dict(self.fields),
            "source": self.source,
            "seq": self.seq,
            "missed": self.missed,
        }


class Opening:
    """Which events of a ring are key frames. The first one is, and those that follow it closely are not: so
    the backlog has them all when the first readers come. Later each is one, and a late reader gets the newest
    alone."""

    def __init__(self) -> None:
        self._count = 0
        self._since = 0.0
        self._first = threading.Lock()  # of whoever publishes it
        self._thread = 0

    def publish(self, publish: Callable[[bool], bool]) -> bool:
        """Publish an event by this function, which is given whether it is a key frame.

        Threads that come while another one publishes the first wait for that, a moment: what is published
        before the first key frame is in no backlog. Who may not wait does not: a signal's
        handler, and whoever has the lock that a new ring needs.
        """
        deadline = time.monotonic() + _FIRST_SECONDS
        while not self._count:
            if self._first.acquire(blocking=False):
                self._thread = threading.get_ident()
                try:
                    if self._count or not publish(True):
                        break
                    self._since = time.monotonic()
                    self._count = 1
                    return True
                finally:
                    self._thread = 0
                    self._first.release()
            if self._thread == threading.get_ident() or fork.in_a_step() or time.monotonic() > deadline:
                return publish(True)
            time.sleep(_MOMENT)
        if not self._count:
            return False
        self._count += 1
        over = self._count > _OPENING_EVENTS or time.monotonic() - self._since > _OPENING_SECONDS
        return publish(over)


def is_code(code: object) -> bool:
    """Can an event have this code?"""
    return isinstance(code, str) and _CODE.fullmatch(code) is not None


def check_codes(pattern: str) -> str:
    """A code, or a pattern of codes, if it is one. Raises InvalidNameError."""
    if not isinstance(pattern, str) or not _CODES.fullmatch(pattern):
        raise InvalidNameError(
            f"{pattern!r} is neither a code nor a pattern of codes, such as camera.failed or recording.*"
        )
    return pattern


def encode(code: str, camera: str, text: str, fields: Mapping[str, Any]) -> bytes:
    """The payload. Raises FrameError, InvalidNameError."""
    if not is_code(code):
        raise FrameError("the code of an event is 1 to 64 of A-Z a-z 0-9 . _ -, such as line.crossed")
    check_source(camera)
    if not isinstance(text, str):
        raise FrameError(f"text is a str, not {type(text).__name__}")
    content = {"code": str(code), "camera": camera, "text": text[:_TEXT], "fields": dict(fields)}
    try:
        payload = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, OverflowError, RecursionError) as e:
        raise FrameError(f"an event has a text, and fields as JSON has them: {e}") from None
    if len(payload) > EVENT_BYTES:
        raise FrameError(f"an event of {len(payload)} bytes is too large; the limit is {EVENT_BYTES}")
    if _too_deep(payload, content):
        raise FrameError(f"the fields of an event are nested {_DEPTH} deep at most")
    return payload


def decode(frame: Frame, missed: int | None = None) -> Event:
    """The event in a frame, which may be anything. Raises DataError."""
    try:
        if frame.format != "bytes" or frame.nbytes > EVENT_BYTES:
            raise ValueError
        payload = bytes(frame.data)
        content = _DECODER.decode(payload.decode())
        code, camera = content["code"], content["camera"]
        text, fields = content.get("text", ""), content.get("fields", {})
        if not (is_code(code) and isinstance(camera, str) and is_source(camera)):
            raise ValueError
        if not (isinstance(text, str) and isinstance(fields, dict)) or _too_deep(payload, content):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DataError(
            f"frame {frame.seq} of {frame.source!r} is no event that this valkka-async knows: "
            "Server.emit() makes them"
        ) from None
    host, slash, ring = frame.source.rpartition("/")
    return Event(
        code,
        f"{host}{slash}{camera}" if "/" not in camera else camera,
        frame.timestamp_ns,
        text,
        fields,
        f"{host}{slash}{ring.removesuffix(EVENTS)}",
        frame.seq,
        frame.dropped if missed is None else missed,
    )


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number that JSON cannot tell others")
    return value


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


def _too_deep(payload: bytes, content: object) -> bool:
    """Are lists and objects nested deeper than those who pass an event on can be asked to follow?"""
    if payload.count(b"[") + payload.count(b"{") <= _DEPTH:
        return False
    level: list[Any] = [content]
    for _ in range(_DEPTH + 2):  # the event itself is one, and its fields are another
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, (dict, list, tuple))
        ]
        if not level:
            return False
    return True
