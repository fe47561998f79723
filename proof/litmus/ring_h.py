# SPDX-License-Identifier: MIT
"""Do the litmus tests say what ring.h does, and all of it? And which of its orderings do they need?"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from litmus import KERNEL, ORDERS, Litmus, LitmusError

RING = Path(__file__).parents[2] / "_shm" / "ring.h"

# Nobody else sees the memory yet; the socket that it is sent through orders what follows.
ALONE = {"va_init", "va_next_ring"}


@dataclass(frozen=True)
class Source:
    """An atomic access of ring.h, and the pairs that the comment beside it names."""

    function: str
    op: str
    word: str
    order: str
    pairs: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.function}: {self.op} {self.word} {self.order}"


def named_pairs(ring: str) -> list[str]:
    """The pairs that the comment at the top of ring.h explains."""
    return re.findall(r"^ \*   ([A-Z]+)  ", ring.partition("*/")[0], re.MULTILINE)


_FUNCTION = re.compile(r"static inline .*?\b(va_\w+)\(")
_SOURCE = re.compile(
    r"atomic_(load|store|exchange)_explicit\(.*?->(\w+)(?:\[[^]]*\])?, .*?memory_order_(\w+)\)"
)
_NAMES = re.compile(r"/\* ([A-Z]+(?:, [A-Z]+)*) \*/")


def sources(ring: str) -> list[Source]:
    """The atomic accesses of ring.h in their order. The name of a pair counts to the end of its statement."""
    found: list[Source] = []
    function, names = "", ()
    for line in ring[ring.index("#include") :].splitlines():
        if head := _FUNCTION.match(line):
            function, names = head[1], ()
        if here := _NAMES.search(line):
            names = tuple(here[1].split(", "))
        accesses = _SOURCE.findall(line)
        if len(accesses) != len(re.findall(r"\batomic_\w+\(", line)):
            raise LitmusError(f"ring.h, {function}: an access that is not understood: {line.strip()}")
        found += [Source(function, op, word, order, names) for op, word, order in accesses]
        if line.partition("/*")[0].rstrip().endswith((";", "{", "}")):
            names = ()
    return found


def complaints(ring: str, tests: Iterable[Litmus], machines: Iterable[str]) -> list[str]:
    """What is wrong between ring.h and the tests."""
    tests, machines = list(tests), list(machines)
    there = sources(ring)
    names = named_pairs(ring)
    wrong = []

    shown: dict[tuple[str, str, str, str], set[str]] = {}  # an access, and the pairs that it is shown in
    for test in tests:
        wrong += [
            f"{test.name}: ring.h names no {pair}" for pair in test.pairs if pair not in [*names, "none"]
        ]
        for a in (a for process in test.processes for a in process.accesses()):
            for function in a.functions if a.functions != KERNEL else ():
                key = (function, a.op, a.word, a.order)
                if not any((s.function, s.op, s.word, s.order) == key for s in there):
                    wrong.append(f"{test.name}: ring.h has no {' '.join(key)}")
                if test.promised:
                    shown.setdefault(key, set()).update(test.pairs)

    for s in there:
        if s.function in ALONE or (s.order == "relaxed" and not s.pairs):
            continue
        pairs = shown.get((s.function, s.op, s.word, s.order))
        if pairs is None:
            wrong.append(f"no litmus test has {s}")
        else:
            wrong += [f"no litmus test of {pair} has {s}" for pair in s.pairs if pair not in pairs]

    for pair in names:
        cases = [case for t in tests if t.promised and pair in t.pairs for case in t.cases]
        if not cases:
            wrong.append(f"no litmus test is about {pair}")
        wrong += [f"{pair}: no twin fails on {m}" for m in machines if not any(m in c.bad_on for c in cases)]
    return wrong


def would_do(ring: str, tests: Iterable[Litmus]) -> dict[Source, str]:
    """For each access of ring.h that has an order: the weakest with which no test goes wrong on any machine.
    All other accesses keep theirs."""
    broken: set[tuple[str, str, str, str, str]] = set()
    tried: set[tuple[str, str, str, str, str]] = set()
    for test in (t for t in tests if t.promised):
        for case in (c for c in test.cases if len(c.changes) == 1):
            (change,) = case.changes
            a = test.find(change)
            for function in a.functions:
                tried.add(key := (function, a.op, a.word, a.order, change.order))
                if case.bad_on:
                    broken.add(key)
    found = {}
    for s in sources(ring):
        if s.function in ALONE or s.order == "relaxed":
            continue
        found[s] = s.order
        for order in ORDERS[s.op][ORDERS[s.op].index(s.order) + 1 :]:
            key = (s.function, s.op, s.word, s.order, order)
            if key not in tried or key in broken:
                break
            found[s] = order
    return found
