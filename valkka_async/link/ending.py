# SPDX-License-Identifier: MIT
"""The end of a process that ends with its standard input."""

from __future__ import annotations

import asyncio

from valkka_async.timeouts import timeout


async def end(process: asyncio.subprocess.Process, seconds: float) -> None:
    """Close its input, and wait for its end; kill it after so many seconds. Returns when it has ended."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with timeout(seconds):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
