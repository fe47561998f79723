"""A late reader of a delta-coded stream starts at the newest key frame, if the ring has all since then."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

import valkka_async as va
from support.program import Child
from support.until import wait_for


def data(n: int, nbytes: int = 100) -> bytes:
    return n.to_bytes(4, "big") * (nbytes // 4)


def publish(server: va.Server, *kinds: str, nbytes: int = 100) -> None:
    """Frames, each full of its number; "K" is a key frame, "d" another."""
    for kind in "".join(kinds):
        n = server.stats().published + 1
        assert server.publish(data(n, nbytes), format="bytes", key=kind == "K", pts=n, meta={"n": n})


def drained(reader: va.Reader) -> list[int]:
    """The numbers of the frames that are there now; each is whole, and none before it is missing."""
    numbers = []
    while (frame := reader.recv_nowait()) is not None:
        with frame:
            numbers.append(frame.seq)
            assert bytes(frame.data) == data(frame.seq, frame.nbytes)
            assert (frame.pts, frame.meta, frame.dropped) == (frame.seq, {"n": frame.seq}, 0)
    return numbers


def late(policy: va.Policy = "ordered") -> list[int]:
    with va.attach("s", policy=policy) as reader:
        return drained(reader)


def served(**settings: Any) -> va.Server:
    return va.serve("s", backlog="gop", **settings)


@pytest.mark.parametrize("policy", ["ordered", "lossless"])
def test_a_late_reader_gets_all_since_the_newest_key_frame(policy: va.Policy) -> None:
    with served() as server:
        publish(server, "dKddKdddd")
        assert server.stats().backlog == 5
        assert late(policy) == [5, 6, 7, 8, 9]
        with va.attach("s", policy=policy) as early:
            publish(server, "d")
            assert drained(early) == [5, 6, 7, 8, 9, 10] and late(policy) == [5, 6, 7, 8, 9, 10]
            publish(server, "K")
            assert drained(early) == [11] and late(policy) == [11]
        assert server.stats().dropped == 0


def test_latest_and_a_server_without_a_backlog_are_as_before() -> None:
    with served() as server:
        publish(server, "Kd")
        with va.attach("s") as reader:
            assert reader.recv_nowait() is None
            publish(server, "K")
            with reader.recv_nowait() as frame:
                assert (frame.seq, frame.dropped) == (3, 1)
    with va.serve("s") as server:
        publish(server, "Kd")
        assert server.stats().backlog == 0 and server.stats().slots_used == 2
        with va.attach("s", policy="ordered") as reader:
            assert reader.recv_nowait() is None
            publish(server, "dd")
            assert reader.recv_nowait() is None


def test_images_have_a_backlog_of_one() -> None:
    with served(slots=4) as server:
        publish(server, "KKKKKKKK")
        assert (server.stats().backlog, server.stats().slots_used, late()) == (1, 2, [8])


def test_two_late_readers_each_get_all_of_it() -> None:
    with served() as server:
        publish(server, "Kdd")
        with va.attach("s", policy="ordered") as one:
            with one.recv_nowait() as frame:
                assert frame.seq == 1
            publish(server, "d")
            with va.attach("s", policy="ordered") as other:
                assert drained(other) == [1, 2, 3, 4] and drained(one) == [2, 3, 4]


def test_a_gop_as_long_as_the_ring_is_retained_and_a_longer_one_is_not() -> None:
    with served(slots=6) as server:
        publish(server, "Kddddd")
        assert server.stats().backlog == 6 and late() == [1, 2, 3, 4, 5, 6]
        publish(server, "d")
        stats = server.stats()
        assert (stats.backlog, stats.backlog_outgrown, stats.dropped, late()) == (0, True, 0, [])
        publish(server, "Kd")  # of the next one it is not known yet how long it will be
        assert late() == [8, 9] and server.stats().backlog_outgrown
        publish(server, "K")
        assert not server.stats().backlog_outgrown


def test_an_outgrown_backlog_gives_all_its_slots_back_at_once() -> None:
    with served(slots=6) as server, va.attach("s", policy="lossless") as reader:
        publish(server, "Kddddd")
        drained(reader)
        publish(server, "ddddd")  # five more: one in place of the newest alone would not have been enough
        assert drained(reader) == [7, 8, 9, 10, 11]


def test_what_readers_hold_comes_first() -> None:
    with served(slots=6) as server, va.attach("s", policy="ordered", max_leases=4) as reader:
        publish(server, "ddd")
        publish(server, "K")
        held = [reader.recv_nowait()]
        publish(server, "dddd")  # 5 to 8: slots for 4, 5, 6, 7, 8 and one more
        assert server.stats().backlog == 5
        held += [reader.recv_nowait() for _ in range(3)]
        assert [f.seq for f in held] == [4, 5, 6, 7]  # type: ignore[union-attr]
        publish(server, "d")
        publish(server, "d")  # in place of one that is not held
        assert server.stats().backlog == 0 and server.stats().dropped == 0
        for frame in held:
            assert frame is not None and bytes(frame.data) == data(frame.seq)
            frame.release()
        publish(server, "Kd")
        assert late() == [11, 12]


def test_unread_frames_of_a_reader_come_before_those_for_late_ones() -> None:
    with served(slots=6) as server, va.attach("s", policy="ordered") as slow:
        publish(server, "Kdd")
        assert drained(slow) == [1, 2, 3]
        publish(server, "ddd")  # 1 to 3 are the backlog's alone
        assert server.stats().backlog == 6
        publish(server, "ddd")
        assert server.stats().backlog == 0
        assert drained(slow) == [4, 5, 6, 7, 8, 9]


def test_a_frame_that_found_no_slot_ends_the_backlog() -> None:
    with served(slots=3) as server, va.attach("s", policy="ordered", max_leases=3) as reader:
        publish(server, "Kdd")
        held = [reader.recv_nowait() for _ in range(3)]
        assert not server.publish(data(9), format="bytes", key=False)
        stats = server.stats()
        assert (stats.backlog, stats.dropped, stats.backlog_outgrown) == (0, 1, False)
        del held[:]
        publish(server, "d")
        assert late() == []
        publish(server, "K")
        assert late() == [5]


def test_a_loan_that_finds_no_slot_does_so_too_and_one_that_is_discarded_does_not() -> None:
    with served(slots=4) as server:
        publish(server, "K")
        server.loan((100,), "bytes", key=False).discard()
        assert server.stats().backlog == 1
        loans = [server.loan((100,), "bytes", key=False) for _ in range(3)]
        with pytest.raises(va.NoFreeSlotError):
            server.loan((100,), "bytes", key=False)
        assert server.stats().backlog == 0
        del loans[:]


def test_bytes_bound_it() -> None:
    with served(slots=100, backlog_bytes=10 * 4096) as server:
        publish(server, "K", "d" * 9)
        assert server.stats().backlog == 10
        publish(server, "d")
        stats = server.stats()
        assert (stats.backlog, stats.backlog_outgrown, stats.slots_used) == (0, True, 10)
        publish(server, "K", "d" * 8)
        assert late() == list(range(12, 21))


def resident(server: va.Server) -> int:
    """What the ring in use takes of the machine's memory."""
    return os.fstat(server._writer.ring_fd).st_blocks * 512


