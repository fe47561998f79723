"""What is said to work was run: the table of machines, the Pythons that are named, the bounds of versions."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MACHINES = ROOT / "machines"


def rows() -> list[dict[str, Any]]:
    return json.loads((MACHINES / "matrix.json").read_text())


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def call(code: str) -> str:
    """What a program beside those of machines/ prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=MACHINES, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_has_the_rows_of_the_runs() -> None:
    page = (ROOT / "docs" / "machines.md").read_text()
    assert call("import matrix; print(matrix.table(matrix.load()), end='')") in page
    assert call("import versions; print(versions.table(), end='')") in page


def test_each_python_that_is_named_was_run_or_it_is_said_why_not() -> None:
    named = {
        match[1]
        for line in project()["project"]["classifiers"]
        if (match := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line))
    }
    minors = {".".join(row["python"].split(".")[:2]) for row in rows()}
    assert named <= minors
    for row in rows():
        assert row["note"] or row["failed"] == 0, f"not run, or with failures, and nobody says why: {row}"


def test_each_major_version_of_pyav_that_is_allowed_was_run() -> None:
    (bound,) = project()["project"]["optional-dependencies"]["camera"]
    low, high = re.fullmatch(r"av>=(\d+)[\d.]*,<(\d+)", bound).groups()  # type: ignore[union-attr]
    ran = {row["pyav"].split(".")[0] for row in rows() if row["passed"]}
    assert {str(major) for major in range(int(low), int(high))} <= ran


def test_the_lowest_versions_that_are_allowed_are_those_that_were_tried() -> None:
    if Path(os.environ.get("PIP_CONSTRAINT", "")).name == "lowest.txt":
        pytest.skip("they are being tried: make oldest")
    said = call("""
import json, versions
tried, asked = json.loads(versions.DATA.read_text())["lowest"], versions.requirements()
print([name for name in {*tried, *asked} if not versions.same(tried.get(name, ""), asked.get(name, ""))])
""")
    assert said == "[]\n"


@pytest.mark.parametrize("first", ["3.9.1", "3.10.0"])
def test_runs_replace_what_they_repeat_and_are_sorted_as_versions_are(first: str) -> None:
    code = f"""
from matrix import Row, merged
old = [Row("A", "3.11.1", "g", "x"), Row("A", "{first}", "g", "x", note="no such Python")]
new = [Row("A", "3.11.2", "g", "x", pyav, "all", 5, 0, 1) for pyav in ("18.1.0", "19.0")]
print(*[(row.python, row.pyav, row.result) for row in merged(old, new)], sep="\\n")
"""
    assert call(code).splitlines() == [
        str((first, "", "not run: no such Python")),
        "('3.11.2', '18.1.0', '5 passed, 1 skipped')",
        "('3.11.2', '19.0', '5 passed, 1 skipped')",
    ]


def test_readme_names_the_packages_that_make_asks_for() -> None:
    """`make fresh` makes its machines of those."""
    named = set(call("import fresh; print(*fresh.packages())").split())
    asked = re.findall(r"apt-get install ([a-z0-9 -]+)", (ROOT / "Makefile").read_text())
    assert named >= {"git", "make", *" ".join(asked).split()}
