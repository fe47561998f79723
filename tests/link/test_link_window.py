# SPDX-License-Identifier: MIT
"""Raw frames that are under way to a host: few, and acknowledged by it, whatever else it says."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from link_tools import pair

import valkka_async as va
from support.until import wait_for
from valkka_async.link import peer as peer_module
from valkka_async.link.budget import Budget
from valkka_async.link.exporter import Catalogue
from valkka_async.link.keys import Content, Key, Live
from valkka_async.link.peer import Peer
from valkka_async.link.sender import Sender, Stream
from valkka_async.link.spec import PeerSpec
from valkka_async.link.unit import decode, number
from valkka_async.link.window import Window, acknowledgement

LARGE = 6 << 20


def filled(size: int, now: float = 0.0) -> tuple[Window, list[int]]:
    """With as many frames under way as may be."""
    window, seqs = Window(7), list[int]()
    for seq in range(1, 100):
        if not window.admits(size, now):
            return window, seqs
        window.note(seq, size, now)
        seqs.append(seq)
    raise AssertionError("it is always open")


@pytest.mark.parametrize(("size", "most"), [(LARGE, 1), (500_000, 2), (100, 16)])
def test_a_large_frame_goes_alone_and_small_ones_together(size: int, most: int) -> None:
    window, seqs = filled(size)
    assert len(seqs) == most
    assert window.acknowledge(acknowledgement(7, seqs[-1]), 0.0), "and with it all before"
    assert window.due() is None and window.admits(LARGE, 0.0)


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", bytes(99), acknowledgement(8, 1), acknowledgement(7, 2**64 - 1), acknowledgement(7, 0)],
)
def test_an_acknowledgement_of_what_is_not_under_way_changes_nothing(data: bytes) -> None:
    window, _ = filled(LARGE)
    for _ in range(100):
        assert not window.acknowledge(data, 0.0) and not window.admits(LARGE, 0.0)


def test_what_is_never_acknowledged_counts_as_lost_in_the_end() -> None:
    """A host of an older version gets a frame now and then."""
    window, _ = filled(LARGE)
    times = []
    for at in range(100):
        if window.admits(LARGE, at / 10):
            window.note(at, LARGE, at / 10)
            times.append(at)
    assert 2 < len(times) < 10


def test_whatever_a_host_says_no_more_is_under_way_than_may_be() -> None:
    window, dice = Window(7), random.Random(8)
    under_way: set[int] = set()
    for seq in range(2000):
        if window.admits(300_000, 0.0):
            window.note(seq, 300_000, 0.0)
            under_way.add(seq)
        said = dice.randrange(-5, 2005)
        known = said in under_way
        data = dice.randbytes(12) if said < 0 else acknowledgement(7, said)
        changed = window.acknowledge(data, 0.0)
        assert bool(changed) is known
        if changed:
            under_way = {one for one in under_way if one > said}
        assert len(under_way) <= 3


class Line:
    """A line of so many seconds there and back, on which a frame takes `takes`, and sometimes `slower` of
    these. What it carries in so many seconds, and how long frames waited in its buffers."""

    def __init__(self, way: float, takes: float, slower: float = 1.0, known: float | None = None) -> None:
        self.carried = 0
        self.waited: list[float] = []
        window = Window(7, lambda: way if known is None else known)
        free_at, acks = 0.0, deque[tuple[float, int]]()
        for step in range(20_000):
            now = step / 1000
            while acks and acks[0][0] <= now:
                assert window.acknowledge(acknowledgement(7, acks.popleft()[1]), now)
                self.carried += 1
            if window.admits(LARGE, now):
                window.note(step, LARGE, now)
                self.waited.append(max(0.0, free_at - now))
                slow = slower if now % 4 > 2 else 1.0
                free_at = max(free_at, now) + takes * slow
                acks.append((free_at + way, step))


@pytest.mark.parametrize(("way", "takes"), [(0.05, 0.048), (0.2, 0.048), (0.05, 0.3), (0.001, 0.12)])
def test_a_long_line_is_used_and_frames_do_not_wait_in_its_buffers(way: float, takes: float) -> None:
    line = Line(way, takes)
    assert line.carried > 0.85 * min(20 / takes, 20 * 8 / (way + takes), 20 * 5 / (way + takes))
    assert max(line.waited) < 0.01


@pytest.mark.parametrize("slower", [1.5, 3.0])
def test_on_a_line_that_becomes_slower_no_queue_stays(slower: float) -> None:
    line = Line(0.2, 0.048, slower)
    assert sum(line.waited) / len(line.waited) < 0.03
    assert line.carried > 20 / (0.2 + 0.048)


@pytest.mark.parametrize("known", [0.0, 0.001])
def test_where_the_way_is_not_known_or_was_shorter_one_frame_is_under_way(known: float) -> None:
    line = Line(0.05, 0.048, known=known)
    assert max(line.waited) == 0 and 0.9 * 200 < line.carried <= 206


def test_where_the_way_was_taken_for_longer_frames_wait_for_two_others_at_most() -> None:
    line = Line(0.01, 0.048, known=0.05)
    assert max(line.waited) < 2 * 0.048 and sum(line.waited) / len(line.waited) < 0.04


@pytest.fixture
def sending() -> Iterator[tuple[va.Server, Sender, Stream, list[bytes]]]:
    sent: list[bytes] = []
    sender = Sender("attic", Budget(None), itertools.count(1).__next__)
    with va.serve("yard") as server:
        try:
            stream = sender.add("yard", sent.append, None, Content.RAW)
            wait_for(lambda: server.readers)
            yield server, sender, stream, sent
        finally:
            sender.stop()
            assert sender.join(30)


def frame(value: int) -> np.ndarray:
    return np.full((1000, 1000, 3), value, np.uint8)


def test_the_newest_goes_when_the_one_before_has_come_and_the_others_are_counted(
    sending: tuple[va.Server, Sender, Stream, list[bytes]],
) -> None:
    server, sender, stream, sent = sending
    server.publish(frame(0))
    wait_for(lambda: sent)
    for value in range(1, 60):  # more than the ring has slots
        server.publish(frame(value))
    wait_for(lambda: stream.held or len(sent) > 1)
    assert len(sent) == 1
    numbers = number(sent[0])
    assert numbers is not None
    sender.acknowledge(stream, acknowledgement(*numbers))
    wait_for(lambda: len(sent) == 2)
    unit, _, data = decode(sent[1])
    assert (data[0], unit.skipped, stream.skipped) == (59, 58, 58)


def test_on_a_long_line_another_frame_goes_before_the_one_before_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("valkka_async.link.window._PATIENCE", 1e6)
    sent: list[bytes] = []
    sender = Sender("attic", Budget(None), itertools.count(1).__next__, way=lambda: 10.0)
    with va.serve("yard") as server:
        try:
            stream = sender.add("yard", sent.append, None, Content.RAW)
            for value in range(3):
                server.publish(frame(value))
                wait_for(lambda value=value: len(sent) == value + 1)
                if value == 0:
                    numbers = number(sent[0])
                    assert numbers is not None
                    sender.acknowledge(stream, acknowledgement(*numbers))
                    wait_for(lambda: stream.acknowledged == 1)
        finally:
            sender.stop()
            assert sender.join(30)


def test_the_way_to_a_host_is_the_quickest_of_its_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a clock that is set in the middle makes it no shorter than nothing."""
    told: list[Callable[[int, int, int], None]] = []
    ways: list[Callable[[], float]] = []

    def sender(*arguments: Any) -> Any:
        ways.append(arguments[-1])
        return SimpleNamespace(add=lambda *of: SimpleNamespace(), stop=lambda: None)

    monkeypatch.setattr(peer_module, "Sender", sender)
    bus: Any = SimpleNamespace(
        answer_time=lambda key: None,
        hear_puts=lambda pattern, told: None,
        ask_time=lambda key, take: told.append(take),
        put_to=lambda key, last: None,
    )
    peer = Peer(PeerSpec("attic", raw=("yard",)), "garage", "0a", bus, lambda: 1, lambda: None)
    catalogue = Catalogue(lambda: None)
    catalogue.raw = frozenset({"yard"})
    peer.hear_live(Live("attic", "1", "0b"), True)
    peer.look(0.0)
    peer.hear_want(Key("garage", "0a", Content.RAW.request, "attic", "yard", "1"), True, catalogue)
    (way,), (take,) = ways, told
    assert way() == 0
    for answered, quickest in ((30, 30), (10, 10), (20, 10), (-50, 10), (0, 10)):
        take(10**18, 10**18, 10**18 + answered * 10**9)
        assert way() == quickest
    peer.hear_live(Live("attic", "1", "0b"), False)
    peer.hear_live(Live("attic", "1", "0c"), True)
    assert way() == 0
    take(10**18, 10**18, 10**18 + 10**9)
    assert way() == 0, "of the life before"


