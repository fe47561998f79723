"""The asyncio reader, on both loops."""

from __future__ import annotations

import asyncio
import gc
import random
import selectors
import threading
import time

import numpy as np
import pytest

import valkka_async as va
from support.until import until


async def test_async_for_ends_with_a_clean_close() -> None:
    async with va.serve("s") as server, va.connect("s", policy="ordered") as client:
        for i in range(5):
            server.publish(b"%d" % i)
        server.close()
        assert [bytes(f.data) async for f in client] == [b"%d" % i for i in range(5)]
        with pytest.raises(va.ConnectionClosedOK, match="was closed"):
            await client.recv()
        with pytest.raises(va.ConnectionClosedOK):
            client.recv_nowait()


async def test_connect_waits_for_the_server() -> None:
    opening = asyncio.create_task(va.connect("s").open())
    await asyncio.sleep(0.05)
    async with va.serve("s") as server:
        client = await opening
        server.publish(b"x")
        assert bytes((await client.recv()).data) == b"x"
        client.close()


async def test_connect_may_be_awaited() -> None:
    async with va.serve("s"):
        client = await va.connect("s")
        assert repr(client) == "<Client of s [open]>"
        await client.aclose()
        assert client.closed


async def test_recv_wakes_up_for_each_frame() -> None:
    async with va.serve("s") as server, va.connect("s") as client:
        for i in range(50):
            waiting = asyncio.create_task(client.recv())
            await asyncio.sleep(0)
            server.publish(b"%d" % i)
            async with asyncio.timeout(5):
                frame = await waiting
            assert (bytes(frame.data), frame.dropped) == (b"%d" % i, 0)
            frame.release()


async def test_a_frame_published_by_a_thread_wakes_the_loop() -> None:
    async with va.serve("s") as server, va.connect("s", policy="ordered") as client:

        def publish() -> None:
            for i in range(20):
                server.publish(np.full((50 * i + 1, 100), i, np.uint8))  # new rings, from that thread
                time.sleep(0.002)

        thread = threading.Thread(target=publish)
        thread.start()
        last = 0
        async with asyncio.timeout(20):
            while last < 20:
                with await client.recv() as frame:
                    assert frame.seq == last + frame.dropped + 1
                    last = frame.seq
        await asyncio.to_thread(thread.join)


async def test_one_task_receives_at_a_time() -> None:
    async with va.serve("s") as server, va.connect("s") as client:
        waiting = asyncio.create_task(client.recv())
        await asyncio.sleep(0.01)
        with pytest.raises(va.ConcurrencyError, match="another task"):
            await client.recv()
        with pytest.raises(va.ConcurrencyError, match="another task"):
            client.recv_nowait()
        server.publish(b"x")
        assert (await waiting).seq == 1


async def test_other_tasks_run_even_when_frames_are_always_ready() -> None:
    async with va.serve("s") as server, va.connect("s") as client:
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
            (await client.recv()).release()
        task.cancel()


async def test_closing_the_client_ends_a_waiting_recv() -> None:
    async with va.serve("s"), va.connect("s") as client:
        waiting = asyncio.create_task(client.recv())
        await asyncio.sleep(0.01)
        client.close()
        client.close()
        with pytest.raises(va.ConnectionClosedOK, match="closed"):
            await waiting
        with pytest.raises(va.ConnectionClosedOK, match="closed"):
            await client.open()


async def test_a_client_that_was_not_opened_says_so_and_does_not_end_like_a_stream() -> None:
    client = va.connect("s")
    with pytest.raises(va.NotOpenError):
        await client.recv()
    with pytest.raises(va.NotOpenError):
        client.recv_nowait()
    with pytest.raises(va.NotOpenError):
        async for _ in client:
            pass
    client.close()
    with pytest.raises(va.ConnectionClosedOK):
        await client.recv()


