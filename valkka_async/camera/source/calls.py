# SPDX-License-Identifier: MIT
"""Calls into FFmpeg that may block: each has a deadline, and what FFmpeg says meanwhile is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import av.logging

from valkka_async.camera.source.deadline import Deadline
from valkka_async.camera.source.secrets import Address

T = TypeVar("T")


class Calls:
    """Belongs to one thread, which makes it; except `deadline`, whose cut() and sleeps() are for all."""

    def __init__(self, address: Address) -> None:
        self.deadline = Deadline()
        self.said: list[str] = []  # during the last call
        self._address = address
        self._logs = av.logging.Capture()  # what this thread's FFmpeg calls say, which may contain the URL
        self._lines: list[tuple[int, str, str]] = self._logs.__enter__()

    def close(self) -> None:
        self.deadline.close()
        self._logs.__exit__(None, None, None)

    def make(
        self, function: Callable[[], T], timeout: float, connections: int = 0
    ) -> tuple[T | None, Exception | None]:
        """(result, None) or (None, error) of a call into FFmpeg that may block.

        The error is returned and not raised: raised, it would be the context of what is raised in its
        place, and its text contains the URL.
        """
        self.said = []
        self.deadline.begin(max(0.0, timeout), connections)
        try:
            return function(), None
        except Exception as e:  # what a library finds to raise
            return None, e.with_traceback(None)
        finally:
            self.deadline.end()
            if self._lines:
                self._relay()

    def _relay(self) -> None:
        """FFmpeg's log lines, which exist once av.logging.set_level() was called, without secrets."""
        lines = self._lines[:]
        self._lines.clear()
        self.said = [message for _, _, message in lines]
        for level, name, message in lines:
            target = logging.getLogger("libav." + name if name else "libav.generic")
            target.log(av.logging.adapt_level(level), "%s", self._address.scrub(message.strip()))
