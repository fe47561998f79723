"""A thread blocked in the network is found and freed; no other thread is touched."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable

import pytest

from valkka_async.camera.source.deadline import Deadline, blocked_on, interrupt


def in_thread(body: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    result: list[object] = []
    thread = threading.Thread(target=lambda: result.append(body()))
    thread.start()
    return thread, result


def wait_blocked(thread: threading.Thread, fd: int) -> None:
    deadline = time.monotonic() + 30
    assert thread.native_id is not None
    while fd not in blocked_on(thread.native_id):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def poll(*socks: socket.socket) -> Callable[[], int]:
    poller = select.poll()
    for sock in socks:
        poller.register(sock, select.POLLIN)
    return lambda: len(poller.poll(10_000))


def test_recv_and_poll_are_seen_with_their_descriptors_and_end_when_interrupted() -> None:
    a, b = socket.socketpair()
    c, d = socket.socketpair()
    with a, b, c, d:
        one, got_one = in_thread(lambda: a.recv(1))
        two, got_two = in_thread(poll(b, c))
        wait_blocked(one, a.fileno())
        wait_blocked(two, c.fileno())
        assert one.native_id and two.native_id
        assert blocked_on(two.native_id) == [b.fileno(), c.fileno()]
        assert interrupt(two.native_id) >= 1  # the first may have woken it
        two.join(30)
        assert got_two[0] in (1, 2)
        one.join(30)  # its other end was shut down just now
        assert got_one == [b""]
        assert interrupt(threading.get_native_id()) == 0


def test_threads_that_wait_for_something_else_are_left_alone() -> None:
    read, write = os.pipe()
    event = threading.Event()
    piped, got = in_thread(lambda: os.read(read, 1))
    waiting, _ = in_thread(lambda: event.wait(10))
    wait_blocked(piped, read)
    assert piped.native_id and waiting.native_id
    assert interrupt(piped.native_id) == 0  # a pipe is not a socket
    assert interrupt(waiting.native_id) == 0
    assert interrupt(2**22 - 1) == 0  # no such thread
    os.write(write, b"x")
    event.set()
    piped.join(5)
    waiting.join(5)
    assert got == [b"x"]
    os.close(read)
    os.close(write)


def test_a_udp_socket_is_left_alone_and_the_tcp_socket_beside_it_is_not() -> None:
    a, b = socket.socketpair()
    with a, b, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        thread, got = in_thread(poll(s, a))
        wait_blocked(thread, s.fileno())
        assert thread.native_id
        assert interrupt(thread.native_id) == 1
        thread.join(5)
        assert got == [1]
        s.sendto(b"x", s.getsockname())
        assert s.recv(10) == b"x"


def test_the_sockets_of_a_thread_that_never_waits_for_long_are_found_all_or_none() -> None:
    """With those of the picture alone, its sound would never be read."""
    seen: list[int] = []
    end = time.monotonic() + 60

    def wait_often() -> None:
        deadline, poller = Deadline(), select.poll()
        for one in socks:
            poller.register(one, select.POLLIN)
        try:
            while len(seen) < 500 and time.monotonic() < end:
                deadline.find()
                deadline.begin(60)
                poller.poll(1)
                deadline.end()
                if found := deadline.found():
                    seen.append(len(found))
                for one in found:
                    one.close()
        finally:
            deadline.close()

    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(16)]
        thread, _ = in_thread(wait_often)
        thread.join(90)
    assert set(seen) == {16}


class Blocked:
    """A thread with a Deadline that waits for a socket."""

    def __init__(self, seconds: float, *, armed: bool = True) -> None:
        self.near, self.far = socket.socketpair()
        self.ready, self.deadline = threading.Event(), None
        self.armed = armed
        self.seconds = seconds
        self.thread, self.got = in_thread(self._run)
        assert self.ready.wait(5)

    def _run(self) -> object:
        self.deadline = deadline = Deadline()
        try:
            if self.armed:
                deadline.begin(self.seconds)
            self.ready.set()
            data = self.near.recv(1)
            deadline.end()
            return data, deadline.expired
        finally:
            deadline.close()

    def finish(self) -> object:
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.near.close()
        self.far.close()
        return self.got[0]


def test_a_deadline_ends_the_call_it_belongs_to_and_no_other() -> None:
    short, long, unarmed = Blocked(0.2), Blocked(600), Blocked(0.1, armed=False)
    begin = time.monotonic()
    assert short.finish() == (b"", True)
    assert time.monotonic() - begin > 0.1
    time.sleep(0.2)
    assert long.thread.is_alive() and unarmed.thread.is_alive()
    for other in (long, unarmed):
        other.far.send(b"x")
        assert other.finish() == (b"x", False)


@pytest.mark.parametrize("grace", [0.0, 0.2])
def test_cut_ends_a_call_without_a_deadline(grace: float) -> None:
    blocked = Blocked(1e9)
    assert blocked.deadline is not None
    wait_blocked(blocked.thread, blocked.near.fileno())
    begin = time.monotonic()
    blocked.deadline.cut(grace)
    assert blocked.finish() == (b"", False)
    assert grace * 0.9 <= time.monotonic() - begin


def test_what_was_cut_before_it_begins_is_cut_as_well() -> None:
    a, b = socket.socketpair()

    def body() -> object:
        deadline = Deadline()
        deadline.cut()
        deadline.begin(1e9)
        try:
            return a.recv(1)
        finally:
            deadline.close()

    thread, got = in_thread(body)
    thread.join(5)
    assert got == [b""]
    a.close()
    b.close()


def test_the_watching_thread_ends_with_the_last_deadline_and_a_child_of_fork_gets_its_own() -> None:
    def names() -> list[str]:
        return [t.name for t in threading.enumerate()]

    first, second = Deadline(), Deadline()
    assert names().count("valkka-deadlines") == 1
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        mine = Deadline()
        ok = names().count("valkka-deadlines") == 1
        mine.close()
        first.close()
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    first.close()
    first.close()
    assert names().count("valkka-deadlines") == 1
    second.close()
    assert "valkka-deadlines" not in names()
