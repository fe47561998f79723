# SPDX-License-Identifier: MIT
"""Time: one clock for a stream's frames, fewer frames per second, files at the speed of life."""

from __future__ import annotations

from fractions import Fraction

_RESYNC = 2.0  # s between timestamps and arrival, beyond which the timestamps must have jumped
_LATE = 0.5  # s behind, beyond which a paced source goes on from here instead of catching up


class LiveClock:
    """Seconds on one axis for the frames of a live source, from timestamps as long as they can be trusted.

    Timestamps are even where arrivals are not. But they can be missing, and they jump when a camera sets
    its clock.
    """

    def __init__(self) -> None:
        self._offset: float | None = None
        self._base: Fraction | None = None
        self._units = (0, 1)  # of it: numerator, denominator

    def seconds(self, pts: int | None, time_base: Fraction | None, arrival_ns: int) -> float:
        """When a packet or frame is, on this axis."""
        arrival = arrival_ns / 1e9
        if pts is None or time_base is None:
            return arrival
        if time_base is not self._base:
            self._base, self._units = time_base, (time_base.numerator, time_base.denominator)
        stamp = pts * self._units[0] / self._units[1]
        if self._offset is None or abs(stamp + self._offset - arrival) > _RESYNC:
            self._offset = arrival - stamp
        return stamp + self._offset


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
        step = round(1 / (time_base * Fraction(self._rate).limit_denominator(1001)))
        if self._last is not None and stamp > self._last[0]:
            step = stamp - self._last[0]
        self._last = (stamp, max(1, step), time_base)
        self._seconds = stamp * time_base.numerator / time_base.denominator
        return stamp, self._seconds

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
