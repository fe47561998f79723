# SPDX-License-Identifier: MIT
"""What a camera costs, beside PyAV's bare decode and OpenCV: ``python benchmarks/cameras.py [--short]``.

Real footage, encoded as cameras do, comes from a real RTSP server on loopback, which runs in a process of its
own that is not counted. Each contender runs in a fresh process; its CPU time per delivered frame is the
figure. Contenders take turns, round after round; compare ratios within one report, never figures of two.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from camera.clips import SECONDS, Clip, fetch
from camera.contenders import REGISTRY, environment
from camera.report import summary, write_report
from machine import describe
from run import medians, private_folder

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.append(str(ROOT / "tests"))
from support.rtsp import RtspServer, rtsp_available  # noqa: E402

CLIPS = {
    "1080p": Clip("1080p", 1920, 1080, fps=25, mbit=4),
    "1080p10": Clip("1080p10", 1920, 1080, fps=10, mbit=2, every=2),
    "360p": Clip("360p", 640, 360, fps=25, mbit=0.8),
}
CAMERAS = 16  # at most
BASE = "decode"
WARM = 1.0  # s after every camera has delivered
OPEN = 20.0  # s until then


@dataclass(frozen=True)
class Job:
    """A measurement, made in the first `rounds` rounds."""

    contender: str
    clip: str
    cameras: int
    rounds: int
    window: float  # s; a multiple of the clip, so that all see the same frames
    stages: bool = False

    @property
    def key(self) -> str:
        return f"{self.clip}/{self.cameras}/{self.contender}{'/stages' if self.stages else ''}"


def plan(rounds: int) -> list[Job]:
    """All the jobs of a round. The base of all ratios twice, where the ratios matter most."""
    few = max(1, rounds - 1)
    long, short = 2.0 * SECONDS, 1.0 * SECONDS
    return [
        *(
            Job(name, "1080p", 1, rounds, long)
            for name in (BASE, "va-nv12", "va-rgb24", "va-640x360", "va-fmp4", BASE, "cv2-1", "cv2")
        ),
        *(
            Job(name, "1080p", 1, few, long)
            for name in ("demux", "va-idle", "va-gray8", "va-three", "pyav-rgb24", "cv2-1-640x360", "loader")
        ),
        *(
            Job(name, "1080p", 4, few, short)
            for name in (BASE, "va-nv12", "va-rgb24", "va-640x360", "cv2-1", "cv2", "loader")
        ),
        *(
            Job(name, "1080p10", 16, few, short)
            for name in (BASE, "va-nv12", "va-rgb24", "va-640x360", "va-fmp4", "cv2-1", "cv2", "loader")
        ),
        *(
            Job(name, "360p", 1, few, short)
            for name in (BASE, "va-idle", "va-nv12", "va-rgb24", "va-fmp4", "cv2-1", "cv2")
        ),
        *(Job(name, "360p", 4, 1, short) for name in (BASE, "va-nv12", "va-rgb24", "cv2-1", "loader")),
        *(
            Job(name, "360p", 16, 1, short)
            for name in (BASE, "va-idle", "va-nv12", "va-rgb24", "va-fmp4", "cv2-1", "cv2", "loader")
        ),
        *(
            Job(name, "1080p", 1, 1, long, stages=True)
            for name in ("va-idle", "va-nv12", "va-rgb24", "va-640x360", "va-fmp4", "va-three")
        ),
        *(Job(name, "360p", 1, 1, short, stages=True) for name in ("va-idle", "va-rgb24", "va-fmp4")),
        *(
            Job("va-three", clip, cameras, 1, short, stages=True)
            for clip, cameras in (("1080p", 4), ("1080p10", 16), ("360p", 4), ("360p", 16))
        ),
    ]


def short_plan() -> list[Job]:
    names = (BASE, "va-nv12", "va-rgb24", "va-640x360", "va-fmp4", "cv2-1")
    return [Job(name, "1080p", 1, 2, 2.0 * SECONDS) for name in names]


@contextlib.contextmanager
def serving(clips: list[str], footage: str) -> Iterator[RtspServer]:
    """The server with `CAMERAS` mounts of each clip."""
    cache = ROOT / ".cache"
    video = fetch(footage, cache)
    with RtspServer(deadline=3600) as server:
        for name in clips:
            clip = CLIPS[name].file(video, cache)
            for n in range(CAMERAS):
                server.mount(f"/{name}/{n}", clip, fps=CLIPS[name].fps)
        yield server


def cpu_of(pid: int) -> float:
    """CPU seconds that another process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def busy() -> float:
    """CPU seconds that all processes of the machine have taken."""
    fields = Path("/proc/stat").read_text().split(maxsplit=8)
    user, nice, system, _, _, irq, softirq = map(int, fields[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(job: Job, server: RtspServer) -> dict[str, Any]:
    """Run one job in a fresh process; {"error": ...} if it fails or hangs."""
    message = {
        "contender": job.contender,
        "urls": [server.url(f"/{job.clip}/{n}") for n in range(job.cameras)],
        "fps": CLIPS[job.clip].fps,
        "open_s": OPEN,
        "warm_s": WARM,
        "window_s": job.window,
        "stages": job.stages,
    }
    deadline = OPEN + WARM + job.window + 15
    with private_folder() as folder:
        log = folder / "stderr"
        began, served, all_before, ours = time.monotonic(), cpu_of(server.pid), busy(), children()
        with log.open("wb") as stderr:
            worker = subprocess.Popen(
                [sys.executable, str(HERE / "camera" / "worker.py"), json.dumps(message)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, cwd=folder,
                env=environment(job.contender, folder), start_new_session=True,
            )  # fmt: skip
            try:
                out, _ = worker.communicate(timeout=deadline)
            except subprocess.TimeoutExpired:
                out = b""
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)  # the worker and its reader
                worker.communicate()
        seconds, served = time.monotonic() - began, cpu_of(server.pid) - served
        others = busy() - all_before - served - (children() - ours)  # the reader is among them
        for n in range(job.cameras):
            server.wait_clients(f"/{job.clip}/{n}", 0)
        try:
            result: dict[str, Any] = json.loads(out.decode(errors="replace").strip().splitlines()[-1])
        except (IndexError, ValueError):
            said = log.read_text(errors="replace").strip().splitlines()[-5:]
            return {"error": "the measurement died or hung: " + " | ".join(said)[-500:]}
    if "error" in result:
        return result
    return result | {"server_cores": served / seconds, "other_cores": max(0.0, others / seconds)}


def turns(jobs: list[Job], rounds: int) -> Iterator[Job]:
    """The jobs in the order in which they are made: turned by a few each round, so that none always runs
    after the same neighbour."""
    for number in range(rounds):
        due = [job for job in jobs if job.rounds > number]
        by = 3 * number % len(due)
        yield from due[by:] + due[:by]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the main ratios, in a minute")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these contenders (and the bare decode)")
    parser.add_argument("--clips", nargs="+", choices=tuple(CLIPS), default=list(CLIPS))
    parser.add_argument("--cameras", nargs="+", type=int, choices=(1, 4, 16), default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3, help="how often the main figures are measured (3)")
    parser.add_argument(
        "--footage", choices=("bikes", "vtest"), default="bikes",
        help="cyclists in a street, or a square before a still camera (cheaper to decode)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, help="folder for the report (benchmarks/report; short: build/bench-short)"
    )
    parser.add_argument("--list", action="store_true", help="name the contenders and what each does")
    args = parser.parse_args()
    if args.list:
        for name, contender in REGISTRY.items():
            print(f"{name:14} {contender.note}")
        return 0
    if unknown := set(args.only or ()) - set(REGISTRY):
        parser.error(f"no such contender: {', '.join(sorted(unknown))}; see --list")
    if reason := rtsp_available():
        print(reason, file=sys.stderr)
        return 1

    jobs = short_plan() if args.short else plan(args.rounds)
    if args.short:
        jobs = [replace(job, rounds=args.rounds) for job in jobs]
    names = {*(args.only or REGISTRY), BASE}
    jobs = [j for j in jobs if j.contender in names and j.clip in args.clips and j.cameras in args.cameras]
    if not jobs:
        parser.error("nothing is left to measure")
    out = args.out or (ROOT / "build" / "bench-short" if args.short else HERE / "report")
    order = list(turns(jobs, args.rounds))
    results: dict[str, list[dict[str, Any]]] = {job.key: [] for job in jobs}
    hopeless: set[str] = set()
    print("preparing the footage ...", end="", file=sys.stderr, flush=True)
    with serving(sorted({job.clip for job in jobs}), args.footage) as server:
        measured = [j.contender for j in jobs]
        machine = describe(REGISTRY, measured)
        started = time.monotonic()
        for done, job in enumerate(order, start=1):
            if job.key in hopeless:
                continue
            print(f"\r{done}/{len(order)} {job.key:50}", end="", file=sys.stderr, flush=True)
            result = measure(job, server)
            results[job.key].append(result)
            if sum("error" in r for r in results[job.key]) > 1 or "ModuleNotFound" in result.get("error", ""):
                hopeless.add(job.key)  # it will not get better; do not wait for its deadline again
        seconds = time.monotonic() - started
    print(f"\r{'':70}\r", end="", file=sys.stderr)
    present = [name for name in REGISTRY if name in measured]
    report = {
        "machine": machine,
        "footage": args.footage,
        "seconds": round(seconds, 1),
        "base": BASE,
        "notes": {n: REGISTRY[n].note for n in present},
        "families": {n: REGISTRY[n].family for n in present},
        "clips": {c: vars(CLIPS[c]) for c in CLIPS if any(j.clip == c for j in jobs)},
        "results": {
            job.key: {
                "contender": job.contender, "clip": job.clip, "cameras": job.cameras, "stages": job.stages,
                "window_s": job.window,
            } | medians(results[job.key])
            for job in jobs
        },
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    write_report(report, out)
    print(summary(report))
    print(f"{seconds:.0f} s; the whole report: {out / 'cameras.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
