# SPDX-License-Identifier: MIT
"""A command on a terminal: what it shows there, and what is typed."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

from .program import SECONDS

# A session of its own, whose terminal it is: so that Ctrl-C is a signal.
_START = (
    "import os, sys; os.login_tty(os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY));"
    "os.execv(sys.executable, [sys.executable, '-W', 'error', '-m', 'valkka_async', *sys.argv[2:]])"
)


class Terminal:
    """`valkka-async ...` on a pseudo-terminal of so many columns; ended by pid when left."""

    def __init__(self, *args: str, columns: int = 100) -> None:
        self.shown = ""
        self._ours, theirs = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, os.ttyname(theirs), *args],
            env=os.environ | {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "30"},
        )
        self._theirs = theirs  # open until the end: else the terminal cannot be read

    def until(self, pattern: str) -> None:
        """Read until it was shown. Raises AssertionError."""
        deadline = time.monotonic() + SECONDS
        while not re.search(pattern, self.shown):
            over = self.process.poll() is not None
            if not self._read(0 if over else 0.1):
                assert not over and time.monotonic() < deadline, self.shown

    def press(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait(self) -> int:
        """Read all until it ends. Its exit status."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read(0.05)
        while self._read(0):
            pass
        assert self.process.poll() is not None, self.shown
        return self.process.returncode

    def _read(self, seconds: float) -> bool:
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        self.shown += os.read(self._ours, 65536).decode(errors="replace")
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)
