"""Which frame comes next, what is counted as lost, and how much memory it takes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import valkka_async as va


def drained(reader: va.Reader) -> Iterator[va.Frame]:
    """What is there now."""
    while (frame := reader.recv_nowait()) is not None:
        yield frame
        frame.release()


def test_latest_gives_the_newest_and_counts_the_rest() -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        for i in range(10):
            server.publish(b"%d" % i)
        frame = reader.recv_nowait()
        assert (bytes(frame.data), frame.seq, frame.dropped) == (b"9", 10, 9)
        assert reader.recv_nowait() is None
        server.publish(b"next")
        assert reader.recv_nowait().dropped == 0


def test_ordered_gives_every_frame_in_order_while_slots_last() -> None:
    with va.serve("s", slots=16) as server, va.attach("s", policy="ordered") as reader:
        for i in range(16):
            server.publish(b"%d" % i)
        assert [(f.seq, f.dropped) for f in drained(reader)] == [(i, 0) for i in range(1, 17)]


def test_ordered_loses_the_oldest_first_when_it_falls_behind() -> None:
    with va.serve("s", slots=4) as server, va.attach("s", policy="ordered") as reader:
        for i in range(10):
            server.publish(b"%d" % i)
        assert [(f.seq, f.dropped) for f in drained(reader)] == [(7, 6), (8, 0), (9, 0), (10, 0)]


def test_after_a_pause_a_late_reader_gets_the_next_frame_and_not_an_old_one() -> None:
    with va.serve("s") as server:
        server.publish(b"old")
        with va.attach("s") as early:
            server.expire()
            with va.attach("s") as late, va.attach("s", policy="ordered") as ordered:
                assert late.recv_nowait() is None and ordered.recv_nowait() is None
                with early.recv_nowait() as frame:
                    assert bytes(frame.data) == b"old"
                server.publish(b"new")
                for reader in (early, late, ordered):
                    with reader.recv_nowait() as frame:
                        assert (bytes(frame.data), frame.dropped) == (b"new", 0)
        with va.attach("s") as later, later.recv_nowait() as frame:
            assert bytes(frame.data) == b"new"


def test_a_late_reader_gets_the_newest_frame_at_once() -> None:
    with va.serve("s") as server:
        for i in range(10):
            server.publish(b"%d" % i)
        for policy in ("latest", "ordered"):
            with va.attach("s", policy=policy) as reader:
                frame = reader.recv(5)
                assert (bytes(frame.data), frame.dropped) == (b"9", 0)
                assert reader.recv_nowait() is None


def test_slots_are_touched_only_when_somebody_needs_them() -> None:
    """With "latest" readers two slots and one for each frame held; an "ordered" one may use them all."""
    with va.serve("s", slots=16) as server:
        for _ in range(50):
            server.publish(b"x")
        assert server.stats().slots_used == 2
        with va.attach("s") as a, va.attach("s") as b:
            held = []
            for i in range(50):
                server.publish(b"x")
                if i % 25 == 3:
                    held += [a.recv(5), b.recv(5)]
            # two frames are held, by both readers each
            assert server.stats().slots_used == 4
            with va.attach("s", policy="ordered"):
                for _ in range(50):
                    server.publish(b"x")
                assert server.stats().slots_used == 16


def test_a_frame_that_every_other_slot_holds_up_is_dropped_and_counted() -> None:
    with va.serve("s", slots=4) as server, va.attach("s", max_leases=4) as reader:
        held = []
        for i in range(3):
            server.publish(b"%d" % i)
            held.append(reader.recv(5))
        assert server.publish(b"newest")  # the fourth slot
        assert not server.publish(b"no room")
        assert (server.stats().published, server.stats().dropped) == (4, 1)
        assert [bytes(f.data) for f in held] == [b"0", b"1", b"2"]
        assert bytes(reader.recv(5).data) == b"newest"
        held.pop().release()
        assert server.publish(b"again")
        frame = reader.recv(5)
        assert (frame.seq, frame.dropped) == (5, 0)


def test_received_and_dropped_sum_up_to_published() -> None:
    rng = np.random.default_rng(3)
    with va.serve("s", slots=5) as server:
        readers = [va.attach("s", policy=p, max_leases=3) for p in ("latest", "ordered", "latest", "ordered")]
        last = [0] * len(readers)
        held: list[list[va.Frame]] = [[] for _ in readers]
        for _ in range(3000):
            if rng.random() < 0.5:
                server.publish(b"x" * int(rng.integers(1, 50)))
            i = int(rng.integers(len(readers)))
            if held[i] and rng.random() < 0.6:
                held[i].pop(int(rng.integers(len(held[i])))).release()
            elif len(held[i]) < 2 and (frame := readers[i].recv_nowait()) is not None:
                assert frame.seq == last[i] + frame.dropped + 1
                last[i] = frame.seq
                held[i].append(frame)
        for reader, keep in zip(readers, held, strict=True):
            keep.clear()
            for _ in drained(reader):
                pass
            stats = reader.stats()
            assert stats.received + stats.dropped == server.stats().published
            assert stats.leases == 0
            reader.close()


def test_a_late_reader_of_a_delta_coded_stream_starts_at_a_key_frame() -> None:
    with va.serve("s") as server:
        server.publish(b"P1", key=False)
        with va.attach("s", policy="ordered") as reader:
            server.publish(b"P2", key=False)
            assert reader.recv_nowait() is None
            server.publish(b"K3", key=True)
            server.publish(b"P4", key=False)
            seen = [(bytes(f.data), f.dropped, f.key) for f in drained(reader)]
            assert seen == [(b"K3", 2, True), (b"P4", 0, False)]


def test_after_a_loss_a_delta_coded_stream_goes_on_at_the_next_key_frame() -> None:
    with va.serve("s", slots=4) as server, va.attach("s", policy="ordered") as reader:
        for i in range(12):  # key frames 1, 6, 11; only the last four frames are there
            server.publish(b"%d" % i, key=i % 5 == 0)
        assert [(f.seq, f.dropped) for f in drained(reader)] == [(11, 10), (12, 0)]
        for i in range(12, 15):
            server.publish(b"%d" % i, key=i % 5 == 0)
        assert [(f.seq, f.dropped) for f in drained(reader)] == [(13, 0), (14, 0), (15, 0)]
        for i in range(15, 20):  # the key frame, 16, is lost before it is read
            server.publish(b"%d" % i, key=i % 5 == 0)
        assert list(drained(reader)) == []
        server.publish(b"20", key=True)
        assert [(f.seq, f.dropped) for f in drained(reader)] == [(21, 5)]


def test_latest_in_a_delta_coded_stream_never_hands_out_what_cannot_be_decoded() -> None:
    with va.serve("s", slots=16) as server, va.attach("s") as reader:
        decodable = 0
        rng = np.random.default_rng(4)
        for i in range(2000):
            server.publish(b"x", key=i % 7 == 0)
            if rng.random() < 0.6:
                for frame in drained(reader):
                    assert frame.key or frame.dropped == 0
                    decodable += 1
        assert decodable > 300
        stats = reader.stats()
        assert stats.received + stats.dropped <= server.stats().published


def test_two_readers_of_one_ring_do_not_disturb_each_other() -> None:
    with (
        va.serve("s") as server,
        va.attach("s", policy="ordered") as a,
        va.attach("s", policy="ordered") as b,
    ):
        for i in range(8):
            server.publish(b"%d" % i)
        assert [f.seq for f in drained(a)] == list(range(1, 9))
        assert [f.seq for f in drained(b)] == list(range(1, 9))


@pytest.mark.parametrize("policy", ["newest", "", None])
def test_an_unknown_policy_is_refused(policy: str) -> None:
    with pytest.raises(ValueError, match="latest, ordered"):
        va.attach("s", policy=policy)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="max_leases"):
        va.attach("s", max_leases=0)
    with pytest.raises(ValueError, match="slots"):
        va.serve("s", slots=1)
    with pytest.raises(ValueError, match="max_clients"):
        va.serve("s", max_clients=0)
    with pytest.raises(ValueError, match="no group"):
        va.serve("s", group="no-such-group")
