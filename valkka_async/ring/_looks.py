# SPDX-License-Identifier: MIT
"""Looks at the directories where servers have files: one system call for all servers of a directory."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from valkka_async.foreign import pass_on

log = logging.getLogger("valkka_async")

#: Look for your files. False: they are not all there, so look again. None: the one who asked is gone.
Look = Callable[[], bool | None]

_State = tuple[int, int, int]  # device, inode, time of modification in ns
_SETTLED_SECONDS = 0.1  # until then another change may leave the same time


class Looks:
    """Who has files in which directory. add() and remove() are one step each, so they may come in the middle
    of anything, from any thread; look() is for one at a time."""

    def __init__(self) -> None:
        self._looks: dict[Look, str] = {}
        self._seen: dict[str, _State] = {}  # as the directories were when all had their files

    def __bool__(self) -> bool:
        return bool(self._looks)

    def add(self, directory: str, look: Look) -> None:
        self._looks[look] = directory

    def remove(self, look: Look) -> None:
        """It may be called again."""
        self._looks.pop(look, None)

    def look(self) -> None:
        """Call those whose directory may have changed since all had their files there."""
        now: dict[str, _State | None] = {}
        missing = set()
        for look, directory in list(self._looks.items()):
            if directory not in now:
                now[directory] = _state(directory)
            if (state := now[directory]) is None or state != self._seen.get(directory):
                if not _found(look):
                    missing.add(directory)
        self._seen = {
            directory: state
            for directory, state in now.items()
            if state is not None and directory not in missing
        }


def _found(look: Look) -> bool:
    try:
        return look() is not False
    except Exception:
        log.exception("a server's look for its files failed")
        return False


def _state(directory: str) -> _State | None:
    """What changes when a file there comes or goes. None: it would tell nothing now."""
    try:
        st = os.stat(directory)
    except OSError as e:
        pass_on(e)
        return None
    if abs(time.time_ns() - st.st_mtime_ns) < _SETTLED_SECONDS * 1e9:
        return None
    return st.st_dev, st.st_ino, st.st_mtime_ns
