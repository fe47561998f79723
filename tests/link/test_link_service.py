"""A link as part of a service, its limit, and what doctor says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from link_tools import Host, camera, free_port, pair

from support.program import run
from valkka_async.link.status import ImportStatus

pytestmark = pytest.mark.timeout(300)  # several programs have to start


def test_run_exports_its_cameras_and_ends_the_link_with_itself(short: Path) -> None:
    """`link:` in the config of `run`: the camera gets a ring of packets, and the link a process."""
    at = [f"tcp/127.0.0.1:{free_port()}"]
    cameras = {"cam1": {"url": str(short), "live": False, "outputs": []}, "yard": {"url": str(short)}}
    service = Host(
        "garage",
        config={"web": False, "cameras": cameras},
        listen=at,
        peers={"attic": {"export": ["cam*"]}},
    )
    with service, Host("attic", peers={"garage": {"connect": at}}) as attic:
        with attic.here(), attic.reads("garage/cam1") as reader:
            reader.recv(60).release()
        assert attic.camera("garage/yard") is None
        assert service.status().offered == ("cam1",)


def test_a_limit_lets_key_frames_through_and_says_so(short: Path) -> None:
    """The clip has 25 frames a second, the limit is about a key frame in two seconds."""
    size = max(8000, short.stat().st_size // 1500 * 10)
    with pair(max_rate=size) as (garage, attic), camera(garage, short), attic.here():
        with attic.reads("garage/cam1/packets") as reader:
            keys = 0  # one after the other, of which the clip has none
            for _ in range(3000):
                with reader.recv(60) as frame:
                    keys = keys + 1 if frame.key else 0
                if keys == 3:
                    break
        assert keys == 3
        seen = attic.eventually(lambda: (one := attic.camera("garage/cam1")) and one.limited and one)
        assert isinstance(seen, ImportStatus) and seen.lost == 0
        attic.eventually(lambda: garage.sees("attic").exports[0].limited)


def test_doctor_has_a_line_for_each_host(short: Path) -> None:
    with pair() as (garage, attic), camera(garage, short), attic.here():
        attic.eventually(lambda: attic.camera("garage/cam1"))
        checks = {check["name"]: check for check in json.loads(run("doctor", "--json").stdout)["checks"]}
        assert checks["link attic"]["state"] == "ok" and checks["host garage"]["state"] == "ok"
        shown = run("link", "--status")
        assert shown.returncode == 0 and "garage: live" in shown.stdout
        garage.stop()
        attic.eventually(lambda: attic.sees("garage").cause)
        checks = {check["name"]: check for check in json.loads(run("doctor", "--json").stdout)["checks"]}
        assert checks["host garage"]["state"] == "warning" and checks["host garage"]["fix"]


@pytest.mark.parametrize("arguments", [(), ("--status",), ("missing.yaml",)])
def test_a_link_that_cannot_be_started_says_why(arguments: tuple[str, ...]) -> None:
    done = run("link", *arguments)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr and done.stderr
