"""Nobody sleeps through what he waits for: what comes between a look and the sleep after it is seen by one of
the two. And what wakes is let go."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import valkka_async as va
from support.until import until
from valkka_async.ring import _shm
from valkka_async.ring._room import RoomWaiters
from valkka_async.ring._shm import Doorbell, Waiter
from valkka_async.ring.connection import Connection
from valkka_async.ring.subscription import Link

Receiver = va.Client | va.Merge
MAKERS: dict[str, Callable[..., Receiver]] = {
    "client": lambda **options: va.connect("s", **options),
    "patient client": lambda **options: va.connect("s", reconnect=True, **options),
    "merge": lambda **options: va.merge("s", **options),
    "pattern": lambda **options: va.merge("s*", **options),
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))


@makers
@pytest.mark.parametrize("policy", ["latest", "ordered", "lossless"])
@pytest.mark.parametrize("after", ["nothing", "a frame"])
async def test_a_frame_that_comes_between_the_look_and_the_sleep_ends_the_sleep(
    make: Callable[..., Receiver], policy: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a look that found nothing, or a frame: nobody rings for the next one unless the bell is armed."""
    late = [b"late"]

    class Looked(Doorbell):
        def claim(self) -> va.Frame | None:
            frame = super().claim()
            if late and (frame is not None) == (after == "a frame"):
                server.publish(late.pop())
            return frame

    async with va.serve("s") as server:
        server.set_header(b"moov")  # makes a ring: should one come later, its message would wake us too
        one = make(policy=policy)
        monkeypatch.setattr(_shm, "Doorbell", Looked)
        if after == "a frame":
            server.publish(b"early")
        async with asyncio.timeout(10), one:
            while bytes((await one.recv()).data) != b"late":
                pass


