"""What a public CI runs is what anyone can run: make's targets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def steps(path: Path) -> list[tuple[str, dict[str, Any]]]:
    jobs = yaml.safe_load(path.read_text())["jobs"]
    return [(name, step) for name, job in jobs.items() for step in job["steps"]]


def test_there_are_workflows() -> None:
    assert [path.name for path in FILES] == ["ci.yml", "release.yml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_command_is_a_target_of_make(path: Path) -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    commands = [step["run"] for _, step in steps(path) if "run" in step]
    assert commands
    for command in commands:
        match = re.fullmatch(r"(?:sudo )?make ([a-z-]+)(?: [A-Z]+=\S*(?: \S+ \}\})?)?", command)
        assert match is not None and match[1] in phony.split(), command


def test_a_release_is_checked_before_it_is_published_and_only_that_job_may_publish() -> None:
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    commands = [step.get("run", "") for step in release["jobs"]["build"]["steps"]]
    made, checked = (
        commands.index("make wheels TAG=${{ github.ref_name }}"),
        commands.index("sudo make check-wheels"),
    )
    assert made < checked < len(commands) - 1
    assert release["jobs"]["publish"]["needs"] == "build"
    assert {name: job.get("permissions") for name, job in release["jobs"].items()} == {
        "build": None,
        "publish": {"id-token": "write"},
    }
    assert release["permissions"] == {"contents": "read"}
    assert all("run" not in step for name, step in steps(FILES[-1]) if name == "publish")
