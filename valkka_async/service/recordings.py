# SPDX-License-Identifier: MIT
"""The recordings of a service: permanent ones, by its config, and those on demand."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace

from valkka_async.camera.mp4.boxes import CARRIED
from valkka_async.errors import ValkkaError
from valkka_async.record.cause import RecordingCause, cause_of
from valkka_async.record.recorder import Recorder
from valkka_async.service.status import RecordingError, RecordingState, RecordingStatus

_AGAIN = (5.0, 60.0)  # s between attempts to go on with a recording that has failed, growing

log = logging.getLogger("valkka_async.service")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a camera is recorded. `pattern` and the rest are as for :class:`Recorder`; `always`: from the start
    of the service, and again after a failure."""

    ring: str
    pattern: str
    seconds: float | None
    max_bytes: int | None
    always: bool

    def check(self) -> None:
        """Raises ValueError for a plan that no recorder can follow."""
        self.recorder()

    def recorder(self) -> Recorder:
        """One that has not begun. Raises ValueError."""
        return Recorder(self.ring, self.pattern, seconds=self.seconds, max_bytes=self.max_bytes)


class _Recording:
    """Of one camera: attempts, one after the other. `task` ends when there will be no other."""

    def __init__(self, camera: str, plan: Plan) -> None:
        self.plan = plan
        self._camera = camera
        self._recorder = plan.recorder()
        self._since_ns = time.time_ns()
        self._retry_at: float | None = None  # monotonic
        self._error: RecordingError | None = None
        self.task = asyncio.create_task(self._run(), name=f"record {camera}")

    def status(self) -> RecordingStatus:
        """How it is."""
        stats = self._recorder.stats()
        # Each attempt counts from 0: what it has written proves that the one before is no longer the truth.
        if stats.bytes and self._retry_at is None and not self.task.done():
            self._error = None
        if self._error is not None:
            state = RecordingState.FAILED
        else:
            state = RecordingState.WRITING if stats.path is not None else RecordingState.WAITING
        left = None if self._retry_at is None else max(0.0, self._retry_at - time.monotonic())
        return RecordingStatus(
            state=state,
            active=not self.task.done(),
            always=self.plan.always,
            since_ns=self._since_ns,
            path=None if stats.path is None else str(stats.path),
            duration=stats.duration,
            bytes=stats.bytes,
            files=stats.files,
            dropped=stats.dropped,
            retry_in=left,
            error=self._error,
        )

    async def _run(self) -> None:
        pause = _AGAIN[0]
        while True:
            began = time.monotonic()
            await self._attempt()
            if not self.plan.always:
                return
            if time.monotonic() - began > _AGAIN[1]:
                pause = _AGAIN[0]
            self._retry_at = time.monotonic() + pause
            await asyncio.sleep(pause)
            self._recorder, self._retry_at = self.plan.recorder(), None
            pause = min(2 * pause, _AGAIN[1])

    async def _attempt(self) -> None:
        """Record until that fails. Raises nothing but CancelledError."""
        extra = {"camera": self._camera}
        try:
            async with self._recorder as recorder:
                log.info("%s: recording to %s", self._camera, self.plan.pattern, extra=extra)
                await recorder.wait()
        except (ValkkaError, OSError) as e:
            self._fail(e)
            log.error("%s: recording failed: %s", self._camera, e, extra=extra)
        except Exception as e:
            self._fail(e)
            log.exception("%s: recording failed", self._camera, extra=extra)

    def _fail(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        self._error = RecordingError(cause_of(error), text, time.time_ns())


class Recordings:
    """At most one for each camera. Belongs to an event loop."""

    def __init__(self) -> None:
        self._running: dict[str, _Recording] = {}

    def start(self, camera: str, plan: Plan) -> None:
        """Record; nothing if that is being done. Raises ValueError for a pattern that makes no sense."""
        known = self._running.get(camera)
        if known is None or known.task.done():
            self._running[camera] = _Recording(camera, plan)

    async def stop(self, camera: str) -> None:
        """Complete the file and end; nothing if there is none. Takes what the disk needs, at most about 10 s.
        Cancelling leaves it ending by itself."""
        recording = self._running.pop(camera, None)
        if recording is not None:
            recording.task.cancel()
            await asyncio.wait([recording.task])

    async def follow(self, plans: dict[str, Plan]) -> None:
        """Record what these plans say is always recorded, and stop other permanent recordings. One on demand
        goes on as long as its camera has a plan."""
        other = [
            camera
            for camera, recording in self._running.items()
            if (plan := plans.get(camera)) is None
            # One on demand ends its file here, and the permanent one begins the next.
            or (plan != recording.plan and (plan.always or recording.plan.always))
        ]
        await asyncio.gather(*(self.stop(camera) for camera in other))
        for camera, plan in plans.items():
            if plan.always:
                self.start(camera, plan)

    async def aclose(self) -> None:
        """Stop all of them."""
        await asyncio.gather(*(self.stop(camera) for camera in list(self._running)))

    def status(self, camera: str, codec: str = "") -> RecordingStatus | None:
        """How the recording of a camera is; None if there is none. `codec`: what the camera sends, if that is
        known. It waits for ever for what cannot be recorded, and that is a failure."""
        recording = self._running.get(camera)
        if recording is None:
            return None
        status = recording.status()
        if status.state is RecordingState.WAITING and (text := unrecordable(codec)):
            error = RecordingError(RecordingCause.FORMAT, text, status.since_ns)
            return replace(status, state=RecordingState.FAILED, error=error)
        return status


def unrecordable(codec: str) -> str:
    """Why what a camera sends cannot be recorded; "": it can, or is not known yet."""
    if codec in CARRIED or not codec:
        return ""
    return f"MP4 does not carry {codec} here; have the camera send H.264"
