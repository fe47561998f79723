# SPDX-License-Identifier: MIT
"""The streams of a camera: one or several connections, each kept by itself, with one status."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from typing import Any

from valkka_async import typed
from valkka_async.camera.keeper import Keeper
from valkka_async.camera.spec import CameraSpec
from valkka_async.camera.status import CameraStatus, of_streams
from valkka_async.errors import CameraError, ConcurrencyError
from valkka_async.ring.events import Event


class Streams:
    """All of a :class:`Camera` but its face. Threads and rings refer to this and not to the Camera, so that
    forgetting a Camera can be noticed.

    Serves the rings of all streams and starts their threads, all or nothing. Raises as Camera does.
    """

    def __init__(self, spec: CameraSpec) -> None:
        self.spec = spec
        self._closed = False
        self._changing = False
        self._keepers: tuple[Keeper, ...] = ()  # in the order of the streams; replaced, and never changed
        self._open({})

    def status(self) -> CameraStatus:
        """How the camera is, at this moment. From any thread; never blocks."""
        keepers = self._keepers
        outputs = {output.name: output for keeper in keepers for output in keeper.outputs()}
        return of_streams(
            self.spec.name,
            os.getpid(),
            (keeper.status() for keeper in keepers),
            (warning for keeper in keepers for warning in keeper.warnings()),
            (outputs[output.name] for output in self.spec.outputs if output.name in outputs),
        )

    def reader_events(self) -> list[Event]:
        """What has become of the readers of its rings since the last call."""
        return [event for keeper in self._keepers for event in keeper.reader_events()]

    @property
    def closing(self) -> bool:
        """Was it closed, or inherited by a forked child, which does not have the threads?"""
        if self._closed:
            return True
        return not self._changing and all(keeper.thread.stopping for keeper in self._keepers)

    def stuck(self) -> bool:
        """Is a thread lost in a library, long after its deadlines, or has one ended unasked?"""
        return any(keeper.stuck() for keeper in self._keepers)

    async def change(self, spec: CameraSpec) -> None:
        """Other settings. Keepers whose part of them does not differ go on. If this raises anything but
        ConcurrencyError and ValueError, the camera is closed."""
        if spec.name != self.spec.name:
            raise ValueError(f"camera {self.spec.name!r} cannot become {spec.name!r}")
        if self._changing:
            raise ConcurrencyError(f"camera {spec.name!r}: two tasks change it at the same time")
        if self.closing:
            raise CameraError(f"camera {spec.name!r} was closed")
        parts = spec.parts()
        kept = {k.stream: k for k in self._keepers if parts.get(k.stream) == k.spec}
        self._changing = True
        try:
            await _end(keeper for keeper in self._keepers if keeper.stream not in kept)
            if self.closing:
                raise CameraError(f"camera {spec.name!r} was closed")
            self._open(kept, spec)
        except BaseException:
            self.abandon()
            raise
        finally:
            self._changing = False

    def _open(self, kept: dict[str, Keeper], spec: CameraSpec | None = None) -> None:
        spec = spec or self.spec
        made: list[Keeper] = []
        keepers: list[Keeper] = []
        try:
            for name, part in spec.parts().items():
                if (keeper := kept.get(name)) is None:
                    keeper = Keeper(part, name)
                    made.append(keeper)
                keepers.append(keeper)
            self.spec, self._keepers = spec, tuple(keepers)
            for keeper in made:
                keeper.start(self._describe)
        except BaseException:
            for keeper in made:
                keeper.thread.abandon()
            raise

    def _describe(self) -> dict[str, Any]:
        return {"camera": typed.encode(self.status())}

    def close(self) -> None:
        """Stop all threads, and return when they have ended or were given up. Idempotent. In a thread of its
        own that one only stops."""
        self._stop()
        with contextlib.ExitStack() as stack:
            for keeper in self._keepers:
                stack.callback(keeper.thread.close)  # each of them, whatever becomes of the others

    async def aclose(self) -> None:
        """close() for asyncio. Cancelled, it leaves the threads ending by themselves."""
        self._stop()
        await _end(self._keepers)

    def abandon(self) -> None:
        """Stop, and wait for nothing: the threads end by themselves."""
        self._closed = True
        for keeper in self._keepers:
            keeper.thread.abandon()

    def _stop(self) -> None:
        self._closed = True
        for keeper in self._keepers:
            keeper.thread.stop()


async def _end(keepers: Iterable[Keeper]) -> None:
    """Close some, side by side."""
    ending = list(keepers)
    for keeper in ending:
        keeper.thread.stop()
    try:
        await asyncio.gather(*(keeper.thread.aclose() for keeper in ending))
    except (
        BaseException
    ):  # cancelled, perhaps before any of these has begun: their rings are free all the same
        for keeper in ending:
            keeper.thread.abandon()
        raise
