# SPDX-License-Identifier: MIT
"""What this host has for others, found in the runtime directory: its encoded rings, under their cameras'
names, and rings of metadata and raw frames, under their own. A camera's main stream is called as the camera
is, and another one CAMERA.STREAM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from valkka_async.errors import ConnectError, ValkkaError
from valkka_async.link.geometry import RAW
from valkka_async.link.keys import Content
from valkka_async.link.unit import EXPORTED, METADATA
from valkka_async.ring.connection import report
from valkka_async.ring.directory import Directory
from valkka_async.timeouts import timeout

_ANSWER = 1.0  # s for a ring's server to say what it is
_AGAIN = 2.0  # s until one is asked again that has not said it yet: it has had no frame

log = logging.getLogger("valkka_async.link")


class Catalogue:
    """The cameras and streams that can be sent, by name, and the ring of each. `changed` is called when they
    have."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.rings: dict[str, str] = {}  # by camera, or CAMERA.STREAM
        self.smaller: dict[str, str] = {}  # by camera: the ring of its next stream
        self.metadata: frozenset[str] = frozenset()  # rings of bytes, by their own names
        self.raw: frozenset[str] = frozenset()  # of pixels and arrays
        self._changed = changed
        self._known: dict[str, Known] = {}  # by ring
        self._open: dict[str, float] = {}  # rings that have not said what they are: when to ask again

    def ring(self, name: str, content: Content) -> tuple[str, str | None] | None:
        """The one that is sent under this name, and that of the smaller stream. None: there is none."""
        if content is Content.CAMERA:
            return (self.rings[name], self.smaller.get(name)) if name in self.rings else None
        return (name, None) if name in (self.raw if content is Content.RAW else self.metadata) else None

    async def follow(self) -> None:
        """For ever: look at the runtime directory when it changes."""
        directory = Directory()
        try:
            while True:
                try:
                    there = set(directory.look())
                except ConnectError as e:
                    log.warning("%s; looking again", e)
                    await asyncio.sleep(_AGAIN)
                    continue
                await self._learn({name for name in there if "/" not in name})
                changes: set[str] | None = set()
                with contextlib.suppress(TimeoutError):
                    async with timeout(_AGAIN if self._open else None):
                        changes = await directory.changed()
                for name in self._known.keys() if changes is None else changes:
                    self._open.setdefault(name, 0.0)  # it may be another of that name
        finally:
            directory.close()

    async def _learn(self, there: set[str]) -> None:
        now = time.monotonic()
        for gone in (self._known.keys() | self._open.keys()) - there:
            self._known.pop(gone, None)
            self._open.pop(gone, None)
        asked = [n for n in there if n not in self._known or self._open.get(n, now + 1) <= now]
        answers = await asyncio.gather(*(asyncio.to_thread(camera_of, name) for name in asked))
        for name, camera in zip(asked, answers, strict=True):
            if camera is None:
                self._open[name] = now + _AGAIN
                self._known.setdefault(name, Known(""))
            else:
                self._open.pop(name, None)
                self._known[name] = camera
        rings: dict[str, str] = {}
        smaller: dict[str, str] = {}
        for ring in sorted(self._known, key=lambda name: (self._known[name].number, name)):
            known = self._known[ring]
            if known.camera and rings.setdefault(known.camera, ring) != ring and known.number:
                smaller.setdefault(known.camera, ring)
            if known.camera and known.number:
                rings.setdefault(f"{known.camera}.{known.stream}", ring)
        metadata = frozenset(ring for ring, known in self._known.items() if known.metadata)
        raw = frozenset(ring for ring, known in self._known.items() if known.raw)
        if (rings, smaller, metadata, raw) != (self.rings, self.smaller, self.metadata, self.raw):
            self.rings, self.smaller, self.metadata, self.raw = rings, smaller, metadata, raw
            self._changed()


class Known(NamedTuple):
    """What is in a ring: encoded frames of this camera, or, if it is no camera's, of the ring's own name; "":
    other frames. Then of which stream, and that one's number, 0 for the main one."""

    camera: str
    stream: str = ""
    number: int = 0
    metadata: bool = False  # bytes, of whatever kind
    raw: bool = False  # pixels, or arrays


def camera_of(ring: str) -> Known | None:
    """None: that is not known yet. Blocks for a second at most."""
    try:
        said = report(ring, _ANSWER)
    except (TimeoutError, ValkkaError):
        return None
    if said is None:
        return None
    camera = said.get("camera")
    if isinstance(camera, Mapping):
        output = next((o for o in _records(camera, "outputs") if o.get("name") == ring), {})
        streams = [stream.get("name") for stream in _records(camera, "streams")]
        stream = output.get("stream")
        number = streams.index(stream) if stream in streams else 0
        made = output.get("format")
        name = str(camera.get("name", "")) if made == "packets" else ""
        return Known(name, str(stream or ""), number, raw=made in RAW)
    format = said.get("format")
    if not format:
        return None
    return Known(ring if format in EXPORTED else "", metadata=format == METADATA, raw=format in RAW)


def _records(camera: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    return [one for one in camera.get(key) or () if isinstance(one, Mapping)]
