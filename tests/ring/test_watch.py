"""What looks after servers: a thread, whatever the program does; or the loop, if that is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import valkka_async as va
from support.program import Child
from support.until import until, wait_for
from valkka_async.ring import _looks, _watch
from valkka_async.ring._room import RoomWaiters
from valkka_async.ring.connection import report
from valkka_async.ring.rendezvous import Claim

READER = """
with va.attach("s", policy="ordered", open_timeout=20) as reader:
    say(reader.header.decode())
    for frame in reader:
        say(bytes(frame.data).decode())
"""


def watching() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "valkka-async"]


# --------------------------------------------------------------------------- a loop that does not run on


@pytest.mark.parametrize("busy", [False, True], ids=["sleeping", "computing"])
async def test_a_blocked_loop_keeps_no_reader_waiting(busy: bool) -> None:
    """As a notebook's cell that never awaits: the reader comes, gets header and frames, and sees the end."""
    server = va.serve("s")
    server.set_header(b"header")
    server.publish(b"first")
    with server, Child(READER) as child:
        deadline = time.monotonic() + 20
        while not server.readers:
            assert time.monotonic() < deadline, "nobody answered"
            if not busy:
                time.sleep(0.001)  # noqa: ASYNC251 - that is what is tested
        assert [child.line(), child.line()] == ["header", "first"]
        server.publish(b"x" * 1_000_000)  # a new ring
        assert child.line() == "x" * 1_000_000
        server.close()
        assert child.wait() == 0


async def test_a_reader_in_the_blocked_loop_itself_is_answered() -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish(b"1")
        assert bytes(reader.recv(5).data) == b"1"


async def test_a_server_is_at_home_in_every_loop() -> None:
    """Made in one, it is used and closed in another, of another thread, while the first one is blocked."""
    server = va.serve("s", slots=2)

    async def elsewhere() -> int:
        async with server, va.connect("s", policy="lossless") as client:
            for n in range(20):
                while not server.publish(b"%d" % n):
                    await asyncio.wait_for(server.writable(), 5)
                if n % 2:
                    for _ in range(2):
                        (await client.recv()).release()
            return client.stats().received

    received: list[int] = []
    thread = threading.Thread(target=lambda: received.append(asyncio.run(elsewhere())))
    thread.start()
    thread.join(20)
    assert received == [20] and server.closed


def test_a_loop_that_was_closed_meanwhile_keeps_no_other_from_its_room() -> None:
    waiters = RoomWaiters()
    room: list[int] = []

    async def wait_for_room() -> asyncio.Task[None]:
        task = asyncio.create_task(waiters.wait(lambda: bool(room)))
        await asyncio.sleep(0)
        return task

    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    lost = first.run_until_complete(wait_for_room())
    waiting = second.run_until_complete(wait_for_room())
    first.close()
    room.append(1)
    waiters.notify()
    second.run_until_complete(asyncio.wait_for(waiting, 5))
    second.close()
    lost.get_coro().close()  # type: ignore[union-attr]
    lost._log_destroy_pending = False  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------ asked for the loop


async def test_the_loop_looks_after_a_server_where_that_is_asked_for() -> None:
    before = watching()
    async with va.serve("s", watch="loop") as server:
        assert watching() == before  # no thread
        with Child(READER) as child:
            await until(lambda: server.readers)
            server.publish(b"1")
            assert [await asyncio.to_thread(child.line) for _ in range(2)] == ["", "1"]
            server.close()
            assert await asyncio.to_thread(child.wait) == 0


def test_the_loop_is_asked_for_where_none_runs(runtime_dir: Path) -> None:
    with pytest.raises(ValueError, match="running event loop"):
        va.serve("s", watch="loop")
    with pytest.raises(ValueError, match="'fiber'"):
        va.serve("s", watch="fiber")  # type: ignore[arg-type]
    assert not list(runtime_dir.iterdir())


async def test_closing_in_another_thread_takes_effect_in_the_loop_that_looks_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = set()
    remove = _watch.LoopWatcher.remove

    def removed(watcher: _watch.LoopWatcher, fd: int) -> None:
        threads.add(threading.get_ident())
        remove(watcher, fd)

    monkeypatch.setattr(_watch.LoopWatcher, "remove", removed)
    async with va.serve("s", watch="loop") as server, va.connect("s") as client:
        waiting = asyncio.create_task(client.recv())
        await until(lambda: server.readers)
        thread = threading.Thread(target=server.close)
        thread.start()
        with pytest.raises(va.ConnectionClosedOK):
            await asyncio.wait_for(waiting, 5)
        thread.join()
        assert server.closed and threads == {threading.get_ident()}
        va.serve("s").close()  # the name is free


