"""Readers that outlive their servers: plain ones under selectors, asyncio ones, and what both count."""

from __future__ import annotations

import asyncio
import errno
import os
import selectors
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import valkka_async as va
from support.program import Child
from support.until import until, wait_for
from valkka_async.ring import reader as plain

LIFE = 's = va.serve("s")\nwhile True: s.publish(sys.argv[1].encode()); time.sleep(0.005)'


def test_a_plain_reader_goes_on_with_the_next_server_and_counts_over_all() -> None:
    with va.serve("s") as server:
        reader = va.attach("s", reconnect=True, policy="ordered")
        server.publish(b"1")
        server.publish(b"2")
    seen = [bytes(reader.recv(5).data) for _ in range(2)]  # what the closed server had published
    assert reader.recv_nowait() is None and not reader.connected, "nobody is there"
    with va.serve("s") as server:
        server.publish(b"3")
        frame = reader.recv(10)
        assert reader.connected
        seen.append(bytes(frame.data))
        assert (frame.seq, seen) == (1, [b"1", b"2", b"3"])
        assert (reader.stats().received, reader.stats().leases) == (3, 1)
        frame.release()
    reader.close()
    assert not reader.connected
    with pytest.raises(va.ConnectionClosedOK):
        reader.recv(5)


def test_a_reader_whose_server_is_gone_is_not_connected() -> None:
    with va.serve("s"):
        reader = va.attach("s")
        assert reader.connected
    with pytest.raises(va.ConnectionClosedOK):
        reader.recv(5)
    assert not reader.connected
    reader.close()


def test_it_goes_on_after_a_crash_as_after_a_clean_close() -> None:
    with Child(LIFE, "one") as child:
        reader = va.attach("s", reconnect=True)
        assert bytes(reader.recv(10).data) == b"one"
        child.kill()
    with Child(LIFE, "two") as child:
        end = time.monotonic() + 20
        while bytes(reader.recv(20).data) != b"two":
            assert time.monotonic() < end
        child.kill()
    reader.close()
    va.serve("s").close()


