# SPDX-License-Identifier: MIT
"""Raw frames that are under way to a host: few, and acknowledged by it, whatever else it says."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from link_tools import pair

import valkka_async as va
from support.until import wait_for
from valkka_async.link.budget import Budget
from valkka_async.link.keys import Content
from valkka_async.link.sender import Sender, Stream
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
    assert window.acknowledge(acknowledgement(7, seqs[-1])), "and with it all before"
    assert window.due() is None and window.admits(LARGE, 0.0)


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", bytes(99), acknowledgement(8, 1), acknowledgement(7, 2**64 - 1), acknowledgement(7, 0)],
)
def test_an_acknowledgement_of_what_is_not_under_way_changes_nothing(data: bytes) -> None:
    window, _ = filled(LARGE)
    for _ in range(100):
        assert not window.acknowledge(data) and not window.admits(LARGE, 0.0)


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
        changed = window.acknowledge(dice.randbytes(12) if said < 0 else acknowledgement(7, said))
        assert bool(changed) is known
        if changed:
            under_way = {one for one in under_way if one > said}
        assert len(under_way) <= 3


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
