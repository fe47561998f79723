# SPDX-License-Identifier: MIT
"""The socket on which other programs of this user talk to a service: ``NAME.control`` in the runtime
directory. A link (link/) has one of another kind, ``HOST.link``.

A stream socket that only this user may open. A request is a JSON object on a line, {"op": "status"}; so is
the answer: {"ok": ...}, or {"error": "text"}. One connection may make several requests.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import is_dataclass
from types import TracebackType
from typing import Any, Self

from valkka_async import typed
from valkka_async.errors import ConnectError, DataError, ValkkaError
from valkka_async.ring.rendezvous import (
    LOOK_SECONDS,
    Claim,
    check_name,
    check_server,
    runtime_dir,
    servers,
    socket_path,
)
from valkka_async.service.status import ServiceStatus

_KIND = "control"
_LONGEST = 1 << 16  # bytes of a request
_CONNECTIONS = 32

log = logging.getLogger("valkka_async.service")

Answer = Callable[[], Awaitable[object]]


class Control:
    """Answers requests by name: `ops` has functions without arguments, whose results are records (see
    typed.py) or data for JSON. The text of a ValkkaError or ValueError is the answer; other exceptions are
    logged.

    Raises NameInUseError when a service of that name runs, ConnectError.
    """

    def __init__(self, name: str, ops: Mapping[str, Answer], kind: str = _KIND) -> None:
        self._ops = dict(ops)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._looker: asyncio.Task[None] | None = None
        self._claim = Claim(
            check_name(name), mode=0o600, group=-1, backlog=_CONNECTIONS, kind=kind, type=socket.SOCK_STREAM
        )

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_unix_server(
                self._connected, sock=self._claim.listener, limit=_LONGEST
            )
        except BaseException:
            self._claim.close()
            raise
        self._looker = asyncio.create_task(self._look_for_ever())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None and self._looker is not None
        self._looker.cancel()
        await asyncio.wait([self._looker])
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._claim.close()

    async def _look_for_ever(self) -> None:
        """Are its socket and lock still there? If not, make them again."""
        said, listening = "", self._claim.listener
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if not self._claim.whole():
                    self._claim.restore()
                    log.warning("the control socket or its lock was deleted; made again")
                    said = ""
                if self._claim.listener is not listening:
                    await self._listen_again()
                    listening = self._claim.listener
            except OSError as e:
                if str(e) != said:
                    said = str(e)
                    log.warning("the control socket was deleted: %s; trying again", e)

    async def _listen_again(self) -> None:
        before = self._server
        self._server = await asyncio.start_unix_server(
            self._connected, sock=self._claim.listener, limit=_LONGEST
        )
        if before is not None:
            before.close()  # and with it the socket before

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) >= _CONNECTIONS:
            writer.close()
            return
        self._tasks.add(task)
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):  # gone; or a line that is too long
            pass
        except asyncio.CancelledError:  # the service ends
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, object]:
        try:
            op = json.loads(line)["op"]
            function = self._ops[op]
        except (ValueError, TypeError, KeyError):
            return {"error": f"a request is one of {', '.join(self._ops)}"}
        try:
            result = await function()
            return {"ok": typed.encode(result) if is_dataclass(result) else result}
        except (ValkkaError, ValueError) as e:
            return {"error": str(e)}
        except Exception:
            log.exception("control: %s failed", op)
            return {"error": "that failed; the service's log says why"}


def services(kind: str = _KIND) -> list[str]:
    """Names of services that have a socket, even if they were killed. Raises ConnectError."""
    return servers(kind)


def ask_status(name: str, timeout: float) -> ServiceStatus | None:
    """How a service is; None if it does not run. As ask(), and raises DataError if it is another version."""
    data = ask(name, "status", timeout)
    return None if data is None else typed.decode(ServiceStatus, data)


def ask(name: str, op: str, timeout: float, kind: str = _KIND) -> Any:
    """A service's answer, as data; None if it does not run. Blocks for `timeout` seconds at most, more or
    less.

    Raises TimeoutError, ConnectError, DataError for an answer that is none, and ValkkaError with what the
    service has to say against it.
    """
    path = socket_path(runtime_dir(), check_name(name), kind)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(path)
            check_server(sock, path)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except TimeoutError:
            raise _silent(name, timeout) from None
        except ConnectError:
            raise
        except OSError as e:
            raise ConnectError(e.errno, f"cannot connect to {path}: {e.strerror}") from None
        try:
            sock.sendall(json.dumps({"op": op}).encode() + b"\n")
            with sock.makefile("rb") as answers:
                line = answers.readline()
        except TimeoutError:
            raise _silent(name, timeout) from None
        except OSError:
            line = b""
    if not line.endswith(b"\n"):  # it has just ended, perhaps in the middle of its answer
        return None
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict) and isinstance(answer.get("error"), str):
        raise ValkkaError(answer["error"])
    if not isinstance(answer, dict) or "ok" not in answer:
        raise DataError(f"the service {name!r} answers something else")
    return answer["ok"]


def _silent(name: str, timeout: float) -> TimeoutError:
    return TimeoutError(f"the service {name!r} did not answer within {timeout:g} s")