async def test_a_plain_wait_that_would_wait_for_itself_says_so_at_once() -> None:
    async with va.serve("s", slots=2, watch="loop") as server, va.connect("s", policy="lossless") as client:
        await until(lambda: server.readers)
        while server.publish(b"x"):
            pass
        with pytest.raises(va.ConcurrencyError, match="writable"):
            server.wait_writable()
        room = asyncio.create_task(asyncio.to_thread(server.wait_writable, 10))
        (await client.recv()).release()
        assert await room


# ---------------------------------------------------------------------------------- a callback that waits


class Slow:
    """What a server says of itself, once it is let go."""

    def __init__(self) -> None:
        self.asked, self.go, self.done = threading.Event(), threading.Event(), threading.Event()

    def __call__(self) -> dict[str, Any]:
        self.asked.set()
        self.go.wait(20)
        self.done.set()
        return {"slow": 1}


@pytest.fixture
def slow() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.go.set()


def asked(server: va.Server, slow: Slow) -> threading.Thread:
    """Somebody asks what it says of itself, and is not answered yet."""

    def ask() -> None:
        with contextlib.suppress(va.ConnectError):  # it was closed meanwhile
            report("s", 20)

    server.describe(slow)
    asking = threading.Thread(target=ask)
    asking.start()
    assert slow.asked.wait(20)
    return asking


def test_what_a_server_says_of_itself_keeps_no_publisher_waiting(slow: Slow) -> None:
    with va.serve("s") as server:
        asking = asked(server, slow)
        assert server.publish(b"1") and server.publish(b"x" * 1_000_000) and not slow.done.is_set()
        slow.go.set()
        asking.join()


def test_closing_does_not_wait_for_ever_for_a_callback(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch, "_END_SECONDS", 0.01)
    with va.serve("s") as server:
        asking = asked(server, slow)
    assert not slow.done.is_set()
    slow.go.set()
    asking.join()
    wait_for(lambda: not watching())


async def test_closing_in_a_loop_does_not_hold_it_up(slow: Slow) -> None:
    async with va.serve("s") as server:
        asking = asked(server, slow)
    assert not slow.done.is_set()
    slow.go.set()
    asking.join()
    await until(lambda: not watching())


# ------------------------------------------------------------------------------------------- its files


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each look at a directory; the servers' own looks are in `looked`."""
    seen: list[str] = []
    state = _looks._state

    def counted(directory: str) -> _looks._State | None:
        seen.append(directory)
        return state(directory)

    monkeypatch.setattr(_watch, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(_looks, "_state", counted)
    return seen


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[Claim]:
    seen: list[Claim] = []
    whole = Claim.whole

    def counted(claim: Claim) -> bool:
        seen.append(claim)
        return whole(claim)

    monkeypatch.setattr(Claim, "whole", counted)
    return seen


@pytest.mark.parametrize("watch", ["thread", "loop"])
async def test_servers_look_for_their_files_only_after_a_change(
    watch: _watch.Watch, runtime_dir: Path, looks: list[str], looked: list[Claim]
) -> None:
    servers = [va.serve(f"s{n}", watch=watch) for n in range(5)]
    await until(lambda: len(set(looked)) == 5)  # they have just been made
    await asyncio.sleep(_looks._SETTLED_SECONDS)

    async def more() -> None:
        before = len(looks)
        await until(lambda: len(looks) > before + 20)

    await more()
    looked.clear()
    await more()
    assert not looked and set(looks) == {str(runtime_dir)}
    for name in ("s3.sock", "s4.lock"):
        (runtime_dir / name).unlink()
    await until(lambda: (runtime_dir / "s3.sock").exists() and (runtime_dir / "s4.lock").exists())
    for server in servers:
        server.close()


def test_a_look_that_failed_is_repeated_although_nothing_has_changed(
    runtime_dir: Path, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    restore, failed = Claim.restore, []

    def fails(claim: Claim) -> None:
        if len(looks) < then + 30:  # long enough for the directory to be at rest
            failed.append(1)
            raise va.ConnectError(28, "no space left")
        restore(claim)

    with va.serve("s"):
        monkeypatch.setattr(Claim, "restore", fails)
        then = len(looks)
        (runtime_dir / "s.sock").unlink()
        wait_for(lambda: (runtime_dir / "s.sock").exists())
        assert failed


def test_the_thread_ends_before_the_interpreter_which_would_stop_it_anywhere() -> None:
    """Holding a lock, for which the ``__del__`` of a server would wait for ever."""
    code = """
import atexit, threading
names = lambda: [thread.name for thread in threading.enumerate()]
atexit.register(lambda: print(*names()))  # what is registered first is called last
import valkka_async as va
server, reader = va.serve("s"), va.attach("s")
print(*names())
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (said.stdout, said.stderr) == ("MainThread valkka-async\nMainThread\n", "")
