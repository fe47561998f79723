# SPDX-License-Identifier: MIT
"""How late a camera's frames are: ``python benchmarks/latency.py [--short]``.

From the moment when the last packet of a frame has been sent until the frame, decoded, is in the receiver's
hands. Real footage with a number in each frame, H.264 with one slice and no B-frames, over RTSP (TCP,
loopback) from a camera in this process, which does nothing else meanwhile. Each contender runs in a fresh
process.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import describe
from run import private_folder

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.append(str(ROOT / "tests"))
from lateness.clips import FRAMES, SIZES, units  # noqa: E402
from lateness.contenders import REGISTRY, command, environment  # noqa: E402
from lateness.report import summary, write_report  # noqa: E402

from support import footage  # noqa: E402
from support.rtsp_camera import RtspCamera  # noqa: E402

RATES = (1, 5, 15, 25, 60)
OPEN = 30.0  # s until a contender has delivered a frame
WARM, WARM_SECONDS = 5, 1.0  # frames, and seconds, that do not count
SOON = 0.005  # s
LEAST, SECONDS = 6, 3.0  # frames and seconds that do
SHORT = ("va", "va-yuv420p", "pyav", "cv2", "ffmpeg", "gst")


@dataclass(frozen=True)
class Job:
    contender: str
    size: str
    fps: int

    @property
    def key(self) -> str:
        return f"{self.size}/{self.fps}/{self.contender}"


def bare_decode(clip: list[bytes]) -> float:
    """Milliseconds that decoding a frame takes, with one thread and nothing beside it: the median."""
    import av

    context = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    took = []
    for unit in clip * 2:
        packet = av.Packet(unit)
        began = time.perf_counter()
        frames = context.decode(packet)
        if frames:
            took.append(time.perf_counter() - began)
    return statistics.median(took[FRAMES:]) * 1e3


def measure(job: Job, clip: list[bytes]) -> dict[str, Any]:
    """Run one job; {"error": ...} if it fails."""
    sent: list[list[float]] = [[] for _ in clip]  # when, by a frame's place in the clip

    def sending(number: int, packets: list[bytes]) -> Iterator[bytes]:
        yield from packets
        sent[number % len(clip)].append(time.monotonic())

    width, height = SIZES[job.size]

    def clock(number: int, _: float) -> int:  # FFmpeg takes 0 for no time
        return 900_000 + round(number * 90_000 / job.fps)

    with private_folder() as folder, RtspCamera(clip, fps=job.fps, clock=clock, sending=sending) as camera:
        worker = subprocess.Popen(
            command(job.contender, job.contender, camera.url(), str(width), str(height)),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder,
            env=environment(job.contender, folder), start_new_session=True,
        )  # fmt: skip
        try:
            seen, words = listen(worker, job.fps)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.communicate()
    if len(seen) < LEAST:
        return {"error": f"{len(seen)} frames"}
    # A frame may be there before the camera has noted that it was sent.
    late = [at - sent[number][place - 1] for number, at in seen
            if 0 <= number < len(clip) and (place := bisect.bisect(sent[number], at + SOON))]  # fmt: skip
    if not late:
        return {"error": "no number in any frame"}
    late = sorted(one * 1e3 for one in late)
    return {
        "p50_ms": statistics.median(late),
        "p95_ms": late[min(len(late) - 1, round(0.95 * len(late)))],
        "frames": len(late),
        "sent": job.fps * (seen[-1][1] - seen[0][1]) + 1,
    } | words


def listen(worker: subprocess.Popen[bytes], fps: int) -> tuple[list[tuple[int, float]], dict[str, str]]:
    """What it had of the frames that count: their numbers, and when."""
    assert worker.stdout is not None
    seen: list[tuple[int, float]] = []
    words: dict[str, str] = {}
    buffer, deadline, count, first = b"", time.monotonic() + OPEN, 0, 0.0
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([worker.stdout], [], [], left)[0]:
            break
        if not (data := os.read(worker.stdout.fileno(), 1 << 16)):
            break
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            what, value = line.decode().split(maxsplit=1)
            if not what.lstrip("-").isdigit():
                words[what] = value
                continue
            at = float(value)
            count, first = count + 1, first or at
            if count == 1:
                warm = max(WARM / fps, WARM_SECONDS)
                deadline = first + warm + max((LEAST + 0.5) / fps, SECONDS)
            elif at - first > warm:
                seen.append((int(what), at))
    return seen, words


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="1080p at 1 and 25 fps, in two minutes")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=tuple(REGISTRY), help="these contenders")
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), help="(all; short: 1080p)")
    parser.add_argument("--rates", nargs="+", type=int, metavar="FPS", help="(1 5 15 25 60; short: 1 25)")
    parser.add_argument(
        "--out", type=Path, help="folder for the report (benchmarks/report; short: build/bench-short)"
    )
    parser.add_argument("--list", action="store_true", help="name the contenders and what each does")
    args = parser.parse_args()
    if args.list:
        for name, contender in REGISTRY.items():
            print(f"{name:14} {contender.note}")
        return 0
    names = args.only or (SHORT if args.short else tuple(REGISTRY))
    sizes = args.sizes or (("1080p",) if args.short else tuple(SIZES))
    rates = args.rates or ((1, 25) if args.short else RATES)
    out = args.out or (ROOT / "build" / "bench-short" if args.short else HERE / "report")
    print("preparing the footage ...", end="", file=sys.stderr, flush=True)
    video = footage.bikes(ROOT / ".cache")
    clips = {size: units(size, video, ROOT / ".cache") for size in sizes}
    machine = describe(REGISTRY, list(names))
    decode = {size: bare_decode(clips[size]) for size in sizes}
    jobs = [Job(name, size, fps) for size in sizes for fps in rates for name in names]
    results: dict[str, Any] = {}
    started = time.monotonic()
    for number, job in enumerate(jobs, start=1):
        print(f"\r{number}/{len(jobs)} {job.key:40}", end="", file=sys.stderr, flush=True)
        results[job.key] = vars(job) | measure(job, clips[job.size])
    print(f"\r{'':60}\r", end="", file=sys.stderr)
    report = {
        "machine": machine,
        "seconds": round(time.monotonic() - started, 1),
        "notes": {name: REGISTRY[name].note for name in names},
        "sizes": {
            size: {"decode_ms": decode[size], "bytes": sum(map(len, clips[size])) / FRAMES} for size in sizes
        },
        "rates": list(rates),
        "results": results,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    write_report(report, out)
    print(summary(report))
    print(f"{report['seconds']:.0f} s; the whole report: {out / 'latency.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
