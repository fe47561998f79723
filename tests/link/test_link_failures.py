"""What becomes of a link when a host dies, freezes, comes back, has a twin, another version, or is none."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from link_tools import Host, camera, cameras, fresh, pair

import valkka_async as va
from support.program import Child, run
from support.stream import free_port
from valkka_async.link.faults import Fault
from valkka_async.link.status import PeerCause, PeerState

pytestmark = pytest.mark.timeout(300)  # several programs have to start

# A host that is nothing but its token: valid for as long as its standard input is open.
TOKEN = """
import zenoh, json

config = {{"mode": "peer", "connect": {{"endpoints": ["tcp/127.0.0.1:{port}"]}},
           "scouting": {{"multicast": {{"enabled": False}}, "gossip": {{"enabled": False}}}}}}
session = zenoh.open(zenoh.Config.from_json5(json.dumps(config)))
tokens = [session.liveliness().declare_token(key) for key in {keys!r}]
say("there")
sys.stdin.read()
session.close()
"""


def stranger(port: int, *keys: str) -> Child:
    child = Child(TOKEN.format(port=port, keys=list(keys)))
    child.match("there")
    return child


@pytest.fixture(scope="module")
def three(short: Path) -> Iterator[tuple[Host, Host, Host]]:
    """The garage, whose camera attic and cellar read. Each test leaves them as they were."""
    port = free_port()
    peers = {name: {"export": ["*"]} for name in ("attic", "cellar")}
    to_garage = {"garage": {"connect": [f"tcp/127.0.0.1:{port}"]}}
    with (
        Host("garage", listen=[f"tcp/127.0.0.1:{port}"], peers=peers) as garage,
        Host("attic", peers=to_garage) as attic,
        Host("cellar", peers=to_garage) as cellar,
        cameras(garage, cam1=short),
    ):
        yield garage, attic, cellar


def test_after_a_kill_of_either_host_reading_goes_on(short: Path) -> None:
    """Under the same name, with the same reader."""
    with pair() as (garage, attic), camera(garage, short), attic.here():
        with va.attach("garage/cam1/packets", policy="ordered", open_timeout=90, reconnect=True) as reader:
            fresh(reader)
            garage.kill()
            attic.finds("garage", PeerState.AWAY)
            assert attic.sees("garage").cause in (PeerCause.SILENT, PeerCause.UNREACHABLE)
            garage.start()
            fresh(reader)
            status = attic.camera("garage/cam1")
            assert status is not None and status.lost == 0, "a restart is no loss"
            assert attic.sees("garage").cause is None

            attic.kill()
            garage.eventually(lambda: garage.sees("attic").exports == ())
            attic.start()
            fresh(reader)
            with va.attach("garage/cam1", open_timeout=90) as pixels:  # the worker's ring has its name again
                pixels.recv(60).release()


def test_a_host_that_is_frozen_is_away_and_goes_on(three: tuple[Host, Host, Host]) -> None:
    garage, attic, _ = three
    with attic.here(), attic.reads("garage/cam1/packets") as reader:
        fresh(reader)
        assert garage.process is not None
        garage.process.signal(signal.SIGSTOP)
        attic.finds("garage", PeerState.AWAY)
        garage.process.signal(signal.SIGCONT)
        fresh(reader)
        attic.finds("garage")


def test_a_frozen_reader_costs_another_one_nothing(three: tuple[Host, Host, Host]) -> None:
    _, attic, cellar = three
    with cellar.here(), cellar.reads("garage/cam1/packets") as other:
        fresh(other)
        with attic.here(), attic.reads("garage/cam1/packets") as reader:
            fresh(reader)
            before = attic.camera("garage/cam1")
            assert cellar.process is not None and before is not None
            cellar.process.signal(signal.SIGSTOP)
            frames = [reader.recv(60).copy() for _ in range(100)]  # four seconds: its lease is over
            cellar.process.signal(signal.SIGCONT)
            assert not any(frame.dropped for frame in frames)
            status = attic.camera("garage/cam1")
            assert status is not None and status.lost == before.lost
        fresh(other)  # and that one is back


def test_of_two_hosts_with_one_name_the_first_is_read_and_both_are_told() -> None:
    port = free_port()
    peers = {"garage": {"export": ["*"]}}
    with Host("attic", listen=[f"tcp/127.0.0.1:{port}"], peers=peers) as attic:
        attic.eventually(attic.status)
        with stranger(port, "va/live/garage/1/aa", "va/1/garage/aa/cam/attic/one"):
            attic.eventually(lambda: attic.camera("garage/one"))
            with stranger(port, "va/live/garage/1/bb", "va/1/garage/bb/cam/attic/two", "va/live/attic/1/cc"):
                attic.eventually(lambda: attic.sees("garage").cause is PeerCause.TWICE)
                assert attic.camera("garage/two") is None and attic.camera("garage/one") is not None
                assert attic.status().reason, "one is called as we are"
            attic.eventually(lambda: attic.sees("garage").cause is None and not attic.status().reason)
        attic.finds("garage", PeerState.AWAY)


def test_a_host_of_another_version_is_called_so_and_not_read() -> None:
    port = free_port()
    with Host("attic", listen=[f"tcp/127.0.0.1:{port}"], peers={"garage": {}}) as attic:
        attic.eventually(attic.status)
        with stranger(port, "va/live/garage/2/aa", "va/2/garage/aa/cam/attic/one"):
            attic.eventually(lambda: attic.sees("garage").cause is PeerCause.VERSION)
            assert attic.sees("garage").state is PeerState.CONNECTING and not attic.sees("garage").imports
        with stranger(port, "va/live/garage/1/bb"):  # it was updated
            attic.finds("garage")


def test_an_endpoint_that_speaks_something_else_is_called_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def answer() -> None:
            server.settimeout(0.2)
            while not stop.is_set():
                try:
                    sock, _ = server.accept()
                except TimeoutError:
                    continue
                with sock:
                    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        port = server.getsockname()[1]
        try:
            with Host("attic", peers={"garage": {"connect": [f"tcp/127.0.0.1:{port}"]}}) as attic:
                attic.eventually(lambda: attic.sees("garage").cause is PeerCause.FOREIGN)
        finally:
            stop.set()
            thread.join()


def test_an_endpoint_where_nothing_listens_is_called_so() -> None:
    """And a host that is to connect to this one, and has not."""
    peers = {"garage": {"connect": [f"tcp/127.0.0.1:{free_port()}"]}, "cellar": {}}
    with Host("attic", peers=peers) as attic:
        attic.eventually(lambda: "nothing" in attic.sees("garage").reason)
        for host in peers:
            assert attic.sees(host).cause is PeerCause.UNREACHABLE and attic.sees(host).reason
        assert os.listdir(attic.directory)


def test_a_link_has_as_many_descriptors_as_it_may() -> None:
    """Where a program usually has 1024, other hosts' cameras would have used them up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    host = Host("attic", listen=[f"tcp/127.0.0.1:{free_port()}"], peers={"garage": {}})
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - 1, 1024), hard))
    try:
        host.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        host.eventually(host.status)
        assert host.process is not None
        assert resource.prlimit(host.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        host.__exit__()


@pytest.mark.parametrize(
    ("ring", "format", "fault"),
    [("cam1", "h264", Fault.DECODE), ("cam1", "jpeg", Fault.DECODE), ("cam1/fmp4", "jpeg", Fault.MUX)],
)
def test_units_that_the_worker_cannot_use_are_in_the_state_and_not_all_in_the_log(
    ring: str, format: str, fault: Fault
) -> None:
    with pair() as (garage, attic):
        with garage.here():
            server = va.serve("cam1", backlog="gop")
        with server, attic.here():
            server.publish(b"\0\0\1\x65", format=format, key=True)
            with attic.reads(f"garage/{ring}"):

                def failed() -> bool:
                    for size in range(30):
                        server.publish(b"\0\0\1\x65" + bytes(size), format=format, key=True)
                    seen = attic.camera("garage/cam1")
                    return seen is not None and seen.failed > 3 and seen.fault is fault

                attic.eventually(failed)
                assert "could not be decoded or muxed" in run("link", "--status").stdout
        assert attic.process is not None
        _, errors = attic.process.end()
        assert errors.count("garage/cam1") < 8


def test_a_flood_of_cameras_and_requests_is_bounded(short: Path) -> None:
    port = free_port()
    peers = {"attic": {"export": ["cam*"]}}
    with Host("garage", listen=[f"tcp/127.0.0.1:{port}"], peers=peers) as garage, camera(garage, short):
        garage.eventually(lambda: garage.status().offered)
        flood = [f"va/1/garage/aa/want/attic/cam1/{n}" for n in range(500)]  # of another life of it
        with stranger(port, "va/live/attic/1/aa", "va/live/bad", "va/1/x", *flood):
            garage.finds("attic")
            assert garage.sees("attic").exports == ()
