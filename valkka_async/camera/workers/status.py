# SPDX-License-Identifier: MIT
"""How a worker is, and how a camera in one is: the camera's own record with the worker's beside it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from valkka_async.camera.status import AnyState, CameraState, CameraStatus, Cause


class WorkerState(StrEnum):
    """What a worker is doing."""

    STARTING = "starting"  # a process was started, or is about to be, and has said nothing yet
    RUNNING = "running"
    WAITING = "waiting"  # there is no process: the last one ended, and the next one is not due yet
    STOPPING = "stopping"  # its cameras are gone, or the supervisor is being closed


class WorkerEnd(StrEnum):
    """How a worker's process ended, unasked."""

    EXITED = "exited"  # by itself
    KILLED = "killed"  # by a signal: a crash, the kernel's memory killer, a user
    SILENT = "silent"  # no sign of life for `hang_timeout`; killed
    OVERDUE = "overdue"  # it did not do in time what it was told; killed
    STUCK = "stuck"  # a camera did not come back from a library; killed
    GARBLED = "garbled"  # it sent something that is no message; killed
    UNKNOWN = "unknown"  # it ended, and so had the process that could have said how
    NOT_STARTED = "not_started"  # there was no process: it could not be started
    INTERNAL = "internal"  # an error in the supervisor; the log has it


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """How a worker is: a place for a process, which is filled again when the process ends."""

    SCHEMA: ClassVar[int] = 1

    cameras: tuple[str, ...]
    state: WorkerState
    pid: int | None  # None: there is no process now
    since_ns: int  # when the process was started or, without one, when the last one ended; Unix
    restarts: int
    retry_in: float | None  # seconds until the next process, if it waits for one
    last_end: WorkerEnd | None  # how the last process ended; None: none did
    last_exit: str  # the same in words, for people: "was killed by SIGSEGV"
    cpu_s: float  # CPU seconds of the process
    rss: int  # bytes of memory that it has


@dataclass(frozen=True, slots=True)
class SupervisedStatus:
    """A camera in a worker. `state`, `cause`, `reason`, `since_ns` and `retry_in` are those to show: the
    camera's own, but while its process is gone or has just been started, the worker's.

    `camera` is the camera's last word. It may be of a process that is gone: then `current` is False.
    """

    SCHEMA: ClassVar[int] = 1

    name: str
    state: AnyState
    cause: Cause | None
    reason: str
    since_ns: int
    retry_in: float | None
    camera: CameraStatus
    worker: WorkerStatus

    @property
    def current(self) -> bool:
        """Is `camera` of the process that there is now?"""
        return is_current(self.camera, self.worker)


def combine(camera: CameraStatus, worker: WorkerStatus, age: float) -> SupervisedStatus:
    """Both records as one; nothing else decides this. `age` is that of the camera's record, in seconds."""
    if is_current(camera, worker):
        state, cause, reason, since_ns = camera.state, camera.cause, camera.reason, camera.since_ns
        retry_in = None if camera.retry_in is None else max(0.0, camera.retry_in - age)
    else:
        waits = worker.state is WorkerState.WAITING
        state = CameraState.WAITING if waits else CameraState.CONNECTING
        cause = None if worker.last_end is None else Cause.WORKER
        reason = f"the worker process {worker.last_exit}" if worker.last_exit else ""
        since_ns, retry_in = worker.since_ns, worker.retry_in
    return SupervisedStatus(camera.name, state, cause, reason, since_ns, retry_in, camera, worker)


def is_current(camera: CameraStatus, worker: WorkerStatus) -> bool:
    """Is the camera's record of the process that the worker has now?"""
    return worker.pid is not None and camera.pid == worker.pid
