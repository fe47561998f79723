# SPDX-License-Identifier: MIT
"""Programs as processes of their own, spoken to line by line, and ended by pid at the latest on leaving.

`Program("top")` is a command of `valkka-async`, `Child("say(1)")` is Python code, and
`Example("blur.py")` is a file of examples/. `run(...)` is a command that ends by itself.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGCONT, SIGINT
from types import TracebackType
from typing import Self

from .commands import Commands
from .until import SECONDS, wait_for

ROOT = Path(__file__).parents[2]
_COMMAND = [sys.executable, "-W", "error", "-m", "valkka_async"]
_PRELUDE = """
import os, sys, time, asyncio
import numpy as np
import valkka_async as va
def say(*words): print(*words, flush=True)
"""


class Process:
    """A process whose standard output is read line by line. Its standard error is in a file."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        new_session: bool = False,
        gentle: bool = False,
    ) -> None:
        """`gentle`: it is interrupted first on leaving, so that it ends what it has started."""
        self.seen = ""  # all lines that were read
        self._gentle = gentle
        self._buffer = b""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            self.process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                cwd=cwd,
                env=env,
                start_new_session=new_session,
            )
        except BaseException:
            self._stderr.close()
            raise

    @property
    def pid(self) -> int:
        return self.process.pid

    # ---------------------------------------------------------------------------- what it says

    def line(self, seconds: float = SECONDS) -> str:
        """The next line of its standard output. Raises TimeoutError, EOFError."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            if not self._read(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"no line for {seconds:g} s, after {self._tail()}")
        line, _, self._buffer = self._buffer.partition(b"\n")
        self.seen += line.decode() + "\n"
        return line.decode()

    def match(self, pattern: str, seconds: float = SECONDS) -> re.Match[str]:
        """Read lines until the pattern is found in one. Raises TimeoutError, EOFError."""
        deadline = time.monotonic() + seconds
        while True:
            if (match := re.search(pattern, self.line(max(0.0, deadline - time.monotonic())))) is not None:
                return match

    def until(self, *patterns: str) -> None:
        """Read lines until each of the patterns was found in one. Raises TimeoutError, EOFError."""
        missing = {*patterns}
        while missing:
            line = self.line()
            missing = {pattern for pattern in missing if not re.search(pattern, line)}

    def line_if_any(self, seconds: float) -> None:
        """Read a line if one begins within so long."""
        if b"\n" in self._buffer or self._ready(seconds):
            self.line()

    def skip(self) -> None:
        """Pass over all that it has said so far."""
        while self._ready(0):
            self._read(0)
        self._buffer = self._buffer.rpartition(b"\n")[2]

    def stderr(self) -> str:
        """All of its standard error so far."""
        self._stderr.seek(0)
        return self._stderr.read().decode()

    def logged(self, pattern: str) -> re.Match[str]:
        """Wait until the pattern is found in its standard error. Raises TimeoutError."""

        def look() -> re.Match[str] | bool | None:
            over = self.process.poll() is not None
            return re.search(pattern, self.stderr()) or over

        found = wait_for(look)
        assert isinstance(found, re.Match), f"ended without {pattern!r}: {self._tail()}"
        return found

    def end_input(self) -> None:
        """Close its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def hang_up(self) -> None:
        """Close its standard output, as `head` does when it has seen enough."""
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _ready(self, seconds: float) -> bool:
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def _read(self, seconds: float) -> bool:
        """False: it says nothing. Raises EOFError."""
        assert self.process.stdout is not None
        if not self._ready(seconds):
            return False
        if not (data := os.read(self.process.stdout.fileno(), 65536)):
            raise EOFError(f"no more output after {self._tail()}")
        self._buffer += data
        return True

    def _tail(self) -> str:
        return f"{self.seen[-1000:]!r}; {self.stderr()[-2000:]}"

    # ------------------------------------------------------------------------------ its life

    def tell(self, line: str) -> None:
        """A line for its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def catches(self, number: int) -> None:
        """Wait until it has a handler for this signal. (For SIGINT Python has one from the beginning.)"""
        status = Path(f"/proc/{self.pid}/status")
        bit = 1 << (number - 1)
        wait_for(lambda: int(re.findall(r"SigCgt:\s*(\w+)", status.read_text())[0], 16) & bit)

    def signal(self, number: int) -> None:
        """After SIGSTOP, which only asks, wait until it stands still."""
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            states = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
            wait_for(lambda: os.waitid(os.P_PID, self.pid, states))

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def wait(self, seconds: float = SECONDS) -> int:
        """Its exit status. Raises subprocess.TimeoutExpired."""
        return self.process.wait(seconds)

    def finish(self, seconds: float = SECONDS) -> tuple[int, str]:
        """Read it to its end, which comes by itself. Its exit status and standard error."""
        assert self.process.stdout is not None
        if not self.process.stdout.closed:
            deadline = time.monotonic() + seconds
            try:
                while self._read(max(0.0, deadline - time.monotonic())):
                    pass
            except EOFError:
                pass
            self.seen += self._buffer.decode()
            self._buffer = b""
        return self.wait(seconds), self.stderr()

    def end(self, number: int = SIGINT) -> tuple[int, str]:
        """Send it a signal, and wait for its end. Its exit status and standard error."""
        self.signal(number)
        return self.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None and self._gentle:
            self.signal(SIGINT)
            try:
                self.wait(5)
            except subprocess.TimeoutExpired:
                pass
        if self.process.poll() is None:
            self.signal(SIGCONT)
            self.kill()
        if error is not None:
            print(self.stderr(), file=sys.stderr)
        for pipe in (self.process.stdin, self.process.stdout, self._stderr):
            if pipe is not None:
                pipe.close()


class Program(Process):
    """`valkka-async ...` in a session of its own."""

    def __init__(self, *arguments: str, stdin: int = subprocess.DEVNULL, **environment: str) -> None:
        env = {**os.environ, **environment}
        super().__init__([*_COMMAND, *arguments], stdin=stdin, env=env, new_session=True)


class Child(Process):
    """Python code, with ``va``, ``np`` and ``say`` at hand."""

    def __init__(self, code: str, *arguments: object, **environment: str) -> None:
        code = _PRELUDE + textwrap.dedent(code)
        command = [sys.executable, "-X", "faulthandler", "-c", code, *map(str, arguments)]
        super().__init__(command, stdin=subprocess.PIPE, env={**os.environ, **environment})


class Example(Process):
    """`examples/NAME ARGUMENTS`, run in `folder`."""

    def __init__(self, name: str, *arguments: object, folder: Path, **environment: str) -> None:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        super().__init__(
            [sys.executable, "-X", "faulthandler", ROOT / "examples" / name, *map(str, arguments)],
            cwd=folder,
            # No windows, whatever OpenCV and the machine have. PYTHONUNBUFFERED, which some set, makes two
            # writes of each print(), and lines of two processes get mixed.
            env={**os.environ, "DISPLAY": "", **environment, "PYTHONPATH": path, "PYTHONUNBUFFERED": ""},
            gentle=True,
        )

    def interrupt(self) -> str:
        """Ctrl-C. It ends with status 0 and without a traceback. Its standard error."""
        self.signal(SIGINT)
        return self.ends()

    def ends(self) -> str:
        """It ends by itself, and well. Its standard error."""
        status, errors = self.finish()
        assert (status, "Traceback" in errors) == (0, False), errors
        return errors


forked: Commands | None = None  # set where there are many


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    if forked is not None and forked.can():
        return forked.run(arguments, SECONDS)
    return subprocess.run(
        [*_COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
    )


def processes(runtime_dir: Path) -> list[int]:
    """Pids, other than ours, that use this runtime directory."""
    mark = f"VALKKA_RUNTIME_DIR={runtime_dir}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:  # gone meanwhile, a zombie, or another user's
                continue
    return found


def one_line(text: str) -> str:
    """An error message: one line, no traceback."""
    assert text.count("\n") == 1 and text.startswith("valkka-async: "), text
    return text
