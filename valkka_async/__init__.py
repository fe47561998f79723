# SPDX-License-Identifier: MIT
"""Live frames from many cameras, to any number of Python processes on a host, at memory speed."""

import sys as _sys
from typing import TYPE_CHECKING as _TYPE_CHECKING

if not _sys.platform.startswith("linux"):
    raise ImportError("valkka-async needs Linux 5.1 or newer: its rings are sealed memfds")

from valkka_async.errors import (
    CameraAuthError,
    CameraEndedError,
    CameraError,
    CameraFormatError,
    CameraNotFoundError,
    CameraOpenError,
    CameraTimeoutError,
    ConcurrencyError,
    ConnectError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    DataError,
    FrameError,
    FrameReleasedError,
    InvalidNameError,
    LeaseLimitError,
    NameInUseError,
    NoFreeSlot,
    ProtocolError,
    RecorderError,
    RingMemoryError,
    ValkkaError,
)
from valkka_async.ring.frame import Frame, Slot

if _TYPE_CHECKING:
    from valkka_async.camera.camera import Camera
    from valkka_async.camera.mp4.boxes import codec_string
    from valkka_async.camera.play import Player, play
    from valkka_async.camera.spec import CameraSettings, CameraSpec, Output
    from valkka_async.camera.status import CameraState, CameraStatus, Cause, OutputStatus
    from valkka_async.camera.workers.status import SupervisedStatus, WorkerEnd, WorkerState, WorkerStatus
    from valkka_async.camera.workers.supervisor import Supervisor
    from valkka_async.record.recorder import Recorder, RecorderStats
    from valkka_async.ring.client import Client, connect
    from valkka_async.ring.merge import Merge, merge
    from valkka_async.ring.reader import Reader, attach
    from valkka_async.ring.server import Server, serve

__version__ = "0.1.0"

__all__ = [
    "Camera",
    "CameraAuthError",
    "CameraEndedError",
    "CameraError",
    "CameraFormatError",
    "CameraNotFoundError",
    "CameraOpenError",
    "CameraSettings",
    "CameraSpec",
    "CameraState",
    "CameraStatus",
    "CameraTimeoutError",
    "Cause",
    "Client",
    "ConcurrencyError",
    "ConnectError",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "DataError",
    "Frame",
    "FrameError",
    "FrameReleasedError",
    "InvalidNameError",
    "LeaseLimitError",
    "Merge",
    "NameInUseError",
    "NoFreeSlot",
    "Output",
    "OutputStatus",
    "Player",
    "ProtocolError",
    "Reader",
    "Recorder",
    "RecorderError",
    "RecorderStats",
    "RingMemoryError",
    "Server",
    "Slot",
    "SupervisedStatus",
    "Supervisor",
    "ValkkaError",
    "WorkerEnd",
    "WorkerState",
    "WorkerStatus",
    "attach",
    "codec_string",
    "connect",
    "merge",
    "play",
    "serve",
]

# Loaded with its first use: a program that only reads frames loads no asyncio and needs no PyAV.
_MODULES = {
    "Camera": "camera.camera",
    "CameraSettings": "camera.spec",
    "CameraSpec": "camera.spec",
    "CameraState": "camera.status",
    "CameraStatus": "camera.status",
    "Cause": "camera.status",
    "Client": "ring.client",
    "Merge": "ring.merge",
    "Output": "camera.spec",
    "OutputStatus": "camera.status",
    "Player": "camera.play",
    "Reader": "ring.reader",
    "Recorder": "record.recorder",
    "RecorderStats": "record.recorder",
    "Server": "ring.server",
    "SupervisedStatus": "camera.workers.status",
    "Supervisor": "camera.workers.supervisor",
    "WorkerEnd": "camera.workers.status",
    "WorkerState": "camera.workers.status",
    "WorkerStatus": "camera.workers.status",
    "attach": "ring.reader",
    "codec_string": "camera.mp4.boxes",
    "connect": "ring.client",
    "merge": "ring.merge",
    "play": "camera.play",
    "serve": "ring.server",
}
_NEED_PYAV = {"Camera", "Player", "Supervisor", "play"}

if not _TYPE_CHECKING:  # so that a type checker sees a name that does not exist

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name in _NEED_PYAV:
            from valkka_async.extras import require

            require("av", f"valkka_async.{name}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
