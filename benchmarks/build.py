# SPDX-License-Identifier: MIT
"""Compile the C part of the benchmark (floor.c, frame.h) into a folder, as the module ``bench``."""

import os
import subprocess
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent


def build(folder: Path) -> None:
    """Leaves bench.so in ``folder``. Raises RuntimeError with what the compiler said."""
    command = [
        os.environ.get("CC", "gcc"), "-std=gnu11", "-O3", "-shared", "-fPIC",
        f"-I{sysconfig.get_path('include')}", str(HERE / "benchmodule.c"), "-o", str(folder / "bench.so"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
