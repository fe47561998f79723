# SPDX-License-Identifier: MIT
"""join(): frames, each with what was found in it."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass

from valkka_async.errors import DataError
from valkka_async.ring._shm import MAX_LEASES, Frame
from valkka_async.ring.connection import ReaderStats
from valkka_async.ring.pairs import Pair, Pairs
from valkka_async.ring.policy import Policy, check_policy
from valkka_async.ring.results import Result
from valkka_async.ring.sourced import Sourced
from valkka_async.ring.sources import Member, Sources
from valkka_async.ring.subscription import Subscription
from valkka_async.ring.whole import whole

log = logging.getLogger("valkka_async")

_AT_ONCE = 64  # results before frames are looked at, and both before the other tasks have their turn
_LEASES = 2  # of the ring of results: each is decoded and released at once


@dataclass(frozen=True, slots=True)
class JoinStats:
    """Counters since ``join()``. Frames given: ``matched`` with their result, ``unmatched`` without.
    ``waiting`` frames and ``early`` results were received and are not given yet. ``late`` results came when
    their frame was given, or belong to one that was not received here; ``invalid`` ones are none.
    ``frames`` and ``results``: what was received and missed of the two rings.

    matched + unmatched + waiting are the frames received; matched + early + late + invalid the results."""

    matched: int
    unmatched: int
    waiting: int
    early: int
    late: int
    invalid: int
    frames: ReaderStats
    results: ReaderStats


def join(
    frames: str,
    results: str,
    *,
    wait: float = 0.5,
    depth: int = 8,
    policy: Policy = "latest",
    max_leases: int = 4,
    reconnect: bool = True,
) -> Join:
    """Frames of one ring, each with its result of another::

        async with va.join("cam1", "cam1.boxes") as found:
            async for frame, result in found:
                if result is not None:
                    draw(frame.array, result.boxes)

    ``results`` is a ring to which an analyser publishes with :meth:`Server.publish_result`. It may have read
    the frames from ``frames`` or from another ring of the same camera (smaller frames, say), which have the
    same capture time. Results of an earlier run of the camera's server match no frame of this one.

    Parameters
    ----------
    wait
        Seconds that a frame waits for its result, from when it was received here. It is given without one
        then; at once if a later frame has its result (results come in the order of frames), and while no
        server of results is connected.
    depth
        How many frames may wait, at most. They are leased, not copied, so the camera's ring needs as many
        slots more; beyond that the oldest is given without its result.
    policy
        Of the frames: see :func:`valkka_async.connect`. Results are read in order.
    max_leases
        How many frames you may hold at once, beside those that wait.
    reconnect
        Wait for servers that are not there yet or went away; the iteration then never ends by itself. False:
        it ends with the camera's server, and a crash of either raises ConnectionClosedError.

    Raises InvalidNameError, ValueError.
    """
    return Join(
        frames, results, wait=wait, depth=depth, policy=policy, max_leases=max_leases, reconnect=reconnect
    )


class Join(Sourced):
    """Made by :func:`join`. An async context manager and iterator of (Frame, Result or None); one task
    receives at a time. Belongs to the loop in which it is used first."""

    def __init__(
        self,
        frames: str,
        results: str,
        *,
        wait: float,
        depth: int,
        policy: Policy,
        max_leases: int,
        reconnect: bool,
    ) -> None:
        if frames == results:
            raise ValueError(
                f"the results of {frames!r} are in a ring of their own, {frames + '.boxes'!r} say"
            )
        if not 0 <= wait < math.inf:
            raise ValueError(f"wait is 0 seconds or more, not {wait}")
        check_policy(policy, max_leases)
        whole(depth, f"depth (beside max_leases={max_leases})", 1, MAX_LEASES - max_leases - 1)
        # One more: it pushes out the oldest.
        self._frames = Subscription(frames, policy, max_leases + depth + 1)
        self._results = Subscription(results, "ordered", _LEASES)
        self._pairs = Pairs(depth, wait)
        self._invalid = 0
        self._more = False  # there may be more to claim, and the other tasks have their turn before
        self._sources = Sources(policy, max_leases, reconnect)
        self._sources.add(self._frames)
        self._sources.add(self._results)

    # -------------------------------------------------------------------------------- receiving

    async def recv(self) -> tuple[Frame, Result | None]:
        """Wait for the next frame, with its result or without.

        Cancelling loses no frame. Raises ConnectionClosedOK after close(), and at the end of the camera's
        server, ConnectionClosedError if a server crashed (both only without ``reconnect``), LeaseLimitError,
        ConcurrencyError if another task is receiving.
        """
        return await self._receive(iterating=False)

    def __aiter__(self) -> Join:
        return self

    async def __anext__(self) -> tuple[Frame, Result | None]:
        return await self._receive(iterating=True)

    async def _receive(self, *, iterating: bool) -> tuple[Frame, Result | None]:
        loop = self._sources.run()
        pair = await self._sources.ready.receive(loop, self._take, self._until, iterating=iterating)
        return pair.frame, pair.result

    def _take(self) -> Pair | None:
        """The next frame that need not wait any more."""
        self._collect()
        answering = self._member(self._results)
        expected = answering is not None and answering.link is not None
        pair = self._pairs.take(time.monotonic(), expected)
        if pair is None and not self._pairs.waiting and self._member(self._frames) is None:
            self._sources.discard(self._results.name)  # the end: nothing is left to wait for
        return pair

    def _collect(self) -> None:
        """Results before frames: then a frame that is given without its result had none in the ring. Not all,
        where results come faster than they are claimed."""
        answering = self._member(self._results)
        if answering is not None and answering.link is not None:
            for _ in range(_AT_ONCE):
                frame = answering.link.doorbell.claim()
                if frame is None:
                    break
                self._note(frame)
        self._more = True
        for _ in range(_AT_ONCE):
            frame = None if self._pairs.full else self._sources.ready.claim()
            if frame is None:
                self._more = False
                break
            self._note(frame)

    def _note(self, frame: Frame) -> None:
        if frame.source != self._results.name:
            self._pairs.put_frame(frame, time.monotonic())
            return
        with frame:
            try:
                result = Result.of(frame)
            except DataError as e:
                if not self._invalid:
                    log.warning("join: %s", str(e))
                self._invalid += 1
                return
        self._pairs.put_result(result)

    def _member(self, subscription: Subscription) -> Member | None:
        return self._sources.members.get(subscription.name)

    def _until(self) -> float | None:
        return 0.0 if self._more else self._pairs.due

    # -------------------------------------------------------------------------------------- end

    def stats(self) -> JoinStats:
        """Counters since join()."""
        pairs = self._pairs
        return JoinStats(
            pairs.matched,
            pairs.unmatched,
            pairs.waiting,
            pairs.early,
            pairs.late,
            self._invalid,
            self._frames.stats(),
            self._results.stats(),
        )

    def close(self) -> None:
        """Leave both servers. Idempotent; a task that waits gets ConnectionClosedOK. Frames that were given
        stay valid until they are released; those that wait are released."""
        super().close()
        self._frames.close()
        self._results.close()
        self._pairs.clear()

    def __repr__(self) -> str:
        closed = " [closed]" if self.closed else ""
        return f"<Join of {self._frames.name} and {self._results.name}{closed}>"
