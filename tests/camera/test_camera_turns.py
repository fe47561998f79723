"""Decoders that catch up: as many at once as the machine has cores, whichever processes they are in."""

from __future__ import annotations

import os
import threading
from typing import Any, cast

import pytest

from support.program import Child
from support.until import wait_for
from valkka_async.camera import turns
from valkka_async.camera.follow import Follower
from valkka_async.camera.turns import Turn

HOLDER = """
from valkka_async.camera import turns
turns._PREFIX = "\\0" + sys.argv[1]
held = [turns.Turn() for _ in range(int(sys.argv[2]))]
say(*[turn.take(idle=False) for turn in held])
sys.stdin.readline()
"""


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> int:
    """Two of them, for this test alone."""
    monkeypatch.setattr(turns, "_PREFIX", f"\0turns-of-{os.getpid()}")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    return 2


class Packet:
    size = 1


class Slow:
    """A decoder that takes as long as it is told to."""

    def __init__(self, running: list[int], go: threading.Event) -> None:
        self._running, self._go = running, go

    def hurry(self, on: bool) -> None:
        pass

    def decode(self, packet: object, stamp: object) -> list[Any]:
        self._running.append(1)
        self._go.wait(50)
        self._running.pop()
        return []


@pytest.mark.parametrize("idle", [False, True])
def test_others_wait_for_their_turn(cores: int, idle: bool) -> None:
    running: list[int] = []
    go = threading.Event()
    packets: Any = [(Packet(), None)] * 3
    all_of_them = [Follower(cast(Any, Slow(running, go)), packets, idle=idle) for _ in range(6)]
    try:
        wait_for(lambda: len(running) == cores)
        assert not any(one.caught_up(0.1) for one in all_of_them) and len(running) == cores
        go.set()
        wait_for(lambda: all(one.caught_up() for one in all_of_them))
    finally:
        go.set()
        for one in all_of_them:
            one.leave()
            one.join()
    free = Turn()
    assert free.take(idle=idle)
    free.give()


def test_one_that_waits_for_its_turn_can_leave(cores: int) -> None:
    held = [Turn() for _ in range(cores)]
    assert all(turn.take(idle=False) for turn in held)
    packets: Any = [(Packet(), None)]
    follower = Follower(cast(Any, Slow([], threading.Event())), packets, idle=False)
    assert not follower.caught_up(0.05)
    follower.leave()
    follower.join()
    assert not follower.alive
    for turn in held:
        turn.give()


@pytest.mark.parametrize("count", [1, 2])
def test_turns_are_those_of_all_processes_and_free_when_one_is_killed(cores: int, count: int) -> None:
    mine = [Turn() for _ in range(cores + 1)]
    with Child(HOLDER, turns._PREFIX[1:], str(count)) as child:
        assert child.line().split() == ["True"] * count
        assert [turn.take(idle=False) for turn in mine].count(True) == cores - count
        assert mine[-1].take(idle=True)  # those for which nobody waits are counted by themselves
        mine[-1].give()
        child.kill()
    wait_for(lambda: [turn.take(idle=False) for turn in mine[:cores]] == [True] * cores)
    assert not mine[-1].take(idle=False)
    for turn in mine:
        turn.give()


def test_a_forked_child_keeps_no_turn(cores: int) -> None:
    held = [Turn() for _ in range(cores)]
    assert all(turn.take(idle=False) for turn in held)
    child = os.fork()
    if not child:
        threading.Event().wait(50)
        os._exit(0)
    try:
        for turn in held:
            turn.give()
        wait_for(lambda: held[0].take(idle=False) and held[1].take(idle=False))
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        for turn in held:
            turn.give()
