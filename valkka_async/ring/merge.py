# SPDX-License-Identifier: MIT
"""merge(): many servers as one stream."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass
from types import TracebackType

from valkka_async.errors import ConnectionClosedOK
from valkka_async.ring._shm import Frame
from valkka_async.ring.batches import Batches
from valkka_async.ring.client import Client
from valkka_async.ring.connection import ReaderStats
from valkka_async.ring.policy import Policy
from valkka_async.ring.sources import Sources


@dataclass(frozen=True, slots=True)
class MergeStats:
    """Sums over all sources, and each connected source's own ReaderStats (None: not connected now)."""

    received: int
    dropped: int
    leases: int
    last_received_ns: int
    sources: dict[str, ReaderStats | None]


def merge(
    *sources: str | Client, policy: Policy = "latest", max_leases: int = 4, reconnect: bool = True
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
    down, slow or stuck does not hold them up. Raises InvalidNameError, ValueError.
    """
    return Merge(*sources, policy=policy, max_leases=max_leases, reconnect=reconnect)


class Merge:
    """Made by :func:`merge`. An async context manager and iterator; one task receives at a time."""

    def __init__(self, *sources: str | Client, policy: Policy, max_leases: int, reconnect: bool) -> None:
        self._sources = Sources(policy, max_leases, reconnect)
        self._ready = self._sources.ready
        for source in sources:
            self.add(source)

    # ---------------------------------------------------------------------------------- sources

    def add(self, source: str | Client) -> None:
        """Receive from one more name, pattern or client. One that is there already is left as it is.

        Raises InvalidNameError; ValueError for a client whose server is merged already.
        """
        self._sources.add(source.subscription if isinstance(source, Client) else source)

    def discard(self, source: str | Client) -> None:
        """Stop receiving from a name, a client, or a pattern with all that came by it. Frames that are
        held stay valid. Does nothing if it is not there."""
        self._sources.discard(source.name if isinstance(source, Client) else source)

    @property
    def sources(self) -> list[str]:
        """Names of the sources there are now, connected or not."""
        return list(self._sources.members)

    # -------------------------------------------------------------------------------- receiving

    async def recv(self) -> Frame:
        """Wait for the next frame of any source.

        Cancelling loses no frame: one is claimed only when it is returned. Raises
        ConnectionClosedOK once there are no sources left (only without ``reconnect``) or after
        close(), ConnectionClosedError if a server crashed (only without ``reconnect``),
        LeaseLimitError, ConcurrencyError if another task is receiving.
        """
        self._sources.run()
        return await self._ready.receive(self._ready.claim)

    def recv_nowait(self) -> Frame | None:
        """The next frame of any source, or None if there is none now. Raises as recv() does."""
        self._sources.run()
        return self._ready.claim_now()

    def __aiter__(self) -> Merge:
        return self

    async def __anext__(self) -> Frame:
        self._sources.run()
        try:
            return await self._ready.receive(self._ready.claim)
        except ConnectionClosedOK:
            raise StopAsyncIteration from None

    def batches(self, max_frames: int = 64, max_wait: float = 0.02) -> AsyncIterator[list[Frame]]:
        """Frames for one model: an iterator of lists, with at most one frame of each source.

        ::

            async for frames in cameras.batches(max_frames=16, max_wait=0.02):
                results = model(np.stack([f.array for f in frames]))

        A list is complete when every connected source has a new frame, or ``max_frames`` sources have,
        or ``max_wait`` seconds have passed since the first had one; it is never empty. The frames are
        claimed all at once at that moment, so with the policy "latest" each is the newest of its source.
        With more sources than ``max_frames`` those take turns. Cancelling loses no frame. Ends and raises
        as recv() does; ValueError for limits that cannot be.
        """
        return Batches(self, self._sources, max_frames, max_wait)

    # -------------------------------------------------------------------------------------- end

    def stats(self) -> MergeStats:
        """Counters since merge()."""
        total = self._sources.before
        sources: dict[str, ReaderStats | None] = {}
        for name, member in self._sources.members.items():
            stats = member.subscription.stats()
            total = total.plus(stats)
            sources[name] = stats if member.link is not None else None
        return MergeStats(total.received, total.dropped, total.leases, total.last_received_ns, sources)

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._sources.closed

    def close(self) -> None:
        """Leave all servers. Idempotent; a task that waits in recv() gets ConnectionClosedOK. Frames
        that are still held stay valid until they are released."""
        self._sources.close()

    async def aclose(self) -> None:
        """close(), and wait until the tasks that were connecting are gone."""
        tasks = self._sources.tasks()
        self._sources.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __await__(self) -> Generator[object, None, Merge]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Merge:
        self._sources.run()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        sources = getattr(self, "_sources", None)
        if sources is not None and sources.running and not sources.closed:
            try:
                warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
            finally:  # the warning may be an error
                sources.close()

    def __repr__(self) -> str:
        names = ", ".join([*self._sources.members, *sorted(self._sources.patterns)])
        return f"<Merge of {names or 'nothing'}{' [closed]' if self.closed else ''}>"