def test_memory_is_about_the_frames_and_not_the_largest_one_in_every_slot() -> None:
    rng = random.Random(1)
    with served(slots=320) as server:
        for _ in range(8):
            sizes = [rng.randrange(360_000, 440_000)] + [rng.randrange(10_000, 30_000) for _ in range(299)]
            for i, size in enumerate(sizes):
                assert server.publish(b"x" * size, format="bytes", key=i == 0)
        assert server.stats().backlog == 300
        assert sum(sizes) < resident(server) < 1.6 * sum(sizes)


@pytest.mark.parametrize("loan", [False, True])
def test_a_frame_larger_than_slots_takes_the_backlog_along(loan: bool) -> None:
    with served() as server, va.attach("s", policy="ordered") as early, va.attach("s") as latest:
        publish(server, "dKdd")
        generation = server._writer.generation
        if loan:
            with server.loan((500_000,), "bytes", key=False, pts=5, meta={"n": 5}) as slot:
                slot.array[:] = list(data(5, 4)) * 125_000
        else:
            publish(server, "d", nbytes=500_000)
        assert server._writer.generation == generation + 1 and server.stats().backlog == 4
        publish(server, "d")
        assert late() == late("lossless") == [2, 3, 4, 5, 6]
        with latest.recv_nowait() as frame:  # over the same frames in the new ring
            assert frame.seq == 2
        with early.recv_nowait() as frame:
            assert (frame.seq, frame.dropped) == (2, 1)
        assert drained(early) == [3, 4, 5, 6]


