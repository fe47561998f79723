# SPDX-License-Identifier: MIT
"""merge(): many servers as one stream."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from types import TracebackType

from valkka_async.errors import ConcurrencyError, ConnectError, ConnectionClosedOK, ValkkaError
from valkka_async.ring._shm import Frame
from valkka_async.ring._waiter import Waiter
from valkka_async.ring.client import Client, Link, connect
from valkka_async.ring.connection import ReaderStats, check_policy
from valkka_async.ring.rendezvous import check_name, servers

log = logging.getLogger("valkka_async")

_SCAN_SECONDS = 0.1  # how often the directory is searched for servers that match a pattern
_REFUSED_SECONDS = 1.0  # before a server that refused us is asked again
_TURN_SECONDS = 0.001  # as in client.py
_WILD = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class MergeStats:
    """Sums over all sources, and each connected source's own ReaderStats (None: not connected now)."""

    received: int
    dropped: int
    leases: int
    last_received_ns: int
    sources: dict[str, ReaderStats | None]


def merge(
    *sources: str | Client, policy: str = "latest", max_leases: int = 4, reconnect: bool = True
) -> Merge:
    """Receive from many servers in one task::

        async with va.merge("front", "cam*") as cameras:
            async for frame in cameras:
                print(frame.source, frame.shape)

    Parameters
    ----------
    sources
        Names; patterns (with ``*``, ``?`` or ``[]``), which follow servers that come and go; Clients,
        which stay the caller's to close.
    policy, max_leases
        For each source; see :func:`valkka_async.connect`.
    reconnect
        Wait for servers that are not there yet or went away; the iteration then never ends by itself.
        False: a source whose server is closed leaves, a crash raises ConnectionClosedError, and the
        iteration ends with the last source.

    Sources take turns: one that always has a frame ready cannot starve the others, and one that is
    down, slow or stuck does not hold them up.
    """
    return Merge(*sources, policy=policy, max_leases=max_leases, reconnect=reconnect)


class _Member:
    """A source: its client, and the task that connects it."""

    def __init__(self, client: Client, *, own: bool, pattern: bool) -> None:
        self.client = client
        self.own = own  # made here, so closed here
        self.pattern = pattern  # came by a pattern, so leaves with its socket
        self.link: Link | None = None
        self.task: asyncio.Task[None] | None = None
        self.queued = False  # in the ready queue
        self.turn = 0  # when it last gave a frame, counted in frames of all sources


