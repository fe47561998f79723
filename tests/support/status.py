"""Statuses of cameras as a test wants them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from valkka_async.camera.status import CameraStatus, StreamStatus
from valkka_async.record.archive import ArchiveStatus

_CAMERA = {field.name for field in fields(CameraStatus)}
_STREAM = {field.name for field in fields(StreamStatus)} - {"name"}


def differing(status: CameraStatus, **values: Any) -> CameraStatus:
    """The status with other values, in the camera's own fields and in those of its streams."""
    own = {key: value for key, value in values.items() if key in _CAMERA}
    streams = {key: value for key, value in values.items() if key in _STREAM}
    assert own.keys() | streams.keys() == values.keys(), values.keys()
    several = tuple(replace(stream, **streams) for stream in status.streams)
    return replace(status, **{"streams": several} | own)


NOTHING_STORED = ArchiveStatus(None, True, 0, 0, None, None, 0, 0, "")
