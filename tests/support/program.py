# SPDX-License-Identifier: MIT
"""`valkka-async ...` as processes: those that end by themselves, and those that are read while they run."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

SECONDS = 30.0  # until something that should happen soon counts as not happening


class Program:
    """`valkka-async ...` in a session of its own, read line by line; ended by pid when left."""

    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "valkka_async", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.seen = ""
        self._buffer = b""

    def until(self, *patterns: str) -> None:
        """Read lines until each of the patterns was found in one. Raises AssertionError."""
        missing = {*patterns}
        while missing:
            line = self.line()
            missing = {pattern for pattern in missing if not re.search(pattern, line)}

    def line_if_any(self, seconds: float) -> None:
        """Read a line if one comes within so long."""
        assert self.process.stdout is not None
        if b"\n" in self._buffer or select.select([self.process.stdout], [], [], seconds)[0]:
            self.line()

    def line(self) -> str:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        deadline = time.monotonic() + SECONDS
        while b"\n" not in self._buffer:
            ready = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]
            data = os.read(fd, 65536) if ready else b""
            if not data:
                self.process.kill()
                errors = self.process.communicate()[1].decode()
                raise AssertionError(f"{'no more' if ready else 'no'} output after {self.seen!r}; {errors}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        self.seen += line.decode() + "\n"
        return line.decode()

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Send it a signal. Its exit status, and what it said on stderr."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, errors.decode()

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.communicate()


def run(*args: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "valkka_async", *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def eventually(condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


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
