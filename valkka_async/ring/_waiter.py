# SPDX-License-Identifier: MIT
"""A future that resumes its task at once, inside the event loop's callback that wakes it.

An asyncio.Future hands the task to the loop's queue: one more trip round the loop, with a system call
and a dozen Python calls, for each frame. A reader callback runs at the top of the loop, where no task
is, so the task can just as well be stepped there. This is the protocol between Task and Future as
asyncio's C and Python code have it (Lib/asyncio/tasks.py, Task.__step: ``_asyncio_future_blocking``,
``add_done_callback``, ``cancel``, ``result``); uvloop uses the same Task.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Generator
from typing import Any


class Waiter:
    """To be awaited once, by one task."""

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "_cancelled",
        "_context",
        "_done",
        "_loop",
        "_message",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self._callback: Callable[[Any], object] | None = None
        self._context: contextvars.Context | None = None
        self._done = False
        self._cancelled = False
        self._message: object = None

    def wake(self) -> None:
        """Resume the task now. Only from a callback of the loop, never from within a task."""
        if not self._done:
            self._done = True
            callback, context = self._callback, self._context
            if callback is not None:
                self._callback = self._context = None
                if context is not None:
                    context.run(callback, self)
                else:
                    callback(self)

    def wake_soon(self) -> None:
        """Resume the task in the loop's next round. From anywhere in the loop's thread."""
        if not self._done:
            self._done = True
            self._schedule()

    def _schedule(self) -> None:
        if self._callback is not None:
            self._loop.call_soon(self._callback, self, context=self._context)
            self._callback = self._context = None

    # ------------------------------------------------------------------- what a Task asks of a Future

    def __await__(self) -> Generator[Waiter, None, None]:
        if not self._done:
            self._asyncio_future_blocking = True
            yield self
        self.result()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: contextvars.Context | None = None
    ) -> None:
        self._callback, self._context = callback, context
        if self._done:
            self._schedule()

    def cancel(self, msg: object = None) -> bool:
        if self._done:
            return False
        self._done = self._cancelled = True
        self._message = msg
        self._schedule()
        return True

    def result(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError(*(() if self._message is None else (self._message,)))

    def done(self) -> bool:
        return self._done

    def cancelled(self) -> bool:
        return self._cancelled
