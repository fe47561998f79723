# SPDX-License-Identifier: MIT
"""Finds herd7 and runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from litmus import Litmus, LitmusError
from machines import Machine

ROOT = Path(__file__).parents[2]
FETCHED = ROOT / ".cache" / "herd7" / "herd7"  # by fetch-herd7

# Prunes executions that break coherence while they are generated; every model here forbids them anyway.
OPTIONS = ["-optace", "true"]
# The first bad execution is enough. In C all executions are examined, for data races.
FIRST_WITNESS = ["-speedcheck", "fast"]

Key = tuple[str, str, str]  # the names of a test, a case and a machine


def find() -> str | None:
    """The herd7 to run."""
    return shutil.which("herd7") or (str(FETCHED) if FETCHED.exists() else None)


def run(herd7: str, jobs: Iterable[tuple[Litmus, Machine]], where: Path) -> dict[Key, bool]:
    """Is the bad outcome reached? For each case of each test on its machine.

    What herd7 is given is left in the directory `where`. Raises LitmusError.
    """

    def job(test: Litmus, machine: Machine) -> dict[Key, bool]:
        folder = where / machine.name
        folder.mkdir(parents=True, exist_ok=True)
        cases = {f"{test.name}.{i}": case for i, case in enumerate(test.cases)}
        files = []
        for name, case in cases.items():
            files.append(folder / f"{name}.litmus")
            files[-1].write_text(machine.text(test.changed(case), name))
        options = OPTIONS if machine.dialect == "C" else [*OPTIONS, *FIRST_WITNESS]
        command = [herd7, *options, "-model", machine.model, *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        bad = {}
        for block in re.split(r"^Test ", done.stdout, flags=re.MULTILINE)[1:]:
            if seen := re.search(r"^Observation (\S+) (Never|Sometimes|Always)", block, re.MULTILINE):
                # A flag: a data race, which in C may do anything.
                bad[seen[1]] = seen[2] != "Never" or re.search(r"^Flag", block, re.MULTILINE) is not None
        if missing := cases.keys() - bad.keys():
            names = ", ".join(sorted(missing))
            raise LitmusError(f"{machine.name}: herd7 does not run {names}\n{done.stderr}")
        return {(test.name, cases[name].name, machine.name): reached for name, reached in bad.items()}

    results: dict[Key, bool] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for result in pool.map(lambda j: job(*j), list(jobs)):
            results |= result
    return results
