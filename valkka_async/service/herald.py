# SPDX-License-Identifier: MIT
"""What a service tells of itself: its ring of events, NAME.events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from valkka_async.camera.status import AnyState, CameraState, Cause
from valkka_async.camera.workers.status import SupervisedStatus
from valkka_async.errors import ConnectError, InvalidNameError, ValkkaError
from valkka_async.record.archive import ArchiveStatus
from valkka_async.record.contents import Contents
from valkka_async.record.disk import Journal
from valkka_async.ring.events import EVENT_SLOTS, Event, EventCode, encode
from valkka_async.ring.names import EVENTS
from valkka_async.ring.server import Server, serve
from valkka_async.service.status import RecordingState, RecordingStatus

_OUTAGE = {CameraState.WAITING, CameraState.FAILED}

log = logging.getLogger("valkka_async.service")


class Herald:
    """Between open() and close(). Nothing of it raises; without its ring it is silent."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._ring: Server | None = None
        self._started = False
        self._cameras: dict[str, tuple[AnyState, Cause | None]] = {}  # as they were told
        self._recordings: dict[str, RecordingState] = {}
        self._deleted = (0, 0)  # files and bytes
        self._problem = ""
        self._said = ""

    def open(self) -> None:
        """Serve the ring."""
        try:
            self._ring = serve(f"{self._service}{EVENTS}", slots=EVENT_SLOTS, backlog="gop")
        except (ConnectError, InvalidNameError) as e:
            log.warning("no events are told, and no hooks called, of this service: %s", e)

    def close(self) -> None:
        """Idempotent."""
        ring, self._ring = self._ring, None
        if ring is not None:
            ring.close()

    # ---------------------------------------------------------------------------- what happens

    def emit(self, code: str, camera: str, text: str = "", /, **fields: Any) -> None:
        """Now. From any thread."""
        self._tell(code, camera, text, None, fields)

    def publish(self, event: Event) -> None:
        """What a supervisor or a worker tells."""
        if event.code == EventCode.WORKER_ENDED:  # another one may be there before anybody looks
            self._cameras.pop(event.camera, None)
        self._tell(event.code, event.camera, event.text, event.time_ns, event.fields)

    def _tell(
        self, code: str, camera: str, text: str, time_ns: int | None, fields: Mapping[str, Any]
    ) -> None:
        if (ring := self._ring) is None:
            return
        try:
            ring.publish_event(encode(code, camera, text, fields), time_ns)
        except ValkkaError as e:
            if str(e) != self._said:
                self._said = str(e)
                log.warning("the event %s of %s was not told: %s", code, camera, e)

    def started(self) -> None:
        """All cameras were tried; told once."""
        if not self._started:
            self._started = True
            self.emit(EventCode.SERVICE_STARTED, self._service)

    def camera(self, status: SupervisedStatus) -> None:
        """It may have come into another state. Each outage is told once: neither further attempts, nor that
        these fail for the same cause."""
        before, cause = self._cameras.get(status.name, (None, None))
        again = status.state is CameraState.CONNECTING and before in _OUTAGE
        if again or (before, cause) == (status.state, status.cause):
            return
        self._cameras[status.name] = status.state, status.cause
        fields = {
            "state": str(status.state),
            "before": None if before is None else str(before),
            "cause": None if status.cause is None else str(status.cause),
        }
        # A state is seen a while after it began; of another cause nothing says since when.
        since_ns = status.since_ns if status.state is not before else None
        self._tell(f"camera.{status.state}", status.name, status.reason, since_ns, fields)

    def removed(self, camera: str) -> None:
        self._cameras.pop(camera, None)
        self.recording(camera, None)
        self.emit(EventCode.CAMERA_REMOVED, camera)

    def recording(self, camera: str, status: RecordingStatus | None) -> None:
        """How its recording is now. Told when that has changed."""
        before = self._recordings.get(camera)
        if status is None:
            if self._recordings.pop(camera, None) is not None:
                self.emit(EventCode.RECORDING_STOPPED, camera)
        elif status.state is not before:
            self._recordings[camera] = status.state
            error = status.error
            self.emit(
                f"recording.{status.state}",
                camera,
                "" if error is None else error.text,
                path=status.path,
                cause=None if error is None else str(error.cause),
            )

    def archive(self, status: ArchiveStatus) -> None:
        """How the recordings that there are are now. Told when some were deleted, or cannot be."""
        deleted = status.deleted_files, status.deleted_bytes
        if deleted != self._deleted:
            files, size = deleted[0] - self._deleted[0], deleted[1] - self._deleted[1]
            self._deleted = deleted
            self.emit(EventCode.RECORDINGS_DELETED, self._service, files=files, bytes=size)
        if status.problem != self._problem:
            self._problem = status.problem
            if status.problem:
                self.emit(EventCode.RECORDINGS_PROBLEM, self._service, status.problem)

    def journal(self, journal: Callable[[str], Journal | None]) -> Callable[[str], Journal | None]:
        """The same, and it tells of files that are complete."""
        return lambda camera: _Telling(self, camera, journal(camera))


class _Telling:
    """A journal that tells of what it passes on."""

    def __init__(self, herald: Herald, camera: str, journal: Journal | None) -> None:
        self._herald = herald
        self._camera = camera
        self._journal = journal

    def begun(self, path: Path, contents: Contents) -> None:
        if self._journal is not None:
            self._journal.begun(path, contents)

    def ended(self, path: Path, contents: Contents | None) -> None:
        if self._journal is not None:
            self._journal.ended(path, contents)
        known = {} if contents is None else {"from_ns": contents.begin_ns, "to_ns": contents.end_ns}
        self._herald.emit(EventCode.RECORDING_FILE, self._camera, path=str(path), **known)
