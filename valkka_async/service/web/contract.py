# SPDX-License-Identifier: MIT
"""What the page needs of the service and of its settings. Nothing here imports them: anything with these
methods will do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from valkka_async.record.archive import ArchiveStatus
from valkka_async.record.clip import Clip
from valkka_async.record.index import Stored
from valkka_async.record.timeline import Timeline
from valkka_async.service.status import CameraReport, RecordingStatus, ServiceStatus

_FRESH = 0.2  # s for which requests share one look at the service


class Secret(Protocol):
    """A text that is not shown when it is printed; pydantic's SecretStr."""

    def get_secret_value(self) -> str: ...


class Tls(Protocol):
    """Names of the certificate's files."""

    @property
    def cert(self) -> str: ...
    @property
    def key(self) -> str: ...


class Settings(Protocol):
    """Where the page listens, and which browsers may use it."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def token(self) -> Secret | None: ...
    @property
    def max_connections(self) -> int: ...
    @property
    def tls(self) -> Tls | None: ...


class Archive(Protocol):
    """The recordings that there are. Times are Unix nanoseconds."""

    def status(self) -> ArchiveStatus: ...

    def stored_by_camera(self) -> Mapping[str, Stored]:
        """What there is of each camera of which there is something."""

    async def timeline(self, camera: str, from_ns: int, to_ns: int) -> Timeline:
        """When a camera was recorded."""

    async def clip(self, camera: str, from_ns: int, to_ns: int) -> Clip:
        """Raises ClipError where there is none, OSError."""


class Service(Protocol):
    """Cameras and their recordings."""

    @property
    def name(self) -> str: ...
    @property
    def archive(self) -> Archive: ...
    @property
    def ready(self) -> bool:
        """The first attempt at each camera is over."""

    def status(self) -> ServiceStatus:
        """All there is to know. Must not block."""

    def record_event(self, camera: str, before: float | None, after: float | None) -> None:
        """Raises KeyError for a camera that is not there, ValkkaError when it cannot be done, ValueError."""

    async def set_recording(self, camera: str, on: bool) -> RecordingStatus | None:
        """Raises KeyError for a camera that is not there, ValkkaError when it cannot be done."""


class Lens:
    """The service's status, looked up once for all requests at about the same time: there is a hub for each
    camera, and each look collects the status of all cameras."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None
        self._seen: ServiceStatus | None = None
        self._at = 0.0

    def status(self) -> ServiceStatus:
        """At most `_FRESH` seconds old."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._seen is None or loop is not self._loop or now - self._at > _FRESH:
            self._seen, self._at, self._loop = self._service.status(), now, loop
        return self._seen

    def camera(self, name: str) -> CameraReport | None:
        """What is known of a camera; None: there is none of that name."""
        return self.status().camera(name)


Find = Callable[[str], CameraReport | None]
