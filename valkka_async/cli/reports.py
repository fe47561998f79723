# SPDX-License-Identifier: MIT
"""What servers say of themselves, as records."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from valkka_async import typed
from valkka_async.camera.status import CameraStatus
from valkka_async.errors import ValkkaError
from valkka_async.ring import asking
from valkka_async.ring.connection import report

MOST_ASKED = 256  # at once, and
_SHARE = 4  # a descriptor in so many, at most


@dataclass(frozen=True, slots=True)
class ReaderReport:
    """A reader of a server. Its counts are its own."""

    id: int
    pid: int  # 0: it lives in another pid namespace
    policy: str
    received: int
    dropped: int
    leases: int


@dataclass(frozen=True, slots=True)
class ServerReport:
    """A server. Times are CLOCK_MONOTONIC in nanoseconds, 0: never; counts are of frames."""

    pid: int
    now_ns: int
    last_published_ns: int
    published: int
    dropped: int  # no slot was free
    bytes: int  # published
    readers: int
    slots: int
    slots_used: int
    backlog: int
    backlog_outgrown: bool
    format: str  # of the newest frame; "": there was none
    shape: tuple[int, ...]  # the same
    clients: tuple[ReaderReport, ...]  # the message has no room for more than some hundred
    camera: CameraStatus | None  # that feeds it; None: it is no camera's


def decode(values: Mapping[str, object]) -> ServerReport:
    """The record in a server's answer, of which only what is known here is read. Raises DataError, also for
    the status of another version's camera."""
    data = _known(ServerReport, {"clients": (), "camera": None, **values})
    if isinstance(clients := data["clients"], list):
        data["clients"] = [_known(ReaderReport, one) if isinstance(one, dict) else one for one in clients]
    return typed.decode(ServerReport, data)


def ask(name: str, timeout: float) -> ServerReport | None:
    """How a server is; None if it is not running. Blocks for `timeout` seconds at most. Raises TimeoutError,
    ConnectError, DataError."""
    values = report(name, timeout)
    return None if values is None else decode(values)


def _known(record: type, values: Mapping[str, object]) -> dict[str, object]:
    names = {field.name for field in fields(record)}
    return {name: value for name, value in values.items() if name in names}


def ask_all(names: Sequence[str], seconds: float) -> dict[str, ServerReport | None]:
    """How servers are, asked side by side; None: nothing sensible was said within so many seconds. The first
    `MOST_ASKED` of them, or for as many as there are descriptors, are asked; the others are left out."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return asyncio.run(_answers(names[: min(MOST_ASKED, limit // _SHARE)], seconds))


async def _answers(names: Sequence[str], seconds: float) -> dict[str, ServerReport | None]:
    async def answer(name: str) -> ServerReport | None:
        try:
            said = await asking.ask(name)
            return None if said is None else decode(said)
        except (ValkkaError, ValueError):
            return None

    asked = {name: asyncio.create_task(answer(name)) for name in names}
    if not asked:
        return {}
    answered, late = await asyncio.wait(asked.values(), timeout=seconds)
    for task in late:
        task.cancel()
    return {name: task.result() if task in answered else None for name, task in asked.items()}
