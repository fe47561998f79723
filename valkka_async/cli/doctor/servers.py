# SPDX-License-Identifier: MIT
"""The runtime directory, and the servers and services in it."""

from __future__ import annotations

import asyncio
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from valkka_async.cli.doctor.check import OK, PROBLEM, WARNING, Check
from valkka_async.cli.figures import GONE, SILENT, Look, Silence
from valkka_async.cli.program import explain
from valkka_async.cli.survey import Survey
from valkka_async.errors import ConnectError
from valkka_async.ring.rendezvous import runtime_dir

_SOCKET_PATH = 107  # bytes, as in rendezvous.py
_LONGEST = len(".control")
_NAME = 64
_SHORT = 16  # characters that a name should be able to have
_SHOWN = 6


def directory() -> Iterator[Check]:
    """Whether it exists or can be made, can be trusted, and has a path that is short enough."""
    try:
        path = runtime_dir()
    except ConnectError as e:
        yield Check("directory", PROBLEM, explain(e), _way_out())
        return
    try:
        found = _owned(path, os.stat(path))
        writable = os.access(path, os.W_OK | os.X_OK)
    except FileNotFoundError:
        found, writable = f"{path}, which the first server makes", _can_be_made(path)
    if not writable:
        own = f"chown {os.geteuid()} {shlex.quote(str(path))}"
        fix = f"set VALKKA_RUNTIME_DIR to a folder that you can write to, or: {own}"
        yield Check("directory", PROBLEM, f"{found}; cannot be written", fix)
    else:
        yield Check("directory", OK, found)
    longest = _SOCKET_PATH - len(os.fsencode(path)) - 1 - _LONGEST
    if longest < _NAME:
        state = PROBLEM if longest < _SHORT else WARNING
        yield Check(
            "directory",
            state,
            f"its path is so long that names can have only {max(0, longest)} characters",
            "set VALKKA_RUNTIME_DIR to a shorter path",
        )


def _way_out() -> str:
    """What to do about a directory that cannot be trusted or made."""
    named = os.environ.get("VALKKA_RUNTIME_DIR", "")
    try:
        if os.stat(named).st_mode & stat.S_IWOTH:
            return f"chmod o-w {shlex.quote(named)}"
    except OSError:
        pass
    return "set VALKKA_RUNTIME_DIR to a folder of your own"


def _owned(path: Path, st: os.stat_result) -> str:
    try:
        owner = pwd.getpwuid(st.st_uid).pw_name
    except KeyError:
        owner = str(st.st_uid)
    return f"{path} (owner {owner}, mode {stat.S_IMODE(st.st_mode):04o})"


def _can_be_made(path: Path) -> bool:
    parent = path.parent
    if os.environ.get("VALKKA_RUNTIME_DIR"):  # then its parents are made as well
        while not parent.exists() and parent != parent.parent:
            parent = parent.parent
    return parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)


def running() -> Iterator[Check]:
    """Servers and services: how many there are, which of them do not answer, which were killed."""
    try:
        path, look = runtime_dir(), asyncio.run(_look())
    except ConnectError:
        return  # said of the directory
    dead: list[str] = []
    silent: dict[tuple[str, int | None], list[str]] = {}
    for kind, answers in (("server", look.servers), ("service", look.services)):
        states = {name: a.state if isinstance(a, Silence) else "" for name, a in answers.items()}
        alive = sorted(name for name, state in states.items() if state != GONE)
        dead += sorted(name for name, state in states.items() if state == GONE)
        more = f" and {len(alive) - _SHOWN} more" if len(alive) > _SHOWN else ""
        names = f": {', '.join(alive[:_SHOWN])}{more}" if alive else ""
        yield Check(f"{kind}s", OK, f"{len(alive)} running{names}")
        for name in (name for name in alive if states[name] == SILENT):
            pid = _holder(path / (f"{name}.lock" if kind == "server" else f"{name}.control.lock"))
            silent.setdefault((kind, pid), []).append(name)
    for (kind, pid), those in silent.items():
        holder = f"process {pid}" if pid else "an unknown process"
        fix = f"look what {holder} does" + (f"; kill {pid} if it hangs" if pid else "")
        one = "does not answer" if len(those) == 1 else "do not answer"
        yield Check(f"{kind}s", WARNING, f"{', '.join(those)} {one} ({holder})", fix)
    if dead:
        was = "a process that was killed has" if len(dead) == 1 else "processes that were killed have"
        fix = "start it again under the same name: it takes over what was left"
        yield Check("servers", WARNING, f"{was} left {', '.join(dead)}", fix)


async def _look() -> Look:
    async with Survey() as survey:
        return await survey.look()


def _holder(lock: Path) -> int | None:
    """The process that holds a name, as it wrote into the lock."""
    try:
        text = lock.read_text().strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isdecimal() else None
