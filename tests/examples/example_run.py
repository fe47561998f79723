"""An example in a process of its own, run as its first lines say, in a folder of its own."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import footage
from support.require import missing
from support.rtsp import RtspServer, rtsp_available

ROOT = Path(__file__).parents[2]


class Example:
    """`examples/NAME ARGUMENTS` with `folder` as the working directory; ended at the latest on leaving."""

    def __init__(self, name: str, *arguments: object, folder: Path, **environment: str) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(
            os.pathsep
        )
        environment = {"DISPLAY": ""} | environment  # no windows, whatever OpenCV and the machine have
        # Set by some, it makes two writes of each print(), and lines of two processes get mixed.
        environment["PYTHONUNBUFFERED"] = ""
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", ROOT / "examples" / name, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            cwd=folder,
            env=os.environ | environment,
        )
        self._buffer = b""
        self._said: list[str] = []

    def line(self, pattern: str, seconds: float = 25) -> re.Match[str]:
        """Wait for a line of its standard output in which the pattern is found. Raises TimeoutError with
        what it said instead, EOFError."""
        deadline = time.monotonic() + seconds
        while True:
            line = self._next(deadline, pattern)
            if (match := re.search(pattern, line)) is not None:
                return match

    def _next(self, deadline: float, pattern: str) -> str:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        while b"\n" not in self._buffer:
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(
                    f"no {pattern!r} in time: {self._said[:5]} ... {self._said[-5:]}; {self.stderr()}"
                )
            data = os.read(fd, 65536)
            if not data:
                raise EOFError(f"ended without {pattern!r}: {self._said[-5:]}; {self.stderr()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        self._said.append(line.decode())
        return self._said[-1]

    def skip(self) -> None:
        """What it has said so far."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        self._buffer = b""
        while select.select([fd], [], [], 0)[0] and (data := os.read(fd, 65536)):
            self._buffer = data.rpartition(b"\n")[2]

    def stderr(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode()

    def logged(self, pattern: str, seconds: float = 25) -> re.Match[str]:
        """The same for its standard error."""
        deadline = time.monotonic() + seconds
        while (match := re.search(pattern, self.stderr())) is None:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise TimeoutError(f"no {pattern!r}: {self.stderr()}")
            time.sleep(0.02)
        return match

    def interrupt(self, seconds: float = 20) -> str:
        """Ctrl-C. It ends with status 0, without a traceback; returns its standard error."""
        self.process.send_signal(signal.SIGINT)
        return self.ends(seconds)

    def ends(self, seconds: float = 20) -> str:
        """By itself, and well."""
        assert self.process.stdout is not None
        while os.read(self.process.stdout.fileno(), 65536):  # until its end, lest it waits for us
            pass
        status = self.process.wait(seconds)
        assert (status, "Traceback" in self.stderr()) == (0, False), self.stderr()
        return self.stderr()

    def __enter__(self) -> Example:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self.process.stdout is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)  # so that it ends what it has started
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self._stderr.close()


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RtspServer]:
    """A real RTSP server: /bikes, cyclists in a street, and /people, pedestrians before a CCTV camera."""
    if reason := rtsp_available():
        missing(reason)
    folder, cache = tmp_path_factory.mktemp("clips"), ROOT / ".cache"
    try:
        bikes = footage.to_elementary(footage.bikes(cache), folder / "bikes.h264", frames=75)
        people = footage.to_elementary(footage.vtest(cache), folder / "people.h264", frames=60, gop=10)
    except footage.FootageUnavailable as e:
        missing(str(e))
    with RtspServer() as server:
        server.mount("/bikes", bikes, fps=25)
        server.mount("/people", people, fps=10)
        yield server
