"""Servers and readers against a small model, in whatever order Hypothesis finds worth trying.

The model knows which frames must still be there: those leased, those that an "ordered" or "lossless"
reader has not seen, and the newest. From that follows what every call returns, to the number.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import valkka_async as va
from support.until import wait_for

SIZES = (10, 5000, 20_000, 60_000)  # bytes; each needs a larger ring than the one before
MAX_LEASES = 2


def until(condition: Callable[[], bool]) -> None:
    """The server's thread takes in what readers say a little later than they say it."""
    wait_for(condition, 5, pause=0.0002)


@dataclass
class Ring:
    first: int  # number of its first frame
    lost: set[int] = field(default_factory=set)  # overwritten frames


@dataclass
class Reader:
    reader: va.Reader
    policy: str
    last: int
    held: list[va.Frame] = field(default_factory=list)
    received: int = 0
    dropped: int = 0


class Frames(RuleBasedStateMachine):
    @initialize(slots=st.integers(2, 6))
    def start(self, slots: int) -> None:
        self.directory = tempfile.mkdtemp(prefix="va-")
        os.environ["VALKKA_RUNTIME_DIR"] = self.directory
        self.slots = slots
        self.server = va.serve("s", slots=slots)
        self.readers: list[Reader] = []
        self.orphans: list[va.Frame] = []  # held, of readers that are closed
        self.loans: list[Any] = []
        self.sizes: list[int] = []  # of frame 1, 2, ...
        self.rings: list[Ring] = []
        self.capacity = 0
        self.refused = 0

    def teardown(self) -> None:
        if not hasattr(self, "server"):
            return
        for r in self.readers:
            r.held.clear()
            r.reader.close()
        self.orphans.clear()
        self.loans.clear()
        self.server.close()
        shutil.rmtree(self.directory)

    # ------------------------------------------------------------------------------- the model

    @property
    def head(self) -> int:
        return len(self.sizes)

    def frames_held(self) -> set[int]:
        return {f.seq for r in self.readers for f in r.held} | {f.seq for f in self.orphans}

    def make_room(self) -> bool:
        """What va_begin does to the frames of the newest ring. False: no slot."""
        ring = self.rings[-1]
        here = {n for n in range(ring.first, self.head + 1) if n not in ring.lost}
        held = self.frames_held() & set(range(ring.first, self.head + 1))
        sure = held | ({self.head} & here)
        wanted: set[int] = set()
        for r in self.readers:
            unseen = {n for n in here if n > r.last}
            if r.policy == "lossless":
                sure |= unseen
            elif r.policy == "ordered":
                wanted |= unseen
        room = self.slots - len(self.loans)
        if len(sure | wanted) < room:
            ring.lost |= here - sure - wanted  # free: nobody will ask for them
            return True
        candidates = wanted - sure
        if not candidates:
            return False
        ring.lost |= {min(candidates)} | (here - sure - wanted)
        return True

    def expected(self, r: Reader) -> int | None:
        """The number of the frame that this reader gets next."""
        if r.last >= self.head:
            return None
        if r.policy == "latest":
            return self.head
        lost = set().union(*(ring.lost for ring in self.rings))
        # A frame that somebody else still holds may be too old for the ring's index to know it.
        span = 1 << (self.slots - 1).bit_length()
        for ring, following in zip(self.rings, [*self.rings[1:], Ring(self.head + 1)], strict=True):
            lost |= set(range(ring.first, following.first - span))
        return min(n for n in range(r.last + 1, self.head + 1) if n not in lost)

    def settle(self) -> None:
        """All readers have the newest ring, and the server knows."""
        writer = self.server._writer

        def settled() -> bool:
            for r in self.readers:
                r.reader._connection.pump()  # type: ignore[union-attr]
            return all(
                r.acked == writer.generation
                for r in list(self.server._peers._peers.values())
                if r.place is not None and writer.wants_more(r.place)
            )

        until(settled)

    # ------------------------------------------------------------------------------- the rules

    @rule(policy=st.sampled_from(["latest", "ordered", "lossless"]))
    @precondition(lambda self: len(self.readers) < 4)
    def attach(self, policy: str) -> None:
        reader = va.attach("s", policy=policy, max_leases=MAX_LEASES)
        in_this_ring = bool(self.rings) and self.head >= self.rings[-1].first
        self.readers.append(Reader(reader, policy, self.head - 1 if in_this_ring else self.head))
        self.settle()

    @rule(size=st.sampled_from(SIZES), loan=st.booleans())
    def publish(self, size: int, loan: bool) -> None:
        if size > self.capacity:
            if any(r.reader._connection._reader.ring_count > 3 for r in self.readers):  # type: ignore[union-attr]
                return  # such a reader would not be sent the next ring
            self.rings.append(Ring(self.head + 1))
            self.loans.clear()
            self.capacity = -(-size // 4096) * 4096
        there = self.make_room()
        value = (self.head + 1) % 251
        image = np.full((1, size), value, np.uint8)
        if loan:
            try:
                with self.server.loan((1, size), "gray8") as slot:
                    slot.array[:] = image
                done = True
            except va.NoFreeSlotError:
                done = False
        else:
            done = self.server.publish(image)
        assert done == there
        if done:
            self.sizes.append(size)
        else:
            self.refused += 1
        self.settle()

    @rule()
    @precondition(lambda self: self.capacity and len(self.loans) < 2)
    def borrow(self) -> None:
        there = self.make_room()
        try:
            self.loans.append(self.server.loan((1, 10), "gray8"))
            assert there
        except va.NoFreeSlotError:
            assert not there
            self.refused += 1

    @rule(data=st.data())
    @precondition(lambda self: self.loans)
    def discard(self, data: st.DataObject) -> None:
        self.loans.pop(data.draw(st.integers(0, len(self.loans) - 1))).discard()

    @rule(data=st.data())
    @precondition(lambda self: self.readers)
    def receive(self, data: st.DataObject) -> None:
        r = data.draw(st.sampled_from(self.readers), "reader")
        if len(r.held) == MAX_LEASES:
            try:
                r.reader.recv_nowait()
                raise AssertionError("more leases than allowed")
            except va.LeaseLimitError:
                return
        expected = self.expected(r)
        frame = r.reader.recv_nowait()
        assert (frame.seq if frame is not None else None) == expected
        if frame is None:
            return
        assert frame.dropped == frame.seq - r.last - 1
        r.received += 1
        r.dropped += frame.dropped
        r.last = frame.seq
        r.held.append(frame)

    @rule(data=st.data())
    @precondition(lambda self: any(r.held for r in self.readers))
    def release(self, data: st.DataObject) -> None:
        r = data.draw(st.sampled_from([r for r in self.readers if r.held]), "reader")
        r.held.pop(data.draw(st.integers(0, len(r.held) - 1))).release()

    @rule(data=st.data())
    @precondition(lambda self: self.readers)
    def close(self, data: st.DataObject) -> None:
        r = self.readers.pop(data.draw(st.integers(0, len(self.readers) - 1)))
        before = self.server.stats().readers
        r.reader.close()
        if r.held:
            self.orphans += r.held
            r.held = []  # Hypothesis keeps what it drew
        else:
            until(lambda: self.server.stats().readers == before - 1)

    @rule()
    @precondition(lambda self: self.orphans)
    def release_orphans(self) -> None:
        self.orphans.clear()
        until(lambda: self.server.stats().readers == len(self.readers))

    # ------------------------------------------------------------------------- what always holds

    @invariant()
    def held_frames_do_not_change(self) -> None:
        if hasattr(self, "server"):
            for frame in [f for r in self.readers for f in r.held] + self.orphans:
                assert frame.nbytes == self.sizes[frame.seq - 1]
                assert (frame.array == frame.seq % 251).all()

    @invariant()
    def counters_are_exact(self) -> None:
        if hasattr(self, "server"):
            stats = self.server.stats()
            assert (stats.published, stats.dropped) == (self.head, self.refused)
            assert stats.slots_used <= self.slots
            for r in self.readers:
                s = r.reader.stats()
                assert (s.received, s.dropped, s.leases) == (r.received, r.dropped, len(r.held))


TestFrames = Frames.TestCase
TestFrames.settings = settings(
    max_examples=int(os.environ.get("VALKKA_EXAMPLES", "60")),
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
