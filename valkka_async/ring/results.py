# SPDX-License-Identifier: MIT
"""What an analyser found in a frame, as a frame of a ring of its own: JSON behind the times of that frame.

The payload is ``{"size": [width, height], "boxes": [[x1, y1, x2, y2, label, score, track], ...], "text": "",
"data": {}}``. The metadata names the frame: ``{"of": source, "seq": n, "published_ns": t}``. A server that is
restarted counts from 1 again, and CLOCK_MONOTONIC goes on: number and time together are one frame of one run.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from valkka_async.errors import DataError, FrameError
from valkka_async.ring._shm import Frame
from valkka_async.ring.formats import size_of

RESULT_BYTES = 256 << 10  # of a payload; what the slots of a ring of bytes have to begin with
_BOXES = 10_000
_INT = 1 << 63
_LABEL = 200  # characters
_FIELDS = {"size", "boxes", "text", "data"}


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in a frame, in pixels from its upper left corner: edges, as those of
    :meth:`Batch.to_frame`, so a box of the whole frame ends at its width and height. ``score`` is the model's
    confidence, ``track`` the number of an object that is followed through frames."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = ""
    score: float | None = None
    track: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What was found in one frame; published by :meth:`Server.publish_result`."""

    #: The frame: the name of its ring, its number there, when it was captured and published.
    source: str
    seq: int
    timestamp_ns: int
    published_ns: int
    #: (width, height) of that frame in pixels; None: not known, and there are no boxes.
    size: tuple[int, int] | None
    boxes: tuple[Box, ...] = ()
    text: str = ""
    #: Anything else, as JSON has it.
    data: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(frame: Frame) -> Result:
        """The result in a frame of a ring of results. Raises DataError if there is none."""
        return decode(frame)


def encode(
    frame: Frame,
    boxes: Iterable[Box],
    text: str,
    data: Mapping[str, Any] | None,
    size: tuple[int, int] | None,
) -> tuple[bytes, dict[str, Any]]:
    """Payload and metadata. Raises FrameError."""
    try:
        rows = [_row(box) for box in boxes]
        size = size_of(frame.format, frame.shape) if size is None else _size(size)
        content = {"size": size, "boxes": rows, "text": text, "data": {} if data is None else dict(data)}
        payload = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as e:
        raise FrameError(
            f"a result has Boxes of finite numbers, a text, and data as JSON has it: {e}"
        ) from None
    if rows and size is None:
        raise FrameError(f"a frame of {frame.format} does not say its size: give size=(width, height)")
    if not isinstance(text, str):
        raise FrameError(f"text is a str, not {type(text).__name__}")
    if len(rows) > _BOXES:
        raise FrameError(f"{len(rows)} boxes are too many; the limit is {_BOXES}")
    if len(payload) > RESULT_BYTES:
        raise FrameError(f"a result of {len(payload)} bytes is too large; the limit is {RESULT_BYTES}")
    return payload, {"of": frame.source, "seq": frame.seq, "published_ns": frame.published_ns}


def decode(frame: Frame) -> Result:
    """The result in a frame, which may be anything. Raises DataError."""
    meta = frame.meta
    source, seq, published_ns = meta.get("of"), meta.get("seq"), meta.get("published_ns")
    if not (isinstance(source, str) and _is_int(seq) and _is_int(published_ns)):
        raise DataError(f"frame {frame.seq} of {frame.source!r} is no result: publish_result() makes them")
    try:
        if frame.format != "bytes" or frame.nbytes > RESULT_BYTES:
            raise ValueError
        content = json.loads(bytes(frame.data))
        if not isinstance(content, dict) or content.keys() != _FIELDS:
            raise ValueError
        size, boxes = content["size"], content["boxes"]
        text, data = content["text"], content["data"]
        if not (isinstance(text, str) and isinstance(data, dict) and isinstance(boxes, list)):
            raise ValueError
        if len(boxes) > _BOXES or (boxes and size is None):
            raise ValueError
        return Result(
            source,
            seq,
            frame.timestamp_ns,
            published_ns,
            None if size is None else _size(size),
            tuple(_box(row) for row in boxes),
            text,
            data,
        )
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise DataError(
            f"frame {frame.seq} of {frame.source!r} is not a result that this valkka-async knows: "
            "use the same version on both sides"
        ) from None


def _row(box: Box) -> list[Any]:
    """Plain numbers: models give those of numpy."""
    corners = [_number(value) for value in (box.x1, box.y1, box.x2, box.y2)]
    score = None if box.score is None else _number(box.score)
    track = None if box.track is None else operator.index(box.track)
    return _checked([*corners, box.label, score, track])


def _box(row: Any) -> Box:
    return Box(*_checked(row))


def _checked(row: Any) -> list[Any]:
    """Raises ValueError, TypeError."""
    x1, y1, x2, y2, label, score, track = row
    numbers = (x1, y1, x2, y2) if score is None else (x1, y1, x2, y2, score)
    if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
        raise ValueError("not finite")
    if not isinstance(label, str) or len(label) > _LABEL:
        raise ValueError(f"a label is a text of at most {_LABEL} characters")
    if not (track is None or _is_int(track)):
        raise ValueError("a track is a number of at most 64 bits")
    return row if type(row) is list else list(row)


def _number(value: Any) -> float:
    return round(float(value), 4)


def _is_int(value: Any) -> TypeGuard[int]:
    return type(value) is int and -_INT <= value < _INT


def _size(size: Any) -> tuple[int, int]:
    width, height = map(operator.index, size)
    if width < 1 or height < 1:
        raise ValueError("size is (width, height) in pixels")
    return width, height
