# SPDX-License-Identifier: MIT
"""The log of cameras' states: an outage is told once, and what else is wrong with it when that changes."""

from __future__ import annotations

import logging

from valkka_async.camera.status import CameraState, Cause
from valkka_async.camera.workers.status import SupervisedStatus

_TROUBLE = {CameraState.STALLED, CameraState.WAITING, CameraState.FAILED}

ATTEMPTS = "valkka_async.camera.attempts"  # the logger of attempts that failed, which find out what we tell

log = logging.getLogger("valkka_async.service")


class Outages:
    """Of all cameras. Attempts that fail for the same reason are one outage, which ends with a frame."""

    def __init__(self) -> None:
        self._told: dict[str, Cause] = {}  # of cameras that are out

    def tell(self, status: SupervisedStatus) -> None:
        """A camera has come into another state: log it, if that is news."""
        name, state = status.name, status.state
        if state not in _TROUBLE:
            if state is CameraState.CONNECTING and name in self._told:
                return
            self._told.pop(name, None)
            _log(logging.INFO, status)
            return
        cause = status.cause or Cause.TIMEOUT  # nothing has come for a while, which will be one
        if self._told.get(name) is cause:
            return
        self._told[name] = cause
        if cause is not Cause.WORKER:  # whose end was logged, with all that is known of it
            _log(logging.WARNING, status)

    def forget(self, name: str) -> None:
        """The camera was removed."""
        self._told.pop(name, None)


def _log(level: int, status: SupervisedStatus) -> None:
    text = f"{status.name}: {status.state}"
    camera = status.camera
    if status.state == CameraState.LIVE:
        several = len(camera.streams) > 1
        for stream in camera.streams:
            if stream.state == CameraState.LIVE and stream.codec:
                name = f" {stream.name}" if several else ""
                text += f",{name} {stream.codec} {stream.width}x{stream.height}"
    if status.reason:
        text += f": {status.reason}"
    log.log(level, "%s", text, extra={"camera": status.name, "state": status.state})
