# SPDX-License-Identifier: MIT
"""Live frames from many cameras, to any number of Python processes on a host, at memory speed."""

import sys as _sys
from typing import TYPE_CHECKING  # (mypy knows it by this name alone)

if not _sys.platform.startswith("linux"):
    raise ImportError("valkka-async needs Linux 5.1 or newer: its rings are sealed memfds")
if not getattr(_sys, "_is_gil_enabled", lambda: True)():
    raise ImportError(
        "valkka-async needs the GIL, which this Python runs without: set PYTHON_GIL=1 (or give -X gil=1), "
        "or use the ordinary build of Python"
    )

from valkka_async.ring import patched as _patched

if _reason := _patched.reason():
    raise ImportError(_reason)

from valkka_async.errors import (
    CameraAuthError,
    CameraBusyError,
    CameraEndedError,
    CameraError,
    CameraFormatError,
    CameraNotFoundError,
    CameraOpenError,
    CameraRefusedError,
    CameraTimeoutError,
    ConcurrencyError,
    ConnectError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    DataError,
    FrameError,
    FrameReleasedError,
    GpuError,
    InheritedError,
    InvalidNameError,
    LeaseLimitError,
    NameInUseError,
    NoFreeSlotError,
    NotOpenError,
    ProtocolError,
    RecorderError,
    RingMemoryError,
    ValkkaError,
)
from valkka_async.ring.frame import Frame, Slot

if TYPE_CHECKING:
    from valkka_async.camera.camera import Camera
    from valkka_async.camera.mp4.boxes import codec_string
    from valkka_async.camera.play import Player, PlayerStats, play
    from valkka_async.camera.spec import (
        CameraSettings,
        CameraSpec,
        ConnectMode,
        Output,
        OutputFormat,
        PixelFormat,
        Transport,
    )
    from valkka_async.camera.status import (
        CameraState,
        CameraStatus,
        CameraWarning,
        Cause,
        OutputStatus,
        SoundState,
        SoundStatus,
        StreamStatus,
    )
    from valkka_async.camera.workers.status import SupervisedStatus, WorkerEnd, WorkerState, WorkerStatus
    from valkka_async.camera.workers.supervisor import Supervisor
    from valkka_async.record.recorder import Recorder, RecorderStats
    from valkka_async.ring.batch import Batch, BatchStats
    from valkka_async.ring.batches import Batches
    from valkka_async.ring.client import Client, connect
    from valkka_async.ring.connection import ReaderStats
    from valkka_async.ring.events import Event, EventCode
    from valkka_async.ring.fitting import Placement
    from valkka_async.ring.formats import FrameFormat
    from valkka_async.ring.join import Join, JoinStats, join
    from valkka_async.ring.listening import Events, EventsStats, events
    from valkka_async.ring.merge import Merge, MergeStats, merge
    from valkka_async.ring.peers import PeerStats
    from valkka_async.ring.policy import Policy
    from valkka_async.ring.reader import Reader, attach
    from valkka_async.ring.results import Box, Result
    from valkka_async.ring.server import Server, ServerStats, serve

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "BatchStats",
    "Batches",
    "Box",
    "Camera",
    "CameraAuthError",
    "CameraBusyError",
    "CameraEndedError",
    "CameraError",
    "CameraFormatError",
    "CameraNotFoundError",
    "CameraOpenError",
    "CameraRefusedError",
    "CameraSettings",
    "CameraSpec",
    "CameraState",
    "CameraStatus",
    "CameraWarning",
    "CameraTimeoutError",
    "Cause",
    "Client",
    "ConcurrencyError",
    "ConnectError",
    "ConnectMode",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "DataError",
    "Event",
    "EventCode",
    "Events",
    "EventsStats",
    "Frame",
    "FrameError",
    "FrameFormat",
    "FrameReleasedError",
    "GpuError",
    "InvalidNameError",
    "Join",
    "JoinStats",
    "LeaseLimitError",
    "Merge",
    "MergeStats",
    "NameInUseError",
    "NoFreeSlotError",
    "InheritedError",
    "NotOpenError",
    "Output",
    "OutputFormat",
    "OutputStatus",
    "PeerStats",
    "PixelFormat",
    "Placement",
    "Player",
    "PlayerStats",
    "Policy",
    "ProtocolError",
    "Reader",
    "ReaderStats",
    "Recorder",
    "RecorderError",
    "RecorderStats",
    "Result",
    "RingMemoryError",
    "Server",
    "ServerStats",
    "Slot",
    "SoundState",
    "SoundStatus",
    "StreamStatus",
    "SupervisedStatus",
    "Supervisor",
    "Transport",
    "ValkkaError",
    "WorkerEnd",
    "WorkerState",
    "WorkerStatus",
    "attach",
    "codec_string",
    "connect",
    "events",
    "join",
    "merge",
    "play",
    "serve",
]

# Loaded with its first use: a program that only reads frames loads no asyncio and needs no PyAV.
_MODULES = {
    "Batch": "ring.batch",
    "BatchStats": "ring.batch",
    "Batches": "ring.batches",
    "Box": "ring.results",
    "Camera": "camera.camera",
    "CameraSettings": "camera.spec",
    "CameraSpec": "camera.spec",
    "CameraState": "camera.status",
    "CameraStatus": "camera.status",
    "CameraWarning": "camera.status",
    "Cause": "camera.status",
    "Client": "ring.client",
    "ConnectMode": "camera.spec",
    "Event": "ring.events",
    "EventCode": "ring.events",
    "Events": "ring.listening",
    "EventsStats": "ring.listening",
    "FrameFormat": "ring.formats",
    "Join": "ring.join",
    "JoinStats": "ring.join",
    "Merge": "ring.merge",
    "MergeStats": "ring.merge",
    "Output": "camera.spec",
    "OutputFormat": "camera.spec",
    "OutputStatus": "camera.status",
    "StreamStatus": "camera.status",
    "PeerStats": "ring.peers",
    "PixelFormat": "camera.spec",
    "Placement": "ring.fitting",
    "Player": "camera.play",
    "PlayerStats": "camera.play",
    "Policy": "ring.policy",
    "Reader": "ring.reader",
    "ReaderStats": "ring.connection",
    "Recorder": "record.recorder",
    "RecorderStats": "record.recorder",
    "Result": "ring.results",
    "Server": "ring.server",
    "ServerStats": "ring.server",
    "SoundState": "camera.status",
    "SoundStatus": "camera.status",
    "SupervisedStatus": "camera.workers.status",
    "Supervisor": "camera.workers.supervisor",
    "Transport": "camera.spec",
    "WorkerEnd": "camera.workers.status",
    "WorkerState": "camera.workers.status",
    "WorkerStatus": "camera.workers.status",
    "attach": "ring.reader",
    "codec_string": "camera.mp4.boxes",
    "connect": "ring.client",
    "events": "ring.listening",
    "join": "ring.join",
    "merge": "ring.merge",
    "play": "camera.play",
    "serve": "ring.server",
}
_NEED_PYAV = {"Camera", "Player", "PlayerStats", "Supervisor", "play"}

if not TYPE_CHECKING:  # so that a type checker sees a name that does not exist

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
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
