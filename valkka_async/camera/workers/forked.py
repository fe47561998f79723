# SPDX-License-Identifier: MIT
"""A worker's process as its supervisor sees it, which is not its parent. No PyAV here."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import Callable

_REPORT = 1.0  # s in which its parent should have said how it has ended


class Forked:
    """A worker's process, from its start to its end. It is no child of this process.

    `on_end` is called once, when it has ended and `status` is known, or is not going to be.
    """

    def __init__(self, pid: int, pidfd: int, on_late: Callable[[], object]) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.status: int | None = None  # as Popen's; None: it runs, or nobody can say how it has ended
        self.ended = False
        self.on_end: Callable[[], object] = lambda: None
        self._on_late = on_late
        self._orphan = False
        self._loop = asyncio.get_running_loop()
        self._report: asyncio.TimerHandle | None = None
        self._loop.add_reader(pidfd, self._gone)

    def runs(self) -> bool:
        """Has it not ended?"""
        if self.ended or self.pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)

    def kill(self) -> None:
        """SIGKILL."""
        if self.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def end(self, status: int | None) -> None:
        """It has ended. None: nobody says how, but if the nursery is gone, this process may have become its
        parent, as the first one of a container does."""
        if not self.ended:
            self.ended = True
            self.status = self._own() if status is None else status
            self._ignore()
            self.on_end()

    def unparented(self) -> None:
        """Nobody will say how it ends."""
        self._orphan = True
        if not self.ended and not self.runs():
            self.end(None)

    def close(self) -> None:
        """Give the descriptor back; on_end is not called any more."""
        self.ended = True
        if self.pidfd >= 0:
            self._ignore()
            os.close(self.pidfd)
            self.pidfd = -1

    def after_fork(self) -> None:
        """In a forked child."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def _gone(self) -> None:
        """It has ended, and its parent is about to say how."""
        self._loop.remove_reader(self.pidfd)  # readable for ever after
        if self._orphan:
            self.end(None)
        else:
            self._report = self._loop.call_later(_REPORT, self._late)

    def _late(self) -> None:
        self.end(None)
        self._on_late()

    def _ignore(self) -> None:
        if self._report is not None:
            self._report.cancel()
        if not self._loop.is_closed():
            self._loop.remove_reader(self.pidfd)

    def _own(self) -> int | None:
        try:
            found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        except (OSError, AttributeError):  # not our child; or the kernel is before 5.4, or the C library
            return None
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
