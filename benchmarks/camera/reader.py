# SPDX-License-Identifier: MIT
"""Reads rings: ``python reader.py NAME ...``. For each line on stdin it says in one line of JSON how many
frames of each it has had, and what CPU time it took. It ends with stdin.

A frame is looked at as in the other benchmarks: one byte of each of its pages.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections import Counter

import numpy as np

import valkka_async as va

PAGE = 4096


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def main(names: list[str]) -> None:
    frames: Counter[str] = Counter()

    def answer() -> None:
        if not os.read(0, 1024):
            os._exit(0)
        print(json.dumps({"frames": frames, "cpu_s": cpu_s()}), flush=True)

    asyncio.get_running_loop().add_reader(0, answer)
    async with va.merge(*names) as rings:
        async for frame in rings:
            with frame:
                np.frombuffer(frame.data, np.uint8)[::PAGE].max()
                frames[frame.source] += 1


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
