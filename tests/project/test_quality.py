"""What the linters and type checkers say, also of a user's program."""

from __future__ import annotations

import ast
import itertools
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import valkka_async as va
from valkka_async.extras import advice

ROOT = Path(__file__).parents[2]
CHECKS = {
    "ruff": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "stubs": [
        "stubtest",
        "valkka_async.ring._shm",
        "valkka_async.ring._rows",
        "valkka_async.camera.pixels._pixels",
        "valkka_async.camera.source._rtp",
        "--allowlist",
        "tests/stubtest-allowlist",
        "--ignore-unused-allowlist",  # a part of it is for Python 3.11 alone
    ],
    "cython": ["cython-lint", "_shm", "_rows", "_pixels", "_rtp"],
}


def test_no_text_is_cut_off_from_the_one_before_it() -> None:
    """A string that stands alone in the middle of a block says nothing: without brackets, the second line of
    a returned text is one. (After an assignment it is a docstring.)"""
    alone = []
    for file in (ROOT / "valkka_async").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            for block in (getattr(node, field, None) for field in ("body", "orelse", "finalbody")):
                for before, line in itertools.pairwise(block if isinstance(block, list) else ()):
                    text = isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant | ast.JoinedStr)
                    if text and not isinstance(before, ast.Assign | ast.AnnAssign):
                        alone.append(f"{file.relative_to(ROOT)}:{line.lineno}")
    assert not alone


def test_each_package_that_is_imported_is_asked_for_and_its_extra_is_known() -> None:
    """One that comes with another one may be gone with its next version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    asked = {re.split(r"[\[><]", one)[0].lower() for one in itertools.chain(*lists)} | {"pydantic-core"}
    imported = set()
    for file in (ROOT / "valkka_async").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    packages, own = metadata.packages_distributions(), {*sys.stdlib_module_names, "valkka_async"}
    names = {module: {one.lower().replace("_", "-") for one in packages[module]} for module in imported - own}
    assert {module for module, of in names.items() if not of & asked} == set()
    assert {module for module in names if not advice(module, "this")} == {"numpy"}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("check", CHECKS)
def test_nothing_to_complain(check: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        CHECKS[check], cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr


USER = Path(__file__).with_name("user_program.py")
# What a user may misspell: the line, as it is and as it becomes, and mypy's code for it.
TYPOS = [
    ('policy="latest", reconnect', 'policy="newest", reconnect', "arg-type"),
    ('merge("cam*", policy="latest"', 'merge("cam*", policy="newest"', "arg-type"),
    ('va.Policy = "ordered"', 'va.Policy = "orderd"', "assignment"),
    ("transport=transport", 'transport="tpc"', "arg-type"),
    ('add("cam2", URL, [va.Output("cam2")], transport=', 'add("cam2", URL, tranport=', "call-overload"),
    ('"transport": "tcp"', '"transport": "tpc"', "typeddict-item"),
    ('[va.Output("cam2")], transport="udp"', '[va.Output("cam2")], transport="upd"', "call-overload"),
    ("pixels, size=", '"gray9", size=', "arg-type"),
    ('ConnectMode = "on_demand"', 'ConnectMode = "on_dmand"', "assignment"),
    ('format="bgr24"', 'format="bgr42"', "arg-type"),
    ('server, format="rgb24"', 'server, format="jpeg"', "arg-type"),
    ("state is va.CameraState.LIVE", 'state == "lvie"', "comparison-overlap"),
    ("state == va.SoundState.SILENT", 'state == "silnet"', "comparison-overlap"),
    ("supervised.state == va.CameraState.WAITING", 'supervised.state == "wating"', "comparison-overlap"),
    ("va.connect", "va.conect", "attr-defined"),
    ("slots=8", "slot=8", "call-arg"),
    ("policy=policy, open_timeout=", "policy=policy, timeout=", "call-arg"),
    ('(4, 4), "array"', '(4, 4), "gray"', "arg-type"),
    ("time_base=", "tiem_base=", "call-arg"),
    ('== "gray16"', '== "gray17"', "comparison-overlap"),
]


def mypy(*programs: Path) -> list[str]:
    """What it says of programs, a line for each error."""
    command = [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--no-pretty", *map(str, programs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode in (0, 1) and done.stderr == "", done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def test_every_public_name_is_used_in_a_user_s_program() -> None:
    used = set(re.findall(r"\bva\.(\w+)", USER.read_text()))
    assert set(va.__all__) - used == set()


@pytest.mark.timeout(600)
def test_a_type_checker_finds_a_user_s_typos_and_nothing_else(tmp_path: Path) -> None:
    lines = USER.read_text().splitlines()
    programs: list[dict[int, tuple[str, str]]] = []  # by line: how it is misspelt, and mypy's code
    for right, wrong, code in TYPOS:
        (number,) = [n for n, line in enumerate(lines) if right in line]
        if not any(number not in program for program in programs):
            programs.append({})
        program = next(program for program in programs if number not in program)
        program[number] = (lines[number].replace(right, wrong), code)
    paths = [tmp_path / f"typos{n}.py" for n in range(len(programs))]
    for path, program in zip(paths, programs, strict=True):
        path.write_text("\n".join(program[n][0] if n in program else line for n, line in enumerate(lines)))
    errors = mypy(USER, *paths)
    assert [line for line in errors if USER.name in line] == []
    for path, program in zip(paths, programs, strict=True):
        found = {}
        for line in errors:
            if match := re.search(rf"{path.name}:(\d+): error: .*\[([\w-]+)\]$", line):
                found[int(match[1]) - 1] = match[2]
        assert found == {n: code for n, (_, code) in program.items()}, errors
