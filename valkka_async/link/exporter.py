# SPDX-License-Identifier: MIT
"""What this host has for others, found in the runtime directory: its encoded rings, under their cameras'
names, and rings of metadata and raw frames, under their own. A camera's main stream is called as the camera
is, and another one CAMERA.STREAM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from valkka_async.errors import ConnectError
from valkka_async.link.geometry import RAW
from valkka_async.link.inquiry import Inquiry
from valkka_async.link.keys import Content
from valkka_async.link.unit import EXPORTED, METADATA
from valkka_async.ring.directory import Directory
from valkka_async.ring.names import is_source
from valkka_async.seldom import Seldom

_SOON = 0.2  # s until one is asked again that has not said what is in it, at first; later on
_AGAIN = 2.0  # it has had no frame for long,
_DEAD = 10.0  # or does not answer: of another that comes in its place the directory tells
_KIND = 5.0  # s until one is asked again whose frames may be of another kind by then,
_RATE = 50.0  # and so many in a second at most
_DOUBTED = 1.0  # s: the least between two questions to one, whoever doubts its answer
_TOGETHER = 0.2  # s that what is new waits for answers, so that a camera's rings come at once

log = logging.getLogger("valkka_async.link")


class Catalogue:
    """The cameras and streams that can be sent, by name, and the ring of each. `changed` is called when they
    have. `concerns`: could another host read a ring of this name? `moved` hears of sockets that have come or
    gone, by their names; None: of any."""

    def __init__(
        self,
        changed: Callable[[], None],
        concerns: Callable[[str], bool] = lambda ring: True,
        moved: Callable[[Collection[str] | None], None] = lambda rings: None,
    ) -> None:
        self.rings: dict[str, str] = {}  # by camera, or CAMERA.STREAM
        self.smaller: dict[str, str] = {}  # by camera: the ring of its next stream
        self.metadata: frozenset[str] = frozenset()  # rings of bytes, by their own names
        self.raw: frozenset[str] = frozenset()  # of pixels and arrays
        self._changed = changed
        self._concerns = concerns
        self._moved = moved
        self._known: dict[str, Known] = {}  # by ring
        self._pauses: dict[str, float] = {}  # by ring, the last
        self._says = Seldom()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inquiry: Inquiry | None = None
        self._new = asyncio.Event()  # something is known that was not

    def ring(self, name: str, content: Content) -> tuple[str, str | None] | None:
        """The one that is sent under this name, and that of the smaller stream. None: there is none."""
        if content is Content.CAMERA:
            return (self.rings[name], self.smaller.get(name)) if name in self.rings else None
        return (name, None) if name in (self.raw if content is Content.RAW else self.metadata) else None

    def doubt(self, ring: str) -> None:
        """There is something else in it than was said. From any thread."""
        if self._loop is not None and self._inquiry is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._inquiry.not_before, ring, time.monotonic() + _DOUBTED)

    async def follow(self) -> None:
        """For ever: look at the runtime directory when it changes."""
        self._loop, self._inquiry = asyncio.get_running_loop(), Inquiry(self._hear)
        async with asyncio.TaskGroup() as group:
            for work in (self._inquiry.run(), self._look(self._inquiry), self._tell(self._inquiry)):
                group.create_task(work)

    async def _look(self, inquiry: Inquiry) -> None:
        directory = Directory()
        try:
            while True:
                try:
                    there = {name for name in directory.look() if "/" not in name}
                except ConnectError as e:
                    if self._says():
                        log.warning("%s; looking again", e)
                    await asyncio.sleep(_AGAIN)
                    continue
                for name in inquiry.names - there:
                    inquiry.forget(name)
                    self._pauses.pop(name, None)
                    if self._known.pop(name, None) is not None:
                        self._new.set()
                for name in there - inquiry.names:
                    inquiry.soon(name)
                changes = await directory.changed()
                if changes is None or changes:
                    self._moved(changes)
                for name in inquiry.names if changes is None else changes & inquiry.names:
                    self._pauses.pop(name, None)
                    inquiry.soon(name)  # it may be another of that name
        finally:
            directory.close()

    def _hear(self, ring: str, said: Mapping[str, Any] | None) -> float:
        known = None if said is None else known_by(ring, said)
        if known is None:
            longest = _DEAD if said is None else _AGAIN
            pause = self._pauses[ring] = min(longest, 2 * self._pauses.get(ring, _SOON / 2))
            return pause
        self._pauses.pop(ring, None)
        if self._known.get(ring) != known:
            self._known[ring] = known
            self._new.set()
        if known.fixed or not self._concerns(ring):
            return math.inf
        return max(_KIND, len(self._known) / _RATE)

    async def _tell(self, inquiry: Inquiry) -> None:
        while True:
            await self._new.wait()
            until = time.monotonic() + _TOGETHER
            while any(inquiry.waits(name, _TOGETHER) for name in inquiry.names - self._known.keys()):
                if time.monotonic() >= until:
                    break
                await asyncio.sleep(_TOGETHER / 10)
            self._new.clear()
            self._derive()

    def _derive(self) -> None:
        rings: dict[str, str] = {}
        smaller: dict[str, str] = {}
        for ring in sorted(self._known, key=lambda name: (self._known[name].number, name)):
            known = self._known[ring]
            if known.camera and rings.setdefault(known.camera, ring) != ring and known.number:
                smaller.setdefault(known.camera, ring)
            if known.stream and known.number and (name := _name(f"{known.camera}.{known.stream}")):
                rings.setdefault(name, ring)
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
    fixed: bool = False  # for as long as its server lives


def known_by(ring: str, said: Mapping[str, Any]) -> Known | None:
    """By what its server says. None: that is not known yet."""
    camera = said.get("camera")
    if isinstance(camera, Mapping):
        output = next((o for o in _records(camera, "outputs") if o.get("name") == ring), {})
        streams = [stream.get("name") for stream in _records(camera, "streams")]
        stream = output.get("stream")
        number = streams.index(stream) if stream in streams else 0
        made = output.get("format")
        name = _name(camera.get("name")) if made == "packets" else ""
        return Known(name, _name(stream) if name else "", number, raw=made in RAW, fixed=made is not None)
    format = said.get("format")
    if not format:
        return None
    return Known(ring if format in EXPORTED else "", metadata=format == METADATA, raw=format in RAW)


def _name(said: object) -> str:
    """That of a camera or a stream, which becomes a part of a key; "": there is none, or it cannot be one."""
    return said if isinstance(said, str) and "/" not in said and is_source(said) else ""


def _records(camera: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = camera.get(key)
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []
