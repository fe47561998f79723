# SPDX-License-Identifier: MIT
"""Time: one clock for a stream's frames, fewer frames per second, files at the speed of life."""

from __future__ import annotations

import math
from fractions import Fraction

_RESYNC = 2.0  # s between timestamps and arrival, beyond which the timestamps must have jumped
_HOLE = 2.0  # s between the times of two frames of a file, beyond which they may have jumped ...
_SUDDEN = 10  # ... and have, if the step is so many times as long as the one before
_COMPARED = 3.0  # s over which the two are compared
_FIFTH = 0.2  # of that by which they may disagree
_GLANCE, _APART = 0.2, 0.4  # s after which a new connection is looked at, and s that are too much then
_SLEW = 10.0  # s in which the offset follows arrival
_LATE = 0.5  # s behind, beyond which a paced source goes on from here instead of catching up


class LiveClock:
    """Seconds on one axis, that of arrival, for the frames of a live source.

    Timestamps are even where arrivals are not, so they place a frame as long as they can be trusted. They
    can be missing, jump when a camera sets its clock, drift, run at a tenth of the speed, or stand still.
    Arrival disciplines them: their offset follows it slowly, and where the two disagree by more than a fifth
    over some seconds, arrival is the time (`disagrees`), until they agree again.
    """

    def __init__(self) -> None:
        self._offset: float | None = None
        self._base: Fraction | None = None
        self._units = (0, 1)  # of it: numerator, denominator
        self._begin: tuple[float, float] | None = None  # stamp and arrival from which they are compared
        self._last = (0.0, 0.0)  # the newest
        self._verdicts = 0  # times in a row that say otherwise than what is done
        self._way = False  # the last verdict: the stream's clock is faster
        self._settled = False  # they were compared over some seconds, once
        self.disagrees = False

    def tick(
        self, ticks: int | None, time_base: Fraction | None, arrival_ns: int, *, exact: bool = True
    ) -> float:
        """When a packet is, on this axis. For each packet, in the order in which they come. `exact`: it was
        read as soon as it was here."""
        if exact and ticks is not None and time_base is not None:
            self._compare(self._stamp(ticks, time_base), arrival_ns / 1e9)
        return self.seconds(ticks, time_base, arrival_ns)

    def seconds(self, pts: int | None, time_base: Fraction | None, arrival_ns: int) -> float:
        """When a packet or frame is, on this axis."""
        arrival = arrival_ns / 1e9
        if pts is None or time_base is None or self.disagrees:
            return arrival
        stamp = self._stamp(pts, time_base)
        if self._offset is None or abs(stamp + self._offset - arrival) > _RESYNC:
            self._offset = arrival - stamp
        return stamp + self._offset

    def _stamp(self, pts: int, time_base: Fraction) -> float:
        if time_base is not self._base:
            self._base, self._units = time_base, (time_base.numerator, time_base.denominator)
        return pts * self._units[0] / self._units[1]

    def _compare(self, stamp: float, arrival: float) -> None:
        before, came = self._last
        self._last = stamp, arrival
        if self._begin is None or abs(stamp - before - (arrival - came)) > _RESYNC or arrival < came:
            self._begin = stamp, arrival  # one of the clocks was set, or the stream has paused
            return
        if self._offset is not None and not self.disagrees:
            wrong = arrival - (stamp + self._offset)
            self._offset += wrong * min(1.0, (arrival - came) / _SLEW)
        passed, advanced = arrival - self._begin[1], stamp - self._begin[0]
        # What seems too slow may only have been held back, by a busy machine.
        if not self._settled and passed > _GLANCE and advanced - passed > max(_APART, _FIFTH * passed):
            self.disagrees = True  # most likely; a burst at the beginning looks like that as well
        if passed < _COMPARED:
            return
        wrong_now = abs(advanced - passed) > _FIFTH * passed
        # What a hiccup of the network keeps back comes all the faster: too slow, and then too fast.
        way = advanced > passed
        again = self._verdicts > 0 and (not wrong_now or way == self._way)
        self._verdicts = 0 if wrong_now == self.disagrees else self._verdicts + 1 if again else 1
        self._way = way
        if self._verdicts >= (2 if self._settled or (wrong_now and not way) else 1):
            self.disagrees, self._verdicts = wrong_now, 0
            self._offset = None
        self._settled = True
        self._begin = stamp, arrival


