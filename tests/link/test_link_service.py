"""A link as part of a service, its limit, and what doctor says of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from link_tools import Host, camera, certificates, pair

import valkka_async as va
from support.chromium import chromium
from support.footage import encode
from support.program import Child, run
from support.stream import free_port
from support.until import wait_for
from valkka_async.cli.doctor.certificates import Shown
from valkka_async.cli.doctor.check import OK, PROBLEM, WARNING, Check
from valkka_async.cli.doctor.link import links
from valkka_async.cli.reports import MOST_ASKED
from valkka_async.link.spec import Certificates, Endpoint
from valkka_async.link.status import ExportStatus, ImportStatus, Level, LinkStatus, PeerState, PeerStatus
from valkka_async.ring.connection import report
from valkka_async.ring.rendezvous import runtime_dir, socket_path
from valkka_async.ring.server import Server

RING: dict[str, Any] = {
    "slots": 4, "max_clients": 4, "mode": 0o600, "group": None, "backlog": None, "backlog_bytes": 1,
    "watch": "thread",
}  # fmt: skip

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


def test_a_limit_below_key_frames_gives_the_smaller_stream_and_says_so(tmp_path: Path) -> None:
    """All of whose frames fit: under the camera's name, and nothing is lost by that."""
    large = encode(tmp_path / "large.h264", size=(640, 360), gop=5)
    tiny = encode(tmp_path / "tiny.h264", size=(64, 48))
    with av.open(str(tiny)) as source:
        units = {bytes(packet) for packet in source.demux(video=0) if packet.size}
    with pair(max_rate=large.stat().st_size // 8) as (garage, attic), garage.here():
        outputs = [va.Output(f"cam1.{stream}", "packets", stream=stream) for stream in ("main", "sub")]
        with va.Camera("cam1", streams={"main": large, "sub": tiny}, outputs=outputs), attic.here():
            with attic.reads("garage/cam1/packets") as reader:
                small = 0  # one after the other
                for _ in range(3000):
                    with reader.recv(60) as frame:
                        small = small + 1 if bytes(frame.data) in units else 0
                    if small == 8:
                        break
                assert small == 8
                garage.eventually(lambda: garage.sees("attic").level == Level.SMALLER)
        seen = attic.camera("garage/cam1")
        assert seen is not None and seen.lost == 0


def test_metadata_go_where_the_config_says_so_and_are_bounded(short: Path) -> None:
    """cam1.boxes is given to attic by a pattern, the other ring is not."""
    with pair(metadata=["*.boxes"]) as (garage, attic), garage.here():
        with va.serve("cam1.boxes", slots=256) as boxes, va.serve("cam1.faces") as faces:
            for server in (boxes, faces):
                server.publish(b"[]")
            attic.eventually(lambda: attic.camera("garage/cam1.boxes"))
            with attic.here(), va.attach("garage/cam1.boxes", policy="ordered", open_timeout=90) as reader:
                assert bytes(reader.recv(60).data) == b"[]", "the newest at once"
                boxes.publish(bytes(100_000))  # too large
                boxes.publish(b"[1]", meta={"by": "people"})
                with reader.recv(60) as frame:
                    assert bytes(frame.data) == b"[1]" and frame.format == "bytes"
                    assert frame.meta["by"] == "people" and frame.meta["link"]["host"] == "garage"
                assert attic.camera("garage/cam1.faces") is None
                with pytest.raises(TimeoutError):
                    va.attach("garage/cam1.faces", open_timeout=0.5)
                attic.eventually(lambda: (one := attic.camera("garage/cam1.boxes")) and one.limited == 1)
                seen = attic.camera("garage/cam1.boxes")
                assert seen is not None and seen.lost == 0
                for _ in range(250):
                    boxes.publish(b"[2]")
                sent = garage.eventually(
                    lambda: (one := garage.sees("attic").exports[0]).limited > 99 and one
                )
                assert isinstance(sent, ExportStatus) and sent.sent < 210


def test_the_page_names_cameras_of_other_hosts_and_has_a_snapshot_when_asked(
    short: Path, tmp_path: Path
) -> None:
    at, port = [f"tcp/127.0.0.1:{free_port()}"], free_port()
    url = f"http://127.0.0.1:{port}/"
    garage = Host("garage", listen=at, peers={"attic": {"export": ["cam*"]}})
    attic = Host("attic", config={"web": {"port": port}}, peers={"garage": {"connect": at}})

    def names() -> list[str]:
        try:
            with urllib.request.urlopen(url + "api/hosts", timeout=30) as answer:
                found: list[str] = json.load(answer)["cameras"]
                return found
        except OSError:  # it is being started
            return []

    with garage, attic, camera(garage, short), chromium(tmp_path) as browser:
        wait_for(lambda: names() == ["garage/cam1"], 90, pause=0.1)
        assert garage.sees("attic").exports == (), "names are all that is read"
        with browser.page(url) as page:
            page.until("document.querySelector('#hosts button')?.textContent === 'garage/cam1'")
            page.value("document.querySelector('#hosts button').click()")
            page.until("document.querySelector('#hosts img').naturalWidth === 320")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url + "api/hosts/garage/cam2/snapshot.jpg", timeout=30)
        with refused.value as answer:
            assert answer.code == 404


