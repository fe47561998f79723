# SPDX-License-Identifier: MIT
"""Rates: events per second, and how fast counters rise. No I/O and no clock: callers pass the time.

Times are in seconds on one clock that never goes back, as ``time.monotonic()``. None means "not known yet".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping

_MISSED = 3  # intervals without an event after which a slow stream has stopped


class EventRate:
    """Events per second over the last ``window`` seconds, for callers that see each event.

    Two events are remembered however old they are, so a source of one event a minute has a rate too.
    One thread calls note() and clear(); rate() and ``last`` may be read from any.
    """

    def __init__(self, window: float = 5.0) -> None:
        self.last: float | None = None  # when the latest event happened
        self._window = window
        self._times: deque[float] = deque()

    def note(self, at: float) -> None:
        """An event happened at this time."""
        times = self._times
        times.append(at)
        while len(times) > 2 and at - times[0] > self._window:
            times.popleft()
        self.last = at

    def clear(self) -> None:
        """Forget all: what comes next is of another source."""
        self.last = None
        self._times.clear()

    def rate(self, now: float) -> float | None:
        """Events per second. 0.0 once nothing has happened for the window, or for three of the source's own
        intervals if they are longer."""
        times = self._times.copy()  # a copy of our own: the other thread goes on
        if len(times) < 2 or times[-1] <= times[0]:
            return None
        rate = (len(times) - 1) / (times[-1] - times[0])
        return rate if now - times[-1] <= max(self._window, _MISSED / rate) else 0.0


class CounterRate:
    """How fast counters rise that are sampled now and then, over the last ``window`` seconds.

    The counters of a sample have one owner. When one of them has fallen or is missing, the owner has begun
    again (a process was restarted), and older samples are forgotten. Two samples are remembered however far
    apart they are.
    """

    def __init__(self, window: float = 3.0) -> None:
        self._window = window
        self._samples: deque[tuple[float, dict[str, float]]] = deque()

    @property
    def last(self) -> float | None:
        """When the newest sample was taken."""
        return self._samples[-1][0] if self._samples else None

    def sample(self, at: float, counts: Mapping[str, float]) -> None:
        """The counters at this time, by name. A sample that is no newer than the last one is ignored."""
        samples = self._samples
        if samples:
            last, before = samples[-1]
            if at <= last:
                return
            if any(name not in counts or counts[name] < count for name, count in before.items()):
                samples.clear()
        samples.append((at, dict(counts)))
        while len(samples) > 2 and samples[1][0] <= at - self._window:
            samples.popleft()

    def rate(self, name: str, now: float | None = None) -> float | None:
        """Per second. With ``now``, None also if the newest sample is older than the window."""
        samples = self._samples
        known = [(at, counts[name]) for at, counts in samples if name in counts]
        if len(known) < 2 or (now is not None and now - samples[-1][0] > self._window):
            return None
        (since, first), (until, last) = known[0], known[-1]
        return (last - first) / (until - since)


class CounterRates:
    """A :class:`CounterRate` for each of many owners, by key."""

    def __init__(self, window: float = 3.0) -> None:
        self._window = window
        self._owners: dict[Hashable, CounterRate] = {}
        self._sampled: set[Hashable] = set()

    def sample(self, key: Hashable, at: float, counts: Mapping[str, float]) -> CounterRate:
        """Sample an owner's counters. Returns their rates."""
        owner = self._owners.get(key)
        if owner is None:
            owner = self._owners[key] = CounterRate(self._window)
        owner.sample(at, counts)
        self._sampled.add(key)
        return owner

    def rate(self, key: Hashable, name: str, now: float | None = None) -> float | None:
        """As CounterRate.rate(); None for an owner that was never sampled."""
        owner = self._owners.get(key)
        return None if owner is None else owner.rate(name, now)

    def forget_others(self) -> None:
        """Forget each owner that was not sampled since the last call: it is gone."""
        self._owners = {key: owner for key, owner in self._owners.items() if key in self._sampled}
        self._sampled.clear()
