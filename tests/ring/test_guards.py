"""What servers and readers look at before they go on: each look has something that it is there for."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import gc
import itertools
import os
import resource
import selectors
import socket
import stat
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import valkka_async as va
from support.program import Child
from support.until import until, wait_for
from valkka_async import backoff
from valkka_async.ring import (
    _kernel,
    _shm,
    _watch,
    connection,
    directory,
    fork,
    peers,
    rendezvous,
    subscription,
)
from valkka_async.ring import reader as plain
from valkka_async.ring.connection import Connection
from valkka_async.ring.formats import kind_of

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@contextlib.contextmanager
def descriptors(most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ------------------------------------------------------------------------------------- who it is


@as_root
@pytest.mark.parametrize("user", [1, 12345, 65534])
def test_a_server_of_one_user_serves_no_other_even_one_that_reaches_its_socket(
    runtime_dir: Path, user: int
) -> None:
    runtime_dir.chmod(0o755)
    with va.serve("s") as server:
        (runtime_dir / "s.sock").chmod(0o666)
        with Child(
            f"""
            va.attach, va.ConnectError
            os.setgroups([]); os.setresgid({user}, {user}, {user}); os.setresuid({user}, {user}, {user})
            try:
                va.attach("s", open_timeout=5)
            except va.ConnectError as e:
                say(e.errno, e)
            """
        ) as child:
            number, _, text = child.line().partition(" ")
        assert int(number) == errno.ECONNREFUSED and "own user alone" in text
        assert not server.readers


@as_root
def test_root_may_read_whom_it_likes(runtime_dir: Path) -> None:
    os.chown(runtime_dir, 65534, -1)
    with Child(
        """
        va.serve
        os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
        with va.serve("s") as server:
            server.publish(b"x"); say("up"); sys.stdin.readline()
        """
    ) as child:
        child.line()
        with va.attach("s", open_timeout=5) as reader:
            assert bytes(reader.recv(5).data) == b"x"
        child.tell("end")
        child.wait()


# ----------------------------------------------------------------------------------- descriptors


@pytest.mark.parametrize("reconnect", [False, True])
def test_a_ring_without_a_descriptor_for_it_is_a_want_of_descriptors(reconnect: bool) -> None:
    with va.serve("s") as server, va.attach("s", reconnect=reconnect) as reader:
        server.publish(b"x")
        with descriptors(3):
            if reconnect:
                assert reader.recv_nowait() is None
            else:
                with pytest.raises(va.ConnectError, match="ulimit -n") as raised:
                    reader.recv_nowait()
                assert raised.value.errno == errno.EMFILE
        if reconnect:
            assert bytes(reader.recv(10).data) == b"x"


@pytest.mark.parametrize("spare", [0, 1, 2, 3])
def test_a_reader_without_descriptors_says_so_and_reads_when_there_are_some(spare: int) -> None:
    """For its set, for its socket, for its lease page, for its bell."""
    with va.serve("s") as server:
        server.publish(b"x")
        with Child(
            """
            import resource
            va.attach, va.ConnectError
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            free = os.open("/dev/null", os.O_RDONLY)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + int(sys.argv[1]), hard))
            try:
                va.attach("s", open_timeout=5)
            except va.ConnectError as e:
                say(e.errno)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            with va.attach("s", open_timeout=5) as reader:
                say(bytes(reader.recv(5).data))
            """,
            spare,
        ) as child:
            assert child.line() == str(errno.EMFILE)
            assert child.line() == "b'x'"


def test_a_plain_reader_that_reconnects_outlives_a_moment_without_descriptors() -> None:
    with va.serve("s"):
        reader = va.attach("s", reconnect=True)
    with reader:
        with descriptors(3):
            for _ in range(20):
                assert reader.recv_nowait() is None
        with va.serve("s") as server:
            server.publish(b"x")
            assert bytes(reader.recv(10).data) == b"x"


# ----------------------------------------------------------------------------------------- rings


async def test_a_reader_that_looks_at_its_socket_and_does_not_read_is_sent_few_rings() -> None:
    """Each costs it an address range; what it is not sent is counted."""
    rings = 40
    async with va.serve("s", slots=4) as server, va.connect("s", policy="ordered") as client:
        for n in range(1, rings + 1):
            server.publish(np.zeros((n, 5000), np.uint8))
            await asyncio.sleep(0.002)
        assert server._writer.generation == rings
        maps = Path("/proc/self/maps").read_text().count("/memfd:valkka:s")
        assert maps <= 12
        seen = 0
        while seen < rings:
            with await client.recv() as frame:
                assert frame.seq == seen + frame.dropped + 1
                seen = frame.seq


def test_threads_that_find_the_ring_too_small_at_once_make_one() -> None:
    with va.serve("s") as server:
        server.publish(b"x")
        grow = server._grow
        waiting = []

        def counted(*arguments: Any, **options: Any) -> bool:
            waiting.append(1)
            return grow(*arguments, **options)

        server._grow = counted  # type: ignore[method-assign]
        image = np.zeros((1000, 1000), np.uint8)
        threads = [threading.Thread(target=server.publish, args=[image]) for _ in range(4)]
        with fork.steady():
            for thread in threads:
                thread.start()
            wait_for(lambda: len(waiting) == 4)
        for thread in threads:
            thread.join()
        assert (server._writer.generation, server.stats().published) == (2, 5)


def test_a_server_that_is_closed_while_threads_make_rings_takes_no_descriptor_of_others() -> None:
    """What they open meanwhile stays open, and what the server opened does not."""
    rounds = 60
    image = np.zeros((40, 5000), np.uint8)
    for number in range(rounds):
        server = va.serve("s")
        began = threading.Event()

        def publish(server: va.Server = server, began: threading.Event = began) -> None:
            try:
                for n in range(1, 40):
                    server.publish(image[:n])
                    began.set()
            except va.ConnectionClosedOK:
                pass

        threads = [threading.Thread(target=publish) for _ in range(2)]
        for thread in threads:
            thread.start()
        began.wait(10)
        if number % 2:
            closing = threading.Thread(target=server.close)
            closing.start()
            threads.append(closing)
        else:
            server.close()
        others = [os.open("/dev/null", os.O_RDONLY) for _ in range(4)]
        for thread in threads:
            thread.join()
        server.close()
        del server, publish
        for fd in others:
            assert os.readlink(f"/proc/self/fd/{fd}") == "/dev/null"
            os.close(fd)


def test_a_frame_for_which_no_ring_can_be_made_yet_is_counted() -> None:
    with va.serve("s") as server, va.attach("s", policy="lossless") as reader:
        server.set_header(b"not taken yet")
        assert not server.publish(np.zeros((1000, 1000), np.uint8))
        assert (server.stats().published, server.stats().dropped) == (0, 1)
        assert reader.recv_nowait() is None
        assert server.wait_writable(10)
        assert server.publish(np.zeros((1000, 1000), np.uint8))


@pytest.mark.parametrize("policy", ["latest", "ordered", "lossless"])
def test_a_reader_that_comes_before_the_first_frame_of_a_new_ring_misses_nothing(policy: va.Policy) -> None:
    with va.serve("s") as server:
        for n in range(3):
            server.publish(b"%d" % n)
        server.set_header(b"moov")
        with va.attach("s", policy=policy) as reader:
            server.publish(b"3")
            with reader.recv(5) as frame:
                assert (frame.seq, frame.dropped) == (4, 0)


@pytest.mark.parametrize("policy", ["latest", "ordered"])
def test_a_reader_sleeps_in_a_ring_without_frames_although_it_missed_some(policy: va.Policy) -> None:
    """It was sent few of the rings before."""
    with va.serve("s") as server, va.attach("s", policy=policy) as reader:
        for n in range(1, 20):
            server.publish(np.zeros((n, 5000), np.uint8))
        server.set_header(b"moov")
        seen = 0
        while seen + reader.stats().dropped < 19 and (frame := reader.recv_nowait()) is not None:
            seen += 1
            frame.release()
        assert reader.recv_nowait() is None
        server.publish(b"x", key=False)
        assert reader.recv_nowait() is None
        server.publish(b"y")
        with reader.recv(5) as frame:
            assert frame.seq == 21
        assert reader.stats().received + reader.stats().dropped == 21


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_readers_that_leave_in_any_order_take_their_own_leases_along(order: tuple[int, ...]) -> None:
    with va.serve("s", slots=8) as server:
        readers = [va.attach("s") for _ in range(3)]
        held = []
        for n, reader in enumerate(readers):
            server.publish(np.full(100, n, np.uint8))
            held.append(reader.recv(5))
        arrays = [frame.array for frame in held]
        for gone, n in enumerate(order, 1):
            arrays[n] = None  # type: ignore[call-overload]
            held[n].release()
            readers[n].close()
            wait_for(lambda: server.readers == 3 - gone)  # noqa: B023
            for _ in range(20):
                assert server.publish(np.full(100, 99, np.uint8))
            assert all((array == i).all() for i, array in enumerate(arrays) if array is not None)
            assert sorted(stats.leases for stats in server.reader_stats()) == [1] * (3 - gone)


def test_a_slot_of_a_ring_before_that_is_given_back_leaves_the_rings_of_today_alone() -> None:
    """Slots have the same numbers in each ring."""
    for discard in (va.Slot.discard, lambda slot: None):
        with va.serve("s", slots=2) as server, va.attach("s", policy="ordered") as reader:
            old = [server.loan((4, 4), "gray8") for _ in range(2)]
            server.publish(np.zeros((400, 400), np.uint8))  # a new ring
            slot = server.loan((400, 400), "gray8")
            slot.array[:] = 7
            while old:
                discard(old.pop())
            gc.collect()
            assert not server.publish(np.full((400, 400), 9, np.uint8)), "there is no third slot"
            assert slot.publish()
            seen = [(frame.seq, set(frame.array.flat)) for frame in (reader.recv(5), reader.recv(5))]
            assert seen == [(1, {0}), (2, {7})]


NO_MORE_PAGES = """
import ctypes, errno, platform, struct
call = {"x86_64": 28, "aarch64": 233}[platform.machine()]  # madvise
program = b"".join(struct.pack("HBBI", *line) for line in (
    (0x20, 0, 0, 0), (0x15, 0, 3, call), (0x20, 0, 0, 32), (0x15, 0, 1, 23),  # MADV_POPULATE_WRITE
    (0x06, 0, 0, 0x50000 | errno.ENOMEM), (0x06, 0, 0, 0x7FFF0000)))
