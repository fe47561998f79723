# SPDX-License-Identifier: MIT
"""Runs the litmus tests (those named, or all) with their twins on every machine, and compares the outcomes
with those that the files list."""

from __future__ import annotations

import sys
import time

import compilers
import herd
import ring_h
from litmus import LitmusError, read_all
from machines import MACHINES

BAD, NEVER = "bad", "never"


def main(names: list[str]) -> int:
    herd7 = herd.find()
    if herd7 is None:
        print("herd7 is not installed; proof/litmus/fetch-herd7 gets it")
        return 1
    began = time.monotonic()
    everything = read_all(tuple(MACHINES))
    if unknown := set(names) - {t.name for t in everything}:
        print(f"there is no test {', '.join(sorted(unknown))}")
        return 1
    tests = [t for t in everything if not names or t.name in names]
    machines = list(MACHINES.values())
    results = herd.run(herd7, [(t, m) for t in tests for m in machines], herd.ROOT / "build" / "litmus")

    wrong = 0
    width = max(len(case.name) for t in tests for case in t.cases) + 2
    columns = "".join(f"{m.name:>14}" for m in machines)
    for t in tests:
        print(f"\n{t.name + ' (' + ', '.join(t.pairs) + ')':<{width}}{columns}")
        for case in t.cases:
            line = f"  {case.name:<{width - 2}}"
            notes = []
            for m in machines:
                got = BAD if results[t.name, case.name, m.name] else NEVER
                expected = BAD if m.name in case.bad_on else NEVER
                line += f"{got:>14}"
                if got != expected:
                    notes.append(f"   <-- {m.name}: expected {expected}, got {got}")
            print(line + "".join(notes))
            wrong += len(notes)

    ring = ring_h.RING.read_text()
    complaints = ring_h.complaints(ring, everything, MACHINES)
    print("\nOrderings of ring.h of which less would do, each by itself:")
    for source, order in ring_h.would_do(ring, everything).items():
        if order != source.order:
            print(f"  {source}; {order} would do")
    print("\nWhat compilers make of the accesses:")
    for compiler in compilers.COMPILERS:
        differences = compilers.differences(compiler)
        said = "not installed" if differences is None else "another" if differences else "as in machines.py"
        print(f"  {compiler}: {said}")
        complaints += [f"{compiler}: {d}" for d in differences or ()]
    print("".join(f"\nWRONG: {c}" for c in complaints))

    wrong += len(complaints)
    cases = sum(len(t.cases) for t in tests)
    print(
        f"{len(tests)} tests, {cases} cases with their twins, {len(machines)} machines: "
        f"{wrong or 'nothing'} wrong, {time.monotonic() - began:.0f} s"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LitmusError as error:
        sys.exit(str(error))
