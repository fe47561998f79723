# SPDX-License-Identifier: MIT
"""What a Merge, a Join and Events have in common: they end as their Sources do."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Generator
from types import TracebackType
from typing import Self

from valkka_async.ring import fork
from valkka_async.ring.sources import Sources


class Sourced:
    """An async context manager over ``_sources``. From when it has those on it can be closed."""

    _sources: Sources

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._sources.closed

    def close(self) -> None:
        """Leave all servers. Idempotent; a task that waits in recv() gets ConnectionClosedOK. Frames that
        were given stay valid until they are released."""
        self._sources.close()

    async def aclose(self) -> None:
        """close(), and wait until the tasks that were connecting are gone."""
        tasks = self._sources.tasks()
        self.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __await__(self) -> Generator[object, None, Self]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        self._sources.run()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @fork.quiet_at_end
    def __del__(self) -> None:
        sources = getattr(self, "_sources", None)
        if sources is None or sources.closed:
            return
        if not sources.running:
            self.close()  # its clients are free for another merge
            return
        try:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
        finally:  # the warning may be an error
            fork.collected(self.close)
