"""A stream may change its size or its header at any time; readers go on without being restarted."""

from __future__ import annotations

import numpy as np
import pytest

import valkka_async as va


@pytest.mark.parametrize("policy", ["latest", "ordered"])
def test_a_reader_follows_a_change_of_size(policy: str) -> None:
    with va.serve("s") as server, va.attach("s", policy=policy) as reader:
        for width in (64, 640, 32, 1280, 64):
            server.publish(np.full((width // 2, width, 3), width % 251, np.uint8))
            frame = reader.recv(5)
            assert frame.shape == (width // 2, width, 3)
            assert (frame.array == width % 251).all()
            assert frame.dropped == 0


def test_ordered_finishes_the_old_ring_first() -> None:
    with va.serve("s") as server, va.attach("s", policy="ordered") as reader:
        for i in range(3):
            server.publish(np.full((4, 4), i, np.uint8))
        for i in range(3, 6):
            server.publish(np.full((400, 400), i, np.uint8))
        seen = [reader.recv(5) for _ in range(4)]
        assert [(f.seq, f.dropped, int(f.array[0, 0])) for f in seen] == [(i + 1, 0, i) for i in range(4)]
        del seen[:]
        assert reader.recv(5).seq == 5


def test_latest_skips_to_the_newest_ring() -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish(np.zeros((4, 4), np.uint8))
        assert reader.recv(5).seq == 1
        server.publish(np.zeros((4, 4), np.uint8))
        server.publish(np.zeros((400, 400), np.uint8))
        frame = reader.recv(5)
        assert (frame.seq, frame.dropped, frame.shape) == (3, 1, (400, 400))


def test_a_frame_of_the_old_ring_stays_as_it_is() -> None:
    with va.serve("s", slots=3) as server, va.attach("s") as reader:
        server.publish(np.full((4, 4), 1, np.uint8))
        old = reader.recv(5)
        for i in range(2, 50):
            assert server.publish(np.full((4 * i, 4 * i), i, np.uint8))
            assert reader.recv(5).shape == (4 * i, 4 * i)
        assert (old.array == 1).all()


def test_a_reader_that_sleeps_through_many_rings_costs_few_messages_and_loses_by_number() -> None:
    with va.serve("s") as server, va.attach("s", policy="ordered") as reader:
        server.publish(np.zeros((4, 4), np.uint8))
        assert reader.recv(5).seq == 1
        for i in range(2, 302):  # each needs a new ring; the reader looks at none of them
            server.publish(np.zeros((4 * i, 40 * i), np.uint8))
        seen = 1
        while seen < 301:
            frame = reader.recv(5)
            assert frame.seq == seen + frame.dropped + 1
            seen = frame.seq
            frame.release()
        stats = reader.stats()
        assert (stats.received + stats.dropped, stats.leases) == (301, 0)


def test_a_loan_that_outlives_its_ring_is_published_in_the_next() -> None:
    with va.serve("s") as server, va.attach("s", policy="ordered") as reader:
        server.publish(np.full((4, 4), 1, np.uint8))
        slot = server.loan((4, 4), "gray8", meta={"n": 3})
        slot.array[:] = 3
        server.publish(np.full((400, 400), 2, np.uint8))
        assert slot.publish()
        seen = [reader.recv(5) for _ in range(3)]
        assert [(f.seq, int(f.array[0, 0])) for f in seen] == [(1, 1), (2, 2), (3, 3)]
        assert seen[2].meta == {"n": 3}


def test_a_late_reader_has_the_header_at_once() -> None:
    with va.serve("s") as server:
        server.set_header(b"ftyp+moov")
        with va.attach("s") as reader:
            assert reader.header == b"ftyp+moov"
            server.publish(b"moof", format="fmp4")
            assert bytes(reader.recv(5).data) == b"moof"


def test_a_new_header_goes_with_the_frames_after_it() -> None:
    with va.serve("s") as server, va.attach("s", policy="ordered") as reader:
        assert reader.header == b""
        server.set_header(b"one")
        server.publish(b"K1", format="fmp4")
        server.publish(b"P2", format="fmp4", key=False)
        server.set_header(b"two")
        server.publish(b"P3", format="fmp4", key=False)  # of no use: its key frame went with the old header
        server.publish(b"K4", format="fmp4")
        seen = []
        for _ in range(3):
            with reader.recv(5) as frame:
                seen.append((bytes(frame.data), frame.dropped, reader.header))
        assert seen == [(b"K1", 0, b"one"), (b"P2", 0, b"one"), (b"K4", 1, b"two")]


def test_the_same_header_again_changes_nothing() -> None:
    with va.serve("s") as server, va.attach("s", policy="ordered") as reader:
        server.set_header(b"one")
        server.publish(b"K1")
        server.set_header(b"one")
        server.publish(b"P2", key=False)
        assert [reader.recv(5).seq for _ in range(2)] == [1, 2]


def test_a_growing_stream_of_deltas_is_not_broken_by_a_new_ring() -> None:
    with va.serve("s") as server, va.attach("s", policy="ordered") as reader:
        server.publish(b"K", format="h264")
        for i in range(1, 8):
            server.publish(b"P" * 100_000 * i, format="h264", key=False)
            with reader.recv(5) as frame:
                assert (frame.seq, frame.dropped) == (i, 0)
