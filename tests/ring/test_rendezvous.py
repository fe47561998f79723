"""Servers and readers find each other, and only each other."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import re
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

import valkka_async as va
from support.program import Child
from support.until import until
from valkka_async.ring import handshake, peers
from valkka_async.ring.connection import dial, report
from valkka_async.ring.rendezvous import servers, socket_path


@pytest.mark.parametrize(
    "name", ["a/b/c/d", "/a", "../a", "", ".", "..", "x" * 65, "a b", "ä", "a\0b", 5, None]
)
def test_a_bad_name_is_refused_everywhere(name: str) -> None:
    for call in (va.serve, va.attach, va.connect):
        with pytest.raises(va.InvalidNameError, match="not a name"):
            call(name)
    if isinstance(name, str):
        with pytest.raises(va.InvalidNameError):
            va.merge(name)


def test_a_name_is_served_once() -> None:
    with va.serve("s"):
        with pytest.raises(
            va.NameInUseError, match=f"'s' is served already by process {os.getpid()}"
        ) as raised:
            va.serve("s")
        assert isinstance(raised.value, OSError)
        with va.attach("s"):  # the first serves on
            pass
    with va.serve("s"):
        pass


def test_a_killed_servers_name_is_free() -> None:
    with Child('s = va.serve("s"); say("up"); time.sleep(60)') as child:
        child.line()
        with pytest.raises(va.NameInUseError, match=f"process {child.pid}"):
            va.serve("s")
        child.kill()
        assert servers() == ["s"]  # its socket is still there
        assert report("s", 1) is None
        with va.serve("s"), va.attach("s"):
            pass


async def test_a_server_that_is_not_there_is_a_timeout_that_says_so() -> None:
    with pytest.raises(TimeoutError, match="no server called 'nobody' within 0.05 s.*VALKKA_RUNTIME_DIR"):
        await va.connect("nobody", open_timeout=0.05)


def test_attach_times_out_too() -> None:
    with pytest.raises(TimeoutError, match="no server called 'nobody' within 0.05 s"):
        va.attach("nobody", open_timeout=0.05)


def test_attach_waits_for_the_server() -> None:
    with Child('time.sleep(0.2); s = va.serve("s"); s.publish(b"x"); time.sleep(60)') as child:
        with va.attach("s") as reader:
            assert bytes(reader.recv(5).data) == b"x"
        child.kill()
    va.serve("s").close()


def test_the_directory_and_the_socket_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VALKKA_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with va.serve("s"):
        assert stat.S_IMODE((tmp_path / "valkka-async").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "valkka-async" / "s.sock").stat().st_mode) == 0o600
    with va.serve("s", mode=0o660, group=os.getgid()):
        assert stat.S_IMODE((tmp_path / "valkka-async" / "s.sock").stat().st_mode) == 0o660


@pytest.mark.parametrize(
    ("spoil", "hint"),
    [
        (lambda d: d.mkdir(mode=0o755), "not this user's alone"),
        (lambda d: d.write_text("x"), "not a directory"),
        (lambda d: d.symlink_to("/tmp"), "not a directory"),
    ],
)
def test_a_directory_that_cannot_be_trusted_is_refused(  # type: ignore[no-untyped-def]
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil, hint: str
) -> None:
    monkeypatch.delenv("VALKKA_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    spoil(tmp_path / "valkka-async")
    for call in (lambda: va.serve("s"), lambda: va.attach("s", open_timeout=1)):
        with pytest.raises(va.ConnectError, match=hint):
            call()


def test_a_path_that_is_too_long_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALKKA_RUNTIME_DIR", str(tmp_path / ("x" * 100)))
    with pytest.raises(va.ConnectError, match="set VALKKA_RUNTIME_DIR to a shorter one"):
        va.serve("s")


def test_more_readers_than_max_clients_are_refused() -> None:
    with va.serve("s", max_clients=2), va.attach("s"), va.attach("s") as second:
        with pytest.raises(va.ConnectError, match="has 2 readers and takes no more"):
            va.attach("s")
        second.close()
        deadline = time.monotonic() + 5
        while True:
            try:
                va.attach("s").close()
                break
            except va.ConnectError:
                assert time.monotonic() < deadline


def test_a_server_whose_queue_is_full_is_waited_for(runtime_dir: Path) -> None:
    with va.serve("other"):  # makes the directory
        pass
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as busy, contextlib.ExitStack() as stack:
        busy.bind(socket_path(runtime_dir, "s"))
        busy.listen(0)
        while (one := dial("s")) is not None:
            stack.enter_context(one)
        with pytest.raises(TimeoutError):
            report("s", 0.2)
        room = threading.Timer(0.1, lambda: stack.enter_context(busy.accept()[0]))
        room.start()
        there = dial("s", time.monotonic() + 20)
        room.join()
        assert there is not None
        there.close()
        os.unlink(socket_path(runtime_dir, "s"))


def test_a_server_reports_on_itself() -> None:
    with va.serve("s") as server_, va.attach("s"):
        server_.publish(b"xyz")
        values = report("s", 5)
        assert values is not None
        assert (values["pid"], values["published"], values["bytes"], values["readers"]) == (
            os.getpid(),
            1,
            3,
            1,
        )
    assert report("s", 5) is None


def test_a_server_says_more_of_itself_as_long_as_it_fits() -> None:
    with va.serve("s") as server:
        server.describe(lambda: {"camera": {"state": "live"}, "pid": "not to be changed"})
        values = report("s", 5)
        assert values is not None
        assert values["camera"] == {"state": "live"} and values["pid"] == os.getpid()
        assert values["readers"] == server.readers == 0
        server.describe(lambda: {"camera": "x" * 100_000})
        values = report("s", 5)
        assert values is not None and "camera" not in values and values["published"] == 0


def foreign(path: Path, kind: int, answer: bytes | None) -> tuple[socket.socket, threading.Thread]:
    """Some other program that listens on a socket and answers each caller with the same bytes."""
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind(str(path))
    listener.listen()

    def run() -> None:
        held = []
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                break
            held.append(sock)
            if answer is not None:
                try:
                    sock.send(answer)
                except OSError:  # the caller has left again
                    pass
        for sock in held:
            sock.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return listener, thread


@pytest.mark.parametrize(
    ("kind", "answer", "error", "hint"),
    [
        (socket.SOCK_STREAM, b"HTTP/1.1 400", va.ProtocolError, "not a valkka-async server"),
        (socket.SOCK_SEQPACKET, b"HTTP/1.1 400 Bad Request\r\n", va.ProtocolError, "not valkka-async"),
        (socket.SOCK_SEQPACKET, b"x", va.ProtocolError, "not valkka-async"),
        (socket.SOCK_SEQPACKET, None, TimeoutError, "did not answer within 0.3 s"),
        (socket.SOCK_SEQPACKET, handshake.encode(handshake.Bye()), TimeoutError, "did not answer"),
        (
            socket.SOCK_SEQPACKET,
            handshake.encode(handshake.Welcome(1, 1, 0)),
            va.ProtocolError,
            "not expected",
        ),
        (socket.SOCK_SEQPACKET, handshake.encode(handshake.Ring(1, 1)), va.ProtocolError, "not expected"),
    ],
)
async def test_a_foreign_program_on_the_socket_is_told_apart(  # type: ignore[no-untyped-def]
    runtime_dir: Path, kind: int, answer: bytes | None, error, hint: str
) -> None:
    listener, thread = foreign(runtime_dir / "s.sock", kind, answer)
    try:
        with pytest.raises(error, match=hint):
            await asyncio.to_thread(va.attach, "s", open_timeout=0.3)
        with pytest.raises(error, match=hint):
            await va.connect("s", open_timeout=0.3)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        await asyncio.to_thread(thread.join)
        (runtime_dir / "s.sock").unlink()


async def test_a_reader_built_for_another_layout_is_refused_by_both_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with va.serve("s") as server_:
        with pytest.raises(va.ProtocolError) as raised:
            with Child(
                """
                from valkka_async.ring import handshake
                handshake.LAYOUT += 8
                try:
                    va.attach("s", open_timeout=5)
                except va.ProtocolError as e:
                    say(e)
                """
            ) as child:
                line = await asyncio.to_thread(child.line)
                raise va.ProtocolError(line)
        ours, theirs = handshake.LAYOUT, handshake.LAYOUT + 8
        version = rf"version {handshake.VERSION} \(layout"
        assert re.search(rf"{version} {ours}\).*{version} {theirs}\)", str(raised.value))
        async with va.connect("s") as client:  # and the server serves on
            server_.publish(b"x")
            assert bytes((await client.recv()).data) == b"x"


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"x" * 5000,
        random.Random(64).randbytes(64),  # the same in every process of a test run
        handshake.encode(handshake.Bye()),
        handshake.encode(handshake.Ack(7)),
        handshake.encode(handshake.Hello(99, 4)),
        handshake.encode(handshake.Hello(0, 4))[:-1],
    ],
)
def test_nonsense_on_the_socket_is_answered_and_hurts_nobody(runtime_dir: Path, data: bytes) -> None:
    with va.serve("s") as server_, va.attach("s") as reader:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(5)
            sock.connect(str(runtime_dir / "s.sock"))
            sock.send(data)
            assert isinstance(handshake.decode(sock.recv(4096)), handshake.Refused)
            assert sock.recv(4096) == b""
        server_.publish(b"fine")
        assert bytes(reader.recv(5).data) == b"fine"


async def test_a_crowd_that_says_nothing_keeps_readers_waiting_and_turns_none_away(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crowd() -> contextlib.ExitStack:
        """As many connections as there may be: readers, and those that have yet to say what they want."""
        with contextlib.ExitStack() as stack:
            for _ in range(8 + peers._STRANGERS):
                sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                sock.connect(str(runtime_dir / "s.sock"))
            return stack.pop_all()
        raise AssertionError

    def attach() -> bytes:
        with va.attach("s", open_timeout=10) as reader:
            return bytes(reader.recv(5).data)

    async def connect() -> bytes:
        async with va.connect("s", open_timeout=10) as client:
            return bytes((await client.recv()).data)

    async def merge() -> bytes:
        async with va.merge("s", reconnect=False) as sources:
            return bytes((await sources.recv()).data)

    with va.serve("s", max_clients=8) as server:
        server.publish(b"x")
        before = len(os.listdir("/proc/self/fd"))
        for read in (lambda: asyncio.to_thread(attach), connect, merge):
            with crowd():
                with pytest.raises(va.ConnectError) as caught:
                    while await asyncio.to_thread(report, "s", 5) is None:
                        pass  # they are still in the queue, which is full
                assert caught.value.errno == errno.EAGAIN
                with pytest.raises(TimeoutError):
                    await asyncio.to_thread(va.attach, "s", open_timeout=0.05)
                reading = asyncio.create_task(read())
                await asyncio.sleep(0.1)
                assert not reading.done()
            assert await reading == b"x"
            await until(lambda: len(os.listdir("/proc/self/fd")) == before)  # they have left


def test_a_connection_that_says_nothing_is_closed(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "HELLO_SECONDS", 0.1)
    with va.serve("s"), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(5)
        sock.connect(str(runtime_dir / "s.sock"))
        assert sock.recv(4096) == b""


def test_readers_cannot_write_frames_or_shrink_them(runtime_dir: Path) -> None:
    """The seals, from the side of a reader that means harm."""
    import fcntl
    import mmap

    with va.serve("s") as server_, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        server_.publish(b"x" * 10000)
        sock.settimeout(5)
        sock.connect(str(runtime_dir / "s.sock"))
        sock.send(handshake.encode(handshake.Hello(0, 4)))
        _, leases_and_bell, _, _ = socket.recv_fds(sock, 4096, 4)
        data, (ring,), _, _ = socket.recv_fds(sock, 4096, 4)
        message = handshake.decode(data)
        assert isinstance(message, handshake.Ring)
        with pytest.raises(PermissionError):
            mmap.mmap(ring, message.size)
        for fd in (ring, leases_and_bell[0]):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, 0)
            with pytest.raises(PermissionError):
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        with pytest.raises(PermissionError):
            os.pwrite(ring, b"y", 0)
        mmap.mmap(ring, message.size, prot=mmap.PROT_READ).close()
        for fd in (ring, *leases_and_bell):
            os.close(fd)


def test_a_full_descriptor_table_refuses_a_reader_and_serves_on() -> None:
    import resource

    with va.serve("s") as server_, va.attach("s") as reader:
        server_.publish(b"first")
        reader.recv(5).release()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with Child(
            """
            try:
                va.attach("s", open_timeout=1)
            except (TimeoutError, va.ConnectError) as e:
                say(type(e).__name__)
            sys.stdin.readline()
            with va.attach("s", open_timeout=10) as r:
                say(bytes(r.recv(10).data).decode())
            """
        ) as child:
            free = os.open("/dev/null", os.O_RDONLY)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
            try:
                assert child.line() in ("ConnectError", "TimeoutError")
                server_.publish(b"fine")
                assert bytes(reader.recv(5).data) == b"fine"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            child.tell("now")
            assert child.line() == "fine"
            child.wait()
