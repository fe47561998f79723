# SPDX-License-Identifier: MIT
"""Answers that have no end, as video and events: how many there may be, of whom, and who ends them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

from aiohttp import web

from valkka_async.seldom import Seldom
from valkka_async.service.web.clients import client_of, share
from valkka_async.service.web.viewer import Ending

TOO_MANY = 4429
SIGNED_OUT = 4401
STOPS = Ending(1001, "the service stops")
SESSION = web.RequestKey("session", str)  # that a request belongs to
_SECONDS = 2.0  # for all to end
# Bytes that the kernel may hold unsent. By default it takes megabytes, which a slow browser would get too
# late.
_UNSENT = 128 << 10

log = logging.getLogger("valkka_async.service.web")


class Visit:
    """One of them: of whom, and how it is to end when we want it to."""

    def __init__(self, client: str, session: str | None) -> None:
        self.client = client
        self.session = session
        self.ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def end(self, ending: Ending) -> None:
        """Idempotent."""
        if not self.ending.done():
            self.ending.set_result(ending)


class Visits:
    """All of the page's."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.refused = 0
        self._share = share(limit)
        self._open: dict[asyncio.Task[object], Visit] = {}
        self._warn = Seldom()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._open)

    @contextlib.contextmanager
    def enter(self, request: web.Request) -> Iterator[Visit]:
        """A visit, until the block ends. Its `ending` is there already if it is not to begin: beyond the
        limit, or one client's share of it, or while the service stops."""
        visit = Visit(client_of(request.remote), request.get(SESSION))
        task = asyncio.current_task()
        assert task is not None
        refusal = STOPS if self._stopped else self._refusal(visit)
        if refusal is None:
            self._open[task] = visit
        else:
            visit.end(refusal)
        try:
            yield visit
        finally:
            self._open.pop(task, None)

    def _refusal(self, visit: Visit) -> Ending | None:
        """Why there is no room for it."""
        of_client = sum(one.client == visit.client for one in self._open.values())
        if len(self._open) < self.limit and of_client < self._share:
            return None
        self.refused += 1
        if self._warn():
            log.warning(
                "too many connections: web.max_connections is %d, and one client has %d of them at most",
                self.limit,
                self._share,
                extra={"client": visit.client},
            )
        return Ending(TOO_MANY, "too many connections")

    def sign_out(self, session: str) -> None:
        """End those of a session that is over."""
        for visit in self._open.values():
            if visit.session == session:
                visit.end(Ending(SIGNED_OUT, "signed out"))

    async def aclose(self) -> None:
        """End all, which takes a second at most, and let nobody in. Idempotent."""
        self._stopped = True
        for visit in self._open.values():
            visit.end(STOPS)
        if self._open:
            await asyncio.wait(list(self._open), timeout=_SECONDS)


def keep_little(transport: asyncio.Transport | None) -> None:
    """Of what a browser has not taken yet."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
