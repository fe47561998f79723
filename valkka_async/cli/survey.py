# SPDX-License-Identifier: MIT
"""Asks all servers and services of this host how they are. Nobody decodes anything because of that."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from valkka_async import typed
from valkka_async.cli.figures import GONE, OTHER, SILENT, Look, Silence, Values
from valkka_async.cli.program import explain
from valkka_async.errors import ConnectError, ProtocolError, ValkkaError
from valkka_async.ring.handshake import MAX_BYTES, Refused, Report, Stats, decode, encode
from valkka_async.ring.rendezvous import runtime_dir, servers, socket_path
from valkka_async.service import control
from valkka_async.service.status import ServiceStatus

_ANSWER_SECONDS = 2.0  # who takes longer does not answer
_THREADS = 8  # for services and /proc

Answer = Values | Silence
_SILENCE = Silence(SILENT, f"it has not answered for more than {_ANSWER_SECONDS:g} s")
_DEAD = Silence(GONE)
_PYTHON = re.compile(r"python[\d.]*")


class Survey:
    """Looks at all there is, again and again. A server that hangs is asked once and waited for apart from the
    others, so that it neither delays them nor is left with a queue of connections.

    `services` are those of this process, by name, which need not be asked through their sockets.
    """

    def __init__(self, services: Mapping[str, Callable[[], ServiceStatus]] | None = None) -> None:
        self._ours = dict(services or {})
        self._asked: dict[tuple[str, str], _Asked] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="valkka-survey")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [asked.task for asked in self._asked.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._pool.shutdown(wait=False, cancel_futures=True)  # they end with their questions

    async def look(self, patience: float = _ANSWER_SECONDS) -> Look:
        """What they say now. Takes `patience` seconds at most if somebody is slow; then that one's last
        answer stands, until it counts as silent. Raises ConnectError if the runtime directory cannot be
        trusted."""
        names = {("server", name) for name in servers()}
        names |= {("service", name) for name in control.services() if name not in self._ours}
        for key in [key for key in self._asked if key not in names]:
            self._asked.pop(key).task.cancel()
        new = [self._ask(*key) for key in names if key not in self._asked or self._asked[key].task.done()]
        if new:
            await asyncio.wait(new, timeout=patience)
        found = {key: answer for key, asked in self._asked.items() if (answer := asked.answer()) is not None}
        replies = {name: answer for (kind, name), answer in found.items() if kind == "server"}
        told: dict[str, Answer] = {
            name: answer for (kind, name), answer in found.items() if kind == "service"
        }
        told |= {name: typed.encode(status()) for name, status in self._ours.items()}
        processes = {}
        if pids := _pids(replies.values()):
            processes = await asyncio.get_running_loop().run_in_executor(self._pool, _processes, pids)
        return Look(time.time_ns(), replies, told, processes)

    def _ask(self, kind: str, name: str) -> asyncio.Task[Answer]:
        question = _ask_server(name) if kind == "server" else self._ask_service(name)
        before = self._asked.get((kind, name))
        asked = _Asked(asyncio.create_task(question), None if before is None else before.answer())
        self._asked[kind, name] = asked
        return asked.task

    async def _ask_service(self, name: str) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            status = await loop.run_in_executor(self._pool, control.ask, name, "status", _ANSWER_SECONDS)
        except TimeoutError:
            return _SILENCE
        except ValkkaError as e:
            return Silence(OTHER, explain(e))
        except (LookupError, TypeError, ValueError):  # another version, perhaps
            return Silence(OTHER, "its answer makes no sense")
        return status if isinstance(status, dict) else _DEAD


class _Asked:
    """A question to one of them, and the answer to the one before."""

    def __init__(self, task: asyncio.Task[Answer], before: Answer | None) -> None:
        self.task = task
        self._before = before
        self._since = time.monotonic()

    def answer(self) -> Answer | None:
        """The last one. None: there has been no time for any."""
        if self.task.done():
            return self.task.result()
        if time.monotonic() - self._since > _ANSWER_SECONDS * 0.9:  # it was waited for about so long
            return _SILENCE
        return self._before


async def _ask_server(name: str) -> Answer:
    """As connection.report(), but for as long as it takes."""
    try:
        path = socket_path(runtime_dir(), name)
    except ConnectError as e:
        return Silence(OTHER, explain(e))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.connect(path)
            sock.send(encode(Stats()), socket.MSG_NOSIGNAL)
            data = await asyncio.get_running_loop().sock_recv(sock, MAX_BYTES)
        except BlockingIOError:  # its queue is full: it has not looked for long
            return _SILENCE
        except (FileNotFoundError, ConnectionError, BrokenPipeError):
            return _DEAD
        except OSError as e:
            return Silence(OTHER, explain(e))
    try:
        message = decode(data) if data else None
    except ProtocolError as e:
        return Silence(OTHER, str(e))
    match message:
        case Report(values):
            return values
        case Refused(reason):
            return Silence(OTHER, reason)
        case None:
            return _DEAD
    return Silence(OTHER, "it answers something else")


# ------------------------------------------------------------------------------------ processes


def _pids(answers: Iterable[Answer]) -> set[int]:
    """Of the readers."""
    return {
        client["pid"]
        for answer in answers
        if not isinstance(answer, Silence) and isinstance(clients := answer.get("clients"), list)
        for client in clients
        if isinstance(client, dict) and isinstance(client.get("pid"), int)
    }


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