async def test_too_many_held_frames_are_an_error_with_a_way_out() -> None:
    async with va.serve("s") as server, va.connect("s", max_leases=2) as client:
        held = []
        for _ in range(2):
            server.publish(b"x")
            held.append(await client.recv())
        server.publish(b"y")
        with pytest.raises(va.LeaseLimitError, match="max_leases"):
            await client.recv()
        held.pop().release()
        assert (await client.recv()).seq == 3


@pytest.mark.parametrize("policy", ["latest", "ordered"])
async def test_cancelling_recv_a_thousand_times_loses_nothing(policy: str) -> None:
    rng = random.Random(5)
    async with va.serve("s", slots=64) as server, va.connect("s", policy=policy) as client:
        got = 0
        last = 0
        cancelled = 0

        async def receive() -> None:
            nonlocal got, last
            with await client.recv() as frame:
                assert frame.seq == last + frame.dropped + 1
                if policy == "ordered":
                    assert frame.dropped == 0
                last = frame.seq
                got += 1

        while cancelled < 1000:
            task = asyncio.create_task(receive())
            for _ in range(rng.randrange(4)):
                if rng.random() < 0.3:
                    server.publish(b"x")
                await asyncio.sleep(0)
            cancelled += task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
        while (frame := client.recv_nowait()) is not None:
            assert frame.seq == last + frame.dropped + 1
            last = frame.seq
            frame.release()
        del frame
        assert last == server.stats().published > 300
        stats = client.stats()
        assert (stats.leases, stats.received + stats.dropped) == (0, last)


async def test_cancelling_connect_a_thousand_times_leaves_nothing() -> None:
    rng = random.Random(6)
    async with va.serve("s", max_clients=8) as server:
        server.publish(b"x")
        for _ in range(1000):
            task = asyncio.create_task(va.connect("s").open())
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
            task.cancel()
            try:
                (await task).close()
            except asyncio.CancelledError:
                pass
        async with asyncio.timeout(10), va.connect("s") as client:
            assert (await client.recv()).seq == 1


async def test_frames_held_in_one_client_do_not_stop_the_writer_or_another() -> None:
    async with va.serve("s", slots=4) as server, va.connect("s") as greedy, va.connect("s") as other:
        held = []
        for i in range(20):
            server.publish(b"%d" % i)
            if i < 2:
                held.append(await greedy.recv())
            assert bytes((await other.recv()).data) == b"%d" % i
        assert [bytes(f.data) for f in held] == [b"0", b"1"]


async def test_closed_descriptors_leave_the_loop() -> None:
    """The server keeps the other end of a closed bell: left in the epoll set, it would wake the loop."""
    loop = asyncio.get_running_loop()
    async with va.serve("s") as server:
        for _ in range(20):
            async with va.connect("s") as client:
                waiting = asyncio.create_task(client.recv())
                await asyncio.sleep(0.001)
                waiting.cancel()
        async with va.connect("s") as client:
            for _ in range(100):
                server.publish(b"x")
                assert bytes((await client.recv()).data) == b"x"
        used = time.thread_time()
        await asyncio.sleep(0.3)
        assert time.thread_time() - used < 0.15, "the loop spins"
        assert loop.is_running()


async def test_two_clients_and_a_plain_reader_under_selectors_share_a_ring() -> None:
    async with va.serve("s", slots=32) as server:
        seen: list[int] = []
        started = threading.Event()

        def select() -> None:
            with va.attach("s", policy="ordered") as reader, selectors.DefaultSelector() as selector:
                selector.register(reader, selectors.EVENT_READ)
                started.set()
                while len(seen) < 20:
                    assert selector.select(10)
                    frame = reader.recv_nowait()  # once each time is enough
                    if frame is not None:
                        seen.append(frame.seq)
                        frame.release()

        thread = asyncio.create_task(asyncio.to_thread(select))
        async with va.connect("s", policy="ordered") as a, va.connect("s", policy="ordered") as b:
            await until(started.is_set)
            for i in range(20):
                server.publish(b"%d" % i)
                if i % 3 == 0:
                    await asyncio.sleep(0.001)
            for client in (a, b):
                for i in range(20):
                    with await client.recv() as frame:
                        assert frame.seq == i + 1
            await thread
        assert seen == list(range(1, 21))


