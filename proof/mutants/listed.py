# SPDX-License-Identifier: MIT
"""The mutants in this folder's .toml files: what each changes, and which tests should notice."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_TEST = re.compile(r"(?P<file>tests/[\w/]+\.py)(::(?P<name>test_\w+)(\[[^]]+\])?)?")


@dataclass(frozen=True)
class Mutant:
    """``before`` becomes ``after`` in ``file``. Then at least one of the ``tests`` must fail, unless there
    is a reason why it ``survives``."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    survives: str = ""

    @property
    def compiled(self) -> bool:
        """Is it in what is compiled?"""
        return self.file.startswith("_shm/")


def read_all() -> list[Mutant]:
    """All mutants, in the order of the files. Raises TypeError for a field that there is not."""
    return [
        Mutant(**{**fields, "tests": tuple(fields["tests"])})
        for path in sorted(Path(__file__).parent.glob("*.toml"))
        for fields in tomllib.loads(path.read_text())["mutant"]
    ]


def complaints(mutants: list[Mutant]) -> list[str]:
    """Where the list does not match the code or the tests any more."""
    wrong = []
    names = [mutant.name for mutant in mutants]
    for mutant in mutants:
        path = ROOT / mutant.file
        count = path.read_text().count(mutant.before) if path.is_file() else 0
        if count != 1:
            wrong.append(f"{mutant.name}: {mutant.file} has this {count} times and not once: {mutant.before}")
        if mutant.before == mutant.after:
            wrong.append(f"{mutant.name}: it changes nothing")
        if names.count(mutant.name) > 1:
            wrong.append(f"{mutant.name}: there are two of that name")
        if not mutant.tests:
            wrong.append(f"{mutant.name}: no tests are named")
        wrong += [f"{mutant.name}: there is no {test}" for test in mutant.tests if not _is_there(test)]
    return wrong


def _is_there(test: str) -> bool:
    match = _TEST.fullmatch(test)
    if match is None or not (path := ROOT / match["file"]).is_file():
        return False
    return match["name"] is None or f"def {match['name']}(" in path.read_text()
