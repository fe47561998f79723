"""Long runs, by `make stress`. Each prints what it has measured."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from link_tools import Host, certificates, pair, rings
from networks import star

from support.footage import encode
from support.program import Child
from support.stream import free_port
from valkka_async.link.status import PeerState

SECONDS = float(os.environ.get("VALKKA_SOAK_SECONDS", "600"))
JOINS = 1000
TOGETHER = 20  # cameras that are joined and left at once
HOSTS, CAMERAS, FPS = 4, 10, 5
PER_JOIN = 1_000  # bytes, in the second half: a key that Zenoh had not seen before leaves 1.4 KB at each host
PER_HOST = 5_000
NOTICED = 3.0  # s

pytestmark = [pytest.mark.long, pytest.mark.timeout(3 * SECONDS + 1800)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames a second, as many as two cores bear of forty cameras."""
    folder = tmp_path_factory.mktemp("soak")
    return encode(folder / "tiny.h264", size=(160, 90), frames=600, fps=FPS, gop=2 * FPS)


def memory(host: Host) -> int:
    """Bytes that its link holds, and its decoder not."""
    assert host.process is not None
    status = Path(f"/proc/{host.process.pid}/status").read_text()
    return int(re.findall(r"RssAnon:\s*(\d+)", status)[0]) * 1024