def test_a_reader_is_readable_while_frames_wait() -> None:
    with va.serve("s", slots=8) as server, selectors.DefaultSelector() as selector:
        server.publish(b"x")
        with va.attach("s", policy="ordered") as reader:
            selector.register(reader, selectors.EVENT_READ)
            assert selector.select(5), "a frame was there before"
            for i in range(5):
                server.publish(b"%d" % i)
            got = 0
            while selector.select(0):
                if (frame := reader.recv_nowait()) is not None:
                    frame.release()
                    got += 1
            assert got == 6
            assert not selector.select(0)
            server.publish(b"y")
            assert selector.select(5)
            server.close()
            assert reader.recv_nowait() is not None
            assert selector.select(5)
            with pytest.raises(va.ConnectionClosedOK):
                while reader.recv_nowait() is None:
                    pass
            selector.unregister(reader)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_reader_that_was_there_before_the_first_frame_is_readable_until_it_has_all(frames: int) -> None:
    with va.serve("s", slots=8) as server, selectors.DefaultSelector() as selector:
        with va.attach("s", policy="ordered") as reader:
            selector.register(reader, selectors.EVENT_READ)
            for turn in range(2):  # in the first ring, and in one that is larger
                assert not selector.select(0)
                for _ in range(frames):
                    server.publish(bytes(1 + turn * 1_000_000))
                got = 0
                while selector.select(0):
                    got += reader.recv_nowait() is not None  # once each time is enough
                assert got == frames
            selector.unregister(reader)


def test_a_new_ring_that_arrives_while_recv_looks_does_not_cost_the_wake_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The old ring is read, the new one is empty: the bell must be armed all the same."""
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish(b"x")
        reader.recv(5).release()
        connection = reader._connection
        assert connection is not None
        pump = connection.pump

        def late() -> None:
            monkeypatch.undo()
            server.set_header(b"new")
            time.sleep(0.05)
            pump()

        monkeypatch.setattr(connection, "pump", late)
        assert reader.recv_nowait() is None
        server.publish(b"y")
        assert bytes(reader.recv(5).data) == b"y"


def test_recv_with_a_timeout_says_what_it_waited_for() -> None:
    with va.serve("s"), va.attach("s") as reader:
        with pytest.raises(TimeoutError, match="no frame from 's' within 0.05 s"):
            reader.recv(0.05)


async def test_attach_in_a_coroutine_says_why_its_server_does_not_answer() -> None:
    async with va.serve("s", watch="loop"):
        with pytest.raises(TimeoutError, match=r"'s' is there .* 0\.2 s; attach\(\) holds up .* va\.connect"):
            va.attach("s", open_timeout=0.2)
    with pytest.raises(TimeoutError, match=r"^no server called 'nobody' .*VALKKA_RUNTIME_DIR\)$"):
        await asyncio.to_thread(va.attach, "nobody", open_timeout=0.05)  # no loop runs in that thread


def test_iterating_a_plain_reader_ends_with_a_clean_close() -> None:
    with va.serve("s") as server, va.attach("s", policy="ordered") as reader:
        for i in range(3):
            server.publish(b"%d" % i)
        server.close()
        assert [bytes(f.data) for f in reader] == [b"0", b"1", b"2"]


def test_forgetting_to_close_warns_and_cleans_up() -> None:
    with pytest.warns(ResourceWarning, match="never closed"):
        va.serve("s")
    with va.serve("t"), pytest.warns(ResourceWarning, match="never closed"):
        va.attach("t")


async def test_forgetting_to_close_in_asyncio_warns_and_cleans_up() -> None:
    with pytest.warns(ResourceWarning, match="never closed"):
        va.serve("s")
    async with va.serve("t"):
        client = await va.connect("t")
        with pytest.warns(ResourceWarning, match="never closed"):
            del client
            gc.collect()
