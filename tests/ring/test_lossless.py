"""Policy "lossless": for files, where the server can wait and nothing may be missed."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import valkka_async as va
from support import footage
from support.program import Child


def test_publish_refuses_rather_than_lose_a_frame() -> None:
    with va.serve("s", slots=4) as server, va.attach("s", policy="lossless") as reader:
        assert [server.publish(b"%d" % i) for i in range(6)] == [True] * 4 + [False] * 2
        assert server.stats().dropped == 2
        for i in range(4):
            with reader.recv(5) as frame:
                assert (frame.seq, frame.dropped, bytes(frame.data)) == (i + 1, 0, b"%d" % i)
        assert server.publish(b"again")
        assert reader.recv(5).seq == 5


def test_a_held_frame_holds_its_slot_and_no_more() -> None:
    with va.serve("s", slots=3) as server, va.attach("s", policy="lossless", max_leases=2) as reader:
        for _ in range(3):
            assert server.publish(b"x")
        held = reader.recv(5)
        reader.recv(5).release()
        assert server.publish(b"y")
        assert not server.publish(b"z")
        assert held.seq == 1


def test_wait_writable_waits_for_the_reader_and_gives_up_in_time() -> None:
    with va.serve("s", slots=2) as server, va.attach("s", policy="lossless") as reader:
        assert server.wait_writable(0)
        assert server.publish(b"1")
        assert server.publish(b"2")
        start = time.monotonic()
        assert not server.wait_writable(0.05)
        assert time.monotonic() - start >= 0.05
        release = threading.Timer(0.05, lambda: reader.recv(5).release())
        release.start()
        assert server.wait_writable(10)
        release.join()
        assert server.publish(b"3")


def test_any_readers_release_makes_room() -> None:
    with va.serve("s", slots=2) as server, va.attach("s") as reader:
        server.publish(b"1")
        held = reader.recv(5)
        server.publish(b"2")
        assert not server.wait_writable(0.01)
        threading.Timer(0.05, held.release).start()
        assert server.wait_writable(10)


def test_a_reader_that_dies_makes_room() -> None:
    with va.serve("s", slots=2) as server:
        with Child('r = va.attach("s", policy="lossless"); say("in"); time.sleep(60)') as child:
            child.line()
            while server.publish(b"x"):
                pass
            threading.Timer(0.05, child.kill).start()
            assert server.wait_writable(10)


async def test_writable_wakes_on_both_loops() -> None:
    async with va.serve("s", slots=2) as server, va.connect("s", policy="lossless") as client:
        await server.writable()
        for i in range(200):
            assert server.publish(b"%d" % i)
            if i >= 1:
                waiting = asyncio.create_task(server.writable())
                await asyncio.sleep(0)
                assert not waiting.done()
                assert bytes((await client.recv()).data) == b"%d" % (i - 1)
                async with asyncio.timeout(10):
                    await waiting


async def test_closing_the_server_ends_a_wait() -> None:
    server = va.serve("s", slots=2)
    async with va.connect("s", policy="lossless"):
        while server.publish(b"x"):
            pass
        waiting = asyncio.create_task(server.writable())
        await asyncio.sleep(0.01)
        server.close()
        with pytest.raises(va.ConnectionClosedOK, match="closed"):
            await waiting
    with pytest.raises(va.ConnectionClosedOK):
        server.wait_writable(1)


async def test_cancelling_a_wait_for_room_leaves_nothing() -> None:
    rng = random.Random(9)
    async with va.serve("s", slots=2) as server, va.connect("s", policy="lossless") as client:
        for i in range(1000):
            while server.publish(b"x"):
                pass
            task = asyncio.create_task(server.writable())
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
            assert (await client.recv()).seq == i + 1
        assert server._room.waiters == []


def test_every_frame_arrives_across_processes_and_changes_of_size() -> None:
    """A slow reader and a fast writer, that grows its frames: backpressure, and not one frame lost."""
    code = """
    import random
    rng = random.Random(1)
    with va.attach("s", policy="lossless") as r:
        say("in")
        for n, f in enumerate(r, 1):
            assert (f.seq, f.dropped) == (n, 0), (n, f)
            assert (f.array == n % 251).all() and f.shape == (n, 10)
            if rng.random() < 0.1: time.sleep(0.003)
    say(n)
    """
    with va.serve("s", slots=3) as server, Child(code) as child:
        child.line()
        for n in range(1, 701):
            while not server.publish(np.full((n, 10), n % 251, np.uint8)):
                assert server.wait_writable(20)
        server.close()
        assert child.line() == "700"
        assert child.wait() == 0


def test_no_ring_takes_the_place_of_one_that_a_lossless_reader_has_yet_to_take() -> None:
    """Frames that grow need a ring each, and a reader that does not look is sent a few only."""
    with va.serve("s", slots=8) as server, va.attach("s", policy="lossless") as reader:
        published = 0
        for n in range(1, 40):
            if not server.publish(np.full((n, 100_000), n, np.uint8)):
                break
            published = n
        assert 0 < published < 8  # so it is not for want of slots
        got = []
        while (frame := reader.recv_nowait()) is not None:
            with frame:
                got.append((frame.seq, frame.dropped, frame.shape))
        assert got == [(n, 0, (n, 100_000)) for n in range(1, published + 1)]
        assert server.wait_writable(10)
        assert server.publish(np.full((50, 100_000), 1, np.uint8))


def test_a_closed_lossless_reader_holds_up_nobody_with_the_frames_it_kept() -> None:
    with va.serve("s", slots=3) as server:
        with va.attach("s", policy="lossless") as reader:
            assert server.publish(b"x")
            kept = reader.recv(5)
        for n in range(1, 20):
            assert server.publish(b"x" * 1_000_000 * n)  # a new ring, which the closed reader never takes
        assert bytes(kept.data) == b"x"


def test_closing_a_lossless_reader_makes_room_at_once_for_all_but_what_it_holds() -> None:
    with va.serve("s", slots=4) as server, va.attach("s", policy="lossless") as reader:
        while server.publish(b"x"):
            pass
        held = reader.recv(5)
        threading.Timer(0.05, reader.close).start()
        assert server.wait_writable(10)
        assert server.publish(b"y")
        assert bytes(held.data) == b"x"


def test_a_lossless_reader_sees_every_header() -> None:
    with va.serve("s", slots=8) as server, va.attach("s", policy="lossless") as reader:
        seen = []

        def read() -> None:
            for _ in range(50):
                with reader.recv(10) as frame:
                    seen.append((bytes(frame.data), reader.header))

        thread = threading.Thread(target=read)
        thread.start()
        for i in range(50):
            while True:
                try:
                    server.set_header(b"%d" % i)
                    break
                except va.NoFreeSlotError:
                    assert server.wait_writable(10)
            assert server.publish(b"%d" % i)
        thread.join()
        assert seen == [(b"%d" % i, b"%d" % i) for i in range(50)]


def test_a_file_waits_for_a_lossless_reader(tmp_path: Path) -> None:
    clip = footage.encode(tmp_path / "clip.h264", size=(320, 192), frames=100)
    with va.serve("s", slots=3) as server, va.attach("s", policy="lossless") as reader:
        with va.play(clip, server, realtime=False) as player:
            for n in range(100):
                with reader.recv(10) as frame:
                    assert (frame.seq, frame.dropped) == (n + 1, 0)
                    assert footage.read_index(frame.array, "rgb24") == n
                if n % 20 == 0:
                    time.sleep(0.02)
            player.join(10)
            assert (player.stats().published, player.stats().dropped) == (100, 0)


def test_a_player_that_waits_for_a_reader_can_be_closed(tmp_path: Path) -> None:
    clip = footage.encode(tmp_path / "clip.h264", size=(320, 192), frames=50)
    with va.serve("s", slots=3) as server, va.attach("s", policy="lossless") as reader:
        with va.play(clip, server, realtime=False):
            assert reader.recv(10).seq == 1
            time.sleep(0.2)
        assert (server.stats().published, server.stats().dropped) == (4, 0)
