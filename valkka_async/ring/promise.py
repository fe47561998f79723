# SPDX-License-Identifier: MIT
"""A future of a loop that another thread fulfils."""

from __future__ import annotations

import asyncio

Promise = asyncio.Future[None]


def fulfil(promise: Promise, error: BaseException | None) -> None:
    """It is done, or has failed. In any thread; does nothing once the loop is closed, or the second time."""
    try:
        promise.get_loop().call_soon_threadsafe(_tell, promise, error)
    except RuntimeError:
        pass  # the loop is closed, and nobody waits


def _tell(promise: Promise, error: BaseException | None) -> None:
    if promise.done():
        return
    if error is None:
        promise.set_result(None)
    else:
        promise.set_exception(error)
