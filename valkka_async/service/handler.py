# SPDX-License-Identifier: MIT
"""Events to a program: JSON on its standard input."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from valkka_async.service.delivery import Undelivered
from valkka_async.timeouts import timeout

_TERM_SECONDS = 2.0  # from SIGTERM to SIGKILL
_OURS = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}  # of the environment: systemd means this process
_SAID = 500  # bytes of its standard error that are told when it fails


class Handler:
    """One program, which is started for each event, in a session of its own: a time-out ends all that it has
    started and that did not leave its group."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = tuple(arguments)

    async def deliver(self, body: bytes, code: str, camera: str) -> None:
        """Run it, and wait for its end: status 0. Raises Undelivered. Cancelling ends it."""
        environment = {key: value for key, value in os.environ.items() if key not in _OURS}
        environment |= {"VALKKA_EVENT": code, "VALKKA_CAMERA": camera}
        with contextlib.ExitStack() as stack:
            try:
                process, ends, heard = self._start(stack, body, environment)
            except (OSError, ValueError) as e:
                why = e.strerror if isinstance(e, OSError) else "an argument that cannot be one"
                raise Undelivered(f"it cannot be started: {why}", again=False) from None
            loop = asyncio.get_running_loop()
            ended = asyncio.Event()
            tail = bytearray()
            loop.add_reader(ends, ended.set)
            loop.add_reader(heard, _hear, heard, tail)
            try:
                await ended.wait()
            except asyncio.CancelledError:
                await _end(process, ended)
                raise
            finally:
                loop.remove_reader(ends)
                loop.remove_reader(heard)
            _hear(heard, tail)
        if status := process.wait():
            how = f"status {status}" if status > 0 else f"signal {-status}"
            words = " ".join(tail.decode(errors="replace").split())
            raise Undelivered(f"it ended with {how}", said=words, again=False)

    def _start(
        self, stack: contextlib.ExitStack, body: bytes, environment: Mapping[str, str]
    ) -> tuple[subprocess.Popen[bytes], int, int]:
        """The process, what is readable when it has ended, and its standard error. Raises OSError,
        ValueError."""
        given = _closing(stack, os.memfd_create("valkka:event", os.MFD_CLOEXEC))
        os.set_blocking(given, False)  # which it never does anyway, being memory
        os.write(given, body)
        os.lseek(given, 0, os.SEEK_SET)
        heard, said = (_closing(stack, fd) for fd in os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
        os.set_blocking(said, True)  # the program's end
        # Not the event loop's, as uvloop copies the page tables: 12 ms, and 30 of a service of 350 MB, in
        # which it does nothing else. This takes a millisecond or two.
        process = subprocess.Popen(
            self._arguments,
            stdin=given,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=environment,
            start_new_session=True,
        )
        try:
            return process, _closing(stack, os.pidfd_open(process.pid)), heard
        except BaseException:
            _kill(process, signal.SIGKILL)
            process.wait()
            raise

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


async def _end(process: subprocess.Popen[bytes], ended: asyncio.Event) -> None:
    """SIGTERM, and SIGKILL for what is left of the group then."""
    try:
        _kill(process, signal.SIGTERM)
        await _within(_TERM_SECONDS, ended)
    finally:  # cancelled once more: there is no more time
        _kill(process, signal.SIGKILL)
        await _within(_TERM_SECONDS, ended)
        process.poll()


async def _within(seconds: float, ended: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with timeout(seconds):
            await ended.wait()


def _kill(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
