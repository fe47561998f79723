# SPDX-License-Identifier: MIT
"""Measure valkka-async beside a C floor and its peers: ``python benchmarks/run.py [--short]``.

Every measurement runs in fresh processes with a deadline. Contenders take turns, round after round, so that
whatever else the machine does hits all alike; what is reported are medians over the rounds. Compare ratios
within one report, never figures of two reports.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import describe

from build import build

HERE = Path(__file__).resolve().parent

SIZES = {"270p": (270, 480), "1080p": (1080, 1920), "4K": (2160, 3840)}
CHANNEL_SIZE = (48, 64)
PEER_CHANNELS = 64
CHANNEL_RATE = 1920  # frames per second of all channels together: 30 of each at 64

SHORT = (
    "floor-hot", "floor-asyncio", "va-asyncio", "va-uvloop", "va-attach", "va-loan", "shm-queue",
)  # fmt: skip
SHORT_CHANNELS = ("floor-asyncio", "va-merge", "va-merge-uvloop")


@dataclass(frozen=True)
class Job:
    """A measurement to be made in each round."""

    work: str  # "stream", "fan-out" or "channels"
    contender: str
    size: str  # of SIZES, or "small"
    readers: int = 1
    channels: int = 0
    latency_s: float = 2.0
    flood_s: float = 1.0

    @property
    def key(self) -> str:
        return f"{self.work}/{self.size}/{self.channels or self.readers}/{self.contender}"


def plan(registry: dict[str, Any], names: list[str], args: argparse.Namespace) -> list[Job]:
    """All the jobs of a round, contenders next to each other within each work."""
    streams = [n for n in names if registry[n].streams]
    many = [n for n in names if registry[n].channels]
    if args.short:
        many = [n for n in many if args.only or n in SHORT_CHANNELS]
        return [
            *(Job("stream", n, s, latency_s=0.5, flood_s=0.25) for s in ("1080p", "270p") for n in streams),
            *(Job("channels", n, "small", channels=64, latency_s=0.8) for n in many),
        ]
    jobs = [
        *(
            Job("stream", n, s, latency_s=args.latency, flood_s=args.flood)
            for s in args.sizes
            for n in streams
        ),
        *(
            Job("fan-out", n, "1080p", readers=r, latency_s=1.0, flood_s=args.flood)
            for r in (4, 16)
            for n in streams
        ),
        # The peers at one number only: what the others show is how our own cost grows.
        *(
            Job("channels", n, "small", channels=c, latency_s=2.0)
            for c in args.channels
            for n in many
            if c == PEER_CHANNELS or registry[n].family != "peer"
        ),
    ]
    return [j for j in jobs if j.work in args.works]


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="va-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(token: str) -> None:
    """Remove what a killed contender left in /dev/shm; its names carry our token."""
    for path in Path("/dev/shm").glob(f"*{token}*"):
        with contextlib.suppress(OSError):
            path.unlink()


def measure(job: Job, built: Path) -> dict[str, Any]:
    """Run one job in processes of its own; {"error": ...} if it fails or hangs."""
    height, width = SIZES.get(job.size, CHANNEL_SIZE)
    token = secrets.token_hex(4)
    seconds = 12 + 3 * (job.latency_s + job.flood_s) + job.readers / 4 + job.channels / 50
    with private_folder() as folder:
        message = {
            "contender": job.contender,
            "fps": 30,
            "rate": CHANNEL_RATE,
            "latency_s": job.latency_s,
            "flood_s": job.flood_s,
            "deadline_s": seconds,
            "spec": {
                "token": token, "folder": str(folder), "height": height, "width": width,
                "readers": job.readers, "channels": job.channels,
            },
        }  # fmt: skip
        paths = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(built), *map(os.path.abspath, paths)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(folder),
            "HOME": str(folder),
        }
        log = folder / "stderr"
        with log.open("wb") as stderr:
            stage = subprocess.Popen(
                [sys.executable, str(HERE / "stage.py"), json.dumps(message)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, env=environment,
                cwd=folder, start_new_session=True,
            )  # fmt: skip
            try:
                out, _ = stage.communicate(timeout=seconds + 5)
            except subprocess.TimeoutExpired:
                out = b""
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(stage.pid, signal.SIGKILL)  # the stage and whatever it left behind
                stage.communicate()
        sweep(token)
        lines = out.decode(errors="replace").strip().splitlines()
        try:
            return json.loads(lines[-1])
        except (IndexError, ValueError):
            said = log.read_text(errors="replace").strip().splitlines()[-5:]
            return {"error": "the measurement died or hung: " + " | ".join(said)[-500:]}


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure over the rounds that succeeded, and its range."""
    good = [r for r in rounds if "error" not in r]
    if not good:
        return {"error": rounds[-1]["error"], "rounds": 0}
    keys = {k for r in good for k in r}
    median = {k: statistics.median([r[k] for r in good if k in r]) for k in sorted(keys)}
    spread = {k: [min(r[k] for r in good if k in r), max(r[k] for r in good if k in r)] for k in sorted(keys)}
    failed = [r["error"] for r in rounds if "error" in r]
    return median | {"rounds": len(good), "spread": spread, "failed_rounds": failed}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the main ratios, in less than a minute")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="these contenders (a floor is always there)"
    )
    parser.add_argument("--works", nargs="+", choices=("stream", "fan-out", "channels"),
                        default=["stream", "fan-out", "channels"])  # fmt: skip
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 64, 256, 1000], metavar="N")
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--rounds", type=int, help="how often everything is measured (3; short: 2)")
    parser.add_argument(
        "--latency", type=float, default=1.5, metavar="S", help="seconds at 30 frames per second"
    )
    parser.add_argument("--flood", type=float, default=1.0, metavar="S", help="seconds at full speed")
    parser.add_argument(
        "--out", type=Path, help="folder for the report (benchmarks/report; short: build/bench-short)"
    )
    parser.add_argument("--list", action="store_true", help="name the contenders and what each does")
    args = parser.parse_args()

    with private_folder() as built:
        build(built)
        sys.path.insert(0, str(built))
        from contenders import REGISTRY
        from report import summary, write_report

        if args.list:
            for name, contender in REGISTRY.items():
                print(f"{name:20} {contender.note}")
            return 0
        if unknown := set(args.only or ()) - set(REGISTRY):
            parser.error(f"no such contender: {', '.join(sorted(unknown))}; see --list")
        wanted = args.only or ([*SHORT, *SHORT_CHANNELS] if args.short else list(REGISTRY))
        names = [n for n in REGISTRY if n in wanted or n in ("floor-hot", "floor-asyncio")]
        names.sort(key=lambda n: ("floor", "ours", "peer").index(REGISTRY[n].family))
        out = args.out or (HERE.parent / "build" / "bench-short" if args.short else HERE / "report")
        jobs = plan(REGISTRY, names, args)
        rounds = args.rounds or (2 if args.short else 3)
        started = time.monotonic()
        results: dict[str, list[dict[str, Any]]] = {job.key: [] for job in jobs}
        hopeless: set[str] = set()
        total = rounds * len(jobs)
        done = 0
        for number in range(rounds):
            # Turned by one each round, so that nobody always runs after the same neighbour.
            turned = jobs[number % len(jobs) :] + jobs[: number % len(jobs)]
            for job in turned:
                done += 1
                if job.key in hopeless:
                    continue
                print(f"\r{done}/{total} {job.key:50}", end="", file=sys.stderr, flush=True)
                result = measure(job, built)
                results[job.key].append(result)
                failures = [r["error"] for r in results[job.key] if "error" in r]
                if len(failures) >= 2 or any("cannot be imported" in f for f in failures):
                    hopeless.add(job.key)  # it will not get better; do not wait for its deadline again
        seconds = time.monotonic() - started
        print(f"\r{'':70}\r", end="", file=sys.stderr)
        report = {
            "machine": describe(REGISTRY, names),
            "short": args.short,
            "rounds": rounds,
            "seconds": round(seconds, 1),
            "notes": {n: REGISTRY[n].note for n in names},
            "families": {n: REGISTRY[n].family for n in names},
            "lossy": {n: REGISTRY[n].lossy for n in names},
            "results": {
                job.key: {
                    "work": job.work, "contender": job.contender, "size": job.size,
                    "readers": job.readers, "channels": job.channels,
                } | medians(results[job.key])
                for job in jobs
            },
        }  # fmt: skip
        out.mkdir(parents=True, exist_ok=True)
        write_report(report, out)
        print(summary(report))
        print(f"{seconds:.0f} s; the whole report: {out / 'report.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
