# SPDX-License-Identifier: MIT
"""What `watch` knows about each source. No I/O: frames come in, figures go out."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from valkka_async.cli.shape import describe
from valkka_async.ring.frame import Frame

_WINDOW_NS = 3_000_000_000  # over which the frame rate is measured
_STALLED_NS = 2_000_000_000  # without a frame; slow cameras get three times their own interval
_FORGET_NS = 60_000_000_000  # a source that is gone and came by a pattern leaves the board


class State(StrEnum):
    LIVE = "live"
    STALLED = "stalled"  # connected, but no frames
    WAITING = "waiting"  # no server, or no frame yet


@dataclass(frozen=True, slots=True)
class Figures:
    """A row of the table. None: not known (yet)."""

    name: str
    state: State
    picture: str | None
    fps: float | None
    age: float | None  # seconds since the newest frame was captured
    received: int
    dropped: int


class Source:
    """The frames of one source, seen by one reader."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.received = 0
        self.dropped = 0
        self.seq = 0
        self.published_ns = 0  # CLOCK_MONOTONIC; 0: no frame yet
        self._timestamp_ns = 0
        self._picture: tuple[tuple[int, ...], str] = ((), "")
        self._samples: deque[tuple[int, int]] = deque()  # (published_ns, seq), oldest first

    def take(self, frame: Frame) -> None:
        """Note a frame; it is not kept."""
        if frame.seq <= self.seq:  # another server has taken the name over: its count begins again
            self._samples.clear()
        self.received += 1
        self.dropped += frame.dropped
        self.seq = frame.seq
        self.published_ns = frame.published_ns
        self._timestamp_ns = frame.timestamp_ns
        self._picture = (frame.shape, frame.format)

    def figures(self, connected: bool, now_ns: int) -> Figures:
        """The row of this moment. Called a few times per second: each call takes a sample of the rate."""
        self._sample(now_ns)
        seen = self.published_ns > 0
        fps = self._fps()
        if not connected or not seen:
            state = State.WAITING
        elif now_ns - self.published_ns > max(_STALLED_NS, 3e9 / fps if fps else 0):
            state = State.STALLED
        else:
            state = State.LIVE
        return Figures(
            self.name,
            state,
            describe(*self._picture) if seen else None,
            fps if state is State.LIVE else None,
            (time.time_ns() - self._timestamp_ns) / 1e9 if seen else None,
            self.received,
            self.dropped,
        )

    def _sample(self, now_ns: int) -> None:
        samples = self._samples
        if self.published_ns and (not samples or samples[-1][1] != self.seq):
            samples.append((self.published_ns, self.seq))
        # Two are kept however old they are: a camera of one frame a minute has a rate, too.
        while len(samples) > 2 and samples[0][0] < now_ns - _WINDOW_NS:
            samples.popleft()

    def _fps(self) -> float | None:
        """Of the camera, from its sequence numbers: frames that we missed count."""
        if len(self._samples) < 2:
            return None
        (since, first), (until, last) = self._samples[0], self._samples[-1]
        return (last - first) / (until - since) * 1e9 if until > since else None


class Board:
    """All sources that were ever seen, or are asked for by name."""

    def __init__(self, names: list[str]) -> None:
        self._asked = [name for name in dict.fromkeys(names) if not set(name) & set("*?[")]
        self._patterns = [name for name in dict.fromkeys(names) if name not in self._asked]
        self._sources = {name: Source(name) for name in self._asked}

    def take(self, frame: Frame) -> None:
        """Note a frame; it is not kept."""
        source = self._sources.get(frame.source)
        if source is None:
            source = self._sources[frame.source] = Source(frame.source)
        source.take(frame)

    def figures(self, connected: dict[str, bool]) -> list[Figures]:
        """One row per source; `connected` has the names that there are now. A pattern that matches
        nothing has a row of its own."""
        now = time.monotonic_ns()
        for name in connected:
            self._sources.setdefault(name, Source(name))
        for name, source in list(self._sources.items()):
            if name not in self._asked and name not in connected and now - source.published_ns > _FORGET_NS:
                del self._sources[name]
        names = sorted(self._sources, key=_key)
        rows = [self._sources[name].figures(connected.get(name, False), now) for name in names]
        if all(name in self._asked for name in names):
            rows += [Figures(p, State.WAITING, None, None, None, 0, 0) for p in self._patterns]
        return rows


def _key(name: str) -> tuple[str, int, str]:
    """demo2 before demo10."""
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or 0), name
