"""What servers and readers say to each other is looked at before it is believed."""

from __future__ import annotations

import itertools
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import valkka_async as va
from support.hostile import PAGE, SHRINK, WRITE, Liar, Raw, Script, memory, real_ring, ring, welcome
from support.until import wait_for
from valkka_async.ring import _shm, handshake, peers
from valkka_async.ring.handshake import LAYOUT, MAX_BYTES, VERSION, Ack, Busy, Bye, Hello, Kind, Refused, Ring


def message(kind: int, body: bytes = b"") -> bytes:
    return struct.pack("<8sIII", b"valkka\x00\x01", VERSION, LAYOUT, kind) + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"valkka\x00\x01",
        message(Kind.BYE)[:-1],
        message(0),
        message(99),
        message(Kind.HELLO),
        message(Kind.HELLO, bytes(9)),
        message(Kind.RING, bytes(15)),
        message(Kind.REPORT),
        message(Kind.REPORT, b"[1]"),
        message(Kind.REPORT, b'"text"'),
        message(Kind.REPORT, b"\xff{}"),
        message(Kind.REPORT, b"[" * 100_000),
    ],
    ids=range(13),
)
def test_no_bytes_are_anything_but_a_message_or_a_protocol_error(data: bytes) -> None:
    with pytest.raises(va.ProtocolError):
        handshake.decode(data)


@pytest.mark.parametrize("letter", ["x", "ä", "\U0001f3a5"])
def test_a_refusal_of_any_length_fits_a_message(letter: str) -> None:
    data = handshake.encode(Refused(letter * 20_000))
    assert len(data) <= MAX_BYTES
    refusal = handshake.decode(data)
    assert isinstance(refusal, Refused) and refusal.reason.startswith(letter * 4000)


# --------------------------------------------------------------------------- what servers hear


@pytest.fixture
def server() -> Iterator[va.Server]:
    with va.serve("s", slots=4, max_clients=2) as server:
        server.publish(b"first")
        yield server


def answer(raw: Raw) -> handshake.Message | None:
    """What comes next, over descriptors that come with it. None: the end."""
    data, fds, _, _ = socket.recv_fds(raw.sock, MAX_BYTES, 4)
    for fd in fds:
        os.close(fd)
    return handshake.decode(data) if data else None


def heard(raw: Raw) -> None:
    """Wait until the server has read all that was said."""
    raw.sock.send(handshake.encode(handshake.Stats()))
    while not isinstance(answer(raw), handshake.Report):
        pass


def test_a_connection_is_one_reader(server: va.Server, runtime_dir: Path) -> None:
    raw = Raw(runtime_dir)
    assert server.readers == 1
    raw.sock.send(handshake.encode(Hello(_shm.LATEST, 4)))
    assert isinstance(answer(raw), Refused)
    assert answer(raw) is None
    wait_for(lambda: server.readers == 0)
    raw.close()


def test_what_a_reader_acknowledges_before_it_was_sent_does_not_count(
    server: va.Server, runtime_dir: Path
) -> None:
    raw = Raw(runtime_dir, _shm.LOSSLESS)
    raw.sock.send(handshake.encode(Ack(99)))
    heard(raw)
    server.set_header(b"1")
    with pytest.raises(va.NoFreeSlotError):
        server.set_header(b"2")
    for generation in (2, 1):  # and what it has acknowledged is not taken back
        raw.sock.send(handshake.encode(Ack(generation)))
    heard(raw)
    server.set_header(b"2")
    raw.close()


def test_a_reader_that_does_not_look_at_its_socket_is_sent_few_rings(
    server: va.Server, runtime_dir: Path
) -> None:
    raw = Raw(runtime_dir)
    for n in range(30):
        server.set_header(b"%d" % n)
    heard_of = []
    raw.sock.send(handshake.encode(handshake.Stats()))
    while isinstance(message := answer(raw), Ring):
        heard_of.append(message.generation)
    assert heard_of == [2, 3, 4]  # the first was on its way too
    raw.sock.send(handshake.encode(Ack(4)))
    assert answer(raw) == Ring(31, server._writer.ring_size)
    raw.close()


