"""benchmarks/gpu/run.sh does on a fake GPU what it does on a real one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = ROOT / "benchmarks" / "gpu" / "run.sh"

# Neither is there where a finished wheel is tested.
pytestmark = pytest.mark.skipif(
    not (RUN.exists() and shutil.which("gcc")), reason="no benchmarks, or no compiler"
)


def test_it_runs_to_its_end_and_writes_a_report(tmp_path: Path) -> None:
    environment = os.environ | {"OUT": str(tmp_path), "PYTHON": sys.executable}
    done = subprocess.run([RUN, "--fake"], env=environment, capture_output=True, text=True, timeout=170)
    report = (tmp_path / "report.txt").read_text()
    assert done.returncode == 0 and "FAILED" not in report, report + done.stderr
    assert " 0 differ; 0 leases are held" in report and "registered as pinned memory" in report
    assert all(words in report for words in ("memcpy from pinned memory", "frames/s"))


def test_its_parts_end_in_less_than_eight_minutes() -> None:
    parts = [
        int(line.split("part ")[1].split()[0]) for line in RUN.read_text().splitlines() if "part 1" in line
    ]
    parts += [int(line.split()[1]) for line in RUN.read_text().splitlines() if line.startswith("part 8")]
    assert len(parts) == 5 and sum(parts) < 8 * 60
