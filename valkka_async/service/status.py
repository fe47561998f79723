# SPDX-License-Identifier: MIT
"""The status of a service: one record for the page, /api/status, /metrics, the control socket and `top`.

`typed.encode` makes JSON of it at the edges, `typed.decode(ServiceStatus, data)` reads that again. Times are
Unix nanoseconds, durations and ages seconds. Programs decide by states and causes; texts are for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Literal

from valkka_async.camera.status import AnyState, CameraStatus, Cause, StreamStatus
from valkka_async.camera.workers.status import WorkerStatus, is_current
from valkka_async.record.archive import ArchiveStatus
from valkka_async.record.cause import RecordingCause
from valkka_async.record.index import Stored


class RecordingState(StrEnum):
    """What a recording is doing."""

    WAITING = "waiting"  # for frames, which the camera does not send
    ARMED = "armed"  # for an event: frames are kept in memory
    WRITING = "writing"  # frames go into a file
    FAILED = "failed"  # by an error, and not written since; or the camera sends, and it is not written


@dataclass(frozen=True, slots=True)
class RecordingError:
    """Why nothing is written."""

    cause: RecordingCause
    text: str
    since_ns: int  # when that began: further attempts that fail do not change it


@dataclass(frozen=True, slots=True)
class RecordingStatus:
    """The recording of one camera. Counts are of the attempt that runs, or ran last."""

    state: RecordingState
    active: bool  # False: it has failed, and is not tried again
    always: bool  # the config asks for it
    since_ns: int  # when it was asked for
    path: str | None  # of the file that is open
    duration: float  # of that file so far
    written_ns: int | None  # when something was written last; None: nothing was
    bytes: int  # written
    files: int  # begun
    dropped: int  # frames that were published and not recorded
    retry_in: float | None  # until the next attempt, if it waits for one
    error: RecordingError | None  # stays until bytes are written again
    events: tuple[float, float] | None = None  # s before and after one; None: it does not wait for them


@dataclass(frozen=True, slots=True)
class CameraReport:
    """One camera. `state`, `cause`, `reason`, `since_ns` and `retry_in` are those of its SupervisedStatus."""

    name: str
    title: str
    group: str  # "": none
    state: AnyState
    cause: Cause | None
    reason: str
    since_ns: int
    retry_in: float | None
    age: float | None  # of the newest packet; None: there was none
    cpu: float  # fraction of one core that its thread takes
    ring_fps: Mapping[str, float]  # frames per second that are published, of each of its rings
    live: str | None  # the ring of fragmented MP4 that the page shows
    still: str | None  # the ring of JPEGs that the page shows
    recording: RecordingStatus | None  # None: not asked for
    stored: Stored | None  # recordings that there are of it; None: none
    camera: CameraStatus  # its last word, which may be of a process that is gone
    worker: WorkerStatus  # which other cameras may share

    @property
    def current(self) -> bool:
        """Is `camera` of the process that there is now?"""
        return is_current(self.camera, self.worker)

    def feeding(self, ring: str | None) -> CameraReport | StreamStatus:
        """Whose state says why there are frames in this ring or not: the stream's of which it is made; if the
        process is gone, the camera's."""
        stream = self.camera.stream_of(ring) if self.current and ring is not None else None
        return self if stream is None or len(self.camera.streams) == 1 else stream


@dataclass(frozen=True, slots=True)
class HookError:
    """Why the newest event was not taken."""

    text: str
    since_ns: int  # when that began: further failures do not change it


@dataclass(frozen=True, slots=True)
class HookStatus:
    """A program or a webhook that is told of events. Counts are of events, since the service or a reload
    began it."""

    name: str
    kind: Literal["run", "url"]
    waiting: int
    delivered: int
    failed: int  # given up
    dropped: int  # too many waited, or came at once
    error: HookError | None  # until the next one is delivered


@dataclass(frozen=True, slots=True)
class PageStatus:
    """The page's load."""

    viewers: int  # of live video
    connections: int  # streams that are open
    limit: int  # streams that may be open
    token: bool  # browsers sign in with one


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A service and all its cameras, in the order of its config."""

    SCHEMA: ClassVar[int] = 3

    name: str
    version: str  # of valkka-async
    pid: int
    now_ns: int
    since_ns: int
    ready: bool  # every camera has been tried
    cameras: tuple[CameraReport, ...]
    recordings: ArchiveStatus  # all that there are
    page: PageStatus | None  # None: as told by other ways than the page
    hooks: tuple[HookStatus, ...] = ()  # `on` of the config

    def camera(self, name: str) -> CameraReport | None:
        """The report of a camera; None: there is none of that name."""
        return next((camera for camera in self.cameras if camera.name == name), None)
