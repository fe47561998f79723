# SPDX-License-Identifier: MIT
"""The sources of a merge that may have frames, and the task that waits for them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from valkka_async.errors import ConcurrencyError, ConnectError
from valkka_async.ring._shm import Frame
from valkka_async.ring._waiter import Waiter
from valkka_async.ring.subscription import TURN_SECONDS, Link, Subscription

T = TypeVar("T")


class Member:
    """A source: a subscription, and the task that connects it."""

    def __init__(self, subscription: Subscription, *, own: bool, pattern: bool) -> None:
        self.subscription = subscription
        self.own = own  # made by the merge, so closed by it
        self.pattern = pattern  # came by a pattern, so leaves with its socket
        self.link: Link | None = None
        self.task: asyncio.Task[None] | None = None
        self.queued = False  # in the queue
        self.turn = 0  # when it last gave a frame, counted in frames of all sources


class Ready:
    """A queue of members that may have frames. The doorbells of all others are armed.

    ``over`` is called with a member whose connection has ended and whose ring is read to the end. ``check``
    is called when nothing is left to claim, and raises if that is final.
    """

    def __init__(self, over: Callable[[Member], None], check: Callable[[], None]) -> None:
        self._over = over
        self._check = check
        self.connected = 0  # members that are
        self._queue: deque[Member] = deque()
        self._waiter: Waiter | None = None
        self._receiving = False
        self._turn = 0.0  # when other tasks last had a chance to run
        self._turns = 0

    # ----------------------------------------------------------------------------------- members

    def join(self, member: Member, link: Link) -> None:
        """A member is connected."""
        member.link = link
        self.connected += 1
        link.notify = partial(self._notify, member)
        self._add(member)
        self.wake()

    def leave(self, member: Member) -> None:
        """A member is not connected any more."""
        if member.link is not None:
            member.link.notify = None
            member.link = None
            self.connected -= 1

    def wake(self) -> None:
        """Have the task that receives look again."""
        if self._waiter is not None:
            self._waiter.wake_soon()

    def _notify(self, member: Member) -> None:
        """A member may have something to claim; called by the loop."""
        self._add(member)
        if self._waiter is not None:
            self._waiter.wake()

    def _add(self, member: Member) -> None:
        if not member.queued and member.link is not None:
            member.queued = True
            self._queue.append(member)

    # ---------------------------------------------------------------------------------- claiming

    def claim(self) -> Frame | None:
        """The next frame of the members that are ready. None: there is none, and all doorbells are armed."""
        while self._queue:
            frame = self._claim_from(self._queue.popleft())
            if frame is not None:
                return frame
        return None

    def claim_now(self) -> Frame | None:
        """claim() for a caller that does not wait. Raises ConcurrencyError, and what ``check`` raises."""
        if self._receiving:
            raise ConcurrencyError("another task is receiving from this merge: give each task its own")
        frame = self.claim()
        if frame is None:
            self._check()
        return frame

    def _claim_from(self, member: Member) -> Frame | None:
        """A frame of a member that was taken from the queue; the member goes back if there may be more."""
        member.queued = False
        link = member.link
        if link is None:
            return None
        try:
            frame = link.connection.claim()
        except ConnectError:  # the connection knows
            frame = None
        except BaseException:  # LeaseLimitError: the frame is still there for the next call
            self._add(member)
            raise
        if frame is not None:
            self._turns += 1
            member.turn = self._turns
        if frame is None and link.connection.ended:
            self._over(member)
        elif link.connection.ended or not link.connection.arm():
            self._add(member)  # there is more; last in the queue, so that the others come first
        return frame

    def count(self) -> int:
        """How many members have something to claim. The doorbells of the others are armed."""
        ready: deque[Member] = deque()
        while self._queue:
            member = self._queue.popleft()
            link = member.link
            if link is not None and (
                link.connection.ended or link.connection.pending() or not link.connection.arm()
            ):
                ready.append(member)
            else:
                member.queued = False
        self._queue = ready
        return len(ready)

    def claim_each(self, most: int) -> list[Frame]:
        """One frame of each member that is ready; at most so many, of those that have waited longest."""
        if len(self._queue) > most:  # the order in the queue is that of their doorbells
            self._queue = deque(sorted(self._queue, key=lambda member: member.turn))
        frames: list[Frame] = []
        for _ in range(len(self._queue)):
            if len(frames) == most:
                break
            frame = self._claim_from(self._queue.popleft())
            if frame is not None:
                frames.append(frame)
        return frames

    # ----------------------------------------------------------------------------------- waiting

    async def receive(
        self, take: Callable[[], T | None], until: Callable[[], float | None] | None = None
    ) -> T:
        """What ``take`` returns, as soon as that is something.

        It is called again when a member is ready, or at the time that ``until`` gives (monotonic; one that
        has passed: after the other tasks had their turn). Cancelling loses no frame. Raises
        ConcurrencyError, what ``take`` raises, and what ``check`` raises when it gives nothing.
        """
        if self._receiving:
            raise ConcurrencyError("another task is receiving from this merge: give each task its own")
        self._receiving = True
        try:
            while True:
                if time.monotonic() - self._turn > TURN_SECONDS:
                    await self._yield()
                taken = take()
                if taken:
                    return taken
                self._check()
                await self._wait(None if until is None else until())
        finally:
            self._receiving = False

    async def _yield(self) -> None:
        await asyncio.sleep(0)
        self._turn = time.monotonic()

    async def _wait(self, deadline: float | None) -> None:
        loop = asyncio.get_running_loop()
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            await self._yield()
            return
        waiter = self._waiter = Waiter(loop)
        timer = None if left is None else loop.call_later(left, waiter.wake)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        self._turn = time.monotonic()