def checks() -> dict[str, Check]:
    """What doctor says of links, without all that it measures besides."""
    return {check.name: check for check in links()}


def test_doctor_looks_at_both_ends(short: Path, tmp_path: Path) -> None:
    files = certificates(tmp_path, "garage", "attic", "stranger")
    at = [f"tls/127.0.0.1:{free_port()}"]
    garage = Host("garage", listen=at, certificates=files["garage"], peers={"attic": {"export": ["cam*"]}})
    attic = Host("attic", certificates=files["attic"], peers={"garage": {"connect": at}})
    with garage, attic, camera(garage, short), attic.here():
        attic.eventually(
            lambda: attic.camera("garage/cam1") and attic.sees("garage").clock_offset_ns is not None
        )
        shown = run("link", "--status")
        assert shown.returncode == 0 and "garage: live" in shown.stdout
        found = checks()
        assert found["link attic"].state == found["host garage"].state == OK
        assert "garage/cam1" in found["host garage"].found and "clock" in found["host garage"].found
        # They are valid for two days.
        assert found["certificate attic"].state == found["certificate garage"].state == WARNING
        for name in ("certificate", "key"):
            Path(files["attic"][name]).write_bytes(Path(files["stranger"][name]).read_bytes())
        found = checks()
        assert found["certificate attic"].state == PROBLEM, "by another authority"
        assert found["certificate garage"].state == WARNING and found["certificate garage"].fix
        garage.stop()
        attic.eventually(lambda: attic.sees("garage").cause)
        found = checks()
        assert found["host garage"].state == found["certificate garage"].state == WARNING
        assert found["host garage"].fix


def doctored(monkeypatch: pytest.MonkeyPatch, *peers: PeerStatus, raw: tuple[str, ...] = ()) -> None:
    """There is such a link here, as far as it says."""
    files = ("certificate.pem", "key.pem", "authority.pem")
    made = LinkStatus("attic", 1, True, files, "", raw, raw, peers)
    monkeypatch.setattr("valkka_async.cli.doctor.link.statuses", lambda: [made])
    monkeypatch.setattr("valkka_async.cli.doctor.link._WATCHED", 0.0)


def test_doctor_asks_rings_side_by_side_and_those_that_hang_hide_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each answers when all have been asked, besides those that never do."""
    names = tuple(f"{what}{number}" for number in range(20) for what in ("hangs", "yard"))
    asked: list[str] = []

    async def ask(name: str) -> dict[str, object] | None:
        asked.append(name)
        while len(asked) < len(names) or name.startswith("hangs"):
            await asyncio.sleep(0)
        return real

    with va.serve("yard") as server:
        server.publish(np.zeros((100, 100, 3), np.uint8))
        real = report("yard", 30)
    monkeypatch.setattr("valkka_async.ring.asking.ask", ask)
    doctored(monkeypatch, raw=names)
    found = checks()
    assert len(asked) == len(names) * 3 // 2, "what hangs is asked once"
    for name in names:
        said = found[f"raw frames {name}"]
        assert ("0.03 MB" in said.found) is (said.state == OK) is name.startswith("yard")


def test_doctor_asks_no_more_rings_at_once_than_there_are_descriptors_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = most = 0

    async def ask(name: str) -> None:
        nonlocal now, most
        now += 1
        most = max(now, most)
        await asyncio.sleep(0)
        now -= 1

    monkeypatch.setattr("valkka_async.ring.asking.ask", ask)
    for limit, asked in ((64, 16), (1 << 20, MOST_ASKED)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, limit=limit: (limit, limit))
        doctored(monkeypatch, raw=tuple(f"yard{number}" for number in range(1000)))
        most = 0
        assert str(1000 - asked) in checks()["raw frames"].found and most == asked


def test_doctor_looks_at_other_ends_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shows its certificate when all have been asked."""
    together = threading.Barrier(5)

    def theirs(endpoint: Endpoint, files: Certificates) -> Shown:
        together.wait(30)
        return Shown(endpoint.host, time.time() + 1e8)

    names = [f"host{number}" for number in range(5)]
    monkeypatch.setattr("valkka_async.cli.doctor.certificates.theirs", theirs)
    monkeypatch.setattr("valkka_async.cli.doctor.certificates.own", lambda files: Shown("attic", 1e12))
    doctored(
        monkeypatch,
        *(
            PeerStatus(
                *(name, (f"tls/{name}:7447",), PeerState.LIVE, None, "", 0, "0a"),
                *(None, None, 0, 0, 0, (), ()),
            )
            for name in names
        ),
    )
    found = checks()
    assert [found[f"certificate {name}"].state for name in names] == [OK] * 5


