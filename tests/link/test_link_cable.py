"""Two hosts that are two network namespaces with a cable between them, which is cut. It takes root, or a
kernel that lets anybody make namespaces; elsewhere these tests are skipped, and those on loopback addresses
stand alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from link_tools import Host, cameras, certificates, fresh

import valkka_async as va
from valkka_async.link.status import PeerState

pytestmark = pytest.mark.timeout(300)  # several programs have to start


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Cable:
    """Two namespaces, 10.213.7.1 and 10.213.7.2."""

    def __init__(self) -> None:
        self.ends = [f"va{os.getpid()}{end}" for end in "ab"]

    def __enter__(self) -> Cable:
        for name in self.ends:
            ip("netns", "add", name)
        a, b = self.ends
        ip("link", "add", "va0", "netns", a, "type", "veth", "peer", "name", "va0", "netns", b)
        for number, name in enumerate(self.ends, 1):
            ip("-n", name, "address", "add", f"10.213.7.{number}/24", "dev", "va0")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "va0", "up")
        return self

    def cut(self) -> None:
        ip("-n", self.ends[0], "link", "set", "va0", "down")

    def mend(self) -> None:
        ip("-n", self.ends[0], "link", "set", "va0", "up")

    def __exit__(self, *_: object) -> None:
        for name in self.ends:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.fixture(scope="module")
def cable() -> Iterator[Cable]:
    if shutil.which("ip") is None:
        pytest.skip("no cable is cut: there is no `ip`")
    try:
        with Cable() as made:
            yield made
    except subprocess.CalledProcessError as e:
        pytest.skip(f"no cable is cut: no network namespaces here ({e.stderr.strip()})")


@pytest.fixture(scope="module")
def hosts(cable: Cable, short: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    files = certificates(tmp_path_factory.mktemp("certificates"), "garage", "attic")
    at = "tls/10.213.7.1:7447"
    a, b = cable.ends
    garage = Host("garage", a, listen=[at], certificates=files["garage"], peers={"attic": {"export": ["*"]}})
    attic = Host("attic", b, certificates=files["attic"], peers={"garage": {"connect": [at]}})
    with garage, attic, cameras(garage, cam1=short):
        yield garage, attic


@pytest.mark.parametrize("seconds", [1, 4, pytest.param(60, marks=pytest.mark.long)])
def test_a_cable_that_was_out_is_forgotten(cable: Cable, hosts: tuple[Host, Host], seconds: float) -> None:
    garage, attic = hosts
    with attic.here():
        with va.attach("garage/cam1/packets", policy="ordered", open_timeout=90) as reader:
            fresh(reader)
            cable.cut()
            if seconds > 3:
                attic.finds("garage", PeerState.AWAY)
                garage.finds("attic", PeerState.AWAY)
            time.sleep(seconds)
            cable.mend()
            fresh(reader)  # the same reader, and the same ring
            attic.finds("garage")
            garage.finds("attic")
            assert len(garage.sees("attic").exports) == 1
            status = attic.camera("garage/cam1")
            assert status is not None and status.refused == 0