held = ctypes.create_string_buffer(program)
libc = ctypes.CDLL(None, use_errno=True)
with va.serve("s", slots=2) as server:
    server.publish(b"x")
    libc.prctl(38, 1, 0, 0, 0)
    assert libc.prctl(22, 2, struct.pack("HxxxxxxP", 6, ctypes.addressof(held)), 0, 0) == 0
    for _ in range(4):
        for call in (lambda: server.publish(bytes(100_000)), lambda: server.loan((100_000,), "bytes")):
            try:
                call()
                say("written without its memory")
            except va.RingMemoryError:
                say("no memory")
"""


def test_a_frame_is_not_written_where_memory_was_refused_before() -> None:
    """That would end in a bus error where the limit is a cgroup's."""
    with Child(NO_MORE_PAGES) as child:
        assert {child.line() for _ in range(8)} == {"no memory"}
        assert child.wait() == 0


# ---------------------------------------------------------------------------------------- frames

LOOKS: dict[str, Callable[[va.Frame], object]] = {
    "memoryview": lambda frame: frame.data,
    "array": lambda frame: frame.array,
    "interface": lambda frame: frame.__array_interface__,
    "tensor": lambda frame: np.from_dlpack(frame),
}


@pytest.mark.parametrize("first", LOOKS)
@pytest.mark.parametrize("second", LOOKS)
def test_a_frame_stays_until_the_last_of_two_views_is_gone(first: str, second: str) -> None:
    with va.serve("s", slots=2) as server, va.attach("s") as reader:
        server.publish(np.full((4, 4), 7, np.uint8))
        frame = reader.recv(5)
        views = [LOOKS[first](frame), LOOKS[second](frame)]
        frame.release()
        del views[0]
        gc.collect()
        assert reader.stats().leases == 1
        for n in range(5):
            server.publish(np.full((4, 4), n, np.uint8))
        left = views.pop()
        assert set(np.asarray(left["data"] if isinstance(left, dict) else left).flat) == {7}
        del left
        assert reader.stats().leases == 0


