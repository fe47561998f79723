"""Clients, merges and servers in threads and loops that are not theirs, and collected at any moment."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable

import pytest

import valkka_async as va
from valkka_async.ring import _watch
from valkka_async.ring.connection import Connection

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
                    with _watch._thread_watcher._lock:
                        gc.collect()
            cycle = Cycle()
            cycle.itself, cycle.server = cycle, va.serve("s")  # type: ignore[attr-defined]
            del cycle
            with _watch._thread_watcher._lock:
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
