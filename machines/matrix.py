"""What was run on which machine: matrix.json, and the table of it in docs/machines.md.

    put([Row(system="Debian 12", ...)])     # in place of rows with the same key; writes the table as well

`python machines/matrix.py` writes the table again. Only rows of what was not run are written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = ROOT / "machines" / "matrix.json"
PAGE = ROOT / "docs" / "machines.md"
HEADS = ("System", "Python", "libc", "Architecture", "PyAV", "Tests", "Day", "Result")


@dataclass(frozen=True)
class Row:
    """One run. `passed` None: it was not run, and `note` says why."""

    system: str  # "Debian 12"
    python: str  # "3.11.2"
    libc: str  # "glibc 2.36"
    arch: str  # as uname -m
    pyav: str = ""  # "": without
    tests: str = ""  # which ones: "all", "core"
    passed: int | None = None
    failed: int | None = None
    skipped: int | None = None
    note: str = ""
    day: str = ""  # of the run

    @property
    def key(self) -> tuple[str, ...]:
        """Runs with the same key replace each other: of a Python or a PyAV the newest one counts."""
        python, pyav = (".".join(version.split(".")[:n]) for version, n in ((self.python, 2), (self.pyav, 1)))
        python += self.python.removeprefix(python).lstrip(".0123456789")  # 3.13.5t is a 3.13t
        return self.system, self.libc, self.arch, f"{python:>6}", f"{pyav:>3}", self.tests

    @property
    def result(self) -> str:
        if self.passed is None:
            return f"not run: {self.note}"
        counts = [f"{self.passed} passed"]
        counts += [f"{n} {what}" for n, what in ((self.failed, "failed"), (self.skipped, "skipped")) if n]
        return ", ".join(counts) + (f" ({self.note})" if self.note else "")


def load() -> list[Row]:
    return [Row(**data) for data in json.loads(DATA.read_text())]


def put(rows: Iterable[Row]) -> None:
    """Rows of today's runs, into the data and the page."""
    rows = [replace(row, day=date.today().isoformat()) for row in rows]
    lines = ",\n".join(" " + json.dumps(asdict(row)) for row in merged(load(), rows))
    DATA.write_text(f"[\n{lines}\n]\n")
    write()


def merged(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """Sorted. A run takes the place of a row that says that it was not run."""
    known = sorted({row.key: row for row in [*old, *new]}.items())
    ran = {key[:4] for key, row in known if row.passed is not None}
    return [row for key, row in known if row.passed is not None or key[:4] not in ran]


def write() -> None:
    """The page's table."""
    fill(PAGE, "matrix", table(load()))


def fill(page: Path, name: str, text: str) -> None:
    """Put a text between the page's two marks of that name."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, rest = page.read_text().split(begin)
    page.write_text(before + begin + text + end + rest.split(end)[1])


def table(rows: Sequence[Row]) -> str:
    cells = [
        (r.system, r.python, r.libc, r.arch, r.pyav or "-", r.tests or "-", r.day or "-", r.result)
        for r in rows
    ]
    return markdown(HEADS, cells)


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["-" * len(head) for head in heads], *rows]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


if __name__ == "__main__":
    write()