def test_a_discarded_slot_stays_until_the_last_of_two_views_is_gone() -> None:
    with va.serve("s", slots=2) as server:
        server.publish(np.zeros((4, 4), np.uint8))
        slot = server.loan((4, 4), "gray8")
        views = [slot.array, slot.array]
        slot.discard()
        del views[0]
        assert not server.publish(np.zeros((4, 4), np.uint8))
        del views[:]
        assert server.publish(np.zeros((4, 4), np.uint8))


def request(frame: va.Frame, flags: int) -> None:
    """As a program in C asks for a buffer. Raises BufferError."""
    buffer = ctypes.create_string_buffer(256)
    api = ctypes.pythonapi
    assert not api.PyObject_GetBuffer(ctypes.py_object(frame), buffer, flags)
    api.PyBuffer_Release(buffer)


SIMPLE, WRITABLE, F_CONTIGUOUS = 0, 1, 0x58  # PyBUF_...


def test_a_frame_is_lent_for_reading_alone_and_in_its_own_order() -> None:
    with va.serve("s") as server, va.attach("s", max_leases=9) as reader:
        for image in (np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3), np.uint8), np.zeros(7, np.uint8)):
            server.publish(image)
            frame = reader.recv(5)
            request(frame, SIMPLE)
            with pytest.raises(BufferError):
                request(frame, WRITABLE)
            request(frame.copy(), WRITABLE)
            if image.ndim == 1:
                request(frame, F_CONTIGUOUS)  # there it is the same
            else:
                with pytest.raises(BufferError):
                    request(frame, F_CONTIGUOUS)
            frame.release()
            assert reader.stats().leases == 0


