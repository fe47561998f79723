"""Two hosts that are two network namespaces with a cable between them, which is cut; and two at the ends of a
slow line."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from link_tools import Host, cameras, certificates, fresh
from networks import SlowLine, Star, star

import valkka_async as va
from support.stream import free_port
from valkka_async.link.status import PeerState

pytestmark = pytest.mark.timeout(300)  # several programs have to start


@pytest.fixture(scope="module")
def network() -> Iterator[Star]:
    with star(1) as made:
        yield made


@pytest.fixture(scope="module")
def hosts(
    network: Star, short: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Host, Host]]:
    files = certificates(tmp_path_factory.mktemp("certificates"), "garage", "attic")
    at = "tls/10.213.7.1:7447"
    a, b = network.names
    garage = Host("garage", a, listen=[at], certificates=files["garage"], peers={"attic": {"export": ["*"]}})
    attic = Host("attic", b, certificates=files["attic"], peers={"garage": {"connect": [at]}})
    with garage, attic, cameras(garage, cam1=short):
        yield garage, attic


@pytest.mark.parametrize("seconds", [1, 4, pytest.param(60, marks=pytest.mark.long)])
def test_a_cable_that_was_out_is_forgotten(network: Star, hosts: tuple[Host, Host], seconds: float) -> None:
    garage, attic = hosts
    with attic.here():
        with va.attach("garage/cam1/packets", policy="ordered", open_timeout=90) as reader:
            fresh(reader)
            network.cut(1)
            if seconds > 3:
                attic.finds("garage", PeerState.AWAY)
                garage.finds("attic", PeerState.AWAY)
            time.sleep(seconds)
            network.mend(1)
            fresh(reader)  # the same reader, and the same ring
            attic.finds("garage")
            garage.finds("attic")
            assert len(garage.sees("attic").exports) == 1
            status = attic.camera("garage/cam1")
            assert status is not None and status.refused == 0


def test_over_a_slow_line_ages_are_true_and_what_does_not_fit_is_lost_and_counted() -> None:
    """50 ms each way, and 2 MB/s for a stream of 5 MB/s, in GOPs of ten frames."""
    port = free_port()
    garage = Host("garage", listen=[f"tcp/127.0.0.1:{port}"], peers={"attic": {"export": ["*"]}})
    over = threading.Event()
    with SlowLine(port, 0.05, 2e6) as line, garage:
        attic = Host("attic", peers={"garage": {"connect": [f"tcp/127.0.0.1:{line.port}"]}})
        with attic, garage.here(), va.serve("cam1", slots=32, backlog="gop") as server:

            def publish() -> None:
                number = 0
                while not over.wait(0.04):
                    server.publish(bytes(200_000), format="h264", key=number % 10 == 0)
                    number += 1

            publishing = threading.Thread(target=publish)
            publishing.start()
            try:
                with attic.here(), attic.reads("garage/cam1/packets") as reader:
                    lost = 0
                    while lost < 10:
                        with reader.recv(60) as frame:
                            link, now = frame.meta["link"], time.time_ns()
                            lost += (missing := link.get("lost", 0))
                            assert frame.key or not missing, "it goes on with a key frame"
                            assert abs(link["clock_offset_ns"]) <= link["clock_error_ns"]
                            # One clock for both hosts: by that, nothing is quicker than the line.
                            assert now - frame.timestamp_ns - link["clock_offset_ns"] > 50e6
                assert attic.sees("garage").state is PeerState.LIVE
            finally:
                over.set()
                publishing.join()
