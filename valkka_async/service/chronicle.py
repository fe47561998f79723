# SPDX-License-Identifier: MIT
"""What of all events is told on a camera's strip of time."""

from __future__ import annotations

from collections.abc import Callable, Collection

from valkka_async.ring.events import Event, EventCode

_SECOND_NS = 1_000_000_000
_KNOWN = 10_000  # cameras and codes of which the last event is remembered
# Of services' own; what analysers tell is told.
_TOLD = frozenset(
    {
        EventCode.CAMERA_LIVE,
        EventCode.CAMERA_STALLED,
        EventCode.CAMERA_WAITING,
        EventCode.CAMERA_STOPPED,
        EventCode.CAMERA_FAILED,
        EventCode.RECORDING_FAILED,
        EventCode.WORKER_ENDED,
    }
)
_OTHERS = frozenset(EventCode) - _TOLD


class Chronicle:
    """Passes on, to `note(camera, at_ns, code, text)`, what happens to the cameras that `cameras()` has: of
    each code, one event in a second."""

    def __init__(
        self, note: Callable[[str, int, str, str], None], cameras: Callable[[], Collection[str]]
    ) -> None:
        self._note = note
        self._cameras = cameras
        self._last: dict[tuple[str, str], int] = {}

    def put(self, event: Event) -> None:
        """An event of this host, or of another one."""
        camera = None if event.code in _OTHERS else self._camera(event.camera)
        if camera is None:
            return
        key = camera, event.code
        if abs(event.time_ns - self._last.get(key, 0)) < _SECOND_NS:
            return
        if len(self._last) >= _KNOWN:
            self._last.clear()
        self._last[key] = event.time_ns
        self._note(camera, event.time_ns, str(event.code), event.text)

    def _camera(self, name: str) -> str | None:
        """Whose it is. An analyser's server is called after its camera: front.people"""
        cameras = self._cameras()
        while name not in cameras:
            name, dot, _ = name.rpartition(".")
            if not dot:
                return None
        return name
