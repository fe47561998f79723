# SPDX-License-Identifier: MIT
"""Live frames from many cameras, to any number of Python processes on a host, at memory speed."""

import sys as _sys
from typing import TYPE_CHECKING as _TYPE_CHECKING

if not _sys.platform.startswith("linux"):
    raise ImportError("valkka-async needs Linux 5.1 or newer: its rings are sealed memfds")

from valkka_async._shm import Frame, Slot
from valkka_async.client import Client, connect
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
    FrameError,
    FrameReleasedError,
    InvalidNameError,
    LeaseLimitError,
    NameInUseError,
    NoFreeSlot,
    ProtocolError,
    RingMemoryError,
    ValkkaError,
)
from valkka_async.merge import Merge, merge
from valkka_async.reader import Reader, attach
from valkka_async.server import Server, serve

if _TYPE_CHECKING:
    from valkka_async.camera import Player, play

__version__ = "0.1.0"

__all__ = [
    "CameraAuthError",
    "CameraEndedError",
    "CameraError",
    "CameraFormatError",
    "CameraNotFoundError",
    "CameraOpenError",
    "CameraTimeoutError",
    "Client",
    "ConcurrencyError",
    "ConnectError",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "Frame",
    "FrameError",
    "FrameReleasedError",
    "InvalidNameError",
    "LeaseLimitError",
    "Merge",
    "NameInUseError",
    "NoFreeSlot",
    "Player",
    "ProtocolError",
    "Reader",
    "RingMemoryError",
    "Server",
    "Slot",
    "ValkkaError",
    "attach",
    "connect",
    "merge",
    "play",
    "serve",
]


def __getattr__(name: str) -> object:
    # PyAV is loaded with the first camera, and not in the processes that only read frames.
    if name in ("play", "Player"):
        from valkka_async import camera

        return getattr(camera, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
