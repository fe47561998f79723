# SPDX-License-Identifier: MIT
"""Another host's units on their way into a ring of this one.

take() runs in Zenoh's thread that receives, and does no more than check, copy and count: what is in a unit
nobody here looks at. Access units are decoded by the importing worker (decoder.py), in a process of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

from valkka_async.errors import ConnectionClosedOK, ProtocolError, ValkkaError
from valkka_async.link.clock import Difference
from valkka_async.link.geometry import image
from valkka_async.link.keys import Content
from valkka_async.link.unit import FORMATS, METADATA_BYTES, decode
from valkka_async.ring.formats import Encoded
from valkka_async.ring.server import Server

log = logging.getLogger("valkka_async.link")

STREAM_SLOTS = 320  # of a ring of access units, as of a camera's own
META = "link"  # where a frame's metadata say how it came


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a camera, since its ring was made. ``lost``: on the way, or before it, as the host could not keep
    up. ``limited``: left out by that host for the link's limit. ``refused``: no such units at all.
    ``left_out``: after a loss, up to the next key frame."""

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

    def __init__(self, host: str, server: Server, content: Content = Content.CAMERA) -> None:
        self.server = server
        self.last_ns = 0  # when the newest one came, CLOCK_MONOTONIC
        self.difference: Difference | None = None  # of that host's clock; set from outside
        self.format = ""
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
        self._said = ""
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
        except ProtocolError as e:
            self._refused += 1
            self._complain(e)
        except ValkkaError as e:  # no memory for the ring
            self._waits = True
            self._complain(e)
        except Exception:  # Zenoh would only print it
            log.exception("%s: a unit could not be taken", self.server.name)

    def _take(self, payload: bytes) -> None:
        unit, header, data = decode(payload)
        stream, seq, format, key, timestamp_ns, pts, dts, duration, time_base, skipped, meta = unit
        content = self._content
        if format not in FORMATS[content]:
            raise ProtocolError(f"{format}, which was not asked for")
        if content is Content.METADATA and (header or len(data) > METADATA_BYTES):
            raise ProtocolError("metadata that are too large")
        raw = image(format, header, data) if content is Content.RAW else None
        self._received += 1
        self._bytes += len(payload)
        self.last_ns = time.monotonic_ns()
        if stream != self._stream:
            self._restarts += self._stream is not None
            self._stream, self._skipped, self._waits, self._lost = stream, skipped, True, 0
        elif seq <= self._seq:
            raise ProtocolError("an access unit that came before")
        elif missing := seq - self._seq - 1:
            limited = min(missing, max(0, skipped - self._skipped))
            self._limited += limited
            self._all_lost += missing - limited
            self._lost += missing - limited
            self._skipped = skipped
            self._waits = True
        self._seq = seq
        if raw is not None:  # each is whole by itself
            pass
        elif key:
            self.server.set_header(header)
        elif self._waits:
            self._left_out += 1
            self._lost += 1
            return
        self.format = format
        difference = self.difference
        if difference is not None:
            timestamp_ns = max(0, timestamp_ns - difference.offset_ns)  # by our clock
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
        if not self._waits:
            self._lost = 0
            self._said = ""

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

    def _complain(self, error: Exception) -> None:
        if str(error) != self._said:
            self._said = str(error)
            log.warning("%s: %s", self.server.name, error)
