"""A Python program in a process of its own, spoken to line by line."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from types import TracebackType

_PRELUDE = """
import os, sys, time, asyncio
import numpy as np
import valkka_async as va
def say(*words): print(*words, flush=True)
"""


class Child:
    """Runs ``code`` (with ``va``, ``np`` and ``say`` at hand); ended by pid, at the latest on leaving."""

    def __init__(self, code: str, *args: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", _PRELUDE + textwrap.dedent(code), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._buffer = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def line(self, timeout: float = 20) -> str:
        """The next line it says. Raises TimeoutError, EOFError."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if not select.select([fd], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"the child said nothing for {timeout} s")
            data = os.read(fd, 65536)
            if not data:
                raise EOFError("the child said no more")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def tell(self, line: str) -> None:
        """A line for its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def wait(self, timeout: float = 20) -> int:
        """Its exit status. Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
