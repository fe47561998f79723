# SPDX-License-Identifier: MIT
"""Why a recording fails, as a code that programs decide by."""

from __future__ import annotations

import errno
from enum import StrEnum

from valkka_async.errors import ConnectError, RecorderError


class RecordingCause(StrEnum):
    """Why nothing is written."""

    DISK_FULL = "disk_full"  # no room, or the quota is used up
    PERMISSION = "permission"  # the folder or the file may not be written
    DISK = "disk"  # any other error of the file system
    FORMAT = "format"  # the ring has nothing that can be recorded
    RING = "ring"  # the ring's server refuses its readers
    STUCK = "stuck"  # the camera sends, and for long nothing has been written
    INTERNAL = "internal"  # anything else; the log says more


_ERRNOS = {
    errno.ENOSPC: RecordingCause.DISK_FULL,
    errno.EDQUOT: RecordingCause.DISK_FULL,
    errno.EFBIG: RecordingCause.DISK_FULL,
    errno.EACCES: RecordingCause.PERMISSION,
    errno.EPERM: RecordingCause.PERMISSION,
    errno.EROFS: RecordingCause.PERMISSION,
}


def cause_of(error: BaseException) -> RecordingCause:
    """The cause that an exception of a Recorder stands for."""
    if isinstance(error, ConnectError):
        return RecordingCause.RING
    if isinstance(error, RecorderError) and error.errno is None:
        return RecordingCause.FORMAT
    if isinstance(error, OSError):
        return _ERRNOS.get(error.errno or 0, RecordingCause.DISK)
    return RecordingCause.INTERNAL
