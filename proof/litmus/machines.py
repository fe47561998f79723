# SPDX-License-Identifier: MIT
"""What a test is on a machine: the text that herd7 reads, and the instructions in it.

`rc11` is C itself ("Repairing Sequential Consistency in C/C++11", Lahav et al., PLDI 2017), where a data race
is as bad as the bad outcome. The others are assembly, access by access as compilers make it:

    aarch64        GCC and Clang for Armv8.0: STLR, LDAR, exchanges as LDAXR and STLXR
    aarch64-v8.3   for Armv8.3: acquire loads are LDAPR (Clang, and GCC from 13), exchanges are SWP
    riscv          Clang, and GCC from 14: table A.6 of the RISC-V ISA manual. Both add a fence behind a
                   sequentially consistent store; it can only help and is left out here
    riscv-gcc12    GCC before 14: stores are AMOs

compilers.py asks the compilers that are installed. GCC 12, GCC 15 and Clang 22 were asked. Words have 32 bits
here, whatever they have in layout.h: to these models a word is a word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest

from litmus import Access, Body, If, Litmus, Process

# {v}: where the value read goes, {s}: the value to write, {a}: the address, {t}: scratch, {p}: the process.
_AARCH64 = {
    "load plain": ["LDR {v},[{a}]"],
    "load relaxed": ["LDR {v},[{a}]"],
    "load acquire": ["LDAR {v},[{a}]"],
    "load seq_cst": ["LDAR {v},[{a}]"],
    "store plain": ["STR {s},[{a}]"],
    "store relaxed": ["STR {s},[{a}]"],
    "store release": ["STLR {s},[{a}]"],
    "store seq_cst": ["STLR {s},[{a}]"],
    # A loop in the program. Here an exchange that fails (t = 1) ends the run, which then does not count.
    "exchange relaxed": ["LDXR {v},[{a}]", "STXR {t},{s},[{a}]", "CBNZ {t},End{p}"],
    "exchange acq_rel": ["LDAXR {v},[{a}]", "STLXR {t},{s},[{a}]", "CBNZ {t},End{p}"],
    "exchange seq_cst": ["LDAXR {v},[{a}]", "STLXR {t},{s},[{a}]", "CBNZ {t},End{p}"],
}
_AARCH64_V8_3 = _AARCH64 | {
    "load acquire": ["LDAPR {v},[{a}]"],
    "exchange relaxed": ["SWP {s},{v},[{a}]"],
    "exchange acq_rel": ["SWPAL {s},{v},[{a}]"],
    "exchange seq_cst": ["SWPAL {s},{v},[{a}]"],
}
_RISCV = {
    "load plain": ["lw {v},0({a})"],
    "load relaxed": ["lw {v},0({a})"],
    "load acquire": ["lw {v},0({a})", "fence r,rw"],
    "load seq_cst": ["fence rw,rw", "lw {v},0({a})", "fence r,rw"],
    "store plain": ["sw {s},0({a})"],
    "store relaxed": ["sw {s},0({a})"],
    "store release": ["fence rw,w", "sw {s},0({a})"],
    "store seq_cst": ["fence rw,w", "sw {s},0({a})"],
    "exchange relaxed": ["amoswap.w {v},{s},({a})"],
    "exchange acq_rel": ["amoswap.w.aq.rl {v},{s},({a})"],
    "exchange seq_cst": ["amoswap.w.aq.rl {v},{s},({a})"],
}
_RISCV_GCC12 = _RISCV | {
    "load acquire": ["lw {v},0({a})", "fence rw,rw"],
    "load seq_cst": ["fence rw,rw", "lw {v},0({a})", "fence rw,rw"],
    "store relaxed": ["amoswap.w x0,{s},({a})"],
    "store release": ["fence rw,w", "amoswap.w x0,{s},({a})"],
    "store seq_cst": ["fence rw,w", "amoswap.w.aq x0,{s},({a})"],
    "exchange acq_rel": ["fence rw,w", "amoswap.w.aq {v},{s},({a})"],
    "exchange seq_cst": ["fence rw,w", "amoswap.w.aq {v},{s},({a})"],
}


@dataclass(frozen=True)
class Machine:
    name: str
    model: str
    dialect: str  # C, AArch64, RISCV
    instructions: dict[str, list[str]]

    def text(self, test: Litmus, name: str) -> str:
        """The test, under that name, for herd7."""
        return _c(test, name) if self.dialect == "C" else _assembly(self, test, name)


MACHINES = {
    m.name: m
    for m in (
        Machine("rc11", "rc11.cat", "C", {}),
        Machine("aarch64", "aarch64.cat", "AArch64", _AARCH64),
        Machine("aarch64-v8.3", "aarch64.cat", "AArch64", _AARCH64_V8_3),
        Machine("riscv", "riscv.cat", "RISCV", _RISCV),
        Machine("riscv-gcc12", "riscv.cat", "RISCV", _RISCV_GCC12),
    )
}

# ------------------------------------------------------------------------------------------- C


def _registers(process: Process) -> list[str]:
    """Where what it reads goes."""
    return list(dict.fromkeys(a.register for a in process.accesses() if a.register))


def _c(test: Litmus, name: str) -> str:
    lines = [f"C {name}", "{ " + "; ".join(f"{v} = {x}" for v, x in test.init.items()) + " }"]
    for p in test.processes:
        plain = {a.variable for a in p.accesses() if a.order == "plain"}
        parameters = ", ".join(f"{'int' if v in plain else 'atomic_int'}* {v}" for v in p.variables)
        initial = dict.fromkeys(_registers(p), 0) | p.initial
        lines += [f"P{p.number} ({parameters}) {{", *(f"int {r} = {x};" for r, x in initial.items())]
        lines += [*_c_body(p.body), "}"]
    return "\n".join([*lines, f"exists {test.bad}", ""])


def _c_body(body: Body) -> list[str]:
    lines: list[str] = []
    for s in body:
        if isinstance(s, If):
            lines += [f"if ({s.register} {s.how} {s.value}) {{", *_c_body(s.body), "}"]
        elif s.order == "plain":
            memory = f"*{s.variable}"
            lines.append(f"{memory} = {s.value};" if s.op == "store" else f"{s.register} = {memory};")
        else:
            result = f"{s.register} = " if s.register else ""
            value = "" if s.op == "load" else f"{s.value}, "
            lines.append(f"{result}atomic_{s.op}_explicit({s.variable}, {value}memory_order_{s.order});")
    return lines


# ------------------------------------------------------------------------------------ assembly


class _Assembler:
    """One process: registers are given to variables, values and constants as they come."""

    def __init__(self, machine: Machine, process: Process) -> None:
        self.machine = machine
        self.process = process
        self.arm = machine.dialect == "AArch64"
        self.lines: list[str] = []
        self.labels = 0
        self.exchanges: list[str] = []  # registers that are not 0 when an exchange failed
        names = [f"X{i}" for i in range(29)] if self.arm else [f"x{i}" for i in range(5, 32)]
        self.free = iter(names)
        self.address = {v: next(self.free) for v in process.variables}
        self.value = {r: next(self.free) for r in _registers(process)}
        self.body(process.body)
        if self.exchanges:
            self.lines.append(f"End{process.number}:")

    def word(self, register: str) -> str:
        """The register as instructions on 32 bits call it."""
        return register.replace("X", "W")

    def constant(self, value: int) -> str:
        register = self.word(next(self.free))
        self.lines.append(f"MOV {register},#{value}" if self.arm else f"ori {register},x0,{value}")
        return register

    def body(self, body: Body) -> None:
        for s in body:
            if isinstance(s, Access):
                self.access(s)
                continue
            label = f"L{self.process.number}{self.labels}"
            self.labels += 1
            r = self.word(self.value[s.register])
            if self.arm:
                self.lines += [f"CMP {r},#{s.value}", f"B.{'NE' if s.how == '==' else 'EQ'} {label}"]
            else:
                self.lines.append(f"{'bne' if s.how == '==' else 'beq'} {r},{self.constant(s.value)},{label}")
            self.body(s.body)
            self.lines.append(f"{label}:")

    def access(self, a: Access) -> None:
        template = self.machine.instructions[f"{a.op} {a.order}"]
        fields = {"a": self.address[a.variable], "p": str(self.process.number)}
        if a.register:
            fields["v"] = self.word(self.value[a.register])
        if a.op != "load":
            fields["s"] = self.constant(a.value)
        if any("{t}" in line for line in template):
            self.exchanges.append(next(self.free))
            fields["t"] = self.word(self.exchanges[-1])
        self.lines += [line.format(**fields) for line in template]


def _assembly(machine: Machine, test: Litmus, name: str) -> str:
    processes = [_Assembler(machine, p) for p in test.processes]
    init = [f"{v}={x};" for v, x in test.init.items()]
    for p in processes:
        n = p.process.number
        init += [f"{n}:{r}={v};" for v, r in p.address.items()]
        init += [f"{n}:{p.value[r]}={x};" for r, x in p.process.initial.items() if x]
    columns = [[f"P{p.process.number}", *p.lines] for p in processes]
    table = [
        " " + " | ".join(f"{line:<20}" for line in row) + " ;" for row in zip_longest(*columns, fillvalue="")
    ]
    bad = re.sub(r"(\d):(\w+)=", lambda m: f"{m[1]}:{processes[int(m[1])].value[m[2]]}=", test.bad)
    for p in processes:
        bad += "".join(f" /\\ {p.process.number}:{r}=0" for r in p.exchanges)
    return "\n".join([f"{machine.dialect} {name}", "{", *init, "}", *table, f"exists ({bad})", ""])