@pytest.mark.parametrize("policy", ["latest", "ordered", "lossless"])
def test_a_plain_reader_finds_what_comes_between_its_look_and_its_sleep(
    policy: va.Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    pump = Connection.pump
    late = [b"late"]

    def look(connection: Connection) -> None:
        pump(connection)
        if late:
            server.publish(late.pop())

    with va.serve("s") as server:
        server.set_header(b"moov")
        with va.attach("s", policy=policy) as reader:
            assert reader.recv_nowait() is None
            monkeypatch.setattr(Connection, "pump", look)
            frame = reader.recv_nowait()
            assert frame is not None and bytes(frame.data) == b"late"
            frame.release()


async def test_room_that_is_made_during_the_look_ends_the_wait() -> None:
    waiters = RoomWaiters()
    looks = 0

    def has_room() -> bool:
        nonlocal looks
        looks += 1
        if looks % 2:
            waiters.notify()
        return not looks % 2

    await asyncio.wait_for(waiters.wait(has_room), 10)
    assert await asyncio.to_thread(waiters.wait_for, has_room, 10)
    assert looks == 4


@contextmanager
def soon(act: Callable[[], object]) -> Iterator[None]:
    """It happens while the caller waits; should it come before, nothing is proved, and nothing fails."""
    timer = threading.Timer(0.05, act)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def test_a_reader_that_takes_a_ring_wakes_who_waits_for_that() -> None:
    """There is room in the ring, but a reader that has not taken it yet would miss it."""
    with va.serve("s") as server, va.attach("s", policy="lossless") as reader:
        server.set_header(b"1")
        with pytest.raises(va.NoFreeSlotError):
            server.set_header(b"2")
        assert not server.wait_writable(0)
        with soon(reader.recv_nowait):
            assert server.wait_writable(10)
        server.set_header(b"2")


def test_frames_that_a_reader_passes_over_wake_who_waits_for_a_slot() -> None:
    """Of no use without their key frame, they are never leased, and so never given back."""
    with va.serve("s", slots=2) as server, va.attach("s", policy="lossless") as reader:
        server.set_header(b"moov")
        assert reader.recv_nowait() is None
        assert server.wait_writable(10)  # it has taken the ring, and says no more about that
        assert server.publish(b"1", key=False) and server.publish(b"2", key=False)
        assert not server.wait_writable(0)
        with soon(reader.recv_nowait):
            assert server.wait_writable(10)
        assert server.publish(b"3")
        assert reader.recv(5).seq == 3


@makers
async def test_what_has_the_descriptors_of_one_that_was_closed_is_woken_all_the_same(
    make: Callable[..., Receiver],
) -> None:
    """A loop that was not told that they are closed would take those of the next for known."""
    async with va.serve("s") as server:
        server.set_header(b"moov")
        for n in range(4):
            async with make() as one:
                await until(lambda: server.readers == 1)
                waiting = asyncio.create_task(one.recv())
                await asyncio.sleep(0.01)
                server.publish(b"%d" % n)
                with await asyncio.wait_for(waiting, 10) as frame:
                    assert bytes(frame.data) == b"%d" % n
                server.expire()
            await until(lambda: not server.readers)


def crash(server: va.Server) -> None:
    """The connections end without a word."""
    for peer in list(server._peers._peers.values()):
        peer.sock.shutdown(socket.SHUT_RDWR)


def refuse(server: va.Server) -> None:
    """The server says something that nobody understands."""
    for peer in list(server._peers._peers.values()):
        peer.sock.send(b"nonsense")


@makers
@pytest.mark.parametrize("end", [va.Server.close, crash, refuse])
async def test_the_end_of_a_connection_that_nobody_looks_at_wakes_the_loop_once(
    make: Callable[..., Receiver], end: Callable[[va.Server], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket and its bell are readable for ever after, and a loop that minded would spin."""
    calls: list[str] = []
    on_message = Link._on_message

    class Counted(Doorbell):
        def ring(self) -> None:
            super().ring()
            calls.append("bell")

    def call(link: Link) -> None:
        on_message(link)
        calls.append("message")

    monkeypatch.setattr(_shm, "Doorbell", Counted)
    monkeypatch.setattr(Link, "_on_message", call)
    async with va.serve("s") as server, make() as one:
        server.publish(b"x")
        (await one.recv()).release()
        calls.clear()
        end(server)
        await until(lambda: "message" in calls)
        calls.clear()
        for _ in range(50):
            await asyncio.sleep(0.0005)
        assert len(calls) <= 2
        one.close()


@makers
@pytest.mark.parametrize("end", ["frame", "close"])
async def test_a_task_that_is_woken_goes_on_in_its_own_context(
    make: Callable[..., Receiver], end: str
) -> None:
    who = contextvars.ContextVar("who", default="nobody")

    async def receive() -> str:
        who.set("the task")
        try:
            (await one.recv()).release()
        except va.ConnectionClosedOK:
            pass
        return who.get()

    async with va.serve("s") as server, make() as one:
        server.publish(b"1")
        (await one.recv()).release()
        task = asyncio.create_task(receive())
        await asyncio.sleep(0.01)
        if end == "frame":
            server.publish(b"2")
        else:
            one.close()
        assert await asyncio.wait_for(task, 10) == "the task"
        assert who.get() == "nobody"


@makers
async def test_a_task_that_is_cancelled_learns_why(make: Callable[..., Receiver]) -> None:
    async with va.serve("s") as server, make() as one:
        server.publish(b"1")
        (await one.recv()).release()
        for message in ("enough", None):
            task = asyncio.create_task(one.recv())
            await asyncio.sleep(0.01)
            task.cancel(message)
            with pytest.raises(asyncio.CancelledError) as raised:
                await task
            assert raised.value.args == (() if message is None else (message,))


async def test_a_waiter_that_was_woken_cannot_be_cancelled_any_more() -> None:
    waiter = Waiter(asyncio.get_running_loop())
    waiter.wake_soon()
    assert not waiter.cancel("too late")
    await waiter
    assert waiter.done() and not waiter.cancelled()


async def test_a_merge_lets_other_tasks_run_even_when_frames_are_always_ready() -> None:
    async with va.serve("s") as server, va.merge("s", policy="ordered") as merged:
        merged.recv_nowait()
        await until(lambda: server.readers)
        for _ in range(4):  # so that there is one more at each look
            server.publish(b"x")
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        end = time.monotonic() + 30
        while turns < 20:
            assert time.monotonic() < end
            server.publish(b"x")
            (await merged.recv()).release()
        task.cancel()


async def test_a_source_that_was_heard_of_twice_is_claimed_from_once() -> None:
    """By its bell, and by its socket, where a ring has arrived."""
    async with va.serve("a") as a, va.serve("b") as b, va.merge("a", "b", policy="ordered") as merged:
        await until(lambda: None not in merged.stats().sources.values())
        assert merged.recv_nowait() is None
        a.publish(b"1")
        a.publish(bytes(1_000_000))
        await asyncio.sleep(0.02)
        batches = merged.batches(16, 0.02)
        assert [(f.source, f.seq) for f in await anext(batches)] == [("a", 1)]
        b.publish(b"3")
        assert {(f.source, f.seq) for f in await anext(batches)} == {("a", 2), ("b", 1)}


async def test_a_list_of_frames_is_woken_by_the_first() -> None:
    async with va.serve("s") as server, va.merge("s") as merged:
        server.set_header(b"moov")  # the ring is there, and its message wakes nobody later
        batches = merged.batches(4, 0)
        for n in range(3):
            waiting = asyncio.ensure_future(anext(batches))
            await until(lambda: server.readers)
            await asyncio.sleep(0.01)
            server.publish(b"%d" % n)
            (frame,) = await asyncio.wait_for(waiting, 10)
            assert bytes(frame.data) == b"%d" % n
            frame.release()


async def test_sources_that_have_frames_take_turns() -> None:
    names = ["a", "b", "c"]
    servers = [va.serve(name) for name in names]
    async with va.merge(*names, policy="ordered") as merged:
        merged.recv_nowait()
        await until(lambda: None not in merged.stats().sources.values())
        for server in servers:
            for _ in range(4):
                server.publish(b"x")
        await asyncio.sleep(0.02)  # the loop hears all bells
        seen = [(await merged.recv()).source for _ in range(12)]
        for turn in range(4):
            assert sorted(seen[3 * turn : 3 * turn + 3]) == names
    for server in servers:
        server.close()


@pytest.mark.parametrize("frames", [0, 1, 3])
async def test_the_end_of_a_server_is_met_after_its_last_frame_although_it_came_long_before(
    frames: int,
) -> None:
    """Nobody was receiving when the loop heard of both."""
    async with va.merge("s", policy="ordered", reconnect=False) as merged:
        async with va.serve("s") as server:
            merged.recv_nowait()
            await until(lambda: None not in merged.stats().sources.values())
            for _ in range(frames):
                server.publish(b"x")
        await asyncio.sleep(0.02)
        async with asyncio.timeout(10):
            assert [frame.seq async for frame in merged] == list(range(1, frames + 1))