class Merge:
    """Made by :func:`merge`. An async context manager and iterator; one task receives at a time."""

    def __init__(self, *sources: str | Client, policy: str, max_leases: int, reconnect: bool) -> None:
        check_policy(policy, max_leases)
        self._policy = policy
        self._max_leases = max_leases
        self._reconnect = reconnect
        self._patterns: set[str] = set()
        self._members: dict[str, _Member] = {}
        self._ready: deque[_Member] = deque()
        self._failures: deque[ValkkaError] = deque()
        self._before = ReaderStats(0, 0, 0, 0)
        self._scanner: asyncio.Task[None] | None = None
        self._waiter: Waiter | None = None
        self._receiving = False
        self._running = False
        self._closed = False
        self._turn = 0.0
        self._turns = 0
        for source in sources:
            self.add(source)

    # ---------------------------------------------------------------------------------- sources

    def add(self, source: str | Client) -> None:
        """Receive from one more name, pattern or client. One that is there already is left as it is."""
        if isinstance(source, Client):
            member = _Member(source, own=False, pattern=False)
        elif isinstance(source, str) and _WILD & set(source):
            self._patterns.add(source)
            if self._running:
                self._scan()
            return
        else:
            if (there := self._members.get(check_name(source))) is not None:
                there.pattern = False  # asked for by name, it no longer leaves with its socket
                return
            member = self._make_member(source, pattern=False)
        if member.client.name in self._members:
            raise ValueError(f"{member.client.name!r} is merged already: discard() it first")
        self._members[member.client.name] = member
        if self._running:
            self._start(member)

    def discard(self, source: str | Client) -> None:
        """Stop receiving from a name, a client, or a pattern with all that came by it. Frames that are
        held stay valid. Does nothing if it is not there."""
        if isinstance(source, str) and _WILD & set(source):
            self._patterns.discard(source)
            for name, member in list(self._members.items()):
                if member.pattern and not self._matches(name):
                    self._remove(member)
            return
        name = source.name if isinstance(source, Client) else source
        if (there := self._members.get(name)) is not None:
            self._remove(there)

    @property
    def sources(self) -> list[str]:
        """Names of the sources there are now, connected or not."""
        return list(self._members)

    def _make_member(self, name: str, *, pattern: bool) -> _Member:
        client = connect(name, policy=self._policy, max_leases=self._max_leases, open_timeout=None)
        return _Member(client, own=True, pattern=pattern)

    def _matches(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, p) for p in self._patterns)

    def _scan(self) -> None:
        if not self._patterns:
            return
        for name in servers():
            if name not in self._members and self._matches(name):
                member = self._members[name] = self._make_member(name, pattern=True)
                self._start(member)

    async def _scan_for_ever(self) -> None:
        said = ""
        while True:
            try:
                self._scan()
            except ConnectError as e:  # the runtime directory cannot be read or trusted now
                if str(e) != said:
                    said = str(e)
                    log.warning("merge: %s; looking again", e)
            else:
                said = ""
            await asyncio.sleep(_SCAN_SECONDS)

    def _remove(self, member: _Member) -> None:
        name = member.client.name
        if self._members.get(name) is member:
            del self._members[name]
        if member.task is not None:
            member.task.cancel()
        self._unlink(member)
        if member.own:
            self._before = self._before.plus(member.client.stats())
            member.client.close()
        self._wake()

    # ------------------------------------------------------------------------------- connecting

    def _start(self, member: _Member) -> None:
        """Connect a member, in a task of its own if it has to be waited for."""
        member.task = asyncio.get_running_loop().create_task(self._connect(member))

    async def _connect(self, member: _Member) -> None:
        name = member.client.name
        said = ""
        while True:
            try:
                link = await member.client._connected(
                    None, None if not member.pattern else lambda: not member.pattern or name in servers()
                )
                break
            except ConnectionClosedOK:  # a client that its owner closed
                self._remove(member)
                return
            except (ConnectError, ValkkaError) as e:
                # One server that refuses us is no reason to stop receiving from the others.
                if not self._reconnect:
                    self._fail(member, e)
                    return
                if str(e) != said:
                    said = str(e)
                    log.warning("merge: %s: %s; trying again", name, e)
                await asyncio.sleep(_REFUSED_SECONDS)
        member.task = None
        if link is None:  # came by a pattern and is gone for good
            self._remove(member)
            return
        member.link = link
        link.notify = partial(self._notify, member)
        self._queue(member)
        self._wake()

    def _unlink(self, member: _Member) -> None:
        if member.link is not None:
            member.link.notify = None
            member.link = None

    def _notify(self, member: _Member) -> None:
        """A member may have something to claim; called by the loop."""
        if not member.queued:
            member.queued = True
            self._ready.append(member)
        if self._waiter is not None:
            self._waiter.wake()

    def _queue(self, member: _Member) -> None:
        if not member.queued and member.link is not None:
            member.queued = True
            self._ready.append(member)

    def _wake(self) -> None:
        if self._waiter is not None:
            self._waiter.wake_soon()

    def _fail(self, member: _Member, error: ValkkaError) -> None:
        member.task = None
        if not isinstance(error, ConnectionClosedOK):
            self._failures.append(error)
        self._remove(member)

    def _over(self, member: _Member, link: Link) -> None:
        """A member's connection has ended and its ring is read to the end."""
        error = link.connection.error()
        self._unlink(member)
        if self._reconnect:
            member.client._unlink()
            self._start(member)
        else:
            self._fail(member, error)

    # -------------------------------------------------------------------------------- receiving

    def recv(self) -> Coroutine[object, None, Frame]:
        """Wait for the next frame of any source: a coroutine.

        Cancelling loses no frame: one is claimed only when it is returned. Raises
        ConnectionClosedOK once there are no sources left (only without ``reconnect``) or after
        close(), ConnectionClosedError if a server crashed (only without ``reconnect``),
        LeaseLimitError, ConcurrencyError if another task is receiving.
        """
        return self._receive(False)

    async def _receive(self, iterating: bool) -> Frame:
        # One coroutine for recv() and the iteration; see Client._receive.
        if self._receiving:
            raise ConcurrencyError("another task is receiving from this merge: give each task its own")
        self._receiving = True
        try:
            if not self._running:
                self._run()
            while True:
                if time.monotonic() - self._turn > _TURN_SECONDS:
                    await asyncio.sleep(0)
                    self._turn = time.monotonic()
                frame = self._claim()
                if frame is not None:
                    return frame
                waiter = self._waiter = Waiter(asyncio.get_running_loop())
                try:
                    await waiter
                finally:
                    self._waiter = None
                self._turn = time.monotonic()
        except ConnectionClosedOK:
            if iterating:
                raise StopAsyncIteration from None
            raise
        finally:
            self._receiving = False

    def recv_nowait(self) -> Frame | None:
        """The next frame of any source, or None if there is none now. Raises as recv() does."""
        if self._receiving:
            raise ConcurrencyError("another task is receiving from this merge: give each task its own")
        self._run()
        return self._claim()

    def _claim(self) -> Frame | None:
        """The next frame of the sources that are ready; when None, all their bells are armed."""
        while self._ready:
            frame = self._claim_from(self._ready.popleft())
            if frame is not None:
                return frame
        self._check_end()
        return None

    def _claim_from(self, member: _Member) -> Frame | None:
        """A frame of a source that was taken from the ready queue; back it goes if there may be more."""
        member.queued = False
        link = member.link
        if link is None:
            return None
        try:
            frame = link.connection.claim()
        except ConnectError:  # the connection knows
            frame = None
        except BaseException:  # LeaseLimitError: the frame is still there for the next call
            self._queue(member)
            raise
        if frame is not None:
            self._turns += 1
            member.turn = self._turns
        if frame is None and link.connection.ended:
            self._over(member, link)
        elif link.connection.ended or not link.connection.arm():
            self._queue(member)  # there is more; last in the queue, so that the others come first
        return frame

    def _check_end(self) -> None:
        """Raise what there is to raise when nothing is left to claim."""
        if self._failures:
            raise self._failures.popleft()
        if self._closed or not (self._members or self._patterns or self._reconnect):
            raise ConnectionClosedOK("this merge was closed" if self._closed else "all servers were closed")

    def _run(self) -> None:
        """Start connecting; the first call must come from a running loop."""
        if self._running or self._closed:
            return
        self._running = True
        for member in list(self._members.values()):
            self._start(member)
        self._scanner = asyncio.get_running_loop().create_task(self._scan_for_ever())

    def __aiter__(self) -> Merge:
        return self

    def __anext__(self) -> Coroutine[object, None, Frame]:
        return self._receive(True)

    def batches(self, max_frames: int = 64, max_wait: float = 0.02) -> AsyncIterator[list[Frame]]:
        """Frames for one model: an iterator of lists, with at most one frame of each source.

        ::

            async for frames in cameras.batches(max_frames=16, max_wait=0.02):
                results = model(np.stack([f.array for f in frames]))

        A list is complete when every connected source has a new frame, or ``max_frames`` sources have,
        or ``max_wait`` seconds have passed since the first had one; it is never empty. The frames are
        claimed all at once at that moment, so with the policy "latest" each is the newest of its source.
        With more sources than ``max_frames`` those take turns. Cancelling loses no frame. Ends and raises
        as recv() does.
        """
        if max_frames < 1:
            raise ValueError(f"max_frames is at least 1, not {max_frames}")
        if not max_wait >= 0:
            raise ValueError(f"max_wait is 0 seconds or more, not {max_wait}")
        return _Batches(self, max_frames, max_wait)

    async def _batch(self, max_frames: int, max_wait: float) -> list[Frame]:
        """The next list of batches()."""
        if self._receiving:
            raise ConcurrencyError("another task is receiving from this merge: give each task its own")
        self._receiving = True
        try:
            self._run()
            await asyncio.sleep(0)
            deadline: float | None = None
            while True:
                connected = sum(m.link is not None for m in self._members.values())
                ready = self._count_ready()
                if ready and deadline is None:
                    deadline = time.monotonic() + max_wait
                if deadline is not None and (
                    ready >= min(max_frames, connected) or time.monotonic() >= deadline
                ):
                    if ready < connected:
                        # Bells that rang at the same moment: who is heard first must not matter.
                        await asyncio.sleep(0)
                        self._count_ready()
                    frames = self._claim_batch(max_frames)
                    if frames:
                        return frames
                    deadline = None  # nothing that could be decoded, or sources that are over
                    continue
                self._check_end()
                await self._notified(deadline)
        finally:
            self._receiving = False

    def _count_ready(self) -> int:
        """How many sources have something to claim; the bells of the others are armed."""
        ready: deque[_Member] = deque()
        while self._ready:
            member = self._ready.popleft()
            link = member.link
            if link is not None and (
                link.connection.ended or link.connection.pending() or not link.connection.arm()
            ):
                ready.append(member)
            else:
                member.queued = False
        self._ready = ready
        return len(ready)

    def _claim_batch(self, max_frames: int) -> list[Frame]:
        if len(self._ready) > max_frames:
            # Those that have waited longest: the order of their bells says nothing about that.
            self._ready = deque(sorted(self._ready, key=lambda member: member.turn))
        frames: list[Frame] = []
        for _ in range(len(self._ready)):
            if len(frames) == max_frames:
                break
            frame = self._claim_from(self._ready.popleft())
            if frame is not None:
                frames.append(frame)
        return frames

    async def _notified(self, deadline: float | None) -> None:
        """Wait until a source is ready, or until the deadline (monotonic seconds)."""
        loop = asyncio.get_running_loop()
        waiter = self._waiter = Waiter(loop)
        timer = None if deadline is None else loop.call_later(deadline - time.monotonic(), waiter.wake)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        self._turn = time.monotonic()

    # -------------------------------------------------------------------------------------- end

    def stats(self) -> MergeStats:
        """Counters since merge()."""
        total = self._before
        sources: dict[str, ReaderStats | None] = {}
        for name, member in self._members.items():
            stats = member.client.stats()
            total = total.plus(stats)
            sources[name] = stats if member.link is not None else None
        return MergeStats(total.received, total.dropped, total.leases, total.last_received_ns, sources)

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._closed

    def close(self) -> None:
        """Leave all servers. Idempotent; a task that waits in recv() gets ConnectionClosedOK. Frames
        that are still held stay valid until they are released."""
        self._closed = True
        if self._scanner is not None:
            self._scanner.cancel()
            self._scanner = None
        for member in list(self._members.values()):
            self._remove(member)
        self._ready.clear()
        self._wake()

    async def aclose(self) -> None:
        """close(), and wait until the tasks that were connecting are gone."""
        tasks = [m.task for m in self._members.values() if m.task is not None]
        if self._scanner is not None:
            tasks.append(self._scanner)
        self.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __await__(self) -> Generator[object, None, Merge]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Merge:
        self._run()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        names = ", ".join([*self._members, *sorted(self._patterns)])
        return f"<Merge of {names or 'nothing'}{' [closed]' if self._closed else ''}>"


class _Batches:
    """What batches() returns. A class, not an async generator: nothing to finalise when it is dropped."""

    def __init__(self, merged: Merge, max_frames: int, max_wait: float) -> None:
        self._merged = merged
        self._max_frames = max_frames
        self._max_wait = max_wait

    def __aiter__(self) -> _Batches:
        return self

    async def __anext__(self) -> list[Frame]:
        try:
            return await self._merged._batch(self._max_frames, self._max_wait)
        except ConnectionClosedOK:
            raise StopAsyncIteration from None