@pytest.mark.parametrize("arguments", [(), ("--status",), ("missing.yaml",)])
def test_a_link_that_cannot_be_started_says_why(arguments: tuple[str, ...]) -> None:
    done = run("link", *arguments)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr and done.stderr


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"format": "nv12", "size": [640, 360], "fps": 10}, "3.5 MB/s"),
        ({"format": "gray16", "size": [640, 360]}, "0.46 MB for each frame"),
        ({"format": "rgb24", "fps": 10}, "give it a size"),
        ({"format": "rgb24", "size": [1920, 1080], "fps": 10}, "max_rate of 50.0 MB/s"),
        ({"format": "jpeg", "size": [640, 360], "fps": 10}, "`valkka-async doctor`"),
    ],
)
def test_check_says_what_raw_frames_would_take(output: dict[str, object], said: str, tmp_path: Path) -> None:
    """As far as the config says it; of rings that run now, the size."""
    config = {
        "cameras": {"cam1": {"url": "lavfi:testsrc", "outputs": [{"name": "yard.small", **output}]}},
        "link": {
            "host": "garage",
            "listen": ["tcp/127.0.0.1:7447"],
            "peers": {"attic": {"raw": ["yard.*"], "max_rate": 50e6}, "cellar": {"export": ["*"]}},
        },
    }
    file = tmp_path / "link.yaml"
    file.write_text(json.dumps(config))
    checked = run("run", "--check", str(file))
    assert checked.returncode == 0 and said in checked.stdout, checked
    with va.serve("yard.depth") as depth:
        depth.publish(np.zeros((100, 100), np.float32))
        seen = "yard.depth: array, now 0.04 MB for each frame"  # a busy machine may answer too late
        shown = wait_for(lambda: seen in (said := run("run", "--check", str(file)).stdout) and said)
    assert "cellar.raw" not in shown


def test_check_leaves_out_rings_of_other_hosts_and_what_hangs(tmp_path: Path) -> None:
    """However many these are."""
    config = {"link": {"host": "a", "listen": ["tcp/127.0.0.1:7447"], "peers": {"attic": {"raw": ["*"]}}}}
    file = tmp_path / "link.yaml"
    file.write_text(json.dumps(config))
    with contextlib.ExitStack() as stack:
        for name in ("yard", "kitchen/yard"):
            server = stack.enter_context(Server(name, **RING))
            server.publish(np.zeros((100, 100), np.float32))
        for number in range(40):
            hanging = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            hanging.bind(path := socket_path(runtime_dir(), f"hanging{number}"))
            stack.callback(os.unlink, path)
            hanging.listen()
        checked = run("run", "--check", str(file))
    assert checked.returncode == 0, checked
    assert [line for line in checked.stdout.splitlines() if "attic.raw" in line] == [
        f"{file}: link.peers.attic.raw: yard: array, now 0.04 MB for each frame"
    ]


def test_events_reach_another_host_that_may_have_them(short: Path) -> None:
    listener = """
    async def main():
        async with va.events("garage/*", codes="person") as happening:
            say(*happening.stats().rings)
            for number in range(20):
                event = await happening.recv()
                say(event.camera, event.source, event.fields["number"], event.missed)
    asyncio.run(main())
    """
    with pair(metadata=["*.events"]) as (garage, attic), garage.here():
        with va.serve("cam1.people") as server:
            assert server.emit("ready")
            attic.eventually(lambda: attic.camera("garage/cam1.people.events"))
            with attic.here():
                child = Child(listener)
            with child:
                assert child.line() == "garage/cam1.people"
                wait_for(lambda: (said := report("cam1.people.events", 1.0)) and said["readers"])
                for number in range(20):
                    assert server.emit("person", camera="front", number=number)
                for number in range(20):
                    assert child.line() == f"garage/front garage/cam1.people {number} 0"
