"""The tests' handle on the RTSP server in rtsp_server.py.

Every call blocks for at most its deadline; from a coroutine use asyncio.to_thread. One thread at a time
may talk to the server, others wait for it.
"""

from __future__ import annotations

import functools
import json
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, cast
from urllib.parse import quote

PYTHON = "/usr/bin/python3"  # Debian's own: the gi bindings are built for it and for no other
SCRIPT = Path(__file__).with_name("rtsp_server.py")
TIMEOUT = 10.0


class RtspError(Exception):
    """The server refused a request, did not answer in time, or is dead."""


class Push(NamedTuple):
    """One access unit that a mount gave to its watchers."""

    serial: int  # 1, 2, 3 ...: how many this mount has pushed
    frame: int  # its place in the file in display order, which is the number burnt into it
    time_ns: int  # wall clock, just before it was pushed
    generation: int  # how many times the mount had been switched


class MountStats(NamedTuple):
    clients: int  # connections that have asked to play
    pushed: int
    log: list[Push]  # the last 256
    moves: list[
        tuple[int, int]
    ]  # (wall clock, ns) at which it was late and did not catch up, and by how much


@functools.cache
def rtsp_available() -> str | None:
    """None, or why the server cannot run here and what to install."""
    if not os.access(PYTHON, os.X_OK):
        return f"no RTSP server: there is no {PYTHON} (apt-get install python3 on Debian)"
    try:
        done = subprocess.run([PYTHON, SCRIPT, "--check"], capture_output=True, timeout=30, text=True)
        answer = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as e:
        return f"no RTSP server: {SCRIPT.name} --check: {e}"
    if answer["ok"]:
        return None
    packages = " ".join(answer["packages"])
    return f"no RTSP server: {answer['error']} (apt-get install --no-install-recommends {packages})"


