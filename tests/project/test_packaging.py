"""What a user installs: the sdist, and the wheel made from it, in an environment that has nothing else."""

from __future__ import annotations

import subprocess
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import numpy as np
import valkka_async as va
assert "site-packages" in va.__file__, va.__file__
with va.serve("s") as server, va.attach("s") as reader:
    with va.play("lavfi:testsrc=size=64x48:rate=25", server):
        frame = reader.recv(20)
        assert frame.shape == (48, 64, 3)
        print(frame.array.max())
"""


@pytest.mark.timeout(300)
def test_the_wheel_made_from_the_sdist_works_in_a_clean_environment(tmp_path: Path) -> None:
    def run(*command: str | Path, cwd: Path = tmp_path) -> str:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    tree = tmp_path / "tree"
    run("git", "clone", "-q", ROOT, tree)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "-q", "--disable-pip-version-check"]
    run(*pip, "install", "build")
    run(python, "-m", "build", tree, "--outdir", tmp_path / "dist")  # the wheel from the sdist
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = {n.split("/", 1)[-1] for n in archive.getnames()}
    sources = {f"_shm/{path.name}" for path in (ROOT / "_shm").iterdir() if path.suffix != ".c"}
    assert {"_shm/layout.h", "_shm/_shm.pyx", "_shm/frame.pxi"} <= sources
    assert sources | {"LICENSE"} <= names
    assert not [n for n in names if n.endswith((".so", "_shm.c"))]
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"valkka_async/py.typed", "valkka_async/ring/_shm.pyi", "valkka_async/cli/__init__.py"} <= names
    assert not [n for n in names if n.startswith(("tests", "_shm", "benchmarks"))]
    run(*pip, "install", wheel)
    assert run(python, "-c", PROGRAM).strip() == "255"
    script = tmp_path / "venv" / "bin" / "valkka-async"
    assert run(script, "--version").startswith("valkka-async ")
    assert "no server" in run(script, "ls").lower()
