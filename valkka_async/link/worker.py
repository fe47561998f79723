# SPDX-License-Identifier: MIT
"""The importing worker of a host (decoder.py), seen from the link: started, told, started again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable

from valkka_async.backoff import Backoff
from valkka_async.errors import DataError
from valkka_async.link.ending import end
from valkka_async.link.messages import Alive, Failure, Work, decode_alive, encode
from valkka_async.timeouts import timeout

_HANG = 10.0  # s without a sign of life, of which the first
_START = 60.0  # may take longer, where a small machine starts many at once
_STOP = 3.0  # s for its end
_LONGEST = 1 << 16  # bytes of a line

log = logging.getLogger("valkka_async.link")


class DecoderProcess:
    """Runs while run() does. What it is to do it gets by tell(), each life of it from the beginning. `failed`
    hears of units that it could not decode or mux."""

    def __init__(self, host: str, failed: Callable[[Failure], None] = lambda failure: None) -> None:
        self.pid = 0  # 0: there is none now
        self.restarts = 0
        self.alive: Alive | None = None
        self._host = host
        self._failed = failed
        self._work = Work(())
        self._told = asyncio.Event()

    def tell(self, work: Work) -> None:
        """What there is to do now."""
        if work != self._work:
            self._work = work
            self._told.set()

    async def run(self) -> None:
        """For ever; cancel it."""
        backoff = Backoff(0.2, 10.0, 30.0)
        while True:
            while not self._work.imports:  # 30 MB for nothing
                self._told.clear()
                await self._told.wait()
            began = time.monotonic()
            try:
                status = await self._live()
            except OSError as e:
                status = e.strerror or ""
            backoff.lived(time.monotonic() - began)
            self.restarts += 1
            pause = backoff.next()
            log.warning(
                "%s: the process that decodes its cameras ended (%s); starting it again", self._host, status
            )
            await asyncio.sleep(pause)

    async def _live(self) -> str:
        """One life of it; how it ended."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "valkka_async.link.decoder",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST,
        )
        self.pid = process.pid
        teller = asyncio.create_task(self._tell(process))
        try:
            return await self._listen(process)
        finally:
            self.pid, self.alive = 0, None
            teller.cancel()
            await asyncio.shield(end(process, _STOP))

    async def _tell(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):
            while True:
                self._told.clear()
                process.stdin.write(encode(self._work))
                await process.stdin.drain()
                await self._told.wait()

    async def _listen(self, process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None
        while True:
            try:
                async with timeout(_START if self.alive is None else _HANG):
                    line = await process.stdout.readline()
                if not line:
                    return f"status {await process.wait()}"
                self.alive = decode_alive(line)
                for failure in self.alive.failures:
                    self._failed(failure)
            except TimeoutError:
                process.kill()
                return "it did not answer"
            except (DataError, ValueError):
                process.kill()
                return "it said what nobody knows"
