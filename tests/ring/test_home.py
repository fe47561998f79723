"""Clients, merges and servers in threads and loops that are not theirs, and collected at any moment."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import warnings
from collections.abc import Callable

import pytest

import valkka_async as va
from support.until import wait_for
from valkka_async.ring import client, fork
from valkka_async.ring._shm import Waiter
from valkka_async.ring.connection import Connection
from valkka_async.ring.rendezvous import servers
from valkka_async.ring.sources import Sources

MAKERS: list[Callable[[], va.Client | va.Merge]] = [
    lambda: va.connect("s"),
    lambda: va.connect("s", reconnect=True),
    lambda: va.merge("s"),
    lambda: va.merge("s*"),
]


@pytest.mark.parametrize("make", MAKERS)
def test_what_belongs_to_one_loop_says_so_in_another(make: Callable[[], va.Client | va.Merge]) -> None:
    """Whether the first loop is closed or alive, and although a frame is there to be had."""

    async def first() -> va.Client | va.Merge:
        one = await make()
        (await one.recv()).release()
        return one

    async def second(one: va.Client | va.Merge) -> None:
        with pytest.raises(va.ConcurrencyError):
            await asyncio.wait_for(one.recv(), 5)
        with pytest.raises(va.ConcurrencyError):
            one.recv_nowait()

    with va.serve("s") as server:
        server.publish(b"1")
        loop = asyncio.new_event_loop()
        try:
            one = loop.run_until_complete(first())
            server.publish(b"2")
            asyncio.run(second(one))
            assert bytes(loop.run_until_complete(one.recv()).data) == b"2"  # as if nothing had been
            loop.run_until_complete(one.aclose())
        finally:
            loop.close()


@pytest.mark.parametrize("make", MAKERS)
def test_what_was_used_in_a_loop_that_is_over_says_so_and_can_be_closed(
    make: Callable[[], va.Client | va.Merge],
) -> None:
    """As over two asyncio.run()."""

    async def first() -> va.Client | va.Merge:
        one = await make()
        (await one.recv()).release()
        return one

    async def second(one: va.Client | va.Merge) -> None:
        for call in (one.recv, one.__anext__):
            with pytest.raises(va.ConcurrencyError):
                await asyncio.wait_for(call(), 5)
        with pytest.raises(va.ConcurrencyError):
            one.recv_nowait()
        await one.aclose()
        assert one.closed

    with va.serve("s") as server:
        server.publish(b"1")
        one = asyncio.run(first())
        server.publish(b"2")
        asyncio.run(second(one))
        wait_for(lambda: not server.readers)


@pytest.mark.parametrize("make", MAKERS)
async def test_a_thread_that_is_not_its_own_is_told_so_and_no_task_runs_there(
    make: Callable[[], va.Client | va.Merge],
) -> None:
    with va.serve("s") as server:
        async with make() as one:
            server.publish(b"1")
            (await one.recv()).release()
            server.publish(b"2")
            with pytest.raises(va.ConcurrencyError):
                await asyncio.to_thread(one.recv_nowait)
            assert bytes((await one.recv()).data) == b"2"


@pytest.mark.parametrize("make", MAKERS)
async def test_close_in_another_thread_wakes_recv_in_its_own(
    make: Callable[[], va.Client | va.Merge], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    close = Connection.close

    def closed(connection: Connection) -> None:
        threads.append(threading.get_ident())
        close(connection)

    monkeypatch.setattr(Connection, "close", closed)
    with va.serve("s") as server:
        async with make() as one:
            server.publish(b"1")
            (await one.recv()).release()

            async def receive() -> None:
                try:
                    await one.recv()
                finally:
                    threads.append(threading.get_ident())

            task = asyncio.create_task(receive())
            await asyncio.sleep(0.01)
            thread = threading.Thread(target=one.close)  # which alone would not wake the loop
            thread.start()
            with pytest.raises(va.ConnectionClosedOK):
                await asyncio.wait_for(task, 5)
            thread.join()
            assert set(threads) == {threading.get_ident()}
            assert one.closed


def test_the_collector_may_end_servers_while_the_watching_threads_lock_is_held() -> None:
    """A forgotten server in a cycle is closed wherever the collector runs: here, under that very lock."""
    done = threading.Event()

    def work() -> None:
        class Cycle:
            pass

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            for other in (True, False):
                with va.serve("other") if other else va.serve("another"):
                    cycle = Cycle()
                    cycle.itself, cycle.server = cycle, va.serve("s")  # type: ignore[attr-defined]
                    del cycle
                    with fork.steady():
                        gc.collect()
            cycle = Cycle()
            cycle.itself, cycle.server = cycle, va.serve("s")  # type: ignore[attr-defined]
            del cycle
            with fork.steady():
                gc.collect()  # the last: the thread ends
        with va.serve("s") as server, va.attach("s") as reader:  # and begins again
            server.publish(b"1")
            reader.recv(5).release()
        done.set()

    gc.disable()
    try:
        threading.Thread(target=work, daemon=True).start()
        assert done.wait(20), "deadlock"
    finally:
        gc.enable()


FORGOTTEN: dict[str, Callable[[], object]] = {
    "server": lambda: va.serve("forgotten"),
    "reader": lambda: va.attach("s"),
    "client": lambda: asyncio.run(_opened()),
}


async def _opened() -> va.Client:
    return await va.connect("s")


@pytest.mark.parametrize("kind", FORGOTTEN)
def test_what_the_collector_ends_waits_for_no_lock(kind: str) -> None:
    """Another thread holds the lock of all descriptors, and would wait for this one in its turn."""
    held, dropped = threading.Event(), threading.Event()

    def hold() -> None:
        with fork.steady():
            held.set()
            assert dropped.wait(20), "deadlock"

    with warnings.catch_warnings(), va.serve("s") as server:
        warnings.simplefilter("ignore", ResourceWarning)
        things = [FORGOTTEN[kind]()]
        thread = threading.Thread(target=hold, daemon=True)
        thread.start()
        assert held.wait(5)
        things.clear()  # its __del__ runs here
        assert not server.closed
        dropped.set()
        thread.join()
        wait_for(lambda: server.stats().readers == 0)
        wait_for(lambda: "forgotten" not in servers())


def test_a_watching_thread_that_cannot_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises((RuntimeError, va.ConnectError)):
            va.serve("s")
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish(b"1")
        reader.recv(5).release()


@pytest.mark.parametrize("make", MAKERS)
async def test_close_in_a_signals_handler_wakes_recv(make: Callable[[], va.Client | va.Merge]) -> None:
    """The handler runs in the loop's thread, while the loop sleeps. (asyncio.timeout() would wake it.)"""
    with va.serve("s") as server:
        async with make() as one:
            server.publish(b"1")
            (await one.recv()).release()
            before = signal.signal(signal.SIGUSR1, lambda *_: one.close())
            late = threading.Timer(10, asyncio.get_running_loop().call_soon_threadsafe, [int])
            late.start()
            threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGUSR1]).start()
            try:
                with pytest.raises(va.ConnectionClosedOK):
                    await one.recv()
                assert late.is_alive(), "it was another that woke it"
            finally:
                signal.signal(signal.SIGUSR1, before)
                late.cancel()
                late.join()
        wait_for(lambda: not server.readers)


