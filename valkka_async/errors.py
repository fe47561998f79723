# SPDX-License-Identifier: MIT
"""What can go wrong.

::

    ValkkaError
     +-- ConnectError (OSError)             no connection to a server
     |    +-- NameInUseError                a live server has the name already
     |    +-- ProtocolError                 the other side speaks something else
     +-- ConnectionClosed                   the connection is over
     |    +-- ConnectionClosedOK            the server was closed
     |    +-- ConnectionClosedError         the server went away without a word: pid, last_seq
     +-- InvalidNameError (ValueError)      not a name for a server
     +-- FrameError (ValueError)            not a frame that can be published
     +-- FrameReleasedError                 the frame or slot was given back already
     +-- NotOpenError (RuntimeError)        the client was never opened
     +-- InheritedError (RuntimeError)      it belongs to the parent process
     +-- NoFreeSlotError                    every slot is in use
     +-- LeaseLimitError                    the reader holds as many frames as it may
     +-- ConcurrencyError                   two waits at once where one is allowed
     +-- RingMemoryError (MemoryError)      no memory for the ring
     +-- GpuError (RuntimeError)            a GPU is not there, or failed
     +-- DataError (ValueError)             not a record of this version: field
     +-- RecorderError (OSError)            a recording cannot go on
     +-- CameraError                        a source of video
          +-- CameraOpenError               cannot be reached
          +-- CameraAuthError               refuses the user or password
          +-- CameraNotFoundError           has no such path
          +-- CameraBusyError               has too many viewers
          +-- CameraRefusedError            refuses the request: a setting is wrong
          +-- CameraTimeoutError (TimeoutError)   does not answer
          +-- CameraFormatError             sends nothing that this FFmpeg can read
          +-- CameraEndedError              a live stream ended

Waiting too long for a server is the builtin TimeoutError.
"""

from __future__ import annotations


class ValkkaError(Exception):
    """The base of them all."""


class ConnectError(ValkkaError, OSError):
    """No connection to a server."""


class NameInUseError(ConnectError):
    """A live server has the name already."""


class ProtocolError(ConnectError):
    """The other side speaks something else, or another version of it."""


class ConnectionClosed(ValkkaError):
    """The connection is over."""


class ConnectionClosedOK(ConnectionClosed):
    """The server (or this reader) was closed."""


class ConnectionClosedError(ConnectionClosed):
    """The server went away without closing: it crashed or was killed.

    ``pid`` is its process, ``last_seq`` the number of the last frame received from it (0: none).
    """

    def __init__(self, message: str, *, pid: int = 0, last_seq: int = 0) -> None:
        super().__init__(message)
        self.pid = pid
        self.last_seq = last_seq


class InvalidNameError(ValkkaError, ValueError):
    """Not a name for a server."""


class FrameError(ValkkaError, ValueError):
    """Not a frame that can be published: its dtype, shape, format or metadata."""


class FrameReleasedError(ValkkaError):
    """The frame or slot was given back already."""


class NotOpenError(ValkkaError, RuntimeError):
    """The client was never opened: ``async with`` or ``await`` it before it is read."""


class InheritedError(ValkkaError, RuntimeError):
    """A server, reader, client or merge belongs to the process that this one was forked from."""


class NoFreeSlotError(ValkkaError):
    """Every slot is in use: readers hold it, or have still to read it."""


class LeaseLimitError(ValkkaError):
    """The reader holds as many frames as it may."""


class ConcurrencyError(ValkkaError):
    """Two tasks wait where only one may."""


class RingMemoryError(ValkkaError, MemoryError):
    """No memory for the ring."""


class GpuError(ValkkaError, RuntimeError):
    """There is no such GPU, or it failed. Where the message says that the GPU is lost to this process, CUDA
    works again in a new one."""


class DataError(ValkkaError, ValueError):
    """Data from elsewhere is not a record of this version.

    ``field`` is the path of the wrong field, "" for the whole. The message contains no values.
    """

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class RecorderError(ValkkaError, OSError):
    """A recording cannot go on: the disk is full, the folder cannot be written, or the ring has no
    fragmented MP4 (then ``errno`` is None)."""

    def __str__(self) -> str:
        """Without "[Errno 28]", for people: the file comes first."""
        if self.filename is not None:
            return f"{self.filename}: {self.strerror}"
        return self.strerror or super().__str__()


class CameraError(ValkkaError):
    """A source of video failed. No message contains a password."""


class CameraOpenError(CameraError):
    """The source cannot be reached."""


class CameraAuthError(CameraError):
    """The source refuses the user or the password."""


class CameraNotFoundError(CameraError):
    """The source has no such stream or file."""


class CameraBusyError(CameraError):
    """The source has as many viewers as it can serve, or another trouble of its own."""


class CameraRefusedError(CameraError):
    """The source refuses the request: another transport, path or setting is needed."""


class CameraTimeoutError(CameraError, TimeoutError):
    """The source does not answer, or has stopped sending."""


class CameraFormatError(CameraError):
    """The source sends nothing that can be decoded as video, or over a protocol that this FFmpeg lacks."""


class CameraEndedError(CameraError):
    """A live stream ended."""