class FileClock:
    """Rising timestamps for the packets of a file that is played again and again, and seconds for them."""

    def __init__(self) -> None:
        self._shift = 0  # in units of the time base
        self._rate = 25.0
        self._last: tuple[int, int, Fraction] | None = None  # timestamp, the step to it, time base
        self._begin: int | None = None  # the next packet's timestamp, when the file begins again
        self._count = 0  # of packets without timestamps
        self._seconds = 0.0  # of the newest packet

    def rewind(self, rate: Fraction | None) -> None:
        """The file begins (again). `rate` is its frame rate, for files without timestamps."""
        self._rate = float(rate) if rate else 25.0
        if self._last is not None:
            stamp, step, _ = self._last
            self._begin = stamp + step

    def stamp(self, stamp: int | None, time_base: Fraction | None) -> tuple[int | None, float]:
        """(timestamp, seconds) of the next packet. The timestamp stays None in a file without timestamps."""
        if stamp is None or not time_base:
            self._seconds = self._count / self._rate
            self._count += 1
            return stamp, self._seconds
        if self._last is not None and self._last[2] != time_base:  # the file was replaced meanwhile
            ratio = self._last[2] / time_base
            self._last = (int(self._last[0] * ratio), max(1, int(self._last[1] * ratio)), time_base)
            if self._begin is not None:
                self._begin = self._last[0] + self._last[1]
        if self._begin is not None:
            self._shift, self._begin = self._begin - stamp, None
        stamp += self._shift
        if self._last is not None and self._is_hole(stamp - self._last[0]):
            jumped = self._last[0] + self._last[1]
            self._shift += jumped - stamp
            stamp = jumped
        step = round(1 / (time_base * Fraction(self._rate).limit_denominator(1001)))
        if self._last is not None and stamp > self._last[0]:
            step = stamp - self._last[0]
        self._last = (stamp, max(1, step), time_base)
        self._seconds = stamp * time_base.numerator / time_base.denominator
        return stamp, self._seconds

    def _is_hole(self, step: int) -> bool:
        """Do the times jump here, as where recordings were joined? A file of few frames has long steps."""
        assert self._last is not None
        _, before, base = self._last
        hole = int(_HOLE / base)
        return step < -hole or step > max(hole, _SUDDEN * before)

    def last(self, least: float) -> float:
        """The file has ended: how long its last frame is to be seen, `least` seconds or as long as the one
        before it. Returns the seconds at its end."""
        if self._last is None:
            more = max(1, math.ceil(least * self._rate))
            self._count += more - 1
            return self._seconds + more / self._rate
        stamp, step, base = self._last
        step = max(step, math.ceil(least / base))
        self._last = stamp, step, base
        return float((stamp + step) * base)

    disagrees = False  # the times of a file are the only ones that there are

    def tick(
        self, ticks: int | None, time_base: Fraction | None, arrival_ns: int, *, exact: bool = True
    ) -> float:
        """As LiveClock.tick()."""
        return self.seconds(ticks, time_base, arrival_ns)

    def seconds(self, pts: int | None, time_base: Fraction | None, arrival_ns: int) -> float:
        """When a packet with a timestamp of stamp(), or a frame decoded from one, is. As LiveClock.seconds(),
        but arrivals say nothing of a file."""
        if pts is None or not time_base:
            return self._seconds
        return pts * time_base.numerator / time_base.denominator


class RateLimit:
    """At most `fps` frames per second, evenly: for each due time the frame that is nearest to it.

    What is due advances by exactly one period, whatever frame was taken for it: no drift.
    """

    def __init__(self, fps: float | None) -> None:
        self._period = 1.0 / fps if fps else 0.0
        self._due: float | None = None
        self._last = 0.0

    def admit(self, seconds: float) -> bool:
        """Whether to show the frame of this time."""
        if not self._period:
            return True
        step = seconds - self._last
        self._last = seconds
        if self._due is None or seconds < self._due - 2 * self._period:  # the first; or time went back
            self._due = seconds + self._period
            return True
        # The next frame comes a step later, most likely. Is it nearer to what is due?
        if seconds + min(max(step, 0.0), self._period) / 2 < self._due:
            return False
        self._due += self._period
        if self._due <= seconds:
            self._due = seconds + self._period
        return True


class Pacer:
    """Plays at the speed of life: says how long each frame has to wait."""

    def __init__(self) -> None:
        self._start: float | None = None  # on the caller's clock, when the source's clock was 0

    def delay(self, seconds: float, now: float) -> float:
        """Seconds from `now` (monotonic) to `seconds` on the source's clock; 0.0 for a frame that is late."""
        if self._start is None or now - self._start - seconds > _LATE:
            self._start = now - seconds
        return max(0.0, self._start + seconds - now)
