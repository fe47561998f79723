# SPDX-License-Identifier: MIT
"""Another host's units on their way into a ring of this one.

take() runs in Zenoh's thread that receives, and does no more than check, copy and count: what is in a unit
nobody here looks at. Access units are decoded by the importing worker (decoder.py), in a process of its own.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from valkka_async.errors import ConnectionClosedOK, ValkkaError
from valkka_async.link.clock import Difference
from valkka_async.link.faults import Complaints, Fault, UnitError
from valkka_async.link.geometry import image
from valkka_async.link.keys import Content
from valkka_async.link.unit import FORMATS, METADATA_BYTES, decode
from valkka_async.ring.formats import Encoded
from valkka_async.ring.server import Server
from valkka_async.seldom import Seldom

STREAM_SLOTS = 320  # of a ring of access units, as of a camera's own
META = "link"  # where a frame's metadata say how it came
_HEADER_BYTES = 64 << 10  # of a camera: parameter sets take hundreds
_COUNTED = 1 << 62  # what a host says was lost, at most
_LATEST = (1 << 63) - 1  # ns


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a camera, since its ring was made. ``lost``: on the way, or before it, as the host could not keep
    up, or here, where the ring did not take them. ``limited``: left out by that host for the link's limit.
    ``refused``: no such units at all. ``left_out``: after a loss, up to the next key frame."""

    received: int = 0
    bytes: int = 0
    lost: int = 0
    left_out: int = 0
    limited: int = 0
    refused: int = 0
    restarts: int = 0


class Receiver:
    """Publishes units in order, and after a loss from the next key frame on. A new `stream` is the same
    camera after a restart, of whatever, and nothing is lost by that."""

    def __init__(
        self, host: str, server: Server, content: Content = Content.CAMERA, lines: Seldom | None = None
    ) -> None:
        self.server = server
        self.last_ns = 0  # when the newest one came, CLOCK_MONOTONIC
        self.difference: Difference | None = None  # of that host's clock; set from outside
        self.format = ""
        self.fault: tuple[float, Fault] | None = None  # the newest, and when (monotonic)
        self._host = host
        self._content = content
        self._lock = threading.Lock()
        self._stream: int | None = None
        self._seq = 0
        self._skipped = 0
        self._waits = True  # for a key frame
        self._lost = 0  # since the last frame that was published
        self._received = self._bytes = self._all_lost = self._left_out = self._limited = self._refused = 0
        self._restarts = 0
        self._complain = Complaints(server.name, lines)
        self._of: Difference | None = None  # what the plain metadata say,
        self._plain = self._encoded({})  # which are the same for a second

    def counts(self) -> Counts:
        """So far."""
        return Counts(
            self._received,
            self._bytes,
            self._all_lost,
            self._left_out,
            self._limited,
            self._refused,
            self._restarts,
        )

    def pause(self) -> None:
        """Nothing is asked for now: what comes next is another stream, and no frame of this one is fresh."""
        with self._lock:
            self._stream = None
            self._waits = True
            if not self.server.closed:
                self.server.expire()

    def take(self, payload: bytes) -> None:
        """One unit, as it came. Never raises."""
        try:
            with self._lock:
                self._take(payload)
        except ConnectionClosedOK:
            pass
        except UnitError as e:
            self._refused += 1
            self._note(e.fault)
            self._complain(e.fault, e)
        except Exception:  # Zenoh would only print it
            self._refused += 1
            self._note(Fault.INTERNAL)
            self._complain(Fault.INTERNAL, "a unit could not be taken", trace=True)

    def _note(self, fault: Fault) -> None:
        self.fault = time.monotonic(), fault

    def _take(self, payload: bytes) -> None:
        unit, header, data = decode(payload)
        stream, seq, format, key, timestamp_ns, pts, dts, duration, time_base, skipped, meta = unit
        content = self._content
        if format not in FORMATS[content]:
            raise UnitError(Fault.CONTENT, f"{format}, which was not asked for")
        if content is Content.METADATA and (header or len(data) > METADATA_BYTES):
            raise UnitError(Fault.SIZE, "metadata that are too large")
        if content is Content.CAMERA and len(header) > _HEADER_BYTES:
            raise UnitError(Fault.SIZE, f"{len(header)} bytes of parameter sets")
        raw = image(format, header, data) if content is Content.RAW else None
        self._received += 1
        self._bytes += len(payload)
        self.last_ns = time.monotonic_ns()
        if stream != self._stream:
            self._restarts += self._stream is not None
            self._stream, self._skipped, self._waits, self._lost = stream, skipped, True, 0
        elif seq <= self._seq:
            raise UnitError(Fault.REPEAT, "an access unit that came before")
        elif missing := seq - self._seq - 1:
            limited = min(missing, max(0, skipped - self._skipped))
            self._limited = min(_COUNTED, self._limited + limited)
            self._lose(missing - limited)
            self._skipped = skipped
            self._waits = True
        self._seq = seq
        if raw is not None:  # each is whole by itself
            pass
        elif not key and self._waits:
            self._left_out += 1
            self._lost += 1
            return
        self.format = format
        difference = self.difference
        if difference is not None:
            timestamp_ns = min(_LATEST, max(0, timestamp_ns - difference.offset_ns))  # by our clock
        try:
            if key and raw is None:
                self.server.set_header(header)
            self._waits = not self.server.publish(
                data if raw is None else raw,
                format=format,
                timestamp_ns=timestamp_ns,
                pts=pts,
                dts=dts,
                duration=duration,
                time_base=time_base,
                key=key,
                meta=self._meta(meta),
            )
            if self._waits:
                self._note(Fault.SLOTS)
        except ConnectionClosedOK:
            raise
        except ValkkaError as e:  # no memory for the ring
            self._waits = True
            self._note(Fault.RING)
            self._complain(Fault.RING, e)
        if self._waits:
            self._lose(1)
        else:
            self._lost = 0

    def _lose(self, count: int) -> None:
        self._all_lost = min(_COUNTED, self._all_lost + count)
        self._lost = min(_COUNTED, self._lost + count)

    def _meta(self, theirs: dict[str, Any] | None) -> Any:
        if theirs or self._lost:
            return self._encoded(theirs or {})
        if self._of is not self.difference:
            self._of = self.difference
            self._plain = self._encoded({})
        return self._plain

    def _encoded(self, theirs: dict[str, Any]) -> Encoded:
        difference = self.difference
        link: dict[str, Any] = {"host": self._host}
        if difference is not None:
            link |= {"clock_offset_ns": difference.offset_ns, "clock_error_ns": difference.error_ns}
        if self._lost:
            link["lost"] = self._lost
        return Encoded({**theirs, META: link})
