# SPDX-License-Identifier: MIT
"""Which servers there are: one look for all that an event loop waits for, and only after a change."""

from __future__ import annotations

import asyncio
import os
import time

from valkka_async.foreign import pass_on
from valkka_async.ring import _kernel
from valkka_async.ring.names import name_of
from valkka_async.ring.rendezvous import runtime_dir, servers

_TOGETHER_SECONDS = 0.01  # what changes within this time is looked at once
_AGAIN_SECONDS = 5.0  # between looks at a directory that is watched: it may have been replaced
_POLL_SECONDS = 0.1  # between looks at the time of one that cannot be watched


class Directory:
    """For one task::

        while True:
            names = directory.look()
            new = await directory.changed()

    The kernel tells what changes (inotify). Where it does not, because the directory is not there yet or the
    user has no watch left, the directory's time of modification is looked at.
    """

    def __init__(self) -> None:
        self._inotify = -1
        self._watched = False
        self._seen = 0  # modification time at the last look, in ns

    def look(self) -> list[str]:
        """The names that have a socket, sorted. A killed server may be among them. Raises ConnectError."""
        # First the watch, then the look: nothing falls between.
        self._watched = self._watch()
        self._seen = self._modified()
        if abs(time.time_ns() - self._seen) < _POLL_SECONDS * 1e9:
            self._seen = -1  # another change may leave the same time
        return servers()

    def _watch(self) -> bool:
        try:
            if self._inotify < 0:
                self._inotify = _kernel.inotify()
            _kernel.watch(self._inotify, runtime_dir())
        except OSError as e:  # also a ConnectError, which look() raises
            pass_on(e)
            return False
        return True

    def _modified(self) -> int:
        try:
            return os.stat(runtime_dir()).st_mtime_ns
        except OSError as e:
            pass_on(e)
            return 0

    async def changed(self) -> set[str] | None:
        """Wait for a change: sockets of these names have come or gone; None: of any names."""
        loop = asyncio.get_running_loop()
        event: asyncio.Future[None] = loop.create_future()
        if self._watched:
            try:
                loop.add_reader(self._inotify, _fulfil, event)
            except OSError as e:  # the loop cannot wait for another descriptor
                pass_on(e)
                self._watched = False
        if not self._watched:
            while True:
                await asyncio.sleep(_POLL_SECONDS)
                # A directory that cannot be read or trusted has no time, and is looked at each time.
                if not (now := self._modified()) or now != self._seen:
                    return None
        timer = loop.call_later(_AGAIN_SECONDS, _fulfil, event)
        try:
            await event
        finally:
            timer.cancel()
            loop.remove_reader(self._inotify)
        await asyncio.sleep(_TOGETHER_SECONDS)
        return self._events()

    def _events(self) -> set[str] | None:
        names = _kernel.events(self._inotify)
        if names is None:  # too many
            return None
        return {name_of(name.removesuffix(".sock")) for name in names if name.endswith(".sock")}

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self._inotify >= 0:
            os.close(self._inotify)
            self._inotify = -1


def _fulfil(event: asyncio.Future[None]) -> None:
    if not event.done():
        event.set_result(None)
