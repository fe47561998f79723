# SPDX-License-Identifier: MIT
"""One contender: ``python worker.py NAME URL WIDTH HEIGHT``. Says for each frame its number and when it was
there (monotonic), a line each."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "tests")]

from lateness.clips import read  # noqa: E402
from lateness.contenders import REGISTRY  # noqa: E402


def main() -> None:
    name, url, width, height = sys.argv[1:]
    for luma in REGISTRY[name].frames(url, (int(width), int(height))):
        now = time.monotonic()
        print(read(luma), now, flush=True)


if __name__ == "__main__":
    main()