@pytest.mark.parametrize("asked", [0, 65, 2**32 - 1])
def test_a_reader_is_granted_no_more_leases_than_its_page_has(
    server: va.Server, runtime_dir: Path, asked: int
) -> None:
    raw = Raw(runtime_dir, leases=asked)
    for _ in range(10):
        assert server.publish(b"x")
    (stats,) = server.reader_stats()
    assert stats.leases == 0
    raw.close()


def test_connections_that_say_nothing_are_bounded(server: va.Server, runtime_dir: Path) -> None:
    """As many as there may be readers, and sixteen; the others are told so, and hung up on."""
    with va.attach("s"), va.attach("s"):
        socks = []
        for _ in range(30):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.connect(str(runtime_dir / "s.sock"))  # waits for its turn, which it would not with a timeout
            sock.settimeout(10)
            socks.append(sock)
        for sock in socks[16:]:
            assert isinstance(handshake.decode(sock.recv(MAX_BYTES)), Busy)
            assert sock.recv(MAX_BYTES) == b""
        for sock in socks:
            sock.close()


def test_a_reader_stays_when_the_time_to_say_hello_is_over(
    server: va.Server, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "HELLO_SECONDS", 0.05)
    with va.attach("s") as reader, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.settimeout(10)
        silent.connect(str(runtime_dir / "s.sock"))
        assert silent.recv(1) == b""
        assert len(server.reader_stats()) == 1
        server.publish(b"x")
        assert bytes(reader.recv(5).data) == b"x"


# --------------------------------------------------------------------------- what readers hear


def rings(*generations: int) -> Script:
    """Real rings, each of its generation."""
    script = [welcome(memory(PAGE, SHRINK), generations[0])]
    copies = {}
    with va.serve("real", slots=3) as server:
        for generation in range(1, max(generations) + 1):
            server.set_header(b"%d" % generation)
            server.publish(b"x")
            copies[generation] = os.pread(server._writer.ring_fd, server._writer.ring_size, 0)
    for generation in generations:
        data = copies[generation]
        script.append(ring(len(data), memory(len(data), SHRINK | WRITE, data), generation))
    return script


def test_a_ring_that_a_server_sends_twice_is_taken_once(runtime_dir: Path) -> None:
    """One whose thread was interrupted between sending it and noting that."""
    liar = Liar(runtime_dir / "s.sock", rings(1, 1, 2, 2))
    try:
        with va.attach("s", open_timeout=5, policy="ordered") as reader:
            assert [frame.seq for frame in (reader.recv(5), reader.recv(5))] == [1, 2]
            with pytest.raises(va.ConnectionClosedError):
                reader.recv(5)
    finally:
        liar.close()


@pytest.mark.parametrize("generations", [(2, 1), (1, 3, 2)])
def test_rings_that_come_out_of_order_are_refused(runtime_dir: Path, generations: tuple[int, ...]) -> None:
    liar = Liar(runtime_dir / "s.sock", rings(*generations))
    try:
        with pytest.raises(va.ProtocolError), va.attach("s", open_timeout=5, policy="ordered") as reader:
            while True:
                reader.recv(5).release()
    finally:
        liar.close()


def test_a_goodbye_counts_although_the_server_did_not_hear_us_out(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies unread in its socket when it is closed is an error on ours, once, before its last words."""
    script = [*real_ring(SHRINK | WRITE), (handshake.encode(Bye()), [])]
    liar = Liar(runtime_dir / "s.sock", script, deaf=True, first=1)
    receive, calls = _shm.receive, itertools.count()

    def late(*args: Any) -> Any:
        if next(calls) == 1:  # welcomed
            liar.enough.set()
            assert liar.hung_up.wait(30)
        return receive(*args)

    monkeypatch.setattr(_shm, "receive", late)
    try:
        with va.attach("s", open_timeout=5) as reader:
            assert bytes(reader.recv(5).data) == b"x"
            with pytest.raises(va.ConnectionClosedOK):
                reader.recv(5)
    finally:
        liar.close()


def test_a_bell_that_blocks_does_not_stop_its_reader(runtime_dir: Path) -> None:
    reading, writing = os.pipe()
    script = [welcome(memory(PAGE, SHRINK), 0, lambda: reading)]
    liar = Liar(runtime_dir / "s.sock", script, patient=True)
    try:
        with va.attach("s", open_timeout=5) as reader:
            assert reader.recv_nowait() is None
    finally:
        liar.close()
        os.close(writing)
