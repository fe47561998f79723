# SPDX-License-Identifier: MIT
"""`valkka-async ...` from a process that has loaded what commands need, and forks for each of them.

To load it takes a command most of a second of CPU, and its own work next to nothing. In the fork the command
is run as `python -W error -m valkka_async` runs it: with its own arguments, environment, folder and output.

This file is a program too: that process. It ends with its end of the socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence

_LOADED = ("snap", "rec", "play", "top", "reports", "probe", "run", "doctor")  # of valkka_async.cli
_LOST = 1 << 20  # bytes; no request is as long


class Commands:
    """The process, which is started here and now."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        self._path = list(sys.path)
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-W", "error", __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, self._path))},
            )

    def close(self) -> None:
        self._ours.close()
        self._process.wait(60)

    def can(self) -> bool:
        """Would a command find what this process has found?"""
        wanted = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        return {*filter(None, wanted)} <= {*self._path}

    def run(self, arguments: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        """The command's exit status and output. Raises subprocess.TimeoutExpired."""
        with self._lock, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            request = {"arguments": [*arguments], "environment": {**os.environ}, "folder": os.getcwd()}
            self._ours.settimeout(seconds)
            socket.send_fds(self._ours, [json.dumps(request).encode()], [out.fileno(), err.fileno()])
            pid = int(self._line())
            try:
                status = int(self._line())
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                self._ours.settimeout(60)
                self._line()
                raise subprocess.TimeoutExpired([*arguments], seconds) from None
            out.seek(0)
            err.seek(0)
            texts = out.read().decode(), err.read().decode()
        return subprocess.CompletedProcess([*arguments], status, *texts)

    def _line(self) -> str:
        """What it says next: one line, of few bytes."""
        said = b""
        while not said.endswith(b"\n"):
            if not (piece := self._ours.recv(1)):
                raise EOFError("the process that runs commands has ended")
            said += piece
        return said.decode()


def _serve(link: socket.socket) -> None:
    for name in _LOADED:
        __import__(f"valkka_async.cli.{name}")
    while True:
        data, fds, _, _ = socket.recv_fds(link, _LOST, 2)
        if not data:
            return
        while not data.endswith(b"}"):
            data += link.recv(_LOST)
        if (pid := os.fork()) == 0:
            link.close()
            return _become(json.loads(data), fds)
        for fd in fds:
            os.close(fd)
        link.sendall(b"%d\n" % pid)
        link.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _become(request: dict[str, object], fds: list[int]) -> None:
    for place, fd in enumerate(fds, 1):
        os.dup2(fd, place)
        os.close(fd)
    environment, arguments = request["environment"], request["arguments"]
    assert isinstance(environment, dict) and isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(str(request["folder"]))
    sys.argv = ["valkka_async", *arguments]
    runpy.run_module("valkka_async", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