@pytest.mark.parametrize("format", ["array", None])
def test_an_array_like_the_one_before_but_for_its_dtype_is_described_rightly(
    format: va.FrameFormat | None,
) -> None:
    """With the same shape and format as before a frame is checked less, and its dtype is not what is less."""
    with va.serve("s") as server, va.attach("s", policy="ordered") as reader:
        for one, other in itertools.permutations(_shm.DTYPES, 2):
            for dtype in (one, other):
                server.publish(np.ones((3, 4, 5), dtype), format=format)
                with reader.recv(5) as frame:
                    assert frame.dtype == dtype and (frame.array == 1).all()


def test_an_image_that_is_not_what_it_was_said_to_be_is_refused() -> None:
    """As one that another thread resizes between the check and the copy."""
    with va.serve("s") as server:
        server.publish(np.zeros((4, 4), np.uint8))
        kind = kind_of((4, 4), np.dtype(np.uint8), None)
        for image in (np.zeros((5, 4), np.uint8), np.zeros((4, 4), np.uint16), np.zeros(16, np.uint8)):
            with pytest.raises(va.FrameError):
                server._writer.publish(image, kind, None, None, None, None, None, True, None)
        assert (server.stats().published, server.stats().dropped) == (1, 0)


@pytest.mark.parametrize("frames", [1, 3])
def test_a_connection_ends_with_the_last_frame_of_a_closed_reader(frames: int) -> None:
    with va.serve("s") as server:
        with va.attach("s", policy="ordered") as reader:
            for _ in range(frames):
                server.publish(b"x")
            held = [reader.recv(5) for _ in range(frames)]
        while held:
            assert server.readers == 1
            held.pop().release()
        wait_for(lambda: server.readers == 0)


