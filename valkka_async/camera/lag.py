# SPDX-License-Identifier: MIT
"""How long packets lay unread before they were read: what a slow reader does not see of itself.

What is not read in time waits in the kernel, and then at the camera, for any time, and looks fresh when it
is read. Two things tell how long. A packet came no sooner than reading last had to wait, since nothing was
unread then. And one that is later, by the stream's own time, than the least late of them has lain unread,
unless the network held it up; then reading had to wait.
"""

from __future__ import annotations

BOUND = 2.0  # s that a packet may have lain unread
_STAYS = 0.5  # s in which half of it could have been made up
_ENDS = BOUND / 2
_UNEVEN = 0.5  # s by which packets come unevenly, or are read so on a busy machine; sound is placed by them
_IN_VAIN = 10.0  # s in which reading alone has not caught up: the stream's time tells something else
_RISE, _RISE_UNSEEN = 0.2, 0.001  # s per second by which the least may rise, with and without a wait
_STEP = 1.0  # s between two packets that count for that
_BACK = 2.0  # s by which the stream's time was set back


class Lag:
    """Of one connection. Each packet is noted when it has been read."""

    def __init__(self) -> None:
        self.behind = False  # so much is unread that frames are better left out than decoded
        self._least: float | None = None  # lateness of a packet that was read as soon as it was here
        self._stamp = self._now = 0.0  # of the newest
        self._waited = 0.0  # when reading did, and nothing was unread
        self._since: float | None = None  # when it was beyond the bound, or behind
        self._worst = 0.0  # what it was then

    def note(self, stamp: float, now: float, waited: bool) -> float:
        """How many seconds this packet lay unread. `stamp` is its own time, in seconds of any clock that
        runs as it should, `now` is monotonic, and `waited`: reading had to wait since the packet before."""
        late = now - stamp
        if self._least is None or stamp < self._stamp - _BACK:
            self.forget()
            self._least, waited = late, True
        else:
            rise = _RISE if waited else _RISE_UNSEEN
            self._least = min(late, self._least + rise * min(now - self._now, _STEP))
        self._stamp, self._now = stamp, now
        if waited and not self.behind:  # else the camera may have more, which the network has yet to bring
            self._waited = now
        lag = min(late - self._least, now - self._waited)
        if self.behind:
            assert self._since is not None
            if waited and lag < _ENDS:
                self.behind, self._since, self._waited = False, None, now
            elif now - self._since > _IN_VAIN:
                self.behind, self._since, self._waited = False, None, now
                self._least = late
                return 0.0
            return lag
        if lag < BOUND:
            self._since = None
        elif self._since is None or lag < self._worst / 2:
            self._since, self._worst = now, lag
        elif now - self._since >= _STAYS:
            self.behind, self._since = True, now
        return lag if lag > _UNEVEN else 0.0

    def forget(self) -> None:
        """What comes next says nothing of what was before."""
        self.behind, self._least, self._since = False, None, None
