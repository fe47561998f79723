"""What a signal handler, the collector or another thread does in the middle of a step of the ring's."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest

import valkka_async as va
from support.until import wait_for
from valkka_async.ring import _memory, fork
from valkka_async.ring.connection import dial, report
from valkka_async.ring.handshake import Hello, encode

SMALL, LARGE = np.zeros((4, 4), np.uint8), np.zeros((1000, 1000), np.uint8)


def in_time(work: Callable[[], object]) -> None:
    """Do it in a thread, which may be left behind."""
    done = threading.Event()

    def run() -> None:
        work()
        done.set()

    threading.Thread(target=run, daemon=True).start()
    assert done.wait(20), "deadlock, or an error"


@pytest.mark.parametrize("what", ["frame", "header"])
def test_what_is_published_in_the_middle_of_a_new_ring_leaves_that_alone(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal handler does, in the same thread: nothing, and it is told so."""
    with va.serve("s") as server, va.attach("s", policy="ordered") as reader:
        server.publish(SMALL)
        reader.recv(5).release()
        seal, came = _memory.seal, []

        def interrupted(fd: int, *, writable: bool) -> None:
            if not writable and not came:
                came.append(1)
                if what == "frame":
                    assert not server.publish(np.zeros((2000, 2000), np.uint8))
                else:
                    with pytest.raises(va.NoFreeSlotError):
                        server.set_header(b"header")
            seal(fd, writable=writable)

        monkeypatch.setattr(_memory, "seal", interrupted)
        for image in (LARGE, SMALL, LARGE, SMALL):
            assert server.publish(image)
            with reader.recv(5) as frame:
                assert frame.shape == image.shape
        assert came
        server.set_header(b"header")
        assert server.publish(SMALL)
        reader.recv(5).release()
        assert reader.header == b"header"


def test_a_handler_that_publishes_waits_for_nobody_who_waits_for_it() -> None:
    """It comes where its thread opens a descriptor, and the watching thread has a connection to accept."""

    def work() -> None:
        with va.serve("s") as server:
            server.publish(SMALL)
            with fork.steady():
                sock = dial("s")
                assert sock is not None
                sock.send(encode(Hello(0, 1)))
                assert not server.publish(LARGE)
                server.reader_stats()
            wait_for(lambda: server.readers == 1)
            assert server.publish(LARGE)
            sock.close()

    in_time(work)


async def test_a_server_that_is_closed_elsewhere_publishes_no_more() -> None:
    """Although the loop that looks after it has not come to it."""
    server = va.serve("s", watch="loop")
    server.publish(SMALL)
    thread = threading.Thread(target=server.close)
    thread.start()
    thread.join()
    assert server.closed
    for image in (SMALL, LARGE):
        with pytest.raises(va.ConnectionClosedOK):
            server.publish(image)
        with pytest.raises(va.ConnectionClosedOK):
            server.loan((*image.shape, 3))
    with pytest.raises(va.ConnectionClosedOK):
        server.set_header(b"header")
    assert server.reader_stats() == []
    await asyncio.sleep(0)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, RecursionError])
def test_whatever_describe_raises_the_other_servers_are_looked_after(error: type[BaseException]) -> None:
    def broken() -> dict[str, object]:
        raise error

    with va.serve("s") as server, va.serve("other") as other:
        server.describe(broken)
        sock = dial("s")
        assert sock is not None
        with sock:
            sock.send(b"\x00")  # nonsense is refused
        for _ in range(2):
            report("s", timeout=1)  # whatever that gives
            other.publish(SMALL)
            with va.attach("other") as reader:
                reader.recv(5).release()


@pytest.mark.parametrize("how", ["discard", "publish"])
def test_a_slot_that_this_process_gives_back_is_room(how: str) -> None:
    with va.serve("s", slots=2) as server, va.attach("s", policy="lossless") as reader:
        server.publish(SMALL)
        reader.recv(5).release()
        loans = [server.loan((4, 4), "gray8")]
        assert not server.publish(SMALL)
        found: list[bool] = []
        thread = threading.Thread(target=lambda: found.append(server.wait_writable(20)))
        thread.start()
        wait_for(lambda: server._room.waiters)
        getattr(loans.pop(), how)()
        thread.join()
        assert found == [True]


def test_readers_are_counted_beside_the_end_of_their_server() -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish(SMALL)
        reader.recv(5).release()
        server._writer.close()  # as close() begins
        assert server.reader_stats() == []


LIBRARY = """
import ctypes, os, signal, sys, numpy as np, valkka_async as va
# No thread asks for the GIL: a child that is asked waits for ever for a thread it lacks.
sys.setswitchinterval(1000)
with va.serve("s", slots=2) as server, va.attach("s") as reader:
    server.publish(np.zeros((4, 4), np.uint8))
    frame = reader.recv(5)
    for attempt in range(5):
        pid = ctypes.PyDLL(None).fork()
        if pid == 0:
            signal.alarm(5)  # ends the process, should the interpreter hang all the same
            try:
                frame.release()
                server.publish(np.full((4, 4), 7, np.uint8))
            except va.ValkkaError:
                pass
            finally:
                os._exit(0)
        if os.waitpid(pid, 0)[1] == 0:
            break
    else:
        sys.exit("five children hung")
    for value in range(1, 6):
        server.publish(np.full((4, 4), value, np.uint8))
    assert not frame.array.any(), "written over"
    frame.release()
"""


def test_frames_that_are_held_do_not_change_when_a_library_forks() -> None:
    """With fork(2) itself: os.register_at_fork() is not asked. In a process of its own, as a fork that Python
    does not know of is no good beside other threads."""
    done = subprocess.run([sys.executable, "-c", LIBRARY], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("how", ["recv_nowait", "recv"])
def test_a_handler_reads_in_the_middle_of_a_message_of_the_same_reader(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The messages that follow are read in their order, by the one that was interrupted."""
    with va.serve("s") as server, va.attach("s", policy="ordered") as reader:
        server.publish(SMALL)
        reader.recv(5).release()
        sealed, came = _memory.is_sealed, []

        def interrupted(fd: int, size: int, *, writable: bool) -> bool:
            if not came:
                came.append(1)
                if how == "recv_nowait":
                    assert reader.recv_nowait() is None
                else:
                    with pytest.raises(va.ConcurrencyError):
                        reader.recv()
            return sealed(fd, size, writable=writable)

        monkeypatch.setattr(_memory, "is_sealed", interrupted)
        assert server.publish(LARGE)
        server.set_header(b"header")
        with reader.recv(5) as frame:
            assert frame.shape == LARGE.shape
        assert server.publish(SMALL)
        with reader.recv(5) as frame:
            assert came and frame.shape == SMALL.shape
        assert reader.header == b"header"