def test_a_reader_that_reads_on_over_a_larger_ring_gets_each_frame_once() -> None:
    with served() as server, va.attach("s", policy="ordered") as reader:
        publish(server, "Kdd")
        with reader.recv_nowait() as frame:
            assert frame.seq == 1
        publish(server, "d", nbytes=500_000)
        publish(server, "d", nbytes=2_000_000)
        seen = []
        while (frame := reader.recv_nowait()) is not None:
            with frame:
                seen.append((frame.seq, frame.dropped, bytes(frame.data[:4])))
        assert seen == [(n, 0, data(n, 4)) for n in range(2, 6)]


def test_a_key_frame_larger_than_slots_begins_its_own() -> None:
    with served() as server:
        publish(server, "Kdd")
        publish(server, "K", nbytes=500_000)
        assert server.stats().backlog == 1
        publish(server, "d")
        assert late() == [4, 5]


def test_another_stream_begins_without_one() -> None:
    with served() as server:
        server.set_header(b"one")
        publish(server, "Kdd")
        server.set_header(b"one")
        assert server.stats().backlog == 3
        server.set_header(b"two")
        assert server.stats().backlog == 0
        publish(server, "d")
        assert late() == []
        publish(server, "Kd")
        with va.attach("s", policy="ordered") as reader:
            assert reader.header == b"two" and drained(reader) == [5, 6]


def test_a_pause_ends_it() -> None:
    with served() as server:
        publish(server, "Kdd")
        server.expire()
        assert (server.stats().backlog, server.stats().backlog_outgrown, late()) == (0, False, [])
        publish(server, "d")
        assert late() == []
        publish(server, "K")
        assert late() == [5]


def test_a_reader_that_reconnects_starts_with_it() -> None:
    with served() as server:
        publish(server, "Kd")
        reader = va.attach("s", policy="ordered", reconnect=True)
        assert drained(reader) == [1, 2]
    assert reader.recv_nowait() is None
    with served() as server:
        publish(server, "dKdd")
        seen: list[int] = []
        wait_for(lambda: bool(seen.extend(drained(reader)) or seen), 10)
        assert seen == [2, 3, 4]
    reader.close()


async def numbers(frames: Any, count: int) -> list[int]:
    seen = []
    async with asyncio.timeout(10):
        while len(seen) < count:
            with await frames.recv() as frame:
                assert bytes(frame.data) == data(frame.seq)
                seen.append(frame.seq)
    return seen


@pytest.mark.asyncio
async def test_connect_and_merge_start_with_it() -> None:
    with served() as server:
        publish(server, "KdKdd")
        async with va.connect("s", policy="ordered") as client, va.merge("s", policy="ordered") as merged:
            assert await numbers(client, 3) == await numbers(merged, 3) == [3, 4, 5]
        async with va.merge(policy="ordered") as merged:
            merged.add("s")
            assert await numbers(merged, 3) == [3, 4, 5]


def test_a_child_gets_it_and_the_parents_stays() -> None:
    code = """
    import tempfile
    s = va.serve("s", backlog="gop")
    for i in range(6): assert s.publish(bytes([i]), format="bytes", key=i == 2)
    pid = os.fork()
    if not pid:
        with va.attach("s", policy="ordered") as r:
            print([f.seq for f in iter(r.recv_nowait, None)], flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    with va.attach("s", policy="ordered") as r:
        print([f.seq for f in iter(r.recv_nowait, None)], flush=True)
    s.close()
    say("over")
    """
    with Child(code) as child:
        assert [child.line() for _ in range(3)] == ["[3, 4, 5, 6]"] * 2 + ["over"]


def test_readers_that_are_killed_take_nothing_of_it() -> None:
    code = """
    readers = [va.attach("s", policy=policy, max_leases=8) for policy in ("ordered", "lossless")]
    held = [reader.recv(10) for reader in readers for _ in range(3)]
    say("up"); time.sleep(60)
    """
    with served(slots=12) as server:
        publish(server, "Kdddd")
        with Child(code) as child:
            assert child.line() == "up"
            assert late() == [1, 2, 3, 4, 5]
            child.kill()
        wait_for(lambda: server.readers == 0, 10)
        assert late() == [1, 2, 3, 4, 5]


def test_arguments_that_make_no_sense() -> None:
    for settings in ({"backlog": "GOP"}, {"backlog": True}, {"backlog_bytes": 0}, {"backlog_bytes": 1 << 63}):
        with pytest.raises(ValueError, match="backlog"):
            va.serve("s", **settings)
    with pytest.raises(TypeError):
        va.serve("s", backlog_bytes=1.5)  # type: ignore[arg-type]
