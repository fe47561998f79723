"""Waiting for what another process, thread or task does: `await until(...)` in a coroutine, `wait_for(...)`
elsewhere. Both return what the condition returned. And `measured(...)`, where times are what is tested."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
SECONDS = 60.0  # until something that should happen soon counts as not happening
_PAUSE = 0.005


async def until(condition: Callable[[], T], seconds: float = SECONDS) -> T:
    """Wait until it holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        _check(condition, deadline, seconds)
        await asyncio.sleep(_PAUSE)
    return found


def wait_for(condition: Callable[[], T], seconds: float = SECONDS, *, pause: float = _PAUSE) -> T:
    """Wait until it holds, outside of coroutines. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        _check(condition, deadline, seconds)
        time.sleep(pause)
    return found


def measured(measure: Callable[[], T]) -> T:
    """What a measurement of times gave. It is made again if it fails: a busy machine may stand still in the
    middle of it, and what is wrong with the program fails each time."""
    for _ in range(3):
        with contextlib.suppress(AssertionError):
            return measure()
    return measure()


def _check(condition: Callable[[], object], deadline: float, seconds: float) -> None:
    if time.monotonic() < deadline:
        return
    source = ""
    with contextlib.suppress(OSError, TypeError):  # a bound method of C, code without a file
        source = f" for: {inspect.getsource(condition).strip()}"
    raise TimeoutError(f"waited {seconds:g} s{source}")
