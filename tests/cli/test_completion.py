# SPDX-License-Identifier: MIT
"""Completion in the shell: the real script in a real bash, asking the real program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import valkka_async as va
from support.program import SECONDS
from support.require import missing

_BASH = r"""
set -eu
eval "$(_VALKKA_ASYNC_COMPLETE=source_bash valkka-async)"
complete -p valkka-async > /dev/null
ask() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _valkka_async_completion "$1"
    echo "${COMPREPLY[*]-}"
}
ask valkka-async sn
ask valkka-async snap fr
ask valkka-async rec y
ask valkka-async top front y
ask valkka-async probe --tra
"""


def test_bash_completes_commands_and_the_names_of_cameras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bash = shutil.which("bash")
    if bash is None:
        missing("there is no bash")
    program = tmp_path / "valkka-async"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m valkka_async "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with va.serve("front"), va.serve("yard.fmp4"), va.serve("yard.jpeg"):
        done = subprocess.run(
            [bash, "--norc", "-c", _BASH],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=5 * SECONDS,  # it starts Python for each question
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "snap",
        "front",
        "yard yard.fmp4 yard.jpeg",
        "yard yard.fmp4 yard.jpeg",
        "--transport",
    ]