@pytest.mark.parametrize(
    "answer",
    [lambda payload: b"garbage", lambda payload: acknowledgement(9, 9), lambda payload: b""],
)
def test_a_host_that_acknowledges_nothing_gets_frames_all_the_same(
    sending: tuple[va.Server, Sender, Stream, list[bytes]],
    answer: Callable[[bytes], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("valkka_async.link.window._PATIENCE", 0.1)
    server, sender, stream, sent = sending
    for value in range(3):
        server.publish(frame(value))
        wait_for(lambda value=value: len(sent) == value + 1)
        sender.acknowledge(stream, answer(sent[-1]))


def test_between_hosts_each_frame_is_acknowledged() -> None:
    """Else the next one would come after seconds."""
    with pair(raw=["yard"]) as (garage, attic):
        with garage.here():
            server = va.serve("yard")
        with server, attic.here():
            server.publish(frame(0))
            with attic.reads("garage/yard") as reader:
                for value in range(1, 10):
                    reader.recv(60).release()
                    server.publish(frame(value))
                reader.recv(60).release()
                wait_for(lambda: garage.sees("attic").exports[0].acknowledged == 10)
            seen = attic.camera("garage/yard")
        assert seen is not None and (seen.received, seen.limited, seen.lost) == (10, 0, 0)
