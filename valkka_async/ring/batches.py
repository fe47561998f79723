# SPDX-License-Identifier: MIT
"""Merge.batches(): frames of many cameras for one model, on time."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Literal, Protocol

from valkka_async.errors import ConcurrencyError, ConnectionClosed, ConnectionClosedOK, LeaseLimitError
from valkka_async.ring._shm import Frame
from valkka_async.ring.arrivals import Arrivals, Plan
from valkka_async.ring.batch import Batch, BatchStats
from valkka_async.ring.fitting import Placement
from valkka_async.ring.promise import Promise
from valkka_async.ring.sets import Candidate, Sets, clock_of, timed
from valkka_async.ring.sources import Sources
from valkka_async.ring.subscription import Link
from valkka_async.ring.whole import whole

_AGES = 1e10  # s; nothing is as old
_AT_ONCE = 8  # frames of each source that are claimed before a set is looked for


@dataclass(frozen=True, slots=True)
class Limits:
    """What a batch may be; see :meth:`Merge.batches`. Raises ValueError."""

    max_frames: int
    min_frames: int
    window: float | None
    max_age: float | None
    align: Literal["capture", "sender"] | None
    tolerance: float

    def __post_init__(self) -> None:
        most = whole(self.max_frames, "max_frames", 1)
        whole(self.min_frames, "min_frames (up to max_frames)", 1, most)
        if self.window is not None and not self.window >= 0:
            raise ValueError(f"window is 0 seconds or more, not {self.window}")
        if self.max_age is not None and not self.max_age > 0:
            raise ValueError(f"max_age is more than 0 seconds, not {self.max_age}")
        if self.align not in (None, "capture", "sender"):
            raise ValueError(f'align is "capture" or "sender", not {self.align!r}')
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance is 0 seconds or more, not {self.tolerance}")


class Filler(Protocol):
    """What makes arrays of batches: a Tensor, or a GpuTensor; see there."""

    def takes(self, frame: Frame) -> bool: ...
    def begin(self, frames: list[Frame]) -> tuple[Any, list[Placement], Promise]: ...
    def close(self) -> None: ...


class Batches:
    """Made by :meth:`Merge.batches`: an asynchronous iterator of Batches, and an async context manager.

    Between batches it may hold frames (with ``min_frames`` and ``align``), threads, and memory of a GPU.
    They are given back by ``close()``, by that of the merge, or when nobody has this any more, as after an
    ``async for batch in cameras.batches()``.
    """

    # ``owner`` stays alive as long as this does.
    def __init__(self, owner: object, sources: Sources, limits: Limits, tensor: Filler | None) -> None:
        self._owner = owner
        self._sources = sources
        self._ready = sources.ready
        self._limits = limits
        self._arrivals = Arrivals(limits.window)
        self._plan: Plan | None = None  # of the next batch; None: no source has a frame yet
        self._since = -math.inf  # when no source had a frame that is not in a batch
        self._asleep = False  # until a source has one
        self._rounds = 0  # of the loop, for the sources whose doorbells rang at the same moment
        self._look = 0.0  # when to look at it again
        self._soon = False  # call _take() again after the other tasks had their turn
        self._short = False  # too few frames, and nothing that is due: only another one helps
        self._held: dict[str, Frame] = {}  # claimed, when too few others could be
        self._sets = Sets(limits.tolerance, limits.max_frames) if limits.align is not None else None
        self._batches = self._frames = 0
        self._too_old: Counter[str] = Counter()
        self._unusable: Counter[str] = Counter()
        self._tensor = tensor
        self._filling: tuple[Batch, Promise] | None = None  # the array of a batch
        self._busy = False  # a task waits for that
        self._closed = False

    def __aiter__(self) -> Batches:
        return self

    def __anext__(self) -> Awaitable[Batch]:
        return self._receive() if self._tensor is None else self._receive_filled(self._tensor)

    def _receive(self) -> Awaitable[Batch]:
        loop = self._sources.run()
        self._plan, self._rounds = None, 0  # a cancelled batch begins again
        self._short = self._asleep = False
        take = self._take if self._sets is None else self._take_set
        return self._ready.receive(loop, take, self._until, iterating=True)

    async def _receive_filled(self, tensor: Filler) -> Batch:
        self._sources.run()  # also if it only waits for an array, which belongs to that loop
        if self._busy:
            raise ConcurrencyError("another task is receiving from these batches")
        self._busy = True
        try:
            if self._filling is None:
                self._filling = self._begun(tensor, await self._receive())
            return await self._filled(tensor, *self._filling)
        except (ConnectionClosed, StopAsyncIteration):
            tensor.close()
            raise
        finally:
            self._busy = False

    def _begun(self, tensor: Filler, batch: Batch) -> tuple[Batch, Promise]:
        try:
            array, placements, done = tensor.begin(batch.frames)
        except BaseException:
            batch.release()  # at once: somebody may hold the exception, and so the batch
            tensor.close()
            raise
        batch.fill(array, placements)
        return batch, done

    async def _filled(self, tensor: Filler, batch: Batch, done: Promise) -> Batch:
        try:
            await asyncio.shield(done)  # a batch that is cancelled meanwhile is the next one
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._filling = None
            del done  # which has the exception, and that this frame
            batch.release()
            tensor.close()
            raise
        self._filling = None
        return batch

    def stats(self) -> BatchStats:
        """Counters since ``batches()``."""
        return BatchStats(
            self._batches,
            self._frames,
            len(self._held) if self._sets is None else len(self._sets),
            dict(self._too_old),
            {} if self._sets is None else dict(self._sets.unmatched),
            dict(self._unusable),
        )

    # -------------------------------------------------------------------------------------- end

    @property
    def closed(self) -> bool:
        """True after close(), and after that of the merge."""
        return self._closed

    def close(self) -> None:
        """Give back the frames that wait for others, the threads, and memory of a GPU that no batch has.
        Idempotent. The iteration ends, for a task that waits as well: after the batch that is being filled
        for it, if there is one. Batches that were given stay as they are, and the merge is not closed."""
        self._closed = True
        self._sources.call(self._give_back)

    async def aclose(self) -> None:
        """close(), and wait until no frame is read any more for a batch that nobody gets."""
        filling = self._filling
        self.close()
        if filling is not None and filling[1].get_loop() is asyncio.get_running_loop():
            await asyncio.wait([filling[1]])

    async def __aenter__(self) -> Batches:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _give_back(self) -> None:
        while self._held:
            self._held.popitem()[1].release()
        if self._sets is not None:
            self._sets.clear()
        if self._filling is not None and not self._busy:
            (batch, done), self._filling = self._filling, None
            if done.done():
                _forget(batch, done)
            else:
                done.add_done_callback(partial(_forget, batch))
        if self._tensor is not None:
            self._tensor.close()
        self._ready.wake()

    def _check_open(self) -> None:
        if self._closed:
            self._give_back()  # what came after close(), which a signal's handler may call at any time
            raise ConnectionClosedOK("these batches were closed")

    def __repr__(self) -> str:
        return f"<Batches of {self._owner!r}{' [closed]' if self._closed else ''}>"

    # ---------------------------------------------------------------------- newest of each source

    def _take(self) -> Batch | None:
        """The next batch, if it is complete."""
        self._check_open()
        self._soon = self._short = False
        ready, connected = self._ready.count(), self._sources.connected
        if self._held:
            ready = sum(1 for name, link in self._links() if name in self._held or link.doorbell.queued)
        now = time.monotonic()
        if self._asleep:
            self._since = now  # a doorbell woke us at once
        self._asleep = not ready and not self._held
        if self._asleep:
            self._since = now
            return None
        if self._plan is None:
            self._plan = self._planned(now)
        if ready < min(self._limits.max_frames, connected) and self._awaits(self._plan, now):
            return None
        if ready < connected and self._let_all_ring():
            return None
        if ready < self._limits.min_frames and not self._is_last():
            self._short = True
            return None
        self._rounds = 0
        return self._claimed(now)

    def _planned(self, now: float) -> Plan:
        ready: list[str] = []
        others: list[str] = []
        for name, link in self._links():
            (ready if name in self._held or link.doorbell.queued else others).append(name)
        return self._arrivals.plan(ready, others, now, self._since)

    def _awaits(self, plan: Plan, now: float) -> bool:
        """Is there a source that the batch still waits for?"""
        if now >= plan.deadline:
            return False
        while plan.awaited:
            late, name = plan.awaited[-1]
            member = self._sources.members.get(name)
            if (
                now < late
                and member is not None
                and member.link is not None
                and not member.link.doorbell.queued
            ):
                self._look = late
                return True
            plan.awaited.pop()
        return False

    def _claimed(self, now: float) -> Batch | None:
        """One frame of each source that is ready, if enough of them can be used."""
        least, most = self._limits.min_frames, self._limits.max_frames
        self._drop_old()
        members = self._sources.members
        but = {members[name] for name in self._held if name in members}
        self._soon = True  # nothing that could be decoded, frames that are too old, sources that are over
        for frame in self._ready.claim_each(most - len(self._held), but):
            if self._note(frame):
                self._held[frame.source] = frame
        self._drop_old()
        if not self._held:
            self._plan = None
            return None
        if len(self._held) < least and not self._is_last():
            return None
        if len(self._held) < most:
            self._since = now  # all that there was is in it
        frames, self._held = list(self._held.values()), {}
        by_sender = self._limits.align == "sender"
        return self._batch([timed(frame, by_sender) for frame in frames], now)

    def _drop_old(self) -> None:
        if self._limits.max_age is not None:
            before = self._oldest()
            for name, frame in list(self._held.items()):
                if frame.timestamp_ns < before:
                    del self._held[name]
                    self._too_old[name] += 1
                    frame.release()

    # --------------------------------------------------------------------------- sets in time

    def _take_set(self) -> Batch | None:
        """The next batch of frames that belong together, if it is complete."""
        assert self._sets is not None
        self._check_open()
        self._soon = self._short = False
        self._collect(self._sets)
        if not len(self._sets):
            return None
        now = time.monotonic()
        if self._plan is None:
            self._plan = Plan(*self._arrivals.begin(self._sets.names, now), [])
        chosen = self._sets.best()
        if len(chosen) < min(self._limits.max_frames, self._sources.connected):
            inside = {candidate.frame.source for candidate in chosen}
            deadline = self._plan.deadline
            late = [
                self._arrivals.late(name, deadline, now) for name, _ in self._links() if name not in inside
            ]
            if any(late):
                self._look = max(filter(None, late))
                return None
        if len(self._sets.names) < self._sources.connected and self._let_all_ring():
            return None
        if len(chosen) < self._limits.min_frames and not self._is_last():
            self._short = True
            return None
        self._rounds = 0
        self._sets.take(chosen)
        return self._batch(chosen, now)

    def _collect(self, sets: Sets) -> None:
        """Claim what there is to claim; not all, where a camera gives frames faster than they are claimed."""
        by_sender = self._limits.align == "sender"
        self._soon = True
        for _ in range(_AT_ONCE * (len(self._sources.members) + 1)):
            try:
                frame = self._ready.claim()
            except LeaseLimitError:
                if not sets.make_room():
                    raise
                continue
            if frame is None:
                self._soon = False
                break
            if self._note(frame):
                sets.put(timed(frame, by_sender))
        if self._limits.max_age is not None:
            self._too_old.update(sets.too_old(self._oldest()))

    # ---------------------------------------------------------------------------------- both

    def _batch(self, chosen: list[Candidate], now: float) -> Batch:
        plan, self._plan = self._plan, None
        self._batches += 1
        self._frames += len(chosen)
        times = [candidate.at for candidate in chosen]
        waited = max(0.0, now - plan.begun) if plan is not None else 0.0
        frames = [candidate.frame for candidate in chosen]
        return Batch(frames, clock_of(chosen), (max(times) - min(times)) * 1e-9, waited)

    def _let_all_ring(self) -> bool:
        """The order of the loop's callbacks must not matter. In the first round of the loop what has rung is
        called behind us, in the second one we see it."""
        if self._rounds < 2:
            self._rounds += 1
            self._soon = True
            return True
        return False

    def _note(self, frame: Frame) -> bool:
        """It came. False: it is no use, and was released."""
        if len(self._arrivals) > 2 * len(self._sources.members) + 8:
            self._arrivals.forget(self._sources.members)
        self._arrivals.note(frame.source, frame.seq, frame.published_ns * 1e-9)
        if self._tensor is None or self._tensor.takes(frame):
            return True
        self._unusable[frame.source] += 1
        frame.release()
        return False

    def _oldest(self) -> int:
        assert self._limits.max_age is not None
        return time.time_ns() - round(min(self._limits.max_age, _AGES) * 1e9)

    def _links(self) -> Iterator[tuple[str, Link]]:
        """Those connected now, with their names."""
        for name, member in self._sources.members.items():
            if member.link is not None:
                yield name, member.link

    def _is_last(self) -> bool:
        """No other frame will come: the servers have closed, and nobody waits for them to be back."""
        if self._sources.following:
            return False
        return all(m.link is not None and m.link.connection.ended for m in self._sources.members.values())

    def _until(self) -> float | None:
        if self._soon:
            return 0.0
        return None if self._plan is None or self._short else self._look


def _forget(batch: Batch, done: Promise) -> None:
    """Nobody will get this batch, whatever became of its array."""
    if not done.cancelled():
        done.exception()
    batch.release()
