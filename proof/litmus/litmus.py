# SPDX-License-Identifier: MIT
"""Reads the litmus tests of this folder.

A test is C as herd7 reads it, in a small part of C: atomic loads, stores and exchanges, plain loads and
stores (`*data`), and `if` around them. Beside each atomic access stands the function of ring.h that it is
taken from; `kernel` stands for what a pipe or a socket does. `lease1` and `lease2` are two words `lease`.

The comment at the top names the pairs that the test is about and lists its cases: the test as it is, and its
twins, in which accesses have another order. Behind each case stand the machines that reach the bad outcome.

    pairs: LEASE
    as it is: nowhere
    P0 store lease release: rc11
    P0 load seq acquire, P1 load lease acquire: rc11 aarch64-v8.3 riscv
    acquire and release throughout: rc11 aarch64-v8.3 riscv riscv-gcc12

`lease#2` is the second such access of that process; without a number it is the first.

A test has a twin for each access of ring.h in it and each weaker order, so that each ordering is shown to be
needed, or not to be. Tests that are bad somewhere as they are need no twins: they show what ring.h does not
promise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent
KERNEL = ("kernel",)
AS_IT_IS = "as it is"
THROUGHOUT = "acquire and release throughout"

# The orders that an access may have, strongest first. "plain" is for accesses that are not atomic.
ORDERS = {
    "load": ("seq_cst", "acquire", "relaxed"),
    "store": ("seq_cst", "release", "relaxed"),
    "exchange": ("seq_cst", "acq_rel", "relaxed"),
}


class LitmusError(Exception):
    """A test does not follow the rules above. The text says which and why."""


@dataclass(frozen=True)
class Access:
    """One access to memory."""

    op: str  # load, store, exchange
    variable: str
    order: str
    register: str = ""  # where the value read goes
    value: int = 0  # what is written
    functions: tuple[str, ...] = ()  # of ring.h, or KERNEL

    @property
    def word(self) -> str:
        """The field in layout.h."""
        return self.variable.rstrip("0123456789")

    def weaker(self) -> tuple[str, ...]:
        """The orders below the one that it has."""
        orders = ORDERS[self.op]
        return orders[orders.index(self.order) + 1 :] if self.order in orders else ()


@dataclass(frozen=True)
class If:
    """What is done if a register has a value ("==") or has not ("!=")."""

    register: str
    how: str
    value: int
    body: tuple[Access | If, ...]


Body = tuple[Access | If, ...]


@dataclass(frozen=True)
class Process:
    number: int
    variables: tuple[str, ...]
    initial: dict[str, int]  # of registers
    body: Body

    def accesses(self) -> Iterator[Access]:
        return _accesses(self.body)


def _accesses(body: Body) -> Iterator[Access]:
    for statement in body:
        if isinstance(statement, If):
            yield from _accesses(statement.body)
        else:
            yield statement


@dataclass(frozen=True)
class Change:
    """One access of one process, and the order that it gets."""

    process: int
    op: str
    variable: str
    nth: int
    order: str

    def __str__(self) -> str:
        nth = f"#{self.nth}" if self.nth > 1 else ""
        return f"P{self.process} {self.op} {self.variable}{nth} {self.order}"


@dataclass(frozen=True)
class Case:
    """A test as it is, or a twin of it, and where the bad outcome is reached."""

    name: str
    changes: tuple[Change, ...]
    bad_on: frozenset[str]


@dataclass(frozen=True)
class Litmus:
    name: str
    pairs: tuple[str, ...]
    cases: tuple[Case, ...]
    init: dict[str, int]
    processes: tuple[Process, ...]
    bad: str  # the condition, as herd7 reads it

    def find(self, change: Change) -> Access:
        """The access that `change` is about. Raises LitmusError."""
        wanted = (change.op, change.variable)
        processes = self.processes[change.process : change.process + 1]
        found = [a for p in processes for a in p.accesses() if (a.op, a.variable) == wanted]
        if change.nth > len(found) or change.order not in ORDERS[change.op]:
            raise LitmusError(f"{self.name}: there is no {change}")
        return found[change.nth - 1]

    @property
    def promised(self) -> bool:
        """Is the bad outcome never reached in the test as it is?"""
        return not self.cases[0].bad_on

    def changed(self, case: Case) -> Litmus:
        """The test with the orders of one of its cases."""
        orders = {id(self.find(c)): c.order for c in case.changes}

        def rewrite(body: Body) -> Body:
            return tuple(
                replace(s, body=rewrite(s.body)) if isinstance(s, If)
                else replace(s, order=orders.get(id(s), s.order))
                for s in body
            )  # fmt: skip

        return replace(self, processes=tuple(replace(p, body=rewrite(p.body)) for p in self.processes))

    def weakenings(self) -> Iterator[Change]:
        """Each access of ring.h by itself with each weaker order."""
        for process in self.processes:
            seen: dict[tuple[str, str], int] = {}
            for a in process.accesses():
                nth = seen[a.op, a.variable] = seen.get((a.op, a.variable), 0) + 1
                if a.functions != KERNEL:
                    for order in a.weaker():
                        yield Change(process.number, a.op, a.variable, nth, order)

    def check(self) -> None:
        """Raises LitmusError when the list of cases is not what it should be."""
        if not self.cases or any((case.name == AS_IT_IS) != (i == 0) for i, case in enumerate(self.cases)):
            raise LitmusError(f"{self.name}: `{AS_IT_IS}` must be the first case")
        for case in self.cases:
            for change in case.changes:
                if self.find(change).order == change.order:
                    raise LitmusError(f"{self.name}: {change} changes nothing")
        if len({case.changes for case in self.cases}) != len(self.cases):
            raise LitmusError(f"{self.name}: a case is listed twice")
        single = {case.changes[0] for case in self.cases if len(case.changes) == 1}
        unlisted = [str(change) for change in self.weakenings() if change not in single]
        if unlisted and self.promised:
            raise LitmusError(f"{self.name}: there is no twin for {'; '.join(unlisted)}")


# ------------------------------------------------------------------------------------- reading

_FILE = re.compile(r"C (\w+)\n\(\*\n(.*?)\*\)\n\n\{(.*?)\}\n\n(.*)\nexists (\(.*\))\n", re.DOTALL)
_PROCESS = re.compile(r"P(?P<number>\d+) \((?P<parameters>[^)]*)\) \{")
_INITIAL = re.compile(r"int (?P<register>\w+) = (?P<value>\d+);")
_IF = re.compile(r"if \((?P<register>\w+) (?P<how>[!=]=) (?P<value>\d+)\) \{")
_ATOMIC_LOAD = re.compile(
    r"(?:int )?(?P<register>\w+) = atomic_(?P<op>load)_explicit"
    r"\((?P<variable>\w+), memory_order_(?P<order>\w+)\);"
)
_ATOMIC_STORE = re.compile(
    r"atomic_(?P<op>store)_explicit\((?P<variable>\w+), (?P<value>\d+), memory_order_(?P<order>\w+)\);"
)
_EXCHANGE = re.compile(
    r"(?:int )?(?P<register>\w+) = atomic_(?P<op>exchange)_explicit"
    r"\((?P<variable>\w+), (?P<value>\d+), memory_order_(?P<order>\w+)\);"
)
_FUNCTIONS = re.compile(r" +/\* (\w+(?:, \w+)*) \*/$")
_PLAIN_LOAD = re.compile(r"(?:int )?(?P<register>\w+) = \*(?P<variable>\w+);")
_PLAIN_STORE = re.compile(r"\*(?P<variable>\w+) = (?P<value>\d+);")
_CHANGE = re.compile(r"P(\d) (load|store|exchange) (\w+)(?:#(\d))? (\w+)")


def read(path: Path, machines: tuple[str, ...]) -> Litmus:
    """The test in `path`, checked. `machines` are all that there are. Raises LitmusError."""
    whole = _FILE.fullmatch(path.read_text())
    if whole is None or whole[1] != path.stem:
        raise LitmusError(f"{path.name} is not: C name, a comment, initial values, processes, exists (...)")
    name, about, values, code, bad = whole.groups()
    init = {}
    for entry in values.split(";"):
        variable, _, value = entry.strip().partition(" = ")
        if not value.isdecimal():
            raise LitmusError(f"{name}: not an initial value: {entry}")
        init[variable] = int(value)

    processes = _processes(name, code)
    for number, process in enumerate(processes):
        used = {a.variable for a in process.accesses()}
        if process.number != number or not used <= set(process.variables) <= set(init):
            raise LitmusError(f"{name}: P{process.number} is out of order, or uses what is not declared")

    pairs = re.findall(r"^    pairs: (.*)$", about, re.MULTILINE)
    if len(pairs) != 1:
        raise LitmusError(f"{name}: one line `pairs: ...` is needed")
    test = Litmus(name, tuple(pairs[0].split(", ")), (), init, tuple(processes), bad)
    _, _, listed = about.partition("    pairs: ")
    test = replace(test, cases=tuple(_case(test, line.strip(), machines) for line in listed.splitlines()[1:]))
    test.check()
    return test


def read_all(machines: tuple[str, ...]) -> list[Litmus]:
    """All tests of this folder. Raises LitmusError."""
    return [read(path, machines) for path in sorted(HERE.glob("*.litmus"))]


def _case(test: Litmus, line: str, machines: tuple[str, ...]) -> Case:
    name, _, where = line.rpartition(": ")
    changes: list[Change] = []
    if name == THROUGHOUT:
        changes += [c for c in test.weakenings() if c.order in ("acquire", "release", "acq_rel")]
    elif name != AS_IT_IS:
        for part in name.split(", "):
            change = _CHANGE.fullmatch(part)
            if change is None:
                raise LitmusError(f"{test.name}: not a case: {line}")
            changes.append(Change(int(change[1]), change[2], change[3], int(change[4] or 1), change[5]))
    bad_on = {"nowhere": [], "everywhere": list(machines)}.get(where, where.split())
    if not where or not set(bad_on) <= set(machines):
        raise LitmusError(f"{test.name}: no such machine: {line}")
    return Case(name, tuple(changes), frozenset(bad_on))


def _processes(name: str, code: str) -> list[Process]:
    processes: list[Process] = []
    open_blocks: list[list[Access | If]] = []
    open_ifs: list[If] = []
    for line in map(str.strip, code.splitlines()):
        if not line:
            continue
        if not open_blocks and (head := _PROCESS.fullmatch(line)):
            variables = tuple(re.findall(r"(?:atomic_int|int)\* (\w+)", head["parameters"]))
            processes.append(Process(int(head["number"]), variables, {}, ()))
            open_blocks.append([])
        elif not open_blocks:
            raise LitmusError(f"{name}: outside of a process: {line}")
        elif initial := _INITIAL.fullmatch(line):
            processes[-1].initial[initial["register"]] = int(initial["value"])
        elif test := _IF.fullmatch(line):
            open_ifs.append(If(test["register"], test["how"], int(test["value"]), ()))
            open_blocks.append([])
        elif line == "}":
            body = tuple(open_blocks.pop())
            if open_ifs:
                open_blocks[-1].append(replace(open_ifs.pop(), body=body))
            else:
                processes[-1] = replace(processes[-1], body=body)
        else:
            open_blocks[-1].append(_access(name, line))
    if open_blocks or open_ifs:
        raise LitmusError(f"{name}: a brace is not closed")
    return processes


def _access(name: str, line: str) -> Access:
    functions = _FUNCTIONS.search(line)
    statement = line[: functions.start()] if functions else line
    for pattern in (_ATOMIC_LOAD, _ATOMIC_STORE, _EXCHANGE):
        if functions and (a := pattern.fullmatch(statement)):
            fields = {"register": "", "value": "0"} | a.groupdict()
            return Access(
                fields["op"], fields["variable"], fields["order"], fields["register"], int(fields["value"]),
                tuple(functions[1].split(", ")),
            )  # fmt: skip
    if a := _PLAIN_LOAD.fullmatch(line):
        return Access("load", a["variable"], "plain", a["register"])
    if a := _PLAIN_STORE.fullmatch(line):
        return Access("store", a["variable"], "plain", value=int(a["value"]))
    raise LitmusError(f"{name}: not understood, or without the name of a function: {line}")
