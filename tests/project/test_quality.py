"""What the linters and type checkers say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKS = {
    "ruff": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "stubs": [
        "stubtest",
        "valkka_async.ring._shm",
        "valkka_async.camera.pixels._pixels",
        "--allowlist",
        "tests/stubtest-allowlist",
    ],
    "cython": ["cython-lint", "_shm", "_pixels"],
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("check", CHECKS)
def test_nothing_to_complain(check: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        CHECKS[check], cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
