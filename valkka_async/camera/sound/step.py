# SPDX-License-Identifier: MIT
"""Where sound belongs beside the picture: one axis for both, that of the picture. No I/O and no PyAV.

Two streams have two clocks. What relates them is, in this order:

- what the sender says of its own time: reports of RTCP give each stream's times on one clock (RFC 3550);
- the container, where both have their times from one clock (MPEG-TS, FLV, MP4);
- arrival: over RTP without reports, the two streams' times begin anywhere and may drift apart.

Arrival is what all are held against. It is late by what the network adds, never early, so the least lateness
of some seconds counts.
"""

from __future__ import annotations

_WINDOW = 10.0  # s, over one to two of which the least lateness is taken
_JUMP = 2.0  # s by which lateness cannot change: a clock was set
_ASTRAY = 2.0  # s between a relation and arrival, beyond which it is not believed ...
_LASTING = 3.0  # s, if that lasts; a network may hold one of the two back for a while
_APART = 0.25  # s that cameras need longer for one of the two, at most
_SETTLING = 2.0  # s after which the first relation stands
_SLEW = 0.005  # s per s, by which it then follows drifting clocks; real ones drift by a hundredth of that
_WRONG = 60.0  # s in which two jumps mean that the times of sound are of no use
_TOLERANCE = 0.04  # s: sound that is further from where it should be leaves a gap, or is left out
_BACK = 2.0  # s beyond which sound that would be too early means that the axis has changed
_PULL = 1 / 16  # of what is wrong, with each packet, below that


class Even:
    """Puts packets of sound one behind the other, as their samples are, where their times are nearly that.

    Times come with rounding, jitter and drift. What is wrong by less than 40 ms goes away little by little;
    beyond that there is a gap, or what would overlap is left out.
    """

    def __init__(self) -> None:
        self._next: float | None = None

    @property
    def next(self) -> float | None:
        """Where the next packet begins if nothing is missing."""
        return self._next

    def place(self, seconds: float, duration: float) -> float | None:
        """Where the next packet goes, whose time is `seconds`. None: it is to be left out."""
        at = seconds
        if self._next is not None:
            wrong = seconds - self._next
            if -_BACK < wrong < -_TOLERANCE:
                return None
            if abs(wrong) <= _TOLERANCE:
                at = self._next + wrong * _PULL
        self._next = at + duration
        return at


class _Lateness:
    """The least by which a stream's packets come after their times."""

    def __init__(self) -> None:
        self.value: float | None = None
        self._recent = self._before = 0.0
        self._since = 0.0

    def note(self, stamp: float, arrival: float) -> None:
        late = arrival - stamp
        if self.value is None or abs(late - self.value) > _JUMP:
            self._recent = self._before = late
            self._since = arrival
        elif arrival - self._since > _WINDOW:
            self._before, self._recent, self._since = self._recent, late, arrival
        self._recent = min(self._recent, late)
        self.value = min(self._recent, self._before)


class Step:
    """Keeps sound in step with the picture. All times are in seconds.

    `shared`: both have their times from one clock, as far as the container says so.
    """

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self._jumped = -_WRONG
        self.wrong = False  # the times of sound run at another speed than arrival
        self.restart()

    def restart(self) -> None:
        """The times of one of the two are of another kind from here on."""
        self._picture, self._sound = _Lateness(), _Lateness()
        self._sender: float | None = None  # of the picture, less its own times
        self._shift: float | None = None  # from the sound's times to the picture's
        self._constant: float | None = None  # of that, what does not change with drift
        self._began = self._newest = 0.0
        self._astray: float | None = None  # since when

    def picture(self, at: float, arrival: float, sender: float | None) -> None:
        """A frame is at `at`, came at `arrival`, and was taken at `sender`, if its sender says so."""
        self._picture.note(at, arrival)
        if sender is not None:
            self._sender = sender - at

    def sound(self, stamp: float, arrival: float, sender: float | None) -> float:
        """Where sound of this time belongs, on the axis of the picture."""
        self._sound.note(stamp, arrival)
        if self._picture.value is None or self._sound.value is None:
            return stamp
        apart = self._sound.value - self._picture.value
        passed = max(0.0, arrival - self._newest) if self._shift is not None else 0.0
        self._newest = arrival
        if self._shift is None:
            self._began = arrival
        if sender is not None and self._sender is not None:
            wanted, at_once = sender - stamp - self._sender, True
        elif self._shared:
            wanted, at_once = 0.0, True
        else:
            wanted, at_once = self._by_arrival(apart, arrival)
        if self._shift is None:
            self._shift = wanted if abs(wanted - apart) <= _ASTRAY else apart
        elif at_once:
            astray = self._lasts(abs(wanted - apart) > _ASTRAY, arrival)
            self._shift = apart if astray else wanted
        elif self._lasts(abs(wanted - self._shift) > _APART, arrival):
            self._shift, self._astray = wanted, None  # a clock was set
            self.wrong = self.wrong or arrival - self._jumped < _WRONG
            self._jumped = arrival
        else:
            most = _SLEW * passed
            self._shift += min(max(wanted - self._shift, -most), most)
        return stamp + self._shift

    def _lasts(self, astray: bool, arrival: float) -> bool:
        if not astray:
            self._astray = None
        elif self._astray is None:
            self._astray = arrival
        return self._astray is not None and arrival - self._astray > _LASTING

    def _by_arrival(self, apart: float, arrival: float) -> tuple[float, bool]:
        """(shift, whether it holds at once) for two clocks that nothing else relates. Where the two streams
        began at about the same time, their times are believed, and then only drift is followed."""
        if self._constant is not None:
            return apart + self._constant, False
        constant = -apart if abs(apart) < _APART else 0.0
        if arrival - self._began > _SETTLING:
            self._constant = constant
        return apart + constant, True
