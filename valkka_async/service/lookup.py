# SPDX-License-Identifier: MIT
"""Addresses of a host, looked up by a thread that nobody waits for.

A name server that does not answer holds getaddrinfo() up for half a minute, and nothing can end that. In the
threads of the event loop it would take the place of other lookups and of files, and keep the process from
ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
Addresses = list[tuple[Any, ...]]  # as of getaddrinfo()


class Lookup(AbstractResolver):
    """For aiohttp. Has one thread at most for each name: who asks again while it is there waits for the same.
    Belongs to an event loop."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, int, int], asyncio.Future[Addresses]] = {}

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        """Raises OSError. May be cancelled."""
        key = host, port, family
        if key not in self._asked:
            self._asked[key] = self._ask(key)
        found = await asyncio.shield(self._asked[key])
        return [
            ResolveResult(
                hostname=host,
                host=f"{address[0]}",
                port=address[1],
                family=kind,
                proto=protocol,
                flags=_NUMERIC,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Threads that are still there end by themselves."""

    def _ask(self, key: tuple[str, int, int]) -> asyncio.Future[Addresses]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Addresses] = loop.create_future()

        def over(found: Addresses, error: OSError | None) -> None:
            del self._asked[key]
            if answer.cancelled():
                return
            if error is None:
                answer.set_result(found)
            else:
                answer.set_exception(error)
                answer.exception()  # there may be nobody left to take it

        def ask() -> None:
            found: Addresses = []
            error = None
            host, port, family = key
            try:
                found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            except OSError as e:
                error = e
            except ValueError:  # what no name can be
                error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(over, found, error)

        threading.Thread(target=ask, name="lookup", daemon=True).start()
        return answer
