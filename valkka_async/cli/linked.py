# SPDX-License-Identifier: MIT
"""The link of a service: `valkka-async link` in a process of its own, which can end without the cameras."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path

from valkka_async.backoff import Backoff
from valkka_async.link.ending import end
from valkka_async.service.config.linked import LinkConfig
from valkka_async.timeouts import timeout

_STOP = 5.0  # s for its end

log = logging.getLogger("valkka_async.service")


class Linked:
    """Runs while run() does and the config has a `link`."""

    def __init__(self, path: Path, config: LinkConfig | None) -> None:
        self._path = path
        self._config = config
        self._changed = asyncio.Event()

    def apply(self, config: LinkConfig | None) -> bool:
        """Another config, which the link itself reads from the file. False: nothing has changed for it."""
        if config == self._config:
            return False
        self._config = config
        self._changed.set()
        return True

    async def run(self) -> None:
        """For ever; cancel it."""
        backoff = Backoff(0.5, 30.0, 60.0)
        while True:
            self._changed.clear()
            if self._config is None:
                await self._changed.wait()
                continue
            began = time.monotonic()
            status = await self._live()
            if status is None:
                continue
            backoff.lived(time.monotonic() - began)
            pause = backoff.next()
            log.warning("the link ended (status %d); starting it again in %.1f s", status, pause)
            try:
                async with timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _live(self) -> int | None:
        """One life of it: its status; None: it was ended for another config."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "valkka_async", "link", str(self._path), "--until-eof"),
            stdin=asyncio.subprocess.PIPE,  # it ends with that, whatever becomes of us
        )
        ended = asyncio.create_task(process.wait())
        changed = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait((ended, changed), return_when=asyncio.FIRST_COMPLETED)
            return process.returncode if ended.done() else None
        finally:
            changed.cancel()
            await asyncio.shield(end(process, _STOP))
