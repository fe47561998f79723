"""`make demo` on a terminal: it shows frames, and Ctrl-C ends it as if that were the plan."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="not run by `make test`: there is no set-up")
def test_make_demo_ends_with_status_0_on_ctrl_c(runtime_dir: Path) -> None:
    """machines/demo.py has it on a terminal, reads its page, and presses the keys."""
    command = [sys.executable, "machines/demo.py", "40"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert os.listdir(runtime_dir) == []
