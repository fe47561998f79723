# SPDX-License-Identifier: MIT
"""One measurement, in a process of its own: ``python worker.py JOB`` prints one line of JSON.

It waits until every camera has delivered, and a while longer, then measures its own CPU time over a window.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from typing import Any

from camera.contenders import REGISTRY, Stages

POLL = 0.02


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def measure(job: dict[str, Any]) -> dict[str, Any]:
    contender = REGISTRY[job["contender"]]
    stages = Stages() if job["stages"] else None
    if stages is not None:
        stages.install()
    contender.start(job["urls"])
    until = time.monotonic() + job["open_s"]
    while not all(contender.frames()):
        if time.monotonic() > until:
            return {"error": f"after {job['open_s']} s not every camera has delivered: {contender.frames()}"}
        time.sleep(POLL)
    time.sleep(job["warm_s"])

    def look() -> tuple[float, float, list[int], dict[str, float]]:
        frames = contender.frames()  # first: it may ask another process
        more = contender.more() | (stages.so_far() if stages is not None else {})
        return time.monotonic(), cpu_s(), frames, more

    began, cpu_before, frames_before, more_before = look()
    time.sleep(began + job["window_s"] - time.monotonic())
    cpu_after, ended = cpu_s(), time.monotonic()  # before the other process is asked again
    _, _, frames_after, more_after = look()

    seconds = ended - began
    frames = [b - a for a, b in zip(frames_before, frames_after, strict=True)]
    count = sum(frames)
    if not count:
        return {"error": "no frames in the window"}
    cpu = cpu_after - cpu_before
    more = {key: more_after[key] - more_before[key] for key in more_before}
    result = {
        "ms": cpu / count * 1e3,
        "core": cpu / seconds / len(frames),  # of one core, per camera
        "delivered": count / (seconds * job["fps"] * len(frames)),
        "worst": min(frames) / (seconds * job["fps"]),  # of the camera that fares worst
        "frames": count,
        "rss_mb": resident_mb(),
    }
    for key, value in more.items():
        if key.endswith("_s"):
            result[key.removesuffix("_s") + "_ms"] = value / count * 1e3
        else:
            result[key] = value
    return result


if __name__ == "__main__":
    try:
        print(json.dumps(measure(json.loads(sys.argv[1]))), flush=True)
    except Exception:
        print(json.dumps({"error": traceback.format_exc(limit=-3)}), flush=True)
    os._exit(0)  # threads are inside libraries; what was to be measured has been
