# SPDX-License-Identifier: MIT
"""asyncio.timeout() and timeout_at(), also for what is done in a task that was cancelled: closing things.

There the one of Python 3.11.2, which Debian 12 has, lets CancelledError pass in place of TimeoutError, and
nothing after it would be closed.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


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
