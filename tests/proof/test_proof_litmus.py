# SPDX-License-Identifier: MIT
"""The litmus tests in proof/litmus/ mirror ring.h and hold; their twins do not.

`make litmus` runs every test and every twin on every machine, and fetches herd7 first. This file checks what
needs no herd7, and runs each test with some of its twins where herd7 is installed. Without herd7 that part is
skipped. With CI=true it is not even collected: the default run neither fetches 40 MB nor fails for lack of
them, and CI that wants the proof on weak machines runs `make litmus`.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROOF = ROOT / "proof"
sys.path.append(str(PROOF / "litmus"))  # its modules are of a program, not of a package

import compilers  # noqa: E402
import herd  # noqa: E402
import ring_h  # noqa: E402
from litmus import Litmus, LitmusError, read, read_all  # noqa: E402
from machines import MACHINES, Machine  # noqa: E402

NAMES = tuple(MACHINES)
RING = ring_h.RING.read_text()
CI = os.environ.get("CI", "").lower() in ("true", "1")
HERD7 = herd.find()


def test_each_litmus_test_is_understood_and_lists_a_twin_for_each_weaker_order() -> None:
    assert len(read_all(NAMES)) > 20  # read_all complains


def test_ring_h_and_the_litmus_tests_say_the_same_and_each_named_pair_has_twins_that_fail() -> None:
    assert ring_h.named_pairs(RING) == ["LEASE", "RETURN", "FRAME", "HEAD", "BELL", "CURSOR", "ROOM"]
    assert not ring_h.complaints(RING, read_all(NAMES), NAMES)


ANNOUNCE = "VA_LEASE(v->generation, s), memory_order_seq_cst);    /* LEASE */"
PAIR = " *   RETURN   reader:"

# A change of ring.h, and what is complained of.
CHANGES = {
    "an ordering is weakened": (
        ANNOUNCE, ANNOUNCE.replace("seq_cst", "release"),
        "lease: ring.h has no va_pin store lease seq_cst",
    ),
    "an access is new": (
        ANNOUNCE, f"{ANNOUNCE}\n    atomic_store_explicit(&page->armed, 2, memory_order_release); /* BELL */",
        "no litmus test has va_pin: store armed release",
    ),
    "an access serves another pair too": (
        ANNOUNCE, ANNOUNCE.replace("LEASE */", "LEASE, HEAD, BELL */"),
        "no litmus test of BELL has va_pin: store lease seq_cst",
    ),
    "a pair is new": (PAIR, f" *   THIRST   reader: drinks\n{PAIR}", "no litmus test is about THIRST"),
    "a pair has another name": (
        PAIR, PAIR.replace("RETURN", "GIVEN_BACK"), "return: ring.h names no RETURN",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_ring_h_that_the_litmus_tests_do_not_know_is_noticed(change: str) -> None:
    old, new, complaint = CHANGES[change]
    assert RING.count(old) == 1, "ring.h has changed; adapt this test"
    assert complaint in ring_h.complaints(RING.replace(old, new), read_all(NAMES), NAMES)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    P0 load seq acquire: rc11 aarch64-v8.3 riscv\n", ""),  # a twin is missing
        ("P0 load seq acquire:", "P0 load seq seq_cst:"),  # no twin
        ("P0 load seq acquire:", "P0 load number acquire:"),
        ("P0 load seq acquire:", "P0 load seq#2 acquire:"),
        ("P0 load seq acquire:", "P2 load seq acquire:"),
        ("P0 load seq acquire:", "weaker:"),
        ("P0 load seq acquire: rc11", "P0 load seq acquire: vax"),
        ("    as it is: nowhere\n", ""),
        ("    pairs: LEASE\n", ""),
        ("r1 = *data;", "r1 = *data + 1;"),
        ("    r1 = *data;\n  }", "    r1 = *data;"),
        ("seq, memory_order_seq_cst);        /* va_pin */", "seq, memory_order_seq_cst);"),
        ("{ seq = 7; ", "{ "),
        ("C lease\n", "C loose\n"),
    ],
)
def test_a_litmus_test_that_does_not_follow_the_rules_is_refused(old: str, new: str, tmp_path: Path) -> None:
    text = (PROOF / "litmus" / "lease.litmus").read_text()
    path = tmp_path / "lease.litmus"
    path.write_text(text)
    assert read(path, NAMES).name == "lease"
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(LitmusError):
        read(path, NAMES)


@pytest.mark.parametrize(
    ("machine", "processes"),
    [
        (
            "aarch64",
            [["MOV W3,#1", "STLR W3,[X0]", "LDAR W2,[X1]"], ["MOV W3,#0", "STLR W3,[X0]", "LDAR W2,[X1]"]],
        ),
        (
            "riscv",
            [
                ["ori x8,x0,1", "fence rw,w", "sw x8,0(x5)", "fence rw,rw", "lw x7,0(x6)", "fence r,rw"],
                ["ori x8,x0,0", "fence rw,w", "sw x8,0(x5)", "fence rw,rw", "lw x7,0(x6)", "fence r,rw"],
            ],
        ),
    ],
)
def test_on_a_machine_an_access_is_what_compilers_make_of_it(
    machine: str, processes: list[list[str]], tmp_path: Path
) -> None:
    path = tmp_path / "both.litmus"
    path.write_text(
        "C both\n(*\n    pairs: LEASE\n    as it is: everywhere\n*)\n\n{ seq = 7; lease = 0 }\n\n"
        "P0 (atomic_int* lease, atomic_int* seq) {\n"
        "  atomic_store_explicit(lease, 1, memory_order_seq_cst); /* va_pin */\n"
        "  int r0 = atomic_load_explicit(seq, memory_order_seq_cst); /* va_pin */\n}\n\n"
        "P1 (atomic_int* seq, atomic_int* lease) {\n"
        "  atomic_store_explicit(seq, 0, memory_order_seq_cst); /* va_begin */\n"
        "  int r1 = atomic_load_explicit(lease, memory_order_seq_cst); /* va_leases_slot */\n}\n\n"
        "exists (0:r0=7 /\\ 1:r1=0)\n"
    )
    lines = MACHINES[machine].text(read(path, NAMES), "both").splitlines()
    rows = [re.findall(r"[^|;]+", line) for line in lines if line.endswith(" ;")]
    assert [[row[i].strip() for row in rows[1:]] for i in (0, 1)] == processes


def test_the_readme_lists_the_orderings_of_which_less_would_do() -> None:
    _, _, section = (PROOF / "README.md").read_text().partition("## Litmus tests")
    listed = re.findall(r"^\| `(va_\w+: \w+ \w+ \w+)` \| (\w+) \|", section, re.MULTILINE)
    found = {str(s): order for s, order in ring_h.would_do(RING, read_all(NAMES)).items() if order != s.order}
    assert dict(listed) == found


INSTALLED = [c for c in compilers.COMPILERS if shutil.which(c.split()[0])]

if INSTALLED or not CI:

    @pytest.mark.parametrize("compiler", INSTALLED or ["none"])
    def test_compilers_make_of_each_access_what_the_machines_run(compiler: str) -> None:
        if not INSTALLED:
            pytest.skip(
                "none for aarch64, RISC-V: apt-get install gcc-aarch64-linux-gnu gcc-riscv64-linux-gnu"
            )
        assert compilers.differences(compiler) == []


def short(test: Litmus, machine: Machine) -> Litmus:
    """The test as it is and, on a machine other than C's, the first twin that fails there."""
    if machine.name == "rc11":
        return test
    twins = [case for case in test.cases[1:] if machine.name in case.bad_on]
    return replace(test, cases=(test.cases[0], *twins[:1]))


if HERD7 is not None or not CI:

    @pytest.mark.timeout(300)
    @pytest.mark.parametrize("machine", MACHINES)
    def test_the_bad_outcome_is_reached_in_twins_that_should_fail_and_nowhere_else(
        machine: str, tmp_path: Path
    ) -> None:
        if HERD7 is None:
            pytest.skip("herd7 is not installed: `make litmus` fetches it")
        tests = [short(t, MACHINES[machine]) for t in read_all(NAMES)]
        expected = {(t.name, case.name, machine): machine in case.bad_on for t in tests for case in t.cases}
        assert herd.run(HERD7, [(t, MACHINES[machine]) for t in tests], tmp_path) == expected
