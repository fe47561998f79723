# SPDX-License-Identifier: MIT
"""The recordings of a service: permanent ones, by its config, and those on demand."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from valkka_async.camera.mp4.boxes import CARRIED
from valkka_async.errors import ValkkaError
from valkka_async.record.cause import RecordingCause, cause_of
from valkka_async.record.disk import Journal
from valkka_async.record.recorder import Recorder, RecorderStats
from valkka_async.service.log import camera_of_log
from valkka_async.service.status import RecordingError, RecordingState, RecordingStatus

_AGAIN = (5.0, 60.0)  # s between attempts to go on with a recording that has failed, growing
_QUIET = 45.0  # s without a byte, after which nobody says any more that it is being written
_NEWER = 10.0  # s by which the camera's newest packet is newer, if it is not for want of packets

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
    before: float | None = None  # s; not None: events alone
    after: float = 20.0  # s

    def check(self) -> None:
        """Raises ValueError for a plan that no recorder can follow."""
        self.recorder(None)

    def recorder(self, journal: Journal | None) -> Recorder:
        """One that has not begun, and will tell the journal of its files. Raises ValueError."""
        return Recorder(
            self.ring,
            self.pattern,
            seconds=self.seconds,
            max_bytes=self.max_bytes,
            before=self.before,
            journal=journal,
        )


class _Recording:
    """Of one camera: attempts, one after the other. `task` ends when there will be no other."""

    def __init__(self, camera: str, plan: Plan, journal: Journal | None) -> None:
        self.plan = plan
        self._camera = camera
        self._journal = journal
        self._recorder = plan.recorder(journal)
        self._since_ns = self._began_ns = time.time_ns()
        self._began_at = time.monotonic()
        self._retry_at: float | None = None  # monotonic
        self._error: RecordingError | None = None
        self.task = asyncio.create_task(self._run(), name=f"record {camera}")

    def status(self, codec: str, last_packet_ns: int) -> RecordingStatus:
        """How it is, of a camera that sends this ("": not known), and when its last packet came."""
        stats = self._recorder.stats()
        # Each attempt counts from 0: what it has written proves that the one before is no longer the truth.
        if stats.bytes and self._retry_at is None and not self.task.done():
            self._error = None
        error = self._error
        state = RecordingState.FAILED
        if error is None:
            lasts, packet = time.monotonic() - self._began_at, _age(last_packet_ns, time.time_ns())
            state, error = judge(stats, self._began_ns, lasts, codec, packet)
        left = None if self._retry_at is None else max(0.0, self._retry_at - time.monotonic())
        return RecordingStatus(
            state=state,
            active=not self.task.done(),
            always=self.plan.always,
            since_ns=self._since_ns,
            path=None if stats.path is None else str(stats.path),
            duration=stats.duration,
            written_ns=stats.written_ns,
            bytes=stats.bytes,
            files=stats.files,
            dropped=stats.dropped,
            retry_in=left,
            error=error,
            events=None if self.plan.before is None else (self.plan.before, self.plan.after),
        )

    def clip(self, before: float | None, after: float) -> None:
        """As of Recorder, and raises ValkkaError where that cannot be."""
        try:
            self._recorder.clip(before, after)
        except RuntimeError:
            why = "it is about to begin" if self._error is None else f"it fails: {self._error.text}"
            raise ValkkaError(f"{self._camera} is not recorded now: {why}") from None

    async def _run(self) -> None:
        camera_of_log.set(self._camera)  # for what the recorder logs, which knows the ring alone
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
            self._recorder, self._retry_at = self.plan.recorder(self._journal), None
            self._began_ns, self._began_at = time.time_ns(), time.monotonic()
            pause = min(2 * pause, _AGAIN[1])

    async def _attempt(self) -> None:
        """Record until that fails. Raises nothing but CancelledError."""
        extra = {"camera": self._camera}
        try:
            async with self._recorder as recorder:
                level = logging.INFO if self._error is None else logging.DEBUG  # one of many attempts
                log.log(level, "%s: recording to %s", self._camera, self.plan.pattern, extra=extra)
                await recorder.wait()
        except (ValkkaError, OSError) as e:
            level = logging.ERROR if self._fail(e) else logging.DEBUG
            log.log(level, "%s: recording failed: %s", self._camera, e, extra=extra)
        except Exception as e:
            self._fail(e)
            log.exception("%s: recording failed", self._camera, extra=extra)

    def _fail(self, error: Exception) -> bool:
        """Is that another cause than that of the attempt before?"""
        text = str(error) or type(error).__name__
        before = self._error if not self._recorder.stats().bytes else None  # of the attempts in vain
        since_ns = time.time_ns() if before is None else before.since_ns
        self._error = RecordingError(cause_of(error), text, since_ns)
        return before is None or before.cause is not self._error.cause


class Recordings:
    """At most one for each camera. Belongs to an event loop. `journal`: whom a camera's recorder tells of its
    files."""

    def __init__(self, journal: Callable[[str], Journal | None]) -> None:
        self._running: dict[str, _Recording] = {}
        self._journal = journal

    def start(self, camera: str, plan: Plan) -> None:
        """Record; nothing if that is being done. Raises ValueError for a pattern that makes no sense."""
        known = self._running.get(camera)
        if known is None or known.task.done():
            self._running[camera] = _Recording(camera, plan, self._journal(camera))

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

    def clip(self, camera: str, before: float | None, after: float | None) -> None:
        """Record what happens now, of a camera that is recorded for that. Raises ValueError, ValkkaError."""
        recording = self._running.get(camera)
        if recording is None or recording.plan.before is None:
            raise ValkkaError(f"{camera} does not wait for events: set `record: {{on: event}}` in the config")
        recording.clip(before, recording.plan.after if after is None else after)

    def status(self, camera: str, codec: str = "", last_packet_ns: int = 0) -> RecordingStatus | None:
        """How the recording of a camera is; None if there is none. `codec`: what the camera sends, "" if that
        is not known; `last_packet_ns`: when it sent something last, Unix, 0 if it did not."""
        recording = self._running.get(camera)
        return None if recording is None else recording.status(codec, last_packet_ns)


def judge(
    stats: RecorderStats, began_ns: int, lasts: float, codec: str, packet: float
) -> tuple[RecordingState, RecordingError | None]:
    """How a recording is that has not ended by an error, and what is wrong with it. It began at `began_ns`,
    Unix, `lasts` seconds ago by a clock that nobody sets; the camera sent something `packet` seconds ago
    (inf: it did not).

    A file that is open proves nothing: what has been written lately does. While the camera sends and nothing
    is written, it has failed, whatever the reason. The time of day proves nothing either: it may be set.
    """
    newest_ns = stats.held_ns if stats.waits else stats.written_ns
    since_ns = began_ns if newest_ns is None else max(began_ns, newest_ns)
    if stats.path is None and (text := unrecordable(codec)):  # for which it would wait for ever
        return RecordingState.FAILED, RecordingError(RecordingCause.FORMAT, text, began_ns)
    quiet = lasts if stats.quiet is None else min(lasts, stats.quiet)
    if quiet < _QUIET:
        if stats.waits:
            return (RecordingState.WAITING if newest_ns is None else RecordingState.ARMED), None
        open_ = stats.path is not None and stats.written_ns is not None
        return (RecordingState.WRITING if open_ else RecordingState.WAITING), None
    if quiet - packet < _NEWER:
        return RecordingState.WAITING, None
    if stats.pending:
        text = f"the disk has not taken {stats.pending >> 10} kB that wait for it; check the file system"
    else:
        text = "the camera sends, but no key frame that a recording can begin with"
    return RecordingState.FAILED, RecordingError(RecordingCause.STUCK, text, since_ns)


def _age(packet_ns: int, now_ns: int) -> float:
    """Of a packet, in seconds; inf: there was none, or none since the clock was set back."""
    return (now_ns - packet_ns) / 1e9 if 0 < packet_ns < now_ns + 1e9 else math.inf


def unrecordable(codec: str) -> str:
    """Why what a camera sends cannot be recorded; "": it can, or is not known yet."""
    if codec in CARRIED or not codec:
        return ""
    return f"MP4 does not carry {codec} here; have the camera send H.264"
