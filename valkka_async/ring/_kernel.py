# SPDX-License-Identifier: MIT
"""System calls that Python 3.11 does not have: inotify and timerfd. ctypes is loaded with their first use."""

from __future__ import annotations

import os
import struct
from functools import cache
from pathlib import Path
from typing import Any

# sys/inotify.h: entries that come, go or are renamed, and the end of the directory itself
_IN_MASK = 0x040 | 0x080 | 0x100 | 0x200 | 0x400 | 0x800 | 0x01000000  # IN_ONLYDIR

_IN_Q_OVERFLOW = 0x4000
_EVENT = struct.Struct("=iIII")  # wd, mask, cookie, length of the name that follows


@cache
def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _call(function: str, *args: Any) -> int:
    import ctypes

    result: int = getattr(_libc(), function)(*args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
    return result


def inotify() -> int:
    """A non-blocking descriptor that is readable once a watched directory has changed. Raises OSError."""
    return _call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)


def watch(fd: int, directory: Path) -> None:
    """Watch a directory with an inotify(); again if it is watched already. Raises OSError."""
    _call("inotify_add_watch", fd, os.fsencode(directory), _IN_MASK)


def events(fd: int) -> set[str] | None:
    """The entries of watched directories that changed since the last call; None: too many to tell."""
    names: set[str] | None = set()
    while True:
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return names
        at = 0
        while at < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            if mask & _IN_Q_OVERFLOW:
                names = None
            elif names is not None and length:
                names.add(os.fsdecode(data[at : at + length].rstrip(b"\0")))
            at += length


def timer() -> int:
    """A non-blocking descriptor that is readable when set_timer() says so. Raises OSError."""
    import time

    return _call("timerfd_create", time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)


def set_timer(fd: int, seconds: float) -> None:
    """Make a timer() readable in so many seconds, and not before; 0: not at all. Raises OSError."""
    import ctypes

    whole, fraction = divmod(int(seconds * 1e9), 10**9)
    _call("timerfd_settime", fd, 0, (ctypes.c_long * 4)(0, 0, whole, fraction), None)
