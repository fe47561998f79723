"""Peers that die, freeze or lie, at moments nobody chose."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import valkka_async as va
from support.hostile import (
    PAGE,
    SHRINK,
    WRITE,
    Liar,
    Raw,
    Script,
    memory,
    nowhere,
    real_ring,
    ring,
    welcome,
)
from support.program import Child
from valkka_async.ring import _shm, handshake

SOME_SECONDS = float(os.environ.get("VALKKA_STRESS_SECONDS", "4"))

READER = """
import random
rng = random.Random(int(sys.argv[1]))
say("in")
while True:
    try:
        with va.attach("s", policy=rng.choice(["latest", "ordered"]), open_timeout=30) as r:
            held = []
            for f in r:
                value = f.seq % 251
                assert (f.array == value).all(), f.seq
                held.append((f.array, value))
                del f
                if len(held) > 2:
                    a, v = held.pop(rng.randrange(3))
                    assert (a == v).all()
    except va.ConnectionClosedError:
        pass
"""

WRITER = """
s = va.serve("s", slots=12)
n = 0
say("in")
while True:
    h = 40 if n % 500 < 250 else 80          # a new ring at the first change
    n += s.publish(np.full((h, 60), (n + 1) % 251, np.uint8))
"""


def test_readers_die_and_freeze_at_random_and_the_rest_goes_on() -> None:
    rng = random.Random(11)
    stop = threading.Event()
    with va.serve("s", slots=24) as server, va.attach("s", policy="ordered") as steady:

        def publish() -> None:
            n = 0
            while not stop.is_set():
                n += server.publish(np.full((40, 60), (n + 1) % 251, np.uint8))
                time.sleep(0.0002)

        writer = threading.Thread(target=publish)
        writer.start()
        children: list[Child] = []
        kills = seen = 0
        last = 0
        end = time.monotonic() + SOME_SECONDS
        try:
            while time.monotonic() < end or kills <= 5:
                assert time.monotonic() < end + 40
                if len(children) < 3:
                    children.append(Child(READER, rng.randrange(1000)))
                    children[-1].line()
                with steady.recv(10) as frame:
                    assert (frame.array == frame.seq % 251).all()
                    assert frame.seq == last + frame.dropped + 1
                    last, seen = frame.seq, seen + 1
                if rng.random() < 0.02:
                    children[rng.randrange(len(children))].signal(signal.SIGSTOP)
                if rng.random() < 0.02:
                    children.pop(rng.randrange(len(children))).__exit__(None, None, None)
                    kills += 1
        finally:
            for child in children:
                child.__exit__(None, None, None)
            stop.set()
            writer.join()
        deadline = time.monotonic() + 10
        while server.stats().readers > 1:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert seen > 100
        while (frame := steady.recv_nowait()) is not None:
            frame.release()
        assert server.stats().dropped == 0
        for _ in range(30):  # no slot is lost
            assert server.publish(b"x")


def test_writers_die_and_freeze_at_random_and_no_stale_frame_is_delivered() -> None:
    """Each life of the server counts from 1; a reader must never see the past of a dead one as new."""
    rng = random.Random(12)
    lives = 0
    end = time.monotonic() + SOME_SECONDS
    while time.monotonic() < end or lives < 5:
        with Child(WRITER) as child:
            child.line()
            with va.attach("s", policy=rng.choice(["latest", "ordered"])) as reader:
                last = 0
                stop_at = time.monotonic() + rng.uniform(0, 0.15)
                killed_at = None
                with pytest.raises(va.ConnectionClosedError):
                    for frame in reader:
                        assert (frame.array == frame.seq % 251).all()
                        assert frame.seq > last
                        last = frame.seq
                        if killed_at is not None:
                            assert frame.published_ns <= killed_at
                        elif time.monotonic() > stop_at:
                            if rng.random() < 0.3:
                                child.signal(signal.SIGSTOP)
                                time.sleep(0.01)
                                child.signal(signal.SIGCONT)
                            child.kill()
                            killed_at = time.monotonic_ns()
                del frame
                lives += 1
    va.serve("s").close()


@pytest.fixture
def server() -> Iterator[va.Server]:
    with va.serve("s", slots=6, max_clients=200) as server, va.attach("s", policy="ordered") as reader:
        server.publish(b"before")
        assert bytes(reader.recv(5).data) == b"before"
        yield server
        assert server.publish(b"after")
        while True:  # what was published meanwhile, and then this
            with reader.recv(5) as frame:
                if bytes(frame.data) == b"after":
                    break


def test_a_lease_page_full_of_nonsense_hurts_nobody(server: va.Server, runtime_dir: Path) -> None:
    rng = random.Random(13)
    raw = [Raw(runtime_dir, policy) for policy in (_shm.LATEST, _shm.ORDERED)]
    for _ in range(300):
        for r in raw:
            r.page[:] = rng.randbytes(_shm.LEASE_PAGE_BYTES)
            if rng.random() < 0.3:  # leases on real slots
                struct.pack_into("<Q", r.page, 16 + 8 * rng.randrange(4), 1 << 32 | rng.randrange(1, 8))
        server.publish(b"x")
    for r in raw:
        r.close()
    deadline = time.monotonic() + 5
    while server.stats().readers > 1:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_reader_cannot_hold_more_slots_than_it_was_granted(server: va.Server, runtime_dir: Path) -> None:
    raw = Raw(runtime_dir, leases=2)
    for k in range(64):  # a page has room for 64 leases, the server looks at two
        struct.pack_into("<Q", raw.page, 16 + 8 * k, 1 << 32 | (k % 6) + 1)
    dropped = server.stats().dropped
    for _ in range(50):
        server.publish(b"x")
    assert server.stats().dropped == dropped
    raw.close()


def test_a_bell_that_is_never_answered_or_made_blocking_does_not_stop_the_writer(
    server: va.Server, runtime_dir: Path
) -> None:
    raw = Raw(runtime_dir)
    flags = fcntl.fcntl(raw.bell, fcntl.F_GETFL)
    fcntl.fcntl(raw.bell, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
    start = time.monotonic()
    for _ in range(70_000):  # more than a pipe holds
        struct.pack_into("<I", raw.page, 8, 1)  # armed
        server.publish(b"x")
    assert time.monotonic() - start < 30
    raw.close()


def test_a_dead_reader_whose_bell_rings_raises_no_signal(server: va.Server, runtime_dir: Path) -> None:
    old = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        raw = Raw(runtime_dir)
        os.close(os.dup(raw.bell))
        struct.pack_into("<I", raw.page, 8, 1)
        os.close(raw.bell)
        server.publish(b"x")
        raw.bell = os.open(os.devnull, os.O_RDONLY)
        raw.close()
    finally:
        signal.signal(signal.SIGPIPE, old)


def test_hundreds_of_half_handshakes_hurt_nobody(server: va.Server, runtime_dir: Path) -> None:
    rng = random.Random(14)
    hello = handshake.encode(handshake.Hello(0, 4))
    socks = []
    for i in range(400):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            sock.connect(str(runtime_dir / "s.sock"))
            if i % 2:
                data = bytearray(hello[: rng.randrange(len(hello) + 1)] + rng.randbytes(rng.randrange(64)))
                if data:
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                socket.send_fds(sock, [bytes(data) or b"x"], [0, 1, 2], socket.MSG_NOSIGNAL)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            pass  # a full queue, or thrown out already
        socks.append(sock)
        if i % 50 == 0:
            assert server.publish(b"x")
    for sock in socks:
        sock.close()
    deadline = time.monotonic() + 10
    while True:  # and there is room for an honest one again
        try:
            with va.attach("s", open_timeout=5) as reader:
                assert reader.recv(5)
            break
        except va.ConnectError:
            assert time.monotonic() < deadline


def test_a_peer_that_floods_its_socket_is_dropped_or_ignored(server: va.Server, runtime_dir: Path) -> None:
    raw = Raw(runtime_dir)
    raw.sock.setblocking(False)
    for _ in range(5000):
        try:
            raw.sock.send(handshake.encode(handshake.Stats()))  # answers that nobody reads
        except BlockingIOError:
            time.sleep(0.0001)
    raw.close()


def test_a_ring_with_the_right_seals_is_taken(runtime_dir: Path) -> None:
    liar = Liar(runtime_dir / "s.sock", real_ring(SHRINK | WRITE))
    try:
        with va.attach("s", open_timeout=5) as reader:
            assert bytes(reader.recv(5).data) == b"x"
    finally:
        liar.close()


LIES: dict[str, Callable[[], Script]] = {
    "a lease page that can shrink": lambda: [welcome(memory(PAGE, 0), 0)],
    "a lease page of another size": lambda: [welcome(memory(10, SHRINK), 0)],
    "a file for a lease page": lambda: [welcome(nowhere(), 0)],
    "a bell that is no pipe": lambda: [welcome(memory(PAGE, SHRINK), 0, nowhere)],
    "a ring without seals": lambda: real_ring(0),
    "a ring that can shrink": lambda: real_ring(WRITE),
    "a ring that others write": lambda: real_ring(SHRINK),
    "a ring smaller than it says": lambda: [welcome(memory(PAGE, SHRINK)), ring(1 << 16, memory(1 << 12))],
    "an empty ring": lambda: [welcome(memory(PAGE, SHRINK)), ring(0, memory(0))],
    "a ring of zeros": lambda: [welcome(memory(PAGE, SHRINK)), ring(1 << 16, memory(1 << 16))],
    "a file for a ring": lambda: [welcome(memory(PAGE, SHRINK)), ring(1, os.open(__file__, os.O_RDONLY))],
    "a ring before the welcome": lambda: [ring(1 << 16, memory(1 << 16))],
    "two welcomes": lambda: [welcome(memory(PAGE, SHRINK)), welcome(memory(PAGE, SHRINK))],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies_is_refused(lie: str, runtime_dir: Path) -> None:
    liar = Liar(runtime_dir / "s.sock", LIES[lie]())
    try:
        with pytest.raises(va.ProtocolError):
            va.attach("s", open_timeout=2)
    finally:
        liar.close()


def test_a_ring_with_random_bytes_in_it_is_refused_or_survived(runtime_dir: Path) -> None:
    """A real ring, spoiled at random, before the reader gets it."""
    rng = random.Random(15)
    with va.serve("real", slots=3) as server:
        for n in range(3):
            server.publish(b"%d" % n, meta={"n": n})
        size, source = server._writer.ring_size, server._writer.ring_fd
        good = os.pread(source, size, 0)
    outcomes = set()
    for _ in range(50):
        data = bytearray(good)
        for _ in range(rng.choice([1, 3, 30])):
            # the geometry, the head and index, or the slot headers
            low, high = rng.choice([(0, 96), (0, 96), (96, 256), (8192, 8192 + 3 * 128)])
            data[rng.randrange(low, high)] = rng.choice([0, 1, 255, rng.randrange(256)])
        script = [welcome(memory(PAGE, SHRINK)), ring(size, memory(size, data=bytes(data)))]
        liar = Liar(runtime_dir / "s.sock", script)
        try:
            with va.attach("s", open_timeout=5, policy=rng.choice(["latest", "ordered"])) as reader:
                for _ in range(5):
                    frame = reader.recv_nowait()
                    if frame is None:
                        break
                    assert len(bytes(frame.data)) == frame.nbytes
                    repr(frame)
                    frame.release()
                outcomes.add("survived")
        except va.ConnectionClosedError:
            outcomes.add("survived")  # until the liar hung up
        except va.ConnectError:
            outcomes.add("refused")
        except (ValueError, UnicodeDecodeError):
            outcomes.add("metadata that is not JSON")
        finally:
            liar.close()
    assert {"survived", "refused"} <= outcomes
