"""The list of mutants in proof/mutants matches the code. `make mutants` plants them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(
    str(Path(__file__).parents[2] / "proof" / "mutants")
)  # modules of a program, not of a package

from listed import complaints, read_all  # noqa: E402


def test_each_mutant_changes_what_is_there_once_and_names_tests_that_are_there() -> None:
    mutants = read_all()
    assert len(mutants) > 60
    assert complaints(mutants) == []


@pytest.mark.parametrize(
    "change",
    [
        {"before": "what is nowhere"},
        {"before": "import"},
        {"file": "valkka_async/nowhere.py"},
        {"tests": ()},
        {"tests": ("tests/ring/test_client.py::test_nowhere",)},
        {"tests": ("tests/nowhere.py",)},
    ],
)
def test_one_that_does_not_is_told_of(change: dict[str, object]) -> None:
    one = next(m for m in read_all() if m.file == "valkka_async/ring/client.py")
    assert complaints([one]) == []
    assert len(complaints([replace(one, **change)])) == 1  # type: ignore[arg-type]
    assert len(complaints([one, one])) == 2