def test_frames_held_of_a_server_that_is_gone_do_not_make_a_reader_readable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their connection is open as long as they are, and it has come to its end."""
    monkeypatch.setattr(backoff.random, "uniform", lambda shortest, longest: 3600.0)
    with selectors.DefaultSelector() as selector:
        with va.serve("s") as server:
            reader = va.attach("s", reconnect=True)
            selector.register(reader, selectors.EVENT_READ)
            server.publish(b"x")
            held = reader.recv(5)
        while selector.select(0.05):
            assert reader.recv_nowait() is None
        assert bytes(held.data) == b"x"
        assert not selector.select(0.05)
        selector.unregister(reader)
        reader.close()


@pytest.mark.parametrize("loan", [False, True])
def test_threads_that_publish_other_formats_in_the_same_shape_get_each_described_rightly(loan: bool) -> None:
    formats = {"rgb24": (80, 90, 3), "bgr24": (80, 90, 3), "array": (80, 90, 3)}
    with va.serve("s", slots=32) as server, va.attach("s", policy="ordered") as reader:
        server.publish(np.zeros((80, 90, 3), np.uint8))
        reader.recv(5).release()

        def publish(format: str) -> None:
            image = np.full(formats[format], ord(format[0]), np.uint8)
            for _ in range(200):
                if loan:
                    with server.loan(image.shape, format, meta={"format": format}) as slot:  # type: ignore[arg-type]
                        slot.array[:] = image
                else:
                    server.publish(image, format=format, meta={"format": format})  # type: ignore[arg-type]

        threads = [threading.Thread(target=publish, args=[format]) for format in formats]
        for thread in threads:
            thread.start()
        seen = 1
        while seen < 601:
            with reader.recv(10) as frame:
                assert frame.meta == {"format": frame.format}
                assert (frame.array == ord(frame.format[0])).all()
                seen = frame.seq
        for thread in threads:
            thread.join()


# ----------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("then", ["nothing", "another's"])
def test_a_lock_that_its_holder_removes_at_this_moment_is_not_taken_for_the_lock(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """Between our open and our lock; another may have made the next one."""
    path = runtime_dir / "s.lock"
    flock = fcntl.flock
    moments = [1, 2, 3]

    def late(fd: int, how: int) -> None:
        if moments and os.readlink(f"/proc/self/fd/{fd}").endswith("s.lock"):
            moments.pop()
            path.unlink()
            if then == "another's":
                path.touch()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with va.serve("s"):
        assert not moments
        with path.open("r+") as again, pytest.raises(BlockingIOError):
            flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_sweeping_leaves_alone_a_lock_that_has_come_meanwhile(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = runtime_dir / "s.lock"
    path.touch()
    flock = fcntl.flock

    def late(fd: int, how: int) -> None:
        if not path.read_text():
            path.unlink()
            path.write_text("of a server that begins")
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    rendezvous.sweep("s")
    assert path.read_text()
    path.unlink()


def test_a_name_is_free_although_a_process_has_inherited_its_locks() -> None:
    """One that was forked a moment ago, and has not dropped them yet."""
    server = va.serve("s")
    copies = [os.dup(fd) for fd in (*server._claim._lock, *server._claim._guard)]
    server.close()
    va.serve("s").close()
    for fd in copies:
        os.close(fd)


def test_a_socket_whose_queue_is_full_is_not_taken_over(runtime_dir: Path) -> None:
    """And who wants to read there waits for its turn."""
    path = str(runtime_dir / "s.sock")
    waiting = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(path)
        other.listen(0)
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
            waiting.append(sock)
            try:
                sock.connect(path)
            except BlockingIOError:
                break
        with pytest.raises(va.NameInUseError):
            va.serve("s")
        with pytest.raises(TimeoutError):
            va.attach("s", open_timeout=0.05)
    for sock in waiting:
        sock.close()
    va.serve("s").close()


@pytest.mark.parametrize(("mode", "group"), [(0o600, None), (0o660, None), (0o660, os.getgid())])
def test_a_socket_never_lets_in_more_than_was_asked(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, mode: int, group: int | None
) -> None:
    """Not even between the moments in which it is made and gets its permissions."""
    seen = []
    chmod = os.chmod

    def late(path: str, mode: int) -> None:
        seen.append(stat.S_IMODE(os.stat(path).st_mode))
        chmod(path, mode)

    umask = os.umask(0)
    try:
        monkeypatch.setattr(os, "chmod", late)
        va.serve("s", mode=mode, group=group).close()
    finally:
        os.umask(umask)
    allowed = mode if group is None else 0o600
    assert seen and not seen[-1] & ~allowed


@as_root
def test_a_socket_that_is_young_may_get_its_permissions_yet(runtime_dir: Path) -> None:
    runtime_dir.chmod(0o755)
    path = runtime_dir / "s.sock"
    with va.serve("s", mode=0o666) as server:
        server.publish(b"x")
        with Child(
            """
            va.attach, va.ConnectError
            os.setgroups([]); os.setresgid(12345, 12345, 12345); os.setresuid(12345, 12345, 12345)
            for _ in range(2):
                say("ready"); sys.stdin.readline()
                try:
                    with va.attach("s", open_timeout=20) as reader:
                        say(bytes(reader.recv(10).data))
                except va.ConnectError as e:
                    say(e.errno)
            """
        ) as child:
            child.line()
            path.chmod(0o600)
            child.tell("go")
            time.sleep(0.1)
            path.chmod(0o666)
            assert child.line() == "b'x'"
            path.chmod(0o600)
            child.line()
            time.sleep(1.1)
            child.tell("go")
            assert child.line() == str(errno.EACCES)


def test_a_server_without_descriptors_looks_away_for_a_while(
    runtime_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with va.serve("s"), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        with descriptors(3):
            sock.connect(str(runtime_dir / "s.sock"))
            wait_for(lambda: caplog.records)
            time.sleep(0.1)
        assert len(caplog.records) == 1
        va.attach("s", open_timeout=10).close()


def test_a_timer_from_another_thread_ends_a_sleep_that_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch, "LOOK_SECONDS", 60)  # else it would wake up for that
    watcher = _watch.ThreadWatcher()
    reading, writing = os.pipe()
    watcher.add(reading, lambda: None)
    time.sleep(0.05)  # it sleeps, and has no timer
    done = threading.Event()
    watcher.later(0.01, done.set)
    assert done.wait(10)
    watcher.remove(reading)
    watcher.join()
    os.close(reading)
    os.close(writing)


def test_a_handler_that_fails_leaves_the_other_servers_of_the_thread_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer = peers.Peers._answer

    def fail(this: peers.Peers, peer: object, message: object) -> None:
        if this._name == "bad":
            raise RuntimeError("a fault")
        answer(this, peer, message)  # type: ignore[arg-type]

    monkeypatch.setattr(peers.Peers, "_answer", fail)
    with va.serve("bad"), va.serve("good") as good:
        with pytest.raises(TimeoutError):
            va.attach("bad", open_timeout=0.05)
        with va.attach("good", open_timeout=5) as reader:
            good.publish(b"x")
            assert bytes(reader.recv(5).data) == b"x"
    assert any(record.exc_info for record in caplog.records)


# ------------------------------------------------------------------------------------ directory


async def test_a_change_of_one_socket_has_that_one_dialled(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled: Counter[str] = Counter()
    dial = connection.dial

    def count(name: str) -> socket.socket | None:
        dialled[name] += 1
        return dial(name)

    monkeypatch.setattr(connection, "dial", count)
    monkeypatch.setattr(backoff.random, "uniform", lambda shortest, longest: 3600.0)
    names = [f"dead{number}" for number in range(20)]
    for name in names:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.bind(str(runtime_dir / f"{name}.sock"))
    async with va.merge("*") as merged:
        await until(lambda: len(dialled) == 20)
        for _ in range(3):
            async with va.serve("live") as server:
                await until(lambda: server.readers)  # noqa: B023
            await until(lambda: merged.recv_nowait() is None and len(merged.sources) == 20)
        assert {dialled[name] for name in names} == {1}
    for name in names:
        (runtime_dir / f"{name}.sock").unlink()


async def test_more_changes_than_the_kernel_tells_are_a_change_of_any_name(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    one = struct.pack("=iIII", 1, 0x100, 0, 16) + b"a.sock".ljust(16, b"\0")
    os.write(writing, one + struct.pack("=iIII", -1, 0x4000, 0, 0) + one)
    assert _kernel.events(reading) is None
    os.write(writing, one)
    assert _kernel.events(reading) == {"a.sock"}
    os.close(reading)
    os.close(writing)

    monkeypatch.setattr(_kernel, "events", lambda fd: None)
    looker = directory.Directory()
    looker.look()
    (runtime_dir / "a.sock").touch()
    async with asyncio.timeout(10):
        assert await looker.changed() is None
    looker.close()
    (runtime_dir / "a.sock").unlink()


# -------------------------------------------------------------------------------------- refusals


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> list[va.ConnectError]:
    """Those that readers here have met."""
    met: list[va.ConnectError] = []
    fail = Connection.fail

    def failed(this: Connection, error: va.ConnectError) -> None:
        met.append(error)
        fail(this, error)

    monkeypatch.setattr(Connection, "fail", failed)
    return met


@pytest.mark.parametrize("kind", ["reader", "client", "merge"])
async def test_a_server_that_refuses_is_given_time(
    kind: str, refusals: list[va.ConnectError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again, and not at once: each question costs it a connection."""
    for module in (plain, subscription):
        monkeypatch.setattr(module, "REFUSED_SECONDS", 3600.0)
    one: va.Reader | va.Client | va.Merge
    async with va.serve("s"):
        if kind == "reader":
            one = await asyncio.to_thread(va.attach, "s", reconnect=True)
        else:
            one = va.merge("s") if kind == "merge" else await va.connect("s", reconnect=True)
    async with va.serve("s", max_clients=1), va.connect("s"):
        waiting = None if isinstance(one, va.Reader) else asyncio.create_task(one.recv())
        for _ in range(60):
            assert not isinstance(one, va.Reader) or one.recv_nowait() is None
            await asyncio.sleep(0.005)
        one.close()
        if waiting is not None:
            with pytest.raises(va.ConnectionClosedOK):
                await waiting
    assert len(refusals) == 1


