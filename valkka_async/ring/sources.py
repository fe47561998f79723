# SPDX-License-Identifier: MIT
"""Where the frames of a merge come from: names, patterns and clients, connected and followed."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from valkka_async.errors import ConnectError, ConnectionClosedOK
from valkka_async.ring import fork
from valkka_async.ring._home import Home, running_loop
from valkka_async.ring._shm import Doorbells
from valkka_async.ring.connection import ReaderStats, inherited, new_pauses
from valkka_async.ring.directory import Directory
from valkka_async.ring.names import check_source, matches
from valkka_async.ring.policy import Policy, check_policy
from valkka_async.ring.subscription import Link, Subscription

log = logging.getLogger("valkka_async")

_WILD = frozenset("*?[")
# Between dials of a socket that a killed server left, at most: the directory tells when there is another. A
# server that has bound its socket listens there at once, so after two quick dials there most likely is none.
_DEAD_SECONDS = 60.0
_DEAD_GROWTH = 1e4
_AGAIN_SECONDS = 1.0  # until the directory is looked at again after an error that nobody foresaw
_CLOSED = "this merge was closed"
_DIALS = 8  # that begin in one round of the loop: a thousand would hold up the frames of all others


class Member:
    """A source: a subscription, and the task that connects it."""

    def __init__(self, subscription: Subscription, *, own: bool, pattern: bool) -> None:
        self.subscription = subscription
        self.own = own  # made by the merge, so closed by it
        self.pattern = pattern  # came by a pattern, so leaves with its socket
        self.renewed = False  # its socket came or went while it was connected
        self.link: Link | None = None
        self.task: asyncio.Task[None] | None = None


class Sources:
    """The engine of a Merge. The loop and the tasks refer to this and not to the Merge, so that a Merge which
    is forgotten can notice it."""

    def __init__(self, policy: Policy, max_leases: int, reconnect: bool) -> None:
        check_policy(policy, max_leases)
        self._policy = policy
        self._max_leases = max_leases
        self._reconnect = reconnect
        self.ready = Doorbells(self._over, self._check)
        self.connected = 0  # members that are
        self.members: dict[str, Member] = {}
        self.patterns: set[str] = set()
        self.before = ReaderStats(0, 0, 0, 0)  # of members that have left
        self.running = False
        self.closed = False
        self._home = Home()
        self._inherited = False  # in use in the parent process, of which this one is a fork
        self._there: set[str] = set()  # names in the directory, if there are patterns
        self._looked = False  # into the directory
        self._away: set[str] = set()  # discarded names that a pattern would bring back
        self._failures: deque[Exception] = deque()
        self._follower: asyncio.Task[None] | None = None
        self._to_start: deque[Member] = deque()
        self._starter: asyncio.Task[None] | None = None
        fork.in_child(self, Sources._after_fork)

    def _after_fork(self) -> None:
        if self.running and not self.closed:
            self._inherited = self.closed = True
            for member in self.members.values():
                member.subscription.merged = False
            self.members = {}  # their tasks and loop are the parent's
            self._follower = self._starter = None
            self._home = Home()

    def check(self) -> None:
        """Raises ConcurrencyError in another loop or thread than the one it is used in, InheritedError in a
        forked child."""
        if self._inherited:
            raise inherited("the merge")
        self._home.check("the merge")

    @property
    def following(self) -> bool:
        """Servers may come, or come back."""
        return self._reconnect or bool(self.patterns)

    @property
    def settled(self) -> bool:
        """Is it connected to all servers that there are, but for those that do not answer?"""
        if self.patterns and not self._looked:
            return False
        return all(m.link is not None or m.subscription.tried for m in self.members.values())

    # ---------------------------------------------------------------------------------- members

    def add(self, source: str | Subscription) -> None:
        """A name, a pattern, or a subscription of the caller's. Raises ValueError, InvalidNameError, and
        ConnectionClosedOK after close()."""
        if self.closed:
            raise inherited("the merge") if self._inherited else ConnectionClosedOK(_CLOSED)
        if isinstance(source, str) and is_pattern(source):
            self.patterns.add(source)
            self._away = {name for name in self._away if not matches(name, source)}
            self._follow()
            return
        name = source.name if isinstance(source, Subscription) else check_source(source)
        if isinstance(source, Subscription):
            if name in self.members:
                raise ValueError(f"{name!r} is merged already: discard() it first")
            if source.merged:
                raise ValueError(
                    f"another merge has this client of {name!r}: discard() it there first, or connect() "
                    "another"
                )
            source.merged = True
            self._join(Member(source, own=False, pattern=False))
        elif (there := self.members.get(name)) is not None:
            there.pattern = False  # asked for by name, it no longer leaves with its socket
        else:
            self._join(self._make(name, pattern=False))
        self._away.discard(name)

    def discard(self, source: str) -> None:
        """A name, which no pattern brings back, or a pattern with all that came by it."""
        if is_pattern(source):
            self.patterns.discard(source)
            self._away = {name for name in self._away if self._matches(name)}
            for name, member in list(self.members.items()):
                if member.pattern and not self._matches(name):
                    self._leave(member)
            self._follow()
            return
        if self._matches(source):
            self._away.add(source)
        if (there := self.members.get(source)) is not None:
            self._leave(there)

    def _make(self, name: str, *, pattern: bool) -> Member:
        pauses = new_pauses(_DEAD_SECONDS, _DEAD_GROWTH) if pattern else None
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
        self._unlink(member)
        if member.own:
            self.before = self.before.plus(member.subscription.stats())
            member.subscription.close()
        else:
            member.subscription.merged = False
        self.ready.wake()

    # --------------------------------------------------------------------------------- patterns

    def _matches(self, name: str) -> bool:
        return any(matches(name, p) for p in self.patterns)

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
        said = unforeseen = ""
        new: set[str] | None = None
        try:
            while True:
                try:
                    try:
                        self._there = set(directory.look())
                    except ConnectError as e:  # the runtime directory cannot be read or trusted now
                        if str(e) != said:
                            said = str(e)
                            log.warning("merge: %s; looking again", str(e))
                    else:
                        said = ""
                        self._update(new)
                        self._looked = True
                    new = await directory.changed()
                except Exception as e:
                    if repr(e) != unforeseen:
                        unforeseen = repr(e)
                        log.exception("merge: cannot follow the servers that come and go; trying again")
                    new = None
                    await asyncio.sleep(_AGAIN_SECONDS)
        finally:
            directory.close()

    def _update(self, new: set[str] | None) -> None:
        """Members by what is in the directory, where these names have come or gone (None: any may have)."""
        for name in self._there - self.members.keys() - self._away:
            if self._matches(name):
                self._join(self._make(name, pattern=True))
        for name, member in list(self.members.items()):
            renewed = new is None or name in new
            if member.pattern and member.link is not None:
                member.renewed |= renewed  # which it is told when its connection has ended
            elif member.pattern and name not in self._there:
                self._leave(member)
            elif member.pattern and renewed:
                member.subscription.wake()

    # ------------------------------------------------------------------------------- connecting

    def run(self) -> asyncio.AbstractEventLoop | None:
        """Start connecting, in the running loop. The loop it belongs to. Raises what check() raises."""
        if self.running:
            if self._home.loop is None or running_loop() is not self._home.loop:
                self.check()
        elif not self.closed:
            self._home.enter("the merge")
            self.running = True
            for member in list(self.members.values()):
                self._start(member)
            self._follow()
        return self._home.loop

    def _start(self, member: Member) -> None:
        self._to_start.append(member)
        if self._starter is None:
            self._starter = asyncio.get_running_loop().create_task(self._start_in_turn())

    async def _start_in_turn(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._to_start:
                for _ in range(min(_DIALS, len(self._to_start))):
                    member = self._to_start.popleft()
                    if self.members.get(member.subscription.name) is member:
                        member.task = loop.create_task(self._connect(member))
                await asyncio.sleep(0)
        finally:
            self._starter = None

    async def _connect(self, member: Member) -> None:
        try:
            link = await member.subscription.connect(None, patient=self._reconnect)
        except ConnectionClosedOK:  # a client that its owner closed
            self._leave(member)
        except Exception as e:  # recv() raises it
            self._fail(member, e)
        else:
            member.task, member.link = None, link
            self.connected += 1
            self.ready.join(link.doorbell, member)

    def _unlink(self, member: Member) -> None:
        if member.link is not None:
            self.ready.leave(member.link.doorbell)
            member.link = None
            self.connected -= 1

    def _over(self, member: Member) -> None:
        """A member's connection has ended and its ring is read to the end."""
        link = member.link
        assert link is not None
        error = link.connection.error()
        self._unlink(member)
        if not self._reconnect:
            self._fail(member, error)
        elif member.pattern and member.subscription.name not in self._there:
            self._leave(member)
        else:
            if member.renewed:  # by a server that is there already
                member.renewed = False
                member.subscription.wake()
            member.subscription.unlink()
            self._start(member)

    def _fail(self, member: Member, error: Exception) -> None:
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
            raise ConnectionClosedOK(_CLOSED)
        if not (self.members or self.patterns or self._reconnect):
            raise ConnectionClosedOK("all servers were closed")

    def tasks(self) -> list[asyncio.Task[None]]:
        """Those that run now, in this loop."""
        if not self.running or self._home.loop is not asyncio.get_running_loop():
            return []
        tasks = [m.task for m in self.members.values() if m.task is not None]
        return tasks + [task for task in (self._follower, self._starter) if task is not None]

    def close(self) -> None:
        """Leave all servers; from any thread."""
        self.closed = True
        self._home.call(self._leave_all)

    def call(self, function: Callable[[], None]) -> None:
        """Call it in the loop that this belongs to; from any thread."""
        self._home.call(function)

    def _leave_all(self) -> None:
        if self._follower is not None and not self._follower.get_loop().is_closed():
            self._follower.cancel()
        self._follower = None
        self._to_start.clear()
        for member in list(self.members.values()):
            self._leave(member)
        self.ready.wake()


def is_pattern(source: str) -> bool:
    return not _WILD.isdisjoint(source)
