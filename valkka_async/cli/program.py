# SPDX-License-Identifier: MIT
"""What all commands share: how they run, how they end, how they report errors."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import NoReturn, ParamSpec

P = ParamSpec("P")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# One Ctrl-C may arrive twice (from the terminal and from a wrapper such as timeout). Only one that comes
# later than this means that the user has lost patience.
_IMPATIENT_SECONDS = 1.0


def early(hangup: Callable[[], object]) -> None:
    """For a program that takes a while until it calls run(): from now on SIGHUP calls `hangup`, in the main
    thread, and SIGINT and SIGTERM end the process with status 0, as there is nothing to be tidied up yet."""

    def leave(number: int, frame: object) -> NoReturn:
        os._exit(0)

    signal.signal(signal.SIGHUP, lambda number, frame: hangup())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)


def run(
    work: Coroutine[object, object, None], seconds: float | None, hangup: Callable[[], object] | None = None
) -> None:
    """Run `work` on uvloop until it is done, a signal asks for the end, or the seconds are over. `hangup`:
    what SIGHUP does instead, until the process has ended."""
    import uvloop

    try:
        uvloop.run(_run(work, seconds, hangup))
    finally:
        work.close()  # in case that it was never begun


async def _run(
    work: Coroutine[object, object, None], seconds: float | None, hangup: Callable[[], object] | None
) -> None:
    stop = asyncio.Event()
    asked = 0.0

    def on_signal() -> None:
        nonlocal asked
        if not stop.is_set():
            asked = time.monotonic()
            stop.set()
        elif time.monotonic() - asked > _IMPATIENT_SECONDS:
            os._exit(130)

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(
            number, hangup if hangup is not None and number == signal.SIGHUP else on_signal
        )
    try:
        await _until(stop, seconds, work)
    finally:
        if hangup is not None:  # a loop that is closed would leave SIGHUP to kill us
            loop.remove_signal_handler(signal.SIGHUP)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)


async def _until(stop: asyncio.Event, seconds: float | None, work: Coroutine[object, object, None]) -> None:
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        stopped.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)
    if not task.cancelled():
        try:
            task.result()
        except ExceptionGroup as group:  # of tasks that ended together: one line tells the first
            raise _first(group) from None


def _first(group: ExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Let a command end with one line instead of a traceback when it meets what it can explain."""

    @functools.wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        from valkka_async.errors import ValkkaError
        from valkka_async.extras import advice

        try:
            command(*args, **kwargs)
        except ModuleNotFoundError as e:
            if not (said := advice(e.name, "this command")):
                raise
            fail(said, 1)
        except KeyboardInterrupt:  # before there was a loop to tell; typer would make it status 130
            sys.exit(0)
        except BrokenPipeError:  # our output is not read any more, as in `top | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        except (ValkkaError, OSError) as e:
            fail(explain(e), 1)

    return call


@contextlib.contextmanager
def or_else(stopped: str) -> Iterator[None]:
    """For commands that bring something: Ctrl-C before they have it is status 1 and this line."""
    try:
        yield
    except KeyboardInterrupt:
        fail(stopped, 1)


def explain(error: Exception) -> str:
    """An error as one line, without "[Errno 98]"."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(text.split())


def fail(text: str, status: int) -> NoReturn:
    """Say what is wrong and exit."""
    print(f"valkka-async: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(status)


def without_secrets(text: str) -> str:
    """`text`, which may quote our arguments, without the passwords of the addresses among them."""
    quoted = {
        part for arg in sys.argv[1:] for part in (arg, arg.partition("=")[2]) if part.strip() and part in text
    }
    if not quoted:
        return text
    from valkka_async.camera.source.secrets import parse

    for part in sorted(quoted, key=len, reverse=True):
        try:
            address = parse(part)
        except ValueError:  # whatever it is, it cannot be told where a password would be in it
            text = text.replace(part, "***")
        else:
            text = address.scrub(text.replace(part, address.shown))
    return text