@pytest.mark.parametrize("kind", ["reader", "client", "merge"])
async def test_a_server_that_has_just_begun_and_ended_is_given_time(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dials = 0
    dial = connection.dial

    def count(name: str) -> socket.socket | None:
        nonlocal dials
        dials += 1
        return dial(name)

    one: va.Reader | va.Client | va.Merge
    async with va.serve("s") as server:
        if kind == "reader":
            one = await asyncio.to_thread(va.attach, "s", reconnect=True)
        elif kind == "client":
            one = await va.connect("s", reconnect=True)
        else:
            one = va.merge("s")
            one.recv_nowait()
            await until(lambda: server.readers)
            await until(lambda: None not in one.stats().sources.values())  # type: ignore[union-attr]
    monkeypatch.setattr(connection, "dial", count)
    monkeypatch.setattr(backoff.random, "uniform", lambda shortest, longest: 3600.0)
    waiting = None if isinstance(one, va.Reader) else asyncio.create_task(one.recv())
    for _ in range(20):
        assert not isinstance(one, va.Reader) or one.recv_nowait() is None
        await asyncio.sleep(0.005)
    one.close()
    if waiting is not None:
        with pytest.raises(va.ConnectionClosedOK):
            await waiting
    assert dials == 0


async def test_a_server_that_refuses_for_the_same_reason_is_told_of_once(
    refusals: list[va.ConnectError], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(subscription, "REFUSED_SECONDS", 0.005)
    async with va.serve("s", max_clients=1), va.connect("s"), va.merge("s") as merged:
        waiting = asyncio.create_task(merged.recv())
        await until(lambda: len(refusals) >= 5)
        waiting.cancel()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("pattern", [True, False])
async def test_sockets_of_killed_servers_are_dialled_ever_more_seldom_and_the_directory_is_read_once_for_all(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, pattern: bool
) -> None:
    """A directory that is looked at tells when one is back. By its name a server may come any moment."""
    looks = 0
    pauses: list[float] = []
    servers = directory.servers

    def looked() -> list[str]:
        nonlocal looks
        looks += 1
        return servers()

    def pause(shortest: float, longest: float) -> float:
        pauses.append(longest)
        return 0.001

    monkeypatch.setattr(directory, "servers", looked)
    monkeypatch.setattr(backoff.random, "uniform", pause)
    names = [f"dead{number}" for number in range(20)]
    for name in names:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.bind(str(runtime_dir / f"{name}.sock"))
    async with va.merge(*["dead*"] if pattern else names) as merged:
        merged.recv_nowait()
        await until(lambda: len(pauses) > 20 * len(names))
        assert max(pauses) == (60 if pattern else 0.2)
        assert looks == (1 if pattern else 0)
        assert len(merged.sources) == len(names)
    for name in names:
        (runtime_dir / f"{name}.sock").unlink()