def test_a_thousand_joins_and_leaves_leave_memory_flat(tiny: Path) -> None:
    names = [f"cam{number}" for number in range(TOGETHER)]
    with pair() as (garage, attic), rings(garage, tiny, TOGETHER, FPS):
        attic.eventually(lambda: all(attic.camera(f"garage/{name}") for name in names))
        held: list[tuple[int, int]] = []
        for _ in range(JOINS // TOGETHER):
            with attic.here(), contextlib.ExitStack() as stack:
                readers = [stack.enter_context(attic.reads(f"garage/{name}/packets")) for name in names]
                for reader in readers:
                    reader.recv(60).release()
                assert len(garage.sees("attic").exports) == TOGETHER
            garage.eventually(lambda: garage.sees("attic").exports == ())
            held.append((memory(garage), memory(attic)))
        warm = len(held) // 2
        grown = [
            (after - before) / (JOINS - warm * TOGETHER)
            for before, after in zip(held[warm], held[-1], strict=True)
        ]
        print(f"bytes for each of {JOINS} joins: {grown[0]:.0f} at the sender, {grown[1]:.0f} at the reader")
        assert max(grown) < PER_JOIN


GUEST = """
import json, zenoh
config = {{"mode": "peer", "connect": {{"endpoints": ["{at}"]}},
           "scouting": {{"multicast": {{"enabled": False}}, "gossip": {{"enabled": False}}}}}}
for number in range({count}):
    with zenoh.open(zenoh.Config.from_json5(json.dumps(config))) as session:
        token = session.liveliness().declare_token(f"va/live/attic/1/{{number:x}}")
        say("there")
        sys.stdin.readline()
    sys.stdin.readline()
"""


def test_hosts_that_come_and_go_leave_memory_flat() -> None:
    count = JOINS // 5
    at = f"tcp/127.0.0.1:{free_port()}"
    with Host("garage", listen=[at], peers={"attic": {"export": ["cam*"]}}) as garage:
        with Child(GUEST.format(at=at, count=count)) as guest:
            held = []
            for _ in range(count):
                guest.match("there")
                garage.finds("attic")
                guest.tell("")
                garage.finds("attic", PeerState.AWAY)
                guest.tell("")
                held.append(memory(garage))
        warm = count // 4
        grown = (held[-1] - held[warm]) / (count - warm)
        print(f"bytes for each of {count} hosts: {grown:.0f}")
        assert grown < PER_HOST


def test_the_first_frame_of_a_long_gop_comes_at_once(clip: Path) -> None:
    """Cameras that nobody has read before, in GOPs of ten seconds: for the next key frame one would wait five
    seconds, most often."""
    took = []
    with pair() as (garage, attic), rings(garage, clip, TOGETHER, 25), attic.here():
        attic.eventually(lambda: all(attic.camera(f"garage/cam{number}") for number in range(TOGETHER)))
        with attic.reads("garage/cam0") as reader:  # its process decodes
            reader.recv(60).release()
        for number in range(1, TOGETHER):
            since = time.monotonic()
            with attic.reads(f"garage/cam{number}") as reader, reader.recv(60) as frame:
                took.append(time.monotonic() - since)
                assert frame.age < 2.0, "not the key frame"
    print(f"first decoded frame after {statistics.median(took) * 1e3:.0f} ms, {max(took) * 1e3:.0f} at most")
    assert statistics.median(took) < 1.0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_host_that_says_nothing_is_noticed(how: signal.Signals) -> None:
    with pair() as (garage, attic):
        attic.finds("garage")
        assert garage.process is not None
        at = time.time_ns()
        garage.process.signal(how)
        attic.finds("garage", PeerState.AWAY)
        noticed = (attic.sees("garage").since_ns - at) / 1e9
        print(f"{how.name}: noticed after {noticed * 1e3:.0f} ms")
        assert noticed < NOTICED


@pytest.fixture
def five(tiny: Path, tmp_path: Path) -> Iterator[tuple[Host, list[Host]]]:
    """A host in the middle that reads four others, which have ten cameras each."""
    others = [f"host{number}" for number in range(1, HOSTS + 1)]
    with star(HOSTS) as network, contextlib.ExitStack() as stack:
        files = certificates(tmp_path, "middle", *others)
        at = "tls/10.213.7.1:7447"
        middle = Host(
            "middle",
            network.names[0],
            listen=[at],
            certificates=files["middle"],
            peers={name: {} for name in others},
        )
        hosts = [
            Host(name, where, certificates=files[name], peers={"middle": {"connect": [at], "export": ["*"]}})
            for name, where in zip(others, network.names[1:], strict=True)
        ]
        stack.enter_context(middle)
        for host in hosts:
            stack.enter_context(host)
            stack.enter_context(rings(host, tiny, CAMERAS, FPS))
        yield middle, hosts


def soak(reading: Host, sending: list[Host], cameras: int, fps: int) -> None:
    """All cameras' packets, one camera of each host decoded too, and the packets of the first host's where
    they are sent, to compare with."""
    sent = [f"{host.name}/cam{number}/packets" for host in sending for number in range(cameras)]
    decoded = [f"{host.name}/cam0" for host in sending]
    there = [f"cam{number}" for number in range(cameras)]
    count = dict.fromkeys(sent + decoded + there, 0)
    ages: dict[str, list[float]] = {"packets": [], "decoded": [], "where they are sent": []}
    kinds = dict.fromkeys(sent, "packets") | dict.fromkeys(decoded, "decoded")
    lost = missed = 0
    with contextlib.ExitStack() as stack:
        poll = stack.enter_context(selectors.DefaultSelector())
        for host, rings in ((reading, sent + decoded), (sending[0], there)):
            with host.here():
                for ring in rings:
                    reader = stack.enter_context(host.reads(ring))
                    poll.register(reader.fileno(), selectors.EVENT_READ, reader)
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            for key, _ in poll.select(1.0):
                while (frame := key.data.recv_nowait()) is not None:
                    with frame:
                        count[frame.source] += 1
                        lost += frame.meta.get("link", {}).get("lost", 0)
                        missed += frame.dropped  # here
                        if count[frame.source] > 10 * fps:
                            ages[kinds.get(frame.source, "where they are sent")].append(frame.age)
        status = reading.status()
    imports = [camera for peer in status.peers for camera in peer.imports]
    print(
        f"{SECONDS:.0f} s, {len(count)} rings, {sum(count.values())} frames; {lost} lost, {missed} missed by "
        f"the reader; memory of the reading link {memory(reading) / 1e6:.0f} MB; ages in ms, p50, p99, p99.9:"
    )
    for kind, seconds in ages.items():
        cuts = statistics.quantiles(seconds, n=1000)
        print(f"  {kind}: " + ", ".join(f"{cuts[at] * 1e3:.1f}" for at in (499, 989, 998)))
    assert lost == 0
    assert [camera.name for camera in imports if camera.lost or camera.refused] == []
    assert all(peer.state is PeerState.LIVE for peer in status.peers)
    assert min(count.values()) > 0.9 * fps * SECONDS


def test_five_hosts_with_forty_cameras_lose_nothing(five: tuple[Host, list[Host]]) -> None:
    soak(*five, CAMERAS, FPS)


def test_two_hosts_with_sixteen_cameras_lose_nothing(tmp_path: Path) -> None:
    """Across a cable, with certificates."""
    fps = 10
    clip = encode(tmp_path / "clip.h264", size=(320, 180), frames=60 * fps, fps=fps, gop=2 * fps)
    with star(1) as network, contextlib.ExitStack() as stack:
        files = certificates(tmp_path, "attic", "garage")
        at = "tls/10.213.7.1:7447"
        attic = Host(
            "attic", network.names[0], listen=[at], certificates=files["attic"], peers={"garage": {}}
        )
        garage = Host(
            "garage",
            network.names[1],
            certificates=files["garage"],
            peers={"attic": {"connect": [at], "export": ["*"]}},
        )
        stack.enter_context(attic)
        stack.enter_context(garage)
        stack.enter_context(rings(garage, clip, 16, fps))
        soak(attic, [garage], 16, fps)