class RtspServer:
    """A GStreamer RTSP server on 127.0.0.1, in a child process.

        with RtspServer() as server:
            server.mount("/cam", "clip.h264")
            av.open(server.url("/cam"))

    `port` is 0 until the server has started, and then stays the same over kill() and restart().
    """

    def __init__(self, port: int = 0, *, deadline: int = 300) -> None:
        self.port = port
        self.deadline = deadline
        self._mounts: dict[str, dict[str, Any]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: Any = None
        self._pending = b""
        self._serial = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RtspError("the RTSP server is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; returns when its port is open."""
        if self._process is not None:
            raise RtspError("the RTSP server is running already")
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        # A process group of its own, in our session: when we die while it is frozen, the kernel sees an
        # orphaned group with a stopped member and sends it SIGHUP and SIGCONT (POSIX 2.2.2.52 and _exit).
        self._process = subprocess.Popen(
            [PYTHON, SCRIPT, f"--port={self.port}", f"--deadline={self.deadline}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            process_group=0,
        )
        self._pending = b""
        self._serial = 0
        try:
            self.port = self._answer(time.monotonic() + TIMEOUT)["port"]
        except BaseException:
            self.kill()
            raise

    def url(self, path: str, user: str | None = None, password: str | None = None) -> str:
        """The URL of a mount, with its credentials percent-encoded."""
        login = ""
        if user is not None:
            login = quote(user, safe="") + ("" if password is None else ":" + quote(password, safe="")) + "@"
        return f"rtsp://{login}127.0.0.1:{self.port}{path}"

    def mount(
        self,
        path: str,
        stream: str | Path | Sequence[str | Path] | None = None,
        *,
        fps: float = 25,
        codec: str = "h264",
        auth: tuple[str, str, str] | None = None,
        shared: bool = True,
        config_interval: int = 0,
        audio: bool | str = False,
    ) -> None:
        """Put a live camera at `path`.

        `stream`: a raw elementary stream, or several to play one after the other, in a loop; None for
        a camera that sends only sound. `auth`: (user, password, "basic" or "digest"). `shared=False`
        gives each client a pipeline of its own. `config_interval` is GStreamer's: 0 leaves the parameter
        sets where the file has them. `audio` adds a sound track: "alaw" (or
        True), "mulaw", "aac" or "opus", with " ticks" behind it for one each second in place of a tone.
        """
        request: dict[str, Any] = {
            "path": path,
            "stream": None if stream is None else _files(stream),
            "fps": fps,
            "codec": codec,
            "auth": None if auth is None else dict(zip(("user", "password", "method"), auth, strict=True)),
            "shared": shared,
            "config_interval": config_interval,
            "audio": "alaw" if audio is True else audio or "",
        }
        self._ask("mount", **request)
        self._mounts[path] = request

    def switch(
        self, path: str, stream: str | Path | Sequence[str | Path], *, fps: float | None = None
    ) -> None:
        """Go on with another file of the same codec, for present clients too: a camera that is
        reconfigured."""
        self._ask("switch", path=path, stream=_files(stream), fps=fps)
        self._mounts[path] |= {"stream": _files(stream), "fps": fps or self._mounts[path]["fps"]}

    def pause(self, path: str) -> None:
        """Send no more pictures, but keep every connection: a camera that hangs."""
        self._ask("pause", path=path, paused=True)

    def resume(self, path: str) -> None:
        self._ask("pause", path=path, paused=False)

    def drop(self, path: str) -> None:
        """Close the connections that play this mount; the mount stays."""
        self._ask("drop", path=path)

    def unmount(self, path: str) -> None:
        """Take a camera away and close the connections that play it."""
        self._ask("unmount", path=path)
        del self._mounts[path]

    def stats(self) -> dict[str, MountStats]:
        answer = self._ask("stats")["mounts"]
        return {
            path: MountStats(
                m["clients"],
                m["pushed"],
                [Push(*entry) for entry in m["log"]],
                [(at, moved) for at, moved in m["moves"]],
            )
            for path, m in answer.items()
        }

    def wait_clients(self, path: str, count: int, timeout: float = TIMEOUT) -> None:
        """Return when exactly `count` clients play this mount."""
        deadline = time.monotonic() + timeout
        while (clients := self.stats()[path].clients) != count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path}: waited {timeout} s for {count} clients, there are {clients}")
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL, as in a power cut. restart() brings the same mounts back on the same port."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(TIMEOUT)
        self._forget()

    def freeze(self) -> None:
        """SIGSTOP: connections stay, nothing answers. Requests of this object time out until thaw()."""
        self._signal(signal.SIGSTOP)
        # A signal only asks; the process has stopped when it is reported as stopped.
        deadline = time.monotonic() + TIMEOUT
        while os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > deadline:
                raise RtspError("the RTSP server did not stop on SIGSTOP")
            time.sleep(0.001)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        self.kill()
        self.start()
        for request in self._mounts.values():
            self._ask("mount", **request)

    def stop(self) -> None:
        """End the process the gentle way, by closing its stdin; by SIGKILL if it does not listen."""
        if self._process is None:
            return
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(TIMEOUT)
        self._forget()

    def close(self) -> None:
        """stop() and forget the mounts. Idempotent."""
        self.stop()
        self._mounts.clear()

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _forget(self) -> None:
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    def _ask(self, op: str, **request: Any) -> dict[str, Any]:
        with self._lock:
            if self._process is None or self._process.stdin is None:
                raise RtspError("the RTSP server is not running")
            self._serial += 1
            try:
                line = json.dumps({"id": self._serial, "op": op} | request)
                self._process.stdin.write(line.encode() + b"\n")
            except BrokenPipeError:
                raise RtspError(f"the RTSP server is dead{self._complaints()}") from None
            return self._answer(time.monotonic() + TIMEOUT)

    def _answer(self, deadline: float) -> dict[str, Any]:
        """The answer to the last request; a late one to a request that was given up is passed over."""
        while (answer := json.loads(self._line(deadline)))["id"] != self._serial:
            pass
        if not answer["ok"]:
            raise RtspError(answer["error"])
        return cast(dict[str, Any], answer)

    def _line(self, deadline: float) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        out = self._process.stdout
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([out], [], [], left)[0]:
                raise RtspError(f"no answer from the RTSP server{self._complaints()}")
            chunk = os.read(out.fileno(), 1 << 16)
            if not chunk:
                raise RtspError(f"the RTSP server is dead{self._complaints()}")
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _complaints(self) -> str:
        if self._stderr is None:
            return ""
        self._stderr.seek(0)
        text = self._stderr.read().decode(errors="replace").strip()
        return f"; it said:\n{text}" if text else ""


def _files(stream: str | Path | Sequence[str | Path]) -> list[str]:
    return [str(stream)] if isinstance(stream, str | Path) else [str(s) for s in stream]
