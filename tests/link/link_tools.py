"""Hosts for the tests of the link: each a runtime directory, and `valkka-async link` in a process. Without a
network namespace of its own a host is this machine, and its address 127.0.0.1."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

import valkka_async as va
from support.program import Child, Process, processes
from support.require import missing
from support.stream import free_port
from support.until import wait_for
from valkka_async import typed
from valkka_async.errors import ValkkaError
from valkka_async.link.status import ImportStatus, LinkStatus, PeerState, PeerStatus
from valkka_async.service.control import ask

T = TypeVar("T")


class Host:
    """`link` is the section of the config, without `host`. With a `config` besides it is for `run`."""

    def __init__(
        self, name: str, namespace: str | None = None, config: dict[str, Any] | None = None, **link: Any
    ) -> None:
        self._config = config
        self.name = name
        self.directory = Path(tempfile.mkdtemp(prefix="va-"))
        self.link = link
        self.process: Process | None = None
        self._enter = ["ip", "netns", "exec", namespace] if namespace else []

    def start(self) -> None:
        config = self.directory / "link.yaml"
        config.write_text(json.dumps({"link": {"host": self.name, **self.link}, **(self._config or {})}))
        verb = "link" if self._config is None else "run"
        command = [*self._enter, sys.executable, "-m", "valkka_async", verb, str(config)]
        self.process = Process(
            command, env={**os.environ, "VALKKA_RUNTIME_DIR": str(self.directory)}, gentle=True
        )

    def stop(self) -> None:
        """As Ctrl-C does."""
        if self.process is not None:
            status, errors = self.process.end()
            assert status == 0 and "Traceback" not in errors, errors
            self.process.__exit__(None, None, None)
            self.process = None

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.__exit__(None, None, None)
            self.process = None

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """This process is a program of that host."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VALKKA_RUNTIME_DIR", str(self.directory))
            yield

    def status(self) -> LinkStatus:
        with self.here():
            answer = ask(self.name, "status", 5, "link")
        if answer is None:
            raise ValkkaError("no link runs there")
        return typed.decode(LinkStatus, answer)

    def sees(self, name: str) -> PeerStatus:
        """Another host, as this one sees it."""
        return next(peer for peer in self.status().peers if peer.name == name)

    def camera(self, name: str) -> ImportStatus | None:
        """Another host's camera, as this one has it."""
        every = (camera for peer in self.status().peers for camera in peer.imports)
        return next((camera for camera in every if camera.name == name), None)

    def eventually(self, condition: Callable[[], T], seconds: float = 90.0) -> T:
        """Wait until it holds, however long the link takes to start."""

        def look() -> T | None:
            try:
                return condition()
            except (ValkkaError, TimeoutError, StopIteration):
                return None

        found = wait_for(look, seconds, pause=0.05)
        assert found is not None
        return found

    def finds(self, host: str, state: PeerState = PeerState.LIVE) -> None:
        self.eventually(lambda: self.sees(host).state is state)

    def reads(self, name: str) -> va.Reader:
        """Attached to a ring of this host, in order. Only within here()."""
        return va.attach(name, policy="ordered", open_timeout=90)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.signal(signal.SIGCONT)
            self.process.__exit__(None, None, None)
        wait_for(lambda: not processes(self.directory))  # a worker ends with its link
        shutil.rmtree(self.directory)


@contextlib.contextmanager
def pair(**of_garage: Any) -> Iterator[tuple[Host, Host]]:
    """The host "garage", which has cameras, and "attic", which reads them."""
    port = free_port()
    peers = {"attic": {"export": ["cam*"], **of_garage}}
    garage = Host("garage", listen=[f"tcp/127.0.0.1:{port}"], peers=peers)
    attic = Host("attic", peers={"garage": {"connect": [f"tcp/127.0.0.1:{port}"]}})
    with garage, attic:
        yield garage, attic


@contextlib.contextmanager
def camera(host: Host, clip: Path, name: str = "cam1") -> Iterator[va.Camera]:
    """A camera of that host, in this process, whose packets have a ring and nothing is decoded."""
    with host.here():
        made = va.Camera(name, clip, [va.Output(f"{name}.packets", "packets")])
    with made:
        yield made


CAMERAS = """
import json
cameras = []
for name, clip in json.loads({clips!r}).items():
    cameras.append(va.Camera(name, clip, [va.Output(name + ".packets", "packets")]))
say("there")
sys.stdin.read()
for camera in cameras:
    camera.close()
"""


@contextlib.contextmanager
def cameras(host: Host, **clips: Path) -> Iterator[None]:
    """Cameras of that host, in a process of their own: for tests that share them."""
    with host.here():
        child = Child(CAMERAS.format(clips=json.dumps({name: str(clip) for name, clip in clips.items()})))
    with child:
        child.match("there")
        yield
        child.end_input()
        child.wait()


RINGS = """
import av
with av.open({clip!r}) as source:
    units = [(bytes(packet), packet.is_keyframe) for packet in source.demux(video=0) if packet.size]
servers = [va.serve(f"cam{{number}}", slots=64, backlog="gop") for number in range({count})]
say("there")
began, number = time.monotonic(), 0
while os.getppid() != 1:
    time.sleep(max(0.0, began + number / {fps} - time.monotonic()))
    data, key = units[number % len(units)]
    for server in servers:
        server.publish(data, format="h264", key=key, pts=number, dts=number, time_base=(1, {fps}))
    number += 1
"""


@contextlib.contextmanager
def rings(host: Host, clip: Path, count: int, fps: int) -> Iterator[None]:
    """cam0, cam1 ... of that host: as cameras that cost nothing, with all frames at the same moments."""
    with host.here():
        child = Child(RINGS.format(clip=str(clip), count=count, fps=fps))
    with child:
        child.match("there")
        yield


def fresh(reader: va.Reader, seconds: float = 90.0) -> None:
    """Read until there is a frame of this moment."""
    since, deadline = time.time(), time.monotonic() + seconds
    while True:
        with reader.recv(max(0.0, deadline - time.monotonic())) as frame:
            if frame.timestamp_ns / 1e9 > since:
                return


def certificates(folder: Path, *names: str) -> dict[str, dict[str, str]]:
    """For each host the section `certificates`, signed by one authority; "stranger" by another one."""
    if shutil.which("openssl") is None:
        missing("openssl makes the certificates")

    def run(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for authority in ("authority", "other"):
        run(
            *["req", "-x509", *curve, "-subj", f"/CN={authority}", "-days", "2"],
            *["-addext", "basicConstraints=critical,CA:TRUE"],
            *["-keyout", f"{authority}.key", "-out", f"{authority}.pem"],
        )
    made = {}
    (folder / "extensions").write_text(
        "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"
        "basicConstraints=CA:FALSE\n"
    )
    for name in names:
        by = "other" if name == "stranger" else "authority"
        run("req", *curve, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        run(
            *["x509", "-req", "-in", f"{name}.csr", "-CA", f"{by}.pem", "-CAkey", f"{by}.key"],
            *["-CAcreateserial", "-days", "2", "-extfile", "extensions", "-out", f"{name}.pem"],
        )
        made[name] = {
            "certificate": str(folder / f"{name}.pem"),
            "key": str(folder / f"{name}.key"),
            "authority": str(folder / "authority.pem"),
        }
    return made
