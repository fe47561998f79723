# SPDX-License-Identifier: MIT
"""A machine whose clock is not set when a program starts: it says 1970."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from .require import missing

_CODE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (clock == CLOCK_REALTIME && access(getenv("CLOCK_SET"), F_OK) != 0)
        now->tv_sec -= atol(getenv("CLOCK_BEHIND"));
    return failed;
}
"""


def unset_clock(folder: Path, says: float) -> tuple[dict[str, str], Path]:
    """The environment of a program whose clock says now that 1970 began so many seconds ago, and the file
    with which the clock is set, once it is there."""
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None:
        missing("no C compiler")
    source, library, there = folder / "clock.c", folder / "clock.so", folder / "clock-is-set"
    source.write_text(_CODE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=60)
    behind = str(int(time.time() - says))
    return {"LD_PRELOAD": str(library), "CLOCK_BEHIND": behind, "CLOCK_SET": str(there)}, there
