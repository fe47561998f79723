"""Signals at random moments, hundreds by default and a hundred thousand in `make stress`; test_interrupts.py
tries each place in turn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SIGNALS = int(os.environ.get("VALKKA_STRESS_COUNT", "200"))
TESTS = Path(__file__).parents[1]


@pytest.mark.timeout(60 + SIGNALS / 20)
def test_signals_whose_handler_raises_anywhere_leave_a_server_and_its_readers_working() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", Path(__file__).with_name("storm_program.py"), str(SIGNALS)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=50 + SIGNALS / 20,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[1]) >= SIGNALS
