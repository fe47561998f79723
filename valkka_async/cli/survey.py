# SPDX-License-Identifier: MIT
"""Asks all servers and services of this host how they are. Nothing is decoded because of that."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from valkka_async.cli import reports
from valkka_async.cli.figures import GONE, OTHER, SILENT, Look, Silence
from valkka_async.cli.program import explain
from valkka_async.cli.reports import ServerReport
from valkka_async.errors import ConnectError, ValkkaError
from valkka_async.ring.asking import hear
from valkka_async.ring.handshake import Busy, Refused, Report, decode
from valkka_async.ring.rendezvous import check_server, runtime_dir, servers, socket_path
from valkka_async.service.control import ask_status, services
from valkka_async.service.status import ServiceStatus

T = TypeVar("T")
ANSWER_SECONDS = 2.0  # what takes longer does not answer
_THREADS = 8  # for services and /proc

_SILENCE = Silence(SILENT, f"it has not answered for more than {ANSWER_SECONDS:g} s")
_DEAD = Silence(GONE)
_PYTHON = re.compile(r"python[\d.]*")


class Survey:
    """Looks at all there is, again and again. A server that hangs is asked once and waited for apart from the
    others, so that it neither delays them nor is left with a queue of connections.

    `services` are those of this process, by name, which need not be asked through their sockets.
    """

    def __init__(self, services: Mapping[str, Callable[[], ServiceStatus]] | None = None) -> None:
        self._ours = dict(services or {})
        self._servers = _Questions(_ask_server)
        self._services = _Questions(self._ask_service)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="valkka-survey")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._servers.aclose()
        await self._services.aclose()
        self._pool.shutdown(wait=False, cancel_futures=True)  # its threads end with their questions

    async def look(self, patience: float = ANSWER_SECONDS) -> Look:
        """What they say now. Takes `patience` seconds at most if one of them is slow; then its last answer
        stands, until it counts as silent. Raises ConnectError if the runtime directory cannot be trusted."""
        asked: set[asyncio.Task[ServerReport | Silence] | asyncio.Task[ServiceStatus | Silence]] = set()
        asked |= self._servers.ask(set(servers()))
        asked |= self._services.ask(set(services()) - self._ours.keys())
        if asked:
            await asyncio.wait(asked, timeout=patience)
        replies = self._servers.answers()
        statuses = self._services.answers() | {name: status() for name, status in self._ours.items()}
        processes = {}
        if pids := _pids(replies.values()):
            processes = await asyncio.get_running_loop().run_in_executor(self._pool, _processes, pids)
        return Look(time.time_ns(), replies, statuses, processes)

    async def _ask_service(self, name: str) -> ServiceStatus | Silence:
        loop = asyncio.get_running_loop()
        try:
            status = await loop.run_in_executor(self._pool, ask_status, name, ANSWER_SECONDS)
        except TimeoutError:
            return _SILENCE
        except ValkkaError as e:
            return Silence(OTHER, explain(e))
        return _DEAD if status is None else status


class _Questions(Generic[T]):
    """To servers or to services: at most one at a time to each."""

    def __init__(self, ask: Callable[[str], Coroutine[object, object, T | Silence]]) -> None:
        self._ask = ask
        self._asked: dict[str, _Question[T]] = {}

    def ask(self, names: set[str]) -> set[asyncio.Task[T | Silence]]:
        """Ask those that have answered or were never asked, and forget all others. The new questions."""
        for name in self._asked.keys() - names:
            self._asked.pop(name).task.cancel()
        new = set()
        for name in names:
            before = self._asked.get(name)
            if before is None or before.task.done():
                task = asyncio.create_task(self._ask(name))
                self._asked[name] = _Question(task, None if before is None else before.answer())
                new.add(task)
        return new

    def answers(self) -> dict[str, T | Silence]:
        """The last one of each, where there has been time for any."""
        answers = ((name, question.answer()) for name, question in self._asked.items())
        return {name: answer for name, answer in answers if answer is not None}

    async def aclose(self) -> None:
        """Nothing is asked any more."""
        tasks = [question.task for question in self._asked.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class _Question(Generic[T]):
    """A question, and the answer to the one before."""

    def __init__(self, task: asyncio.Task[T | Silence], before: T | Silence | None) -> None:
        self.task = task
        self._before = before
        self._since = time.monotonic()

    def answer(self) -> T | Silence | None:
        """The last one. None: there has been no time for any."""
        if self.task.done():
            return self.task.result()
        if time.monotonic() - self._since > ANSWER_SECONDS * 0.9:  # it was waited for about so long
            return _SILENCE
        return self._before


async def _ask_server(name: str) -> ServerReport | Silence:
    """As reports.ask(), but for as long as it takes."""
    try:
        path = socket_path(runtime_dir(), name)
    except ConnectError as e:
        return Silence(OTHER, explain(e))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.connect(path)
            check_server(sock, path)
            data = await hear(sock)
        except BlockingIOError:  # its queue is full: it has not looked for long
            return _SILENCE
        except (FileNotFoundError, ConnectionError):
            return _DEAD
        except OSError as e:
            return Silence(OTHER, explain(e))
    try:
        match decode(data) if data else None:
            case Report(values):
                return reports.decode(values)
            case Refused(reason) | Busy(reason):
                return Silence(OTHER, reason)
            case None:
                return _DEAD
    except ValkkaError as e:  # what answers is another version, or something else
        return Silence(OTHER, explain(e))
    return Silence(OTHER, "it answers something else")


# ------------------------------------------------------------------------------------ processes


def _pids(answers: Iterable[ServerReport | Silence]) -> set[int]:
    """Of the readers."""
    return {client.pid for answer in answers if isinstance(answer, ServerReport) for client in answer.clients}


def _processes(pids: set[int]) -> dict[int, str]:
    """What they are called, of those that are there."""
    names = {}
    for pid in pids:
        process = Path("/proc", str(pid))
        try:
            name = (process / "comm").read_text(errors="replace").strip()
            if _PYTHON.fullmatch(name):  # which says little
                name = (
                    program((process / "cmdline").read_bytes().decode(errors="replace").split("\0")) or name
                )
        except OSError:  # ended, or in another namespace
            continue
        names[pid] = name
    return names


def program(arguments: list[str]) -> str:
    """The script or module that a Python with these arguments runs: "detect.py"; "" if that cannot be told.
    No other argument is looked at, as there may be secrets among them."""
    rest = iter(arguments[1:])
    for argument in rest:
        if not argument.startswith("-"):
            return Path(argument).name
        if valued := re.match(r"-[A-Za-z]*?([cmWX])(.*)", argument, re.DOTALL):  # as in -u, -m name, -Werror
            value = valued[2] or next(rest, "")
            if valued[1] == "m":
                return value.partition(".")[0].replace("_", "-")
            if valued[1] == "c":
                return ""
        elif argument.startswith("--"):
            return ""
    return ""
