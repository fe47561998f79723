# SPDX-License-Identifier: MIT
"""events(): what happens on this host, as one stream."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from valkka_async.errors import DataError
from valkka_async.ring._shm import Frame
from valkka_async.ring.events import EVENT_SLOTS, Event, check_codes, decode
from valkka_async.ring.names import EVENTS, check_pattern
from valkka_async.ring.sourced import Sourced
from valkka_async.ring.sources import Sources

log = logging.getLogger("valkka_async")

_SETTLE_SECONDS = 2.0  # for servers that are there to answer
_LOOK_SECONDS = 0.005
_LEASES = 2  # each is decoded and released at once
_REMEMBERED = 1000  # rings
_AT_ONCE = 64  # events that nobody asked for, before other tasks have a turn


@dataclass(frozen=True, slots=True)
class EventsStats:
    """Counters since ``events()``: events ``received`` (given, or left out as they did not match), ``missed``
    (this reader was too slow, or found their ring too late), and frames that were no events, ``invalid``.
    ``rings``: the sources that are connected now."""

    received: int
    missed: int
    invalid: int
    rings: tuple[str, ...]


def events(*cameras: str, codes: Iterable[str] = ()) -> Events:
    """What happens from now on: states of a service's cameras and recordings, readers that come, go or fall
    behind, and what analysers tell by :meth:`Server.emit`::

        async with va.events("*") as happening:
            async for event in happening:
                print(event.time_ns, event.camera, event.code, event.text)

    It reads the rings of events of all programs on this host, also those that come later. They are read in
    order; one who is more than 256 events behind misses the oldest, and :attr:`Event.missed` says how many.

    Parameters
    ----------
    cameras
        Names or patterns (``front*``; ``*/*`` for those of other hosts). By default ``*``.
    codes
        Only these: codes, or patterns such as ``camera.*``. By default all.

    No event is lost that comes after ``async with`` has begun, unless it was counted as missed. The iteration
    never ends by itself. Raises InvalidNameError.
    """
    return Events(cameras or ("*",), codes)


class Events(Sourced):
    """Made by :func:`events`. An async context manager and iterator; one task receives at a time. Belongs to
    the loop in which it is used first."""

    def __init__(self, cameras: Iterable[str], codes: Iterable[str]) -> None:
        self._cameras = tuple(cameras)
        self._codes = (codes,) if isinstance(codes, str) else tuple(codes)
        for pattern in self._cameras:
            check_pattern(pattern)
        for pattern in self._codes:
            check_codes(pattern)
        self._sources = Sources("ordered", _LEASES, reconnect=True)
        # A service tells of all its cameras in one ring, so the names of rings say nothing.
        for hosts in {pattern.rpartition("/")[0] for pattern in self._cameras}:
            self._sources.add(f"{hosts}/*{EVENTS}" if hosts else f"*{EVENTS}")
        self._begun_ns = 0  # monotonic; 0: has not begun
        self._first: frozenset[str] | None = None  # rings that were there then
        self._early: deque[Event] = deque()  # that came while it began
        self._last: dict[str, int] = {}  # by ring: the number of its newest event
        self._untold: dict[str, int] = {}  # by ring: what was missed before events that were not given
        self._received = self._missed = self._invalid = 0
        self._soon = False

    # -------------------------------------------------------------------------------- receiving

    async def recv(self) -> Event:
        """Wait for the next event.

        Cancelling loses none. Raises ConnectionClosedOK after close(), ConcurrencyError if another task is
        receiving.
        """
        return await self._receive(iterating=False)

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        return await self._receive(iterating=True)

    async def _receive(self, *, iterating: bool) -> Event:
        if self._first is None:
            await self._begin()
        loop = self._sources.run()
        return await self._sources.ready.receive(loop, self._take, self._until, iterating=iterating)

    async def _begin(self) -> None:
        """Connect to the rings that are there."""
        self._begun_ns = self._begun_ns or time.monotonic_ns()
        self._sources.run()
        deadline = time.monotonic() + _SETTLE_SECONDS
        # Many ways lead there, and it is a matter of milliseconds.
        while not (self._sources.settled or self._sources.closed) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)
        self._first = frozenset(self._sources.members)
        # What was published before goes now: left in the ring, it would count as missed if it were overtaken.
        for _ in range(EVENT_SLOTS * len(self._first)):
            if self._sources.closed or (frame := self._sources.ready.claim()) is None:
                break
            with frame:
                if (event := self._event(frame)) is not None:
                    self._early.append(event)

    def _take(self) -> Event | None:
        self._soon = False
        for _ in range(_AT_ONCE):
            if self._early:
                event: Event | None = self._early.popleft()
            elif (frame := self._sources.ready.claim()) is None:
                return None
            else:
                with frame:
                    event = self._event(frame)
            if event is not None:
                return event
        self._soon = True
        return None

    def _until(self) -> float | None:
        return 0.0 if self._soon else None

    def _event(self, frame: Frame) -> Event | None:
        """None: it is none, not one of those that are wanted, or happened before this was asked for."""
        missed = self._missed_before(frame) + _lost_on_the_way(frame)
        if frame.published_ns < self._begun_ns:
            return None
        self._missed += missed
        missed += self._untold.pop(frame.source, 0)
        event = self._decode(frame, missed)
        if event is None or not event.is_one_of(self._codes, self._cameras):
            if missed:  # the next one that is given tells it
                self._untold[frame.source] = missed
            return None
        return event

    def _decode(self, frame: Frame, missed: int) -> Event | None:
        try:
            event = decode(frame, missed)
        except DataError as e:
            if not self._invalid:
                log.warning("events: %s", str(e))
            self._invalid += 1
            return None
        self._received += 1
        return event

    def _missed_before(self, frame: Frame) -> int:
        name, last = frame.source, self._last.get(frame.source)
        if last is None and len(self._last) >= _REMEMBERED:
            self._forget()
        self._last[name] = frame.seq
        if last is not None and frame.seq == last + 1 + frame.dropped:
            return frame.dropped
        if last is None and (self._first is None or name in self._first):
            return frame.dropped  # there is no knowing what was before
        return frame.seq - 1  # a ring that is new, or that of another process by now: all of it is ours

    def _forget(self) -> None:
        """Rings that are gone: a program may give its own another name with each of its lives."""
        there = self._sources.members.keys() | (self._first or ())
        for known in (self._last, self._untold):
            for name in known.keys() - there:
                del known[name]

    # -------------------------------------------------------------------------------------- end

    def stats(self) -> EventsStats:
        """Counters since events()."""
        rings = (name.removesuffix(EVENTS) for name, m in self._sources.members.items() if m.link is not None)
        return EventsStats(self._received, self._missed, self._invalid, tuple(sorted(rings)))

    async def __aenter__(self) -> Self:
        try:
            await self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def __repr__(self) -> str:
        return f"<Events of {', '.join(self._cameras)}{' [closed]' if self.closed else ''}>"


def _lost_on_the_way(frame: Frame) -> int:
    """What a link to another host has lost before this one."""
    if "/" not in frame.source:
        return 0
    link = frame.meta.get("link")
    lost = link.get("lost", 0) if isinstance(link, dict) else 0
    return lost if type(lost) is int and lost > 0 else 0
