"""A run of the tests in another system, and how many of them passed."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import NamedTuple

from chroot import Chroot, CommandError


class Counts(NamedTuple):
    passed: int
    failed: int
    skipped: int


def tests(
    system: Chroot,
    folder: str,
    python: str,
    seconds: int,
    *arguments: str,
    env: dict[str, str] | None = None,
) -> Counts:
    """Pytest with these arguments in a folder there: see `counted`."""
    return counted(system, folder, seconds, python, "-m", "pytest", "-q", *arguments, env=env)


def counted(
    system: Chroot, folder: str, seconds: int, *command: str, env: dict[str, str] | None = None
) -> Counts:
    """A command in a folder there that runs pytest. What it wrote is in output.txt.

    Shows what failed. Raises CommandError if there are no results.
    """
    here = system.folder / folder[1:]
    results = here / "results.xml"
    results.unlink(missing_ok=True)
    said = system.run(
        *("timeout", "-k", "30", str(seconds), *command),
        cwd=folder,
        env={"PYTEST_ADDOPTS": f"--junitxml={folder}/results.xml"} | (env or {}),
        check=False,
    )
    (here / "output.txt").write_text(said)
    if not results.exists():
        raise CommandError(said)
    suite = ET.parse(results).getroot().find("testsuite")
    assert suite is not None
    counts = {what: int(suite.attrib[what]) for what in ("tests", "failures", "errors", "skipped")}
    failed = counts["failures"] + counts["errors"]
    if failed:
        print(said[said.find("short test summary") :])
    return Counts(counts["tests"] - failed - counts["skipped"], failed, counts["skipped"])
