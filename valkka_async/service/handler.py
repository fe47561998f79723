# SPDX-License-Identifier: MIT
"""Events to a program: JSON on its standard input."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence

from valkka_async.service.delivery import Undelivered

_TERM_SECONDS = 2.0  # from SIGTERM to SIGKILL
_SAID = 500  # bytes of its standard error that are told when it fails


class Handler:
    """One program, which is started for each event, in a session of its own: a time-out ends all that it has
    started and that did not leave its group."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = tuple(arguments)

    async def deliver(self, body: bytes, code: str, camera: str) -> None:
        """Run it, and wait for its end: status 0. Raises Undelivered. Cancelling ends it."""
        environment = os.environ | {"VALKKA_EVENT": code, "VALKKA_CAMERA": camera}
        with contextlib.ExitStack() as stack:
            given = _closing(stack, os.memfd_create("valkka:event", os.MFD_CLOEXEC))
            os.set_blocking(given, False)  # which it never does anyway, being memory
            os.write(given, body)
            os.lseek(given, 0, os.SEEK_SET)
            heard, said = (_closing(stack, fd) for fd in os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
            os.set_blocking(said, True)  # the program's end
            tail = bytearray()
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._arguments,
                    stdin=given,
                    stdout=DEVNULL,
                    stderr=said,
                    env=environment,
                    start_new_session=True,
                )
            except (OSError, ValueError) as e:
                why = e.strerror if isinstance(e, OSError) else "an argument that cannot be one"
                raise Undelivered(f"it cannot be started: {why}", again=False) from None
            loop = asyncio.get_running_loop()
            loop.add_reader(heard, _hear, heard, tail)
            try:
                status = await process.wait()
            except asyncio.CancelledError:
                await _end(process)
                raise
            finally:
                loop.remove_reader(heard)
            _hear(heard, tail)
        if status:
            how = f"status {status}" if status > 0 else f"signal {-status}"
            words = " ".join(tail.decode(errors="replace").split())
            raise Undelivered(f"it ended with {how}", said=words, again=False)

    async def aclose(self) -> None:
        pass


def _closing(stack: contextlib.ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd


def _hear(fd: int, tail: bytearray) -> None:
    """The last of what it says; what there is now, and no more than that."""
    with contextlib.suppress(BlockingIOError):
        tail += os.read(fd, 1 << 16)
        del tail[:-_SAID]


async def _end(process: Process) -> None:
    """SIGTERM, and SIGKILL for what is left of the group then."""
    waiting = asyncio.ensure_future(process.wait())
    try:
        _kill(process, signal.SIGTERM)
        await asyncio.wait([waiting], timeout=_TERM_SECONDS)
    finally:  # cancelled once more: there is no more time
        _kill(process, signal.SIGKILL)
        await asyncio.wait([waiting], timeout=_TERM_SECONDS)


def _kill(process: Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
