# SPDX-License-Identifier: MIT
"""What a service records: always, because its config says so, or because somebody has asked for it."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from valkka_async.errors import ValkkaError
from valkka_async.record.recorder import Recorder

_AGAIN = (5.0, 60.0)  # s between attempts to go on with a recording that has failed, growing

log = logging.getLogger("valkka_async.service")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a camera is recorded. `pattern` and the rest as for :class:`Recorder`; `always`: from the
    beginning, and again when it has failed."""

    ring: str
    pattern: str
    seconds: float | None
    max_bytes: int | None
    always: bool


@dataclass(slots=True)
class _Recording:
    plan: Plan
    task: asyncio.Task[None]
    since_ns: int = field(default_factory=time.time_ns)
    recorder: Recorder | None = None
    error: str = ""


class Recordings:
    """At most one for each camera. Belongs to an event loop."""

    def __init__(self) -> None:
        self._running: dict[str, _Recording] = {}

    def start(self, camera: str, plan: Plan) -> None:
        """Record; nothing if that is being done. Raises ValueError for a pattern that makes no sense."""
        known = self._running.get(camera)
        if known is not None and not known.task.done():
            return
        recorder = _recorder(plan)
        task = asyncio.create_task(self._run(camera, plan, recorder), name=f"record {camera}")
        self._running[camera] = _Recording(plan, task)

    async def stop(self, camera: str) -> None:
        """Complete the file and end; nothing if there is none. Takes what the disk needs, at most about 10 s.
        Cancelling leaves it ending by itself."""
        recording = self._running.pop(camera, None)
        if recording is not None:
            recording.task.cancel()
            await asyncio.wait([recording.task])

    async def follow(self, plans: dict[str, Plan]) -> None:
        """Make it so that what is to be recorded always is, as these plans say. A recording that somebody has
        asked for goes on as long as its camera has such a plan."""
        for camera, recording in list(self._running.items()):
            plan = plans.get(camera)
            if plan is None or (recording.plan.always and plan != recording.plan):
                await self.stop(camera)
        for camera, plan in plans.items():
            if plan.always:
                if camera in self._running and not self._running[camera].plan.always:
                    await self.stop(camera)  # its file ends here, and the next one begins by the plan
                self.start(camera, plan)

    async def aclose(self) -> None:
        """Stop all of them."""
        await asyncio.gather(*(self.stop(camera) for camera in list(self._running)))

    def status(self, camera: str) -> dict[str, Any] | None:
        """How the recording of a camera is, as data; None if there is none."""
        recording = self._running.get(camera)
        if recording is None:
            return None
        stats = recording.recorder.stats() if recording.recorder is not None else None
        return {
            "active": not recording.task.done(),  # False: it has failed, and `error` says why
            "path": str(stats.path) if stats is not None and stats.path is not None else None,
            "since_ns": recording.since_ns,
            "duration": stats.duration if stats is not None else 0.0,
            "bytes": stats.bytes if stats is not None else 0,
            "files": stats.files if stats is not None else 0,
            "dropped": stats.dropped if stats is not None else 0,
            "always": recording.plan.always,
            "error": recording.error,
        }

    async def _run(self, camera: str, plan: Plan, recorder: Recorder) -> None:
        pause = _AGAIN[0]
        while True:
            recording = self._running[camera]
            recording.recorder = recorder
            began = time.monotonic()
            try:
                async with recorder:
                    recording.error = ""
                    log.info("%s: recording to %s", camera, plan.pattern)
                    await recorder.wait()
            except (ValkkaError, OSError) as e:
                recording.error = str(e)  # the recorder has logged it
            if not plan.always:
                return
            if time.monotonic() - began > _AGAIN[1]:
                pause = _AGAIN[0]
            await asyncio.sleep(pause)
            pause = min(2 * pause, _AGAIN[1])
            recorder = _recorder(plan)


def _recorder(plan: Plan) -> Recorder:
    return Recorder(plan.ring, plan.pattern, seconds=plan.seconds, max_bytes=plan.max_bytes)
