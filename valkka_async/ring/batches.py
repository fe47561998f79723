# SPDX-License-Identifier: MIT
"""Merge.batches(): the newest frame of each camera, for one model."""

from __future__ import annotations

import time

from valkka_async.errors import ConnectionClosedOK
from valkka_async.ring._shm import Frame
from valkka_async.ring.sources import Sources


class Batches:
    """Made by :meth:`Merge.batches`. A class, not an async generator, so there is nothing to finalise.

    ``owner`` stays alive as long as this does.
    """

    def __init__(self, owner: object, sources: Sources, max_frames: int, max_wait: float) -> None:
        if max_frames < 1:
            raise ValueError(f"max_frames is at least 1, not {max_frames}")
        if not max_wait >= 0:
            raise ValueError(f"max_wait is 0 seconds or more, not {max_wait}")
        self._owner = owner
        self._sources = sources
        self._ready = sources.ready
        self._max_frames = max_frames
        self._max_wait = max_wait
        self._deadline: float | None = None  # of the next list; None: no source has a frame yet
        self._heard = False  # the sources whose doorbells rang at the same moment were heard
        self._soon = False  # call _take() again after the other tasks had their turn

    def __aiter__(self) -> Batches:
        return self

    async def __anext__(self) -> list[Frame]:
        self._sources.run()
        self._deadline, self._heard = None, False  # a cancelled list begins again
        try:
            return await self._ready.receive(self._take, self._until)
        except ConnectionClosedOK:
            raise StopAsyncIteration from None

    def _take(self) -> list[Frame] | None:
        """The next list, if it is complete."""
        self._soon = False
        ready, connected = self._ready.count(), self._ready.connected
        if ready and self._deadline is None:
            self._deadline = time.monotonic() + self._max_wait
        if self._deadline is None:
            return None
        if ready < min(self._max_frames, connected) and time.monotonic() < self._deadline:
            return None
        if ready < connected and not self._heard:
            self._heard = self._soon = True  # the order of the callbacks must not matter
            return None
        self._deadline, self._heard = None, False
        frames = self._ready.claim_each(self._max_frames)
        self._soon = not frames  # nothing that could be decoded, or sources that are over
        return frames

    def _until(self) -> float | None:
        return 0.0 if self._soon else self._deadline
