# SPDX-License-Identifier: MIT
"""What a server knows of each of its readers: who it is, and what it says it got and missed."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import struct
from collections.abc import Iterator

import pytest

import valkka_async as va
from support.program import Child
from support.until import wait_for
from valkka_async.ring import _shm
from valkka_async.ring.connection import dial, report
from valkka_async.ring.handshake import MAX_BYTES, Hello, Welcome, decode, encode
from valkka_async.ring.peers import PeerStats

READER = """
with va.attach("here", policy=sys.argv[1], max_leases=3) as reader:
    say("ready")
    kept = []
    for line in sys.stdin:
        if line == "keep\\n":
            kept.append(reader.recv(10))
        else:
            reader.recv(10).release()
        stats = reader.stats()
        say(stats.received, stats.dropped, stats.leases)
"""


@pytest.fixture
def server() -> Iterator[va.Server]:
    with va.serve("here", slots=8) as server:
        yield server


def of(server: va.Server, pid: int) -> PeerStats:
    """The one reader of that process."""
    (one,) = [stats for stats in server.reader_stats() if stats.pid == pid]
    return one


def clients(name: str = "here") -> list[dict[str, object]]:
    """As any process may ask for them."""
    values = report(name, 10)
    assert values is not None
    found = values["clients"]
    assert isinstance(found, list)
    return found


class Liar:
    """A reader that says hello, and then of itself whatever it likes."""

    def __init__(self, received: int, dropped: int) -> None:
        sock = dial("here")
        assert sock is not None
        self.sock = sock
        sock.settimeout(10)
        sock.send(encode(Hello(_shm.LATEST, 4)))
        data, fds, _, _ = socket.recv_fds(sock, MAX_BYTES, 4)
        assert isinstance(decode(data), Welcome)
        with mmap.mmap(fds[0], _shm.LEASE_PAGE_BYTES) as page:
            struct.pack_into("<QQ", page, 576, received, dropped)  # where layout.h has them
        for fd in fds:
            os.close(fd)

    def __enter__(self) -> Liar:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def test_a_slow_readers_drops_are_counted_by_the_server_as_by_itself(server: va.Server) -> None:
    with Child(READER, "latest") as slow, va.attach("here") as quick:
        assert slow.line() == "ready"
        for n in range(1, 31):
            server.publish(b"x")
            quick.recv(10).release()
            if n % 10 == 0:
                slow.tell("read")
                received, dropped, _ = map(int, slow.line().split())
                theirs = of(server, slow.pid)
                assert (theirs.received, theirs.dropped) == (received, dropped)
                assert received + dropped == n  # what it got and what it missed is what was published
        assert dropped == 27
        assert theirs == PeerStats(theirs.id, slow.pid, os.getuid(), "latest", 3, 27, 0)
        ours = of(server, os.getpid())
        assert (
            ours == PeerStats(ours.id, os.getpid(), os.getuid(), "latest", 30, 0, 0) and ours.id != theirs.id
        )
        assert [one.pid for one in server.reader_stats()] == [slow.pid, os.getpid()]  # most drops first
        assert clients() == [
            {"id": theirs.id, "pid": slow.pid, "policy": "latest", "received": 3, "dropped": 27, "leases": 0},
            {
                "id": ours.id,
                "pid": os.getpid(),
                "policy": "latest",
                "received": 30,
                "dropped": 0,
                "leases": 0,
            },
        ]


def test_frames_that_a_reader_holds_are_seen_and_end_with_it(server: va.Server) -> None:
    with Child(READER, "ordered") as holder:
        assert holder.line() == "ready"
        for n in (1, 2):
            server.publish(b"x")
            holder.tell("keep")
            assert holder.line() == f"{n} 0 {n}"
        assert of(server, holder.pid) == PeerStats(1, holder.pid, os.getuid(), "ordered", 2, 0, 2)
        holder.kill()
        wait_for(lambda: server.reader_stats() == [])
        assert clients() == []


def test_a_killed_reader_leaves_the_list_and_the_others_stay(server: va.Server) -> None:
    with Child(READER, "lossless") as dying, Child(READER, "latest") as staying:
        assert dying.line() == staying.line() == "ready"
        assert {(one.pid, one.policy) for one in server.reader_stats()} == {
            (dying.pid, "lossless"),
            (staying.pid, "latest"),
        }
        dying.signal(signal.SIGSTOP)  # not even one that has hung hides
        assert of(server, dying.pid).received == 0
        dying.kill()
        wait_for(lambda: [one.pid for one in server.reader_stats()] == [staying.pid])
        assert [client["pid"] for client in clients()] == [staying.pid]


def test_who_only_asks_is_no_reader(server: va.Server) -> None:
    assert clients() == [] and server.reader_stats() == []


def test_a_closed_server_has_no_readers() -> None:
    with va.serve("here") as server, va.attach("here"):
        assert len(server.reader_stats()) == 1
        server.close()
        assert server.reader_stats() == []


def test_what_a_broken_reader_says_is_shown_and_hurts_nobody(server: va.Server) -> None:
    with Liar(2**64 - 1, 2**64 - 1), va.attach("here") as honest:
        for _ in range(20):
            server.publish(b"x")
            honest.recv(10).release()
        assert [(one.received, one.dropped) for one in server.reader_stats()] == [(2**64 - 1,) * 2, (20, 0)]
        assert [client["dropped"] for client in clients()] == [2**64 - 1, 0]


def test_in_a_full_message_the_state_of_the_camera_comes_before_readers_and_the_worst_before_others(
    server: va.Server,
) -> None:
    drops = list(range(19, -1, -1))
    camera = ""
    server.describe(lambda: {"camera": camera})
    liars = [Liar(0, dropped) for dropped in reversed(drops)]
    try:
        met = []
        for size in (100, MAX_BYTES - 1000, *range(MAX_BYTES - 400, MAX_BYTES, 7)):
            camera = "c" * size
            values = report("here", 10)
            assert values is not None and values["readers"] == len(drops)
            listed = values.get("clients")
            shown = None if listed is None else [client["dropped"] for client in listed]  # type: ignore[attr-defined]
            if "camera" in values:
                assert values["camera"] == camera
                assert shown is None or shown == drops[: len(shown)]
                met.append(
                    "no key" if shown is None else "all" if shown == drops else "some" if shown else "none"
                )
            else:  # it is too long, readers or not
                assert shown == drops
                met.append("no camera")
        assert list(dict.fromkeys(met)) == ["all", "some", "none", "no key", "no camera"]
    finally:
        for liar in liars:
            liar.sock.close()


def test_a_server_tells_when_a_reader_has_come_and_gone() -> None:
    told: list[int] = []
    with va.serve("cam") as server:
        server.when_readers_change(lambda: told.append(server.readers))
        with va.attach("cam"):
            wait_for(lambda: told == [1])
        wait_for(lambda: told == [1, 0])
