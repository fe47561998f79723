"""Servers and readers against a small model, in whatever order Hypothesis finds worth trying.

The model has each ring's slots and chooses among them as va_pick does. From that follows which frames are
still there, and what every call returns, to the number.
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


def pages(nbytes: int) -> int:
    return -(-nbytes // 4096) * 4096


@dataclass
class Place:
    """A slot, as the writer knows it."""

    seq: int = 0
    used: int = 0
    touched: int = 0
    writing: bool = False


@dataclass(eq=False)
class Ring:
    base: int  # number of the frame before its first one
    places: list[Place]
    end: int | None = None  # its last frame, once there is another ring

    def has(self, seq: int) -> bool:
        return any(place.seq == seq for place in self.places)

    @property
    def span(self) -> int:
        """So many frames its index can know."""
        return 1 << (len(self.places) - 1).bit_length()


@dataclass
class Reader:
    reader: va.Reader
    policy: str
    last: int  # the frame that it got last
    at: int  # the ring in use
    seen: int = 0  # frames up to here were delivered or given up
    broken: bool = True
    held: list[tuple[va.Frame, Ring]] = field(default_factory=list)
    received: int = 0
    dropped: int = 0

    def __post_init__(self) -> None:
        self.seen = self.last


class Frames(RuleBasedStateMachine):
    @initialize(
        slots=st.integers(2, 6),
        backlog=st.sampled_from(["gop", "gop", None]),
        backlog_bytes=st.sampled_from([1 << 30, 30_000]),
    )
    def start(self, slots: int, backlog: Any, backlog_bytes: int) -> None:
        self.directory = tempfile.mkdtemp(prefix="va-")
        os.environ["VALKKA_RUNTIME_DIR"] = self.directory
        self.slots = slots
        self.retains = backlog is not None
        self.backlog_bytes = backlog_bytes
        self.server = va.serve("s", slots=slots, backlog=backlog, backlog_bytes=backlog_bytes)
        self.readers: list[Reader] = []
        self.orphans: list[tuple[va.Frame, Ring]] = []  # held, of readers that are closed
        self.loans: list[tuple[Any, Place]] = []
        self.sizes: list[int] = []  # of frame 1, 2, ...
        self.keys: list[bool] = []
        self.rings: list[Ring] = []
        self.capacity = 0
        self.refused = 0
        self.clock = 0
        self.gop = 0  # the backlog's first frame; 0: there is none
        self.outgrown = False
        self.expired = 0

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

    def pick(self, nbytes: int) -> Place | None:
        """The slot to write next, among those that may be: see va_pick."""
        ring = self.rings[-1]
        leased = {
            f.seq for f, of in [*self.orphans, *(h for r in self.readers for h in r.held)] if of is ring
        }
        cursors = {
            policy: min((r.seen for r in self.readers if r.policy == policy), default=self.head)
            for policy in ("ordered", "lossless")
        }

        def rank(place: Place) -> tuple[int, ...]:
            """The smallest is best."""
            if place.seq > cursors["ordered"] or (self.gop and place.seq >= self.gop):
                return 3, place.seq
            if not place.used:
                return (2,)
            waste = place.touched - nbytes
            misfit = nbytes - waste if waste < 0 else waste if waste <= nbytes else place.touched + nbytes
            return 1, misfit, -place.used

        return min(
            (
                place
                for place in ring.places
                if not (
                    place.writing
                    or (place.seq and place.seq in {self.head, *leased})
                    or place.seq > cursors["lossless"]
                )
            ),
            key=rank,
            default=None,
        )

    def take(self, nbytes: int) -> Place | None:
        """What va_begin does. None: no slot."""
        nbytes = pages(nbytes)
        while True:
            place = self.pick(nbytes)
            if place is None:
                self.gop = 0
                return None
            touched = sum(p.touched for p in self.rings[-1].places) + max(0, nbytes - place.touched)
            grows = nbytes > place.touched and touched > self.backlog_bytes
            if not self.gop or not (place.seq >= self.gop or grows):
                break
            self.gop, self.outgrown = 0, True
        self.clock += 1
        place.seq, place.used, place.writing = 0, self.clock, True
        place.touched = max(place.touched, nbytes)
        return place

    def next_ring(self, key: bool) -> None:
        """What va_next_ring does."""
        if self.rings:
            self.rings[-1].end = self.head
        if key:
            self.gop = 0
        ring = Ring(self.gop - 1 if self.gop else self.head, [Place() for _ in range(self.slots)])
        for place, seq in zip(ring.places, range(self.gop or self.head + 1, self.head + 1), strict=False):
            self.clock += 1
            place.seq, place.used, place.touched = seq, self.clock, self.sizes[seq - 1]
        self.rings.append(ring)

    def fits(self, r: Reader, ring: Ring, seq: int) -> bool:
        return ring.has(seq) and (self.keys[seq - 1] or (not r.broken and seq == r.seen + 1))

    def claim(self, r: Reader, ring: Ring) -> int | None:
        """What va_claim does: the number of the frame that this reader gets next from this ring."""
        end = self.head if ring.end is None else ring.end
        while r.seen < end and end > ring.base:
            oldest = max(end - ring.span + 1, ring.base + 1, r.seen + 1)
            wanted = range(end, oldest - 1, -1) if r.policy == "latest" else (oldest,)
            seq = next((n for n in wanted if self.fits(r, ring, n)), None)
            r.broken, r.seen = seq is None, seq or wanted[0]
            if seq is not None:
                return seq
        return None

    def expected(self, r: Reader) -> int | None:
        """The number of the frame that this reader gets next."""
        if r.policy == "latest" and self.rings:
            r.at = len(self.rings) - 1  # which has frames
        for ring in self.rings[r.at :]:
            if ring is not self.rings[r.at]:
                r.at += 1
                if ring.base > r.seen:
                    r.broken, r.seen = True, ring.base
            if (seq := self.claim(r, ring)) is not None:
                return seq
        return None

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
        last = self.head
        if self.gop and policy != "latest":
            last = self.gop - 1
        elif self.rings and self.head > max(self.rings[-1].base, self.expired):
            last -= 1
        self.readers.append(Reader(reader, policy, last, max(0, len(self.rings) - 1)))
        self.settle()

    @rule(size=st.sampled_from(SIZES), key=st.booleans(), loan=st.booleans())
    def publish(self, size: int, key: bool, loan: bool) -> None:
        if size > self.capacity:
            if any(r.reader._connection._reader.ring_count > 3 for r in self.readers):  # type: ignore[union-attr]
                return  # such a reader would not be sent the next ring
            self.next_ring(key)
            self.loans.clear()
            self.capacity = pages(size)
        place = self.take(size)
        value = (self.head + 1) % 251
        image = np.full((1, size), value, np.uint8)
        if loan:
            try:
                with self.server.loan((1, size), "gray8", key=key) as slot:
                    slot.array[:] = image
                done = True
            except va.NoFreeSlotError:
                done = False
        else:
            done = self.server.publish(image, key=key)
        assert done == (place is not None)
        if place is not None:
            self.sizes.append(size)
            self.keys.append(key)
            place.seq, place.writing = self.head, False
            if key and self.retains:
                self.outgrown = self.outgrown and not self.gop
                self.gop = self.head
        else:
            self.refused += 1
        self.settle()

    @rule()
    @precondition(lambda self: self.capacity and len(self.loans) < 2)
    def borrow(self) -> None:
        place = self.take(10)
        try:
            slot = self.server.loan((1, 10), "gray8")
            assert place is not None
            self.loans.append((slot, place))
        except va.NoFreeSlotError:
            assert place is None
            self.refused += 1

    @rule(data=st.data())
    @precondition(lambda self: self.loans)
    def discard(self, data: st.DataObject) -> None:
        slot, place = self.loans.pop(data.draw(st.integers(0, len(self.loans) - 1)))
        slot.discard()
        place.writing = False

    @rule()
    def expire(self) -> None:
        self.server.expire()
        self.expired, self.gop = self.head, 0

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
        r.held.append((frame, self.rings[r.at]))

    @rule(data=st.data())
    @precondition(lambda self: any(r.held for r in self.readers))
    def release(self, data: st.DataObject) -> None:
        r = data.draw(st.sampled_from([r for r in self.readers if r.held]), "reader")
        r.held.pop(data.draw(st.integers(0, len(r.held) - 1)))[0].release()

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
            for frame, _ in [h for r in self.readers for h in r.held] + self.orphans:
                assert frame.nbytes == self.sizes[frame.seq - 1]
                assert (frame.array == frame.seq % 251).all()

    @invariant()
    def counters_are_exact(self) -> None:
        if hasattr(self, "server"):
            stats = self.server.stats()
            assert (stats.published, stats.dropped) == (self.head, self.refused)
            assert stats.backlog == (self.head - self.gop + 1 if self.gop else 0)
            assert stats.backlog_outgrown == self.outgrown
            used = [place for place in self.rings[-1].places if place.used] if self.rings else []
            assert stats.slots_used == len(used)
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
