# SPDX-License-Identifier: MIT
"""Time limits: what a number of seconds may be, and asyncio.timeout() and timeout_at() that hold everywhere.

In a task that was cancelled, as all are that close things, those of Python 3.11.2, which Debian 12 has, let
CancelledError pass in place of TimeoutError, and nothing after it would be closed.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Self

# Longer than that is for ever: clocks, timers and system calls end somewhere beyond.
_FOR_EVER_SECONDS = 1e9


class _Timeout(asyncio.Timeout):  # type: ignore[misc]  # final by its type
    _cancels = 0  # how often the task had been cancelled before

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        self._cancels = 0 if task is None else task.cancelling()
        await super().__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await super().__aexit__(kind, error, trace)
        task = asyncio.current_task()
        if (
            self.expired()
            and kind is asyncio.CancelledError
            and task is not None
            and task.cancelling() <= self._cancels
        ):
            raise TimeoutError from error


def timeout(seconds: float | None) -> _Timeout:
    """As asyncio.timeout()."""
    return timeout_at(None if seconds is None else asyncio.get_running_loop().time() + seconds)


def timeout_at(when: float | None) -> _Timeout:
    """As asyncio.timeout_at()."""
    return _Timeout(when)


def check_timeout(seconds: float | None, what: str = "timeout") -> float | None:
    """Seconds from 0; None: for ever, as are infinity and what is beyond all clocks.

    Raises ValueError for NaN and negative numbers, TypeError.
    """
    if seconds is None:
        return None
    if isinstance(seconds, str | bytes):
        raise TypeError(f"{what} is a number of seconds or None, not {seconds!r}")
    try:
        value = float(seconds)
    except OverflowError:  # an int
        value = math.inf if seconds > 0 else -math.inf
    if not value >= 0:
        raise ValueError(f"{what} is a number of seconds from 0, or None to wait for ever, not {seconds!r}")
    return value if value < _FOR_EVER_SECONDS else None
