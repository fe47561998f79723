# SPDX-License-Identifier: MIT
"""How soon cameras are there, and what memory they take: ``python benchmarks/start.py [--short]``.

A real service (`valkka-async run`) is started with 16 and 64 cameras of one frame per second: FFmpeg's test
picture (lavfi), and H.264 over RTSP on loopback, from a camera in this process. A camera is
live from its first packet on. Then workers of a `Supervisor` are killed one by one, as a crash would end
them. Memory is PSS: what several processes share is divided among them; of all processes below the service,
divided by the cameras.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from machine import describe
from processes import below, cpu, pss
from run import private_folder
from starts import Line, summary, write_report

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.append(str(ROOT / "tests"))
import valkka_async as va  # noqa: E402
from support.footage import encode  # noqa: E402
from support.program import Program  # noqa: E402
from support.rtsp_camera import RtspCamera, access_units  # noqa: E402
from valkka_async.service.control import ask  # noqa: E402

COUNTS = (16, 64)
LAVFI = "lavfi:testsrc=size=640x360:rate=1"
OPEN = 60.0  # s until all cameras must be live
SETTLE = 3.0  # s before memory is looked at
LOOK = 0.5  # s between looks: each costs the service time
KILLS = 12
RUNNING = "running"


def memory(pid: int, count: int) -> float:
    """MB for each camera, of all that runs below the service."""
    return sum(map(pss, below(pid))) / count


def wait_for(program: Program, good: Callable[[dict[str, Any]], bool], count: int) -> list[dict[str, Any]]:
    """Its cameras, once that holds for all."""
    deadline = time.monotonic() + OPEN
    while True:
        cameras: list[dict[str, Any]] = ask("start", "status", 10.0)["cameras"]
        if len(cameras) == count and all(map(good, cameras)):
            return cameras
        if time.monotonic() > deadline:
            raise TimeoutError(f"not after {OPEN:g} s: {program.stderr()[-1000:]}")
        time.sleep(LOOK)


@contextlib.contextmanager
def service(folder: Path, count: int, url: str, camera: str = "") -> Iterator[tuple[Program, int]]:
    """A service that was just started, and when."""
    path = folder / "cameras.yaml"
    cameras = "\n".join(f"  c{n}: {{url: '{url}'{camera}}}" for n in range(count))
    path.write_text(f"name: start\nweb: {{port: 0}}\ncameras:\n{cameras}\n")
    began = time.time_ns()
    with Program("run", str(path)) as program:
        program.line()
        yield program, began
        program.end()


def start(count: int, url: str) -> dict[str, float]:
    """From `run` until all cameras are live."""
    with private_folder() as folder, service(folder, count, url) as (program, began):
        cameras = wait_for(program, lambda c: c["state"] == "live", count)
        took = sorted((c["since_ns"] - began) / 1e9 for c in cameras)
        used = sum(map(cpu, below(program.pid)))
        time.sleep(SETTLE)
        return {
            "all_s": took[-1],
            "half_s": statistics.median(took),
            "first_s": took[0],
            "cpu_ms": used * 1e3 / count,
            "live_mb": memory(program.pid, count),
            "service_mb": pss(program.pid),
        }


def unopened(count: int) -> dict[str, float]:
    """Memory of cameras that are not there yet: a listener that never answers."""
    with private_folder() as folder, socket.create_server(("127.0.0.1", 0), backlog=2 * count) as listener:
        url = f"rtsp://127.0.0.1:{listener.getsockname()[1]}/x"
        with service(folder, count, url, ", open_timeout: 60") as (program, _):
            wait_for(program, lambda c: c["worker"]["state"] == RUNNING, count)
            time.sleep(SETTLE)
            return {"before_mb": memory(program.pid, count)}


def read(count: int, url: str) -> dict[str, float]:
    """Memory of cameras of which each has a reader of rgb24."""
    with private_folder() as folder, service(folder, count, url) as (program, _):
        wait_for(program, lambda c: c["state"] == "live", count)
        readers = [va.attach(f"c{n}") for n in range(count)]
        end = time.monotonic() + 2 * SETTLE
        while time.monotonic() < end:
            for reader in readers:
                with contextlib.suppress(TimeoutError):
                    reader.recv(timeout=0.02).release()
        found = memory(program.pid, count)
        for reader in readers:
            reader.close()
        return {"read_mb": found}


async def restarts(kills: int) -> dict[str, float]:
    """From SIGKILL of a worker until the next one says that it is there, and until its camera is live."""
    there, live, fresh = [], [], []

    async def seen(name: str, good: Callable[[va.SupervisedStatus], bool], began: float) -> float:
        while not good(supervisor.status()[name]):
            if time.monotonic() - began > 30:
                raise TimeoutError(name)
            await asyncio.sleep(0.001)
        return time.monotonic() - began

    async with va.Supervisor() as supervisor:
        for n in range(kills):
            began = time.monotonic()
            adding = asyncio.create_task(supervisor.add(f"c{n}", LAVFI))
            await asyncio.sleep(0)
            took = await seen(f"c{n}", lambda s: s.worker.state == RUNNING, began)
            if n:  # the first one waits for what they all come from
                fresh.append(took)
            await adding
            await seen(f"c{n}", lambda s: s.state == "live", began)
        for n in range(kills):
            pid = supervisor.status()[f"c{n}"].worker.pid
            assert pid is not None
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)

            def up(status: va.SupervisedStatus, pid: int = pid) -> bool:
                return status.worker.state == RUNNING and status.worker.pid not in (None, pid)

            there.append(await seen(f"c{n}", up, began))
            live.append(await seen(f"c{n}", lambda s: s.current and s.state == "live", began))
    return {
        "fresh_s": statistics.median(fresh),
        "fresh_max_s": max(fresh),
        "restart_s": statistics.median(there),
        "restart_max_s": max(there),
        "relive_s": statistics.median(live),
        "relive_max_s": max(live),
    }


def jobs(counts: tuple[int, ...], kills: int, rtsp: str) -> dict[str, Callable[[], dict[str, float]]]:
    table: dict[str, Callable[[], dict[str, float]]] = {}
    for count in counts:
        table[f"{count}/lavfi"] = lambda count=count: start(count, LAVFI)  # type: ignore[misc]
        table[f"{count}/rtsp"] = lambda count=count: start(count, rtsp)  # type: ignore[misc]
        table[f"{count}/before"] = lambda count=count: unopened(count)  # type: ignore[misc]
    table[f"{counts[0]}/read"] = lambda: read(counts[0], LAVFI)
    table["restart"] = lambda: asyncio.run(restarts(kills))
    return table


def measure(
    jobs: dict[str, Callable[[], dict[str, float]]], rounds: int
) -> dict[str, list[dict[str, float]]]:
    """All jobs, round after round."""
    found: dict[str, list[dict[str, float]]] = {}
    for round in range(rounds):
        for name, job in jobs.items():
            found.setdefault(name, []).append(job())
            print(f"{round + 1}/{rounds} {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="once, 16 cameras, in half a minute")
    parser.add_argument("--rounds", type=int, help="(3; short: 1)")
    parser.add_argument("--counts", nargs="+", type=int, metavar="CAMERAS", help="(16 64; short: 16)")
    parser.add_argument("--beside", type=Path, metavar="JSON", help="another report, to be shown beside it")
    parser.add_argument("--note", default="", metavar="TEXT", help="what else the report should say")
    parser.add_argument(
        "--out", type=Path, help="folder for the report (benchmarks/report; short: build/bench-short)"
    )
    args = parser.parse_args()
    rounds = args.rounds or (1 if args.short else 3)
    counts = tuple(args.counts or (COUNTS[:1] if args.short else COUNTS))
    out = args.out or (ROOT / "build" / "bench-short" if args.short else HERE / "report")
    report: dict[str, Any] = {
        "machine": describe({"ours": Line}, ["ours"]),
        "rounds": rounds,
        "counts": counts,
        "note": args.note,
        "results": {},
    }
    if args.beside is not None:
        report["beside"] = json.loads(args.beside.read_text())["results"]
    began = time.monotonic()
    kills = KILLS // 2 if args.short else KILLS
    with private_folder() as folder:
        os.environ["VALKKA_RUNTIME_DIR"] = f"{folder}/run"
        units = access_units(encode(folder / "cam.h264", (640, 360), 30, gop=1))
        with RtspCamera(units, fps=1, clock=lambda number, _: 900_000 + number * 90_000) as camera:
            found = measure(jobs(counts, kills, camera.url()), rounds)
    for name, results in found.items():
        report["results"][name] = {key: statistics.median(r[key] for r in results) for key in results[0]}
    report["seconds"] = time.monotonic() - began
    out.mkdir(parents=True, exist_ok=True)
    write_report(report, out)
    print(summary(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
