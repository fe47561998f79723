"""A time limit holds in a task that was cancelled, too: what closes things goes on behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from valkka_async.timeouts import timeout, timeout_at

SECONDS = 30


def limits() -> list[Callable[[], asyncio.Timeout]]:
    return [lambda: timeout(0), lambda: timeout_at(asyncio.get_running_loop().time())]


@pytest.mark.parametrize("limit", limits())
async def test_the_end_of_time_is_a_timeout_error_in_a_task_that_was_cancelled(
    limit: Callable[[], asyncio.Timeout],
) -> None:
    said: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(SECONDS)
        finally:
            try:
                async with limit():
                    await asyncio.sleep(SECONDS)
            except TimeoutError:
                said.append("time is over")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert said == ["time is over"] and task.cancelled()


async def test_who_is_cancelled_while_it_waits_is_cancelled() -> None:
    async def work() -> None:
        async with timeout(SECONDS):
            await asyncio.sleep(SECONDS)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_without_a_limit_it_waits_and_can_be_given_one() -> None:
    with pytest.raises(TimeoutError):
        async with timeout(None) as limit:
            limit.reschedule(asyncio.get_running_loop().time())
            await asyncio.sleep(SECONDS)
    async with timeout(SECONDS):
        pass
