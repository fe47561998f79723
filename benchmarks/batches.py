# SPDX-License-Identifier: MIT
"""Many rings into one array for a model: ``python benchmarks/batches.py``.

A process serves 16 rings of 1920x1080 or 64 of 640x360 (bgr24, evenly spread over time), and each
contender, in a process of its own, makes arrays of (N, 640, 640, 3) of them, bgr24, for a model that takes no
time.
The writer only stamps its frames (``loan``), so it takes next to no CPU. Contenders take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from batching.contenders import REGISTRY
from machine import describe
from run import private_folder

import valkka_async as va

HERE = Path(__file__).resolve().parent
WORKS = {"16 x 1080p": (16, 1080, 1920, 10), "64 x 360p": (64, 360, 640, 10)}  # cameras, size, fps
WARM, SECONDS = 2.0, 4.0
TIMEOUT = 60.0


def serve(names: list[str], height: int, width: int, fps: int) -> None:
    """Frames of all cameras, in turn, for as long as somebody listens to the standard output."""
    servers = [va.serve(name) for name in names]
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    for server in servers:
        for _ in range(4):
            server.publish(image, format="bgr24")
    print("ready", flush=True)
    due = time.monotonic()
    while os.getppid() != 1:
        for server in servers:
            due += 1 / (fps * len(servers))
            time.sleep(max(0.0, due - time.monotonic()))
            with server.loan((height, width, 3), "bgr24", timestamp_ns=time.time_ns()) as slot:
                slot.array[0, :3].reshape(-1)[:8] = np.frombuffer(time.time_ns().to_bytes(8, "big"), np.uint8)


def measure(contender: str, names: list[str]) -> dict[str, Any]:
    """In the contender's process."""
    batches = REGISTRY[contender].run(names)
    next(batches)
    end = time.monotonic() + WARM
    while time.monotonic() < end:
        next(batches)
    began, cpu, count, rows, ages = time.monotonic(), time.process_time(), 0, 0, []
    while time.monotonic() < began + SECONDS:
        array, stamps = next(batches)
        ages.append((time.time_ns() - min(stamps)) * 1e-6)
        assert array.shape == (len(stamps), 640, 640, 3)
        count, rows = count + 1, rows + len(stamps)
    took, used = time.monotonic() - began, time.process_time() - cpu
    ages.sort()
    return {
        "batches_per_s": count / took,
        "frames_per_s": rows / took,
        "age_p50_ms": statistics.median(ages),
        "age_p99_ms": ages[min(len(ages) - 1, round(0.99 * len(ages)))],
        "cpu_ms_per_frame": used / rows * 1e3,
    }


def program(*arguments: str) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), *arguments]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=tuple(REGISTRY), metavar="NAME", help="these contenders")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "report" / "batches.json")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        count, height, width, fps = map(int, args.serve)
        serve([f"cam{n:02}" for n in range(count)], height, width, fps)
        return 0
    if args.measure:
        contender, count = args.measure
        print(json.dumps(measure(contender, [f"cam{n:02}" for n in range(int(count))])), flush=True)
        os._exit(0)  # the threads of some never end
    results: dict[str, Any] = {}
    started = time.monotonic()
    with private_folder() as folder:
        environment = {**os.environ, "VALKKA_RUNTIME_DIR": str(folder), "YOLO_VERBOSE": "False"}
        for work, numbers in WORKS.items():
            server = subprocess.Popen(
                program("--serve", *map(str, numbers)), env=environment, stdout=subprocess.PIPE, text=True
            )
            try:
                assert server.stdout is not None and server.stdout.readline() == "ready\n"
                for turn in range(args.rounds):
                    for name in args.only or REGISTRY:
                        print(f"{work}, {name}, {turn + 1} of {args.rounds}", file=sys.stderr)
                        found = one(name, numbers[0], environment)
                        results.setdefault(f"{work}/{name}", []).append(found)
            finally:
                server.kill()
                server.wait()
    report = {
        "machine": describe(REGISTRY, list(args.only or REGISTRY)),
        "seconds": round(time.monotonic() - started),
        "rounds": args.rounds,
        "works": {work: {"cameras": n[0], "fps": n[3]} for work, n in WORKS.items()},
        "contenders": {
            name: {"label": REGISTRY[name].label, "note": REGISTRY[name].note}
            for name in args.only or REGISTRY
        },
        "results": results,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    return 0


def one(name: str, cameras: int, environment: dict[str, str]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            program("--measure", name, str(cameras)),
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    except (subprocess.TimeoutExpired, IndexError, ValueError) as e:
        return {
            "error": repr(e),
            "said": "" if isinstance(e, subprocess.TimeoutExpired) else done.stderr[-2000:],
        }


if __name__ == "__main__":
    sys.exit(main())