async def test_a_signals_handler_may_close_a_client_just_before_it_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def closing(loop: asyncio.AbstractEventLoop) -> Waiter:
        one.close()
        return Waiter(loop)

    with va.serve("s"):
        async with va.connect("s") as one:
            monkeypatch.setattr(client, "Waiter", closing)
            with pytest.raises(va.ConnectionClosedOK):
                await asyncio.wait_for(one.recv(), 5)


async def test_a_signals_handler_may_close_a_merge_just_before_it_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check = Sources._check

    def closing(sources: Sources) -> None:
        check(sources)
        sources.close()

    monkeypatch.setattr(Sources, "_check", closing)
    with va.serve("s"):
        async with va.merge("s") as one:
            with pytest.raises(va.ConnectionClosedOK):
                await asyncio.wait_for(one.recv(), 5)


@pytest.mark.parametrize("reconnect", [False, True])
@pytest.mark.parametrize("signalled", [False, True])
def test_a_plain_reader_that_is_closed_elsewhere_ends_its_recv(reconnect: bool, signalled: bool) -> None:
    """In another thread, or by a signal's handler in the thread that waits."""
    with va.serve("s") as server:
        server.publish(b"1")
        reader = va.attach("s", reconnect=reconnect)
        frame = reader.recv(5)
        before = signal.signal(signal.SIGUSR1, lambda *_: reader.close())
        closing = (os.kill, [os.getpid(), signal.SIGUSR1]) if signalled else (reader.close, [])
        late = threading.Timer(10, server.publish, [b"2"])
        late.start()
        try:
            threading.Timer(0.05, *closing).start()
            with pytest.raises(va.ConnectionClosedOK):
                reader.recv(20)
            assert late.is_alive(), "it was another that woke it"
        finally:
            signal.signal(signal.SIGUSR1, before)
            late.cancel()
            late.join()
        assert reader.closed and bytes(frame.data) == b"1"
        assert server.readers == 1, "its frame is held"
        frame.release()
        wait_for(lambda: not server.readers)


def test_a_plain_reader_without_its_server_is_closed_in_another_thread() -> None:
    with va.serve("s"):
        reader = va.attach("s", reconnect=True)
    ended: list[object] = []
    thread = threading.Thread(target=lambda: ended.extend(reader))
    thread.start()
    reader.close()
    thread.join(10)
    assert not thread.is_alive() and reader.closed and not ended


def test_a_plain_reader_that_is_closed_while_another_thread_reads_gives_all_back() -> None:
    with va.serve("s") as server:
        for _ in range(200):
            server.publish(b"1")
            reader = va.attach("s")

            def read(reader: va.Reader = reader) -> None:
                for frame in reader:
                    frame.release()

            thread = threading.Thread(target=read)
            thread.start()
            server.publish(b"2")
            reader.close()
            thread.join(10)
            assert not thread.is_alive()
        wait_for(lambda: not server.readers)
