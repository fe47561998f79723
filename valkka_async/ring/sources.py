# SPDX-License-Identifier: MIT
"""Where the frames of a merge come from: names, patterns and clients, connected and followed."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
from collections import deque

from valkka_async.errors import (
    ConcurrencyError,
    ConnectError,
    ConnectionClosedOK,
    InheritedError,
    ValkkaError,
)
from valkka_async.ring import fork
from valkka_async.ring._ready import Member, Ready
from valkka_async.ring.connection import ReaderStats, inherited, new_pauses
from valkka_async.ring.directory import Directory
from valkka_async.ring.policy import Policy, check_policy
from valkka_async.ring.rendezvous import check_name
from valkka_async.ring.subscription import Home, Subscription

log = logging.getLogger("valkka_async")

_WILD = frozenset("*?[")
# Between dials of a socket that a killed server left, at most: the directory tells when there is another.
_DEAD_SECONDS = 30.0


class Sources:
    """The engine of a Merge. The loop and the tasks refer to this and not to the Merge, so that a Merge which
    is forgotten can notice it."""

    def __init__(self, policy: Policy, max_leases: int, reconnect: bool) -> None:
        check_policy(policy, max_leases)
        self._policy = policy
        self._max_leases = max_leases
        self._reconnect = reconnect
        self.ready = Ready(self._over, self._check)
        self.members: dict[str, Member] = {}
        self.patterns: set[str] = set()
        self.before = ReaderStats(0, 0, 0, 0)  # of members that have left
        self.running = False
        self.closed = False
        self._home = Home()
        self._inherited = False  # in use in the parent process, of which this one is a fork
        self._there: set[str] = set()  # names in the directory, if there are patterns
        self._failures: deque[ValkkaError] = deque()
        self._follower: asyncio.Task[None] | None = None
        fork.in_child(self, Sources._after_fork)

    def _after_fork(self) -> None:
        if self.running and not self.closed:
            self._inherited = self.closed = True
            self.members = {}  # their tasks and loop are the parent's
            self._follower = None
            self._home = Home()

    def check(self) -> None:
        """Raises ConcurrencyError in another loop or thread than the one it is used in, InheritedError in a
        forked child."""
        if self._inherited:
            raise inherited("the merge")
        self._home.check("the merge")

    # ---------------------------------------------------------------------------------- members

    def add(self, source: str | Subscription) -> None:
        """A name, a pattern, or a subscription of the caller's. Raises ValueError, InvalidNameError."""
        if isinstance(source, str) and is_pattern(source):
            self.patterns.add(source)
            self._follow()
            return
        if isinstance(source, Subscription):
            if source.name in self.members:
                raise ValueError(f"{source.name!r} is merged already: discard() it first")
            self._join(Member(source, own=False, pattern=False))
        elif (there := self.members.get(check_name(source))) is not None:
            there.pattern = False  # asked for by name, it no longer leaves with its socket
        else:
            self._join(self._make(source, pattern=False))

    def discard(self, source: str) -> None:
        """A name, or a pattern with all that came by it."""
        if is_pattern(source):
            self.patterns.discard(source)
            for name, member in list(self.members.items()):
                if member.pattern and not self._matches(name):
                    self._leave(member)
            self._follow()
        elif (there := self.members.get(source)) is not None:
            self._leave(there)

    def _make(self, name: str, *, pattern: bool) -> Member:
        pauses = new_pauses(_DEAD_SECONDS) if pattern else None
        return Member(Subscription(name, self._policy, self._max_leases, pauses), own=True, pattern=pattern)

    def _join(self, member: Member) -> None:
        self.members[member.subscription.name] = member
        if self.running:
            self._start(member)

    def _leave(self, member: Member) -> None:
        name = member.subscription.name
        if self.members.get(name) is member:
            del self.members[name]
        if member.task is not None and not member.task.get_loop().is_closed():
            member.task.cancel()
        self.ready.leave(member)
        if member.own:
            self.before = self.before.plus(member.subscription.stats())
            member.subscription.close()
        self.ready.wake()

    # --------------------------------------------------------------------------------- patterns

    def _matches(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, p) for p in self.patterns)

    def _follow(self) -> None:
        """Look at the directory if there are patterns, and only then."""
        if self.patterns and self.running:
            if self._follower is not None:
                self._update(set())
            else:
                self._follower = asyncio.get_running_loop().create_task(self._follow_for_ever())
        elif self._follower is not None:
            self._follower.cancel()
            self._follower = None

    async def _follow_for_ever(self) -> None:
        directory = Directory()
        said = ""
        new: set[str] | None = None
        try:
            while True:
                try:
                    self._there = set(directory.look())
                except ConnectError as e:  # the runtime directory cannot be read or trusted now
                    if str(e) != said:
                        said = str(e)
                        log.warning("merge: %s; looking again", e)
                else:
                    said = ""
                    self._update(new)
                new = await directory.changed()
        finally:
            directory.close()

    def _update(self, new: set[str] | None) -> None:
        """Members by what is in the directory, where these names have come or gone (None: any may have)."""
        for name in self._there - self.members.keys():
            if self._matches(name):
                self._join(self._make(name, pattern=True))
        for name, member in list(self.members.items()):
            if member.pattern and member.link is None:
                if name not in self._there:
                    self._leave(member)
                elif new is None or name in new:
                    member.subscription.wake()

    # ------------------------------------------------------------------------------- connecting

    def run(self) -> None:
        """Start connecting; the first call must come from a running loop. Raises what check() raises."""
        if self.running:
            self.check()
        elif not self.closed:
            self._home.enter("the merge")
            self.running = True
            for member in list(self.members.values()):
                self._start(member)
            self._follow()

    def _start(self, member: Member) -> None:
        member.task = asyncio.get_running_loop().create_task(self._connect(member))

    async def _connect(self, member: Member) -> None:
        try:
            link = await member.subscription.connect(None, patient=self._reconnect)
        except ConnectionClosedOK:  # a client that its owner closed
            self._leave(member)
        except (ConnectError, ConcurrencyError, InheritedError) as e:
            self._fail(member, e)
        else:
            member.task = None
            self.ready.join(member, link)

    def _over(self, member: Member) -> None:
        """A member's connection has ended and its ring is read to the end."""
        link = member.link
        assert link is not None
        error = link.connection.error()
        self.ready.leave(member)
        if not self._reconnect:
            self._fail(member, error)
        elif member.pattern and member.subscription.name not in self._there:
            self._leave(member)
        else:
            member.subscription.unlink()
            self._start(member)

    def _fail(self, member: Member, error: ValkkaError) -> None:
        member.task = None
        if not isinstance(error, ConnectionClosedOK):
            self._failures.append(error)
        self._leave(member)

    # -------------------------------------------------------------------------------------- end

    def _check(self) -> None:
        """Raise what there is to raise when nothing is left to claim."""
        if self._failures:
            raise self._failures.popleft()
        if self.closed:
            raise ConnectionClosedOK("this merge was closed")
        if not (self.members or self.patterns or self._reconnect):
            raise ConnectionClosedOK("all servers were closed")

    def tasks(self) -> list[asyncio.Task[None]]:
        """Those that run now, in this loop."""
        if not self.running or self._home.loop is not asyncio.get_running_loop():
            return []
        tasks = [m.task for m in self.members.values() if m.task is not None]
        return tasks if self._follower is None else [*tasks, self._follower]

    def close(self) -> None:
        """Leave all servers; from any thread."""
        self.closed = True
        self._home.call(self._leave_all)

    def _leave_all(self) -> None:
        if self._follower is not None and not self._follower.get_loop().is_closed():
            self._follower.cancel()
        self._follower = None
        for member in list(self.members.values()):
            self._leave(member)
        self.ready.wake()


def is_pattern(source: str) -> bool:
    return not _WILD.isdisjoint(source)