def test_a_set_that_takes_no_other_descriptor_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """epoll has a limit of its own: ENOSPC. It may meet the socket or the doorbell."""
    watch, left = plain.Reader._watch, 0

    def fail(reader: va.Reader, fd: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        watch(reader, fd)

    monkeypatch.setattr(plain, "REFUSED_SECONDS", 0.01)
    monkeypatch.setattr(plain.Reader, "_watch", fail)
    for which in (1, 2):
        with va.serve("s") as server:
            left = which
            with pytest.raises(va.ConnectError, match="max_user_watches"):
                va.attach("s")
            reader = va.attach("s", reconnect=True)
            server.close()
        with reader:
            assert reader.recv_nowait() is None
            left = which
            with va.serve("s") as server:
                server.publish(b"1")
                with reader.recv(10) as frame:
                    assert bytes(frame.data) == b"1" and left < 0


def test_iterating_goes_on_until_close() -> None:
    seen: list[bytes] = []

    def read() -> None:
        with va.attach("s", reconnect=True, policy="ordered") as reader:
            for frame in reader:
                seen.append(bytes(frame.data))
                if len(seen) == 3:
                    return

    thread = threading.Thread(target=read)
    thread.start()
    for life in range(3):
        with va.serve("s") as server:
            wait_for(lambda: server.readers)  # noqa: B023
            server.publish(b"%d" % life)
            wait_for(lambda: len(seen) > life)  # noqa: B023
    thread.join(10)
    assert seen == [b"0", b"1", b"2"]


def test_recv_with_a_timeout_ends_while_nobody_is_there() -> None:
    with va.serve("s"):
        reader = va.attach("s", reconnect=True)
    with reader:
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            reader.recv(0.1)
        assert time.monotonic() - start >= 0.1


def test_frames_of_a_server_that_is_gone_stay_valid() -> None:
    with va.serve("s") as server:
        reader = va.attach("s", reconnect=True)
        server.publish(b"old")
        old = reader.recv(5)
    with va.serve("s") as server, reader:
        server.publish(b"new")
        assert bytes(reader.recv(5).data) == b"new"
        for _ in range(40):
            assert server.publish(b"more")
        assert bytes(old.data) == b"old"
        old.release()


@pytest.fixture(params=[selectors.EpollSelector, selectors.PollSelector, selectors.SelectSelector])
def selector(request: pytest.FixtureRequest) -> Iterator[selectors.BaseSelector]:
    with request.param() as selector:
        yield selector


def frames(reader: va.Reader, selector: selectors.BaseSelector, number: int) -> list[bytes]:
    """As a program does that knows nothing of reconnecting: one recv_nowait() each time it is readable."""
    got: list[bytes] = []
    end = time.monotonic() + 20
    while len(got) < number:
        assert time.monotonic() < end
        if selector.select(5):
            frame = reader.recv_nowait()
            if frame is not None:
                got.append(bytes(frame.data))
                frame.release()
    return got


def test_under_a_selector_the_descriptor_is_the_same_in_all_lives(selector: selectors.BaseSelector) -> None:
    with va.serve("s") as server:
        reader = va.attach("s", reconnect=True, policy="ordered")
        selector.register(reader, selectors.EVENT_READ)
        fd = reader.fileno()
        for i in range(3):
            server.publish(b"%d" % i)
        assert frames(reader, selector, 3) == [b"0", b"1", b"2"]
    for life in range(3):
        time.sleep(0.05 * life)
        with va.serve("s") as server:
            for i in range(3):  # before the reader is back, so nobody rings for them
                server.publish(b"%d" % i)
            assert frames(reader, selector, 1) == [b"2"], "a late reader gets the newest frame"
            for i in range(3):
                server.publish(b"%d" % i)
            assert frames(reader, selector, 3) == [b"0", b"1", b"2"]
            assert reader.fileno() == fd
            while selector.select(0.05):  # and then it is quiet
                assert reader.recv_nowait() is None
    selector.unregister(reader)
    reader.close()


def test_a_reader_without_a_server_sleeps_between_its_looks() -> None:
    with va.serve("s"):
        reader = va.attach("s", reconnect=True)
    with reader, selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        looks = 0
        end = time.monotonic() + 1
        while (left := end - time.monotonic()) > 0 or (looks < 2 and left > -30):
            if selector.select(max(left, 1.0)):
                assert reader.recv_nowait() is None
                looks += 1
        assert 2 <= looks <= 50


def test_a_selected_reader_may_have_no_server_from_the_start(selector: selectors.BaseSelector) -> None:
    with va.serve("s"):
        reader = va.attach("s", reconnect=True)
    assert reader.recv_nowait() is None
    selector.register(reader, selectors.EVENT_READ)
    with va.serve("s") as server:
        server.publish(b"x")
        assert frames(reader, selector, 1) == [b"x"]
    selector.unregister(reader)
    reader.close()


def test_a_server_that_refuses_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    with va.serve("s"):
        reader = va.attach("s", reconnect=True)
    assert reader.recv_nowait() is None
    with va.serve("s", max_clients=1) as server:
        with va.attach("s"):
            with pytest.raises(TimeoutError):
                reader.recv(1.5)
            assert [r.levelname for r in caplog.records] == ["WARNING"], "said once"
        wait_for(lambda: not server.readers)
        server.publish(b"x")
        assert bytes(reader.recv(10).data) == b"x"
    reader.close()


async def test_an_asyncio_reader_asks_a_server_again_that_refuses(caplog: pytest.LogCaptureFixture) -> None:
    async with va.serve("s", max_clients=1) as server:
        client = await va.connect("s", reconnect=True)
        server.publish(b"1")
        (await client.recv()).release()
    async with va.serve("s", max_clients=1) as server, va.connect("s"):
        waiting = asyncio.create_task(client.recv())
        await until(lambda: caplog.records)
        assert not waiting.done()
        # Who keeps records keeps no reader by an error's traceback.
        assert not [
            arg for record in caplog.records for arg in record.args or () if isinstance(arg, Exception)
        ]
        await asyncio.sleep(0)
    async with va.serve("s", max_clients=1) as server:
        server.publish(b"2")
        async with asyncio.timeout(20):
            assert bytes((await waiting).data) == b"2"
    client.close()


async def test_closing_ends_a_recv_that_waits_for_the_server() -> None:
    async with va.serve("s"):
        client = await va.connect("s", reconnect=True)
    waiting = asyncio.create_task(client.recv())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    client.close()
    async with asyncio.timeout(5):
        with pytest.raises(va.ConnectionClosedOK):
            await waiting


async def test_closing_ends_an_open_that_waits_for_an_answer(runtime_dir: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(runtime_dir / "s.sock"))
        listener.listen()
        client = va.connect("s", open_timeout=None)
        opening = asyncio.create_task(client.open())
        await asyncio.sleep(0.05)
        client.close()
        async with asyncio.timeout(3):  # and not only when the server has not answered for long
            with pytest.raises(va.ConnectionClosedOK):
                await opening
    (runtime_dir / "s.sock").unlink()


async def test_a_server_that_closes_again_and_again_is_not_dialled_in_a_loop() -> None:
    """Each life lets the reader in and ends at once."""
    lives = 0
    async with va.serve("s"):
        client = await va.connect("s", reconnect=True)
    waiting = asyncio.create_task(client.recv())
    end = time.monotonic() + 1
    while time.monotonic() < end:
        async with va.serve("s") as server:
            await until(lambda: server.readers)  # noqa: B023
            lives += 1
    assert lives < 60, "pauses grow while connections are short"
    waiting.cancel()
    client.close()
