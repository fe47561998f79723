# SPDX-License-Identifier: MIT
"""How soon cameras were there, as JSON, as Markdown, and as a few lines for the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from report import Table, figure, machine

AIMS = {  # what: (unit, job, figure, at most)
    "64 cameras (lavfi) live after `run`": ("s", "64/lavfi", "all_s", 5.0),
    "64 cameras (RTSP) live after `run`": ("s", "64/rtsp", "all_s", 5.0),
    "a worker that was killed: the next one is there": ("s", "restart", "restart_s", 0.2),
    "each of 64 cameras before its first frame": ("MB", "64/before", "before_mb", 15.5),
}
ROWS = {  # what is told of: [(job's kind, figure, words)]
    "start": [
        ("lavfi", "all_s", "lavfi: all live, s"),
        ("lavfi", "half_s", "lavfi: half of them, s"),
        ("lavfi", "first_s", "lavfi: the first one, s"),
        ("lavfi", "cpu_ms", "lavfi: CPU for each until then, ms"),
        ("rtsp", "all_s", "RTSP: all live, s"),
        ("rtsp", "half_s", "RTSP: half of them, s"),
        ("rtsp", "cpu_ms", "RTSP: CPU for each until then, ms"),
    ],
    "memory": [
        ("before", "before_mb", "before the first frame, MB"),
        ("lavfi", "live_mb", "lavfi, live, nothing decoded, MB"),
        ("rtsp", "live_mb", "RTSP, live, nothing decoded, MB"),
        ("read", "read_mb", "lavfi, each with a reader of rgb24, MB"),
    ],
}
RESTART = [
    ("fresh_s", "one more camera: its worker is there, s"),
    ("restart_s", "a worker that was killed: the next one is there, s"),
    ("restart_max_s", "the slowest of them, s"),
    ("relive_s", "and its camera is live, s"),
]


class Line:
    """The packages that a report names."""

    modules = ("valkka-async", "av")


def of(results: dict[str, Any], job: str, name: str) -> float | None:
    found = results.get(job, {}).get(name)
    return None if found is None else float(found)


def targets(report: dict[str, Any]) -> Table:
    beside = report.get("beside")
    made = Table("what", *(["before"] if beside else []), "is", "should be", "")
    for what, (unit, job, name, most) in AIMS.items():
        value = of(report["results"], job, name)
        if value is not None:
            before = [figure(of(beside, job, name))] if beside else []
            made.add(
                f"{what}, {unit}", *before, figure(value), f"<= {most:g}", "yes" if value <= most else "NO"
            )
    return made


def table(report: dict[str, Any], which: str) -> Table:
    counts, beside = report["counts"], report.get("beside")
    heads = [f"{count} cameras" for count in counts]
    made = Table("what", *(f"{head}{', before' * old}" for head in heads for old in _both(beside)))
    for kind, name, words in ROWS[which]:
        cells = [
            figure(of(beside if old else report["results"], f"{count}/{kind}", name))
            for count in counts
            for old in _both(beside)
        ]
        if set(cells) != {"-"}:
            made.add(words, *cells)
    return made


def _both(beside: object) -> tuple[bool, ...]:
    return (True, False) if beside else (False,)


def restarts(report: dict[str, Any]) -> Table:
    beside = report.get("beside")
    made = Table("what", *(["before"] if beside else []), "is")
    for name, words in RESTART:
        before = [figure(of(beside, "restart", name))] if beside else []
        made.add(words, *before, figure(of(report["results"], "restart", name)))
    return made


EXPLAINED = " ".join(
    """\
A service (`valkka-async run` with its page) is started with 16 and 64 cameras of one frame per second and
640x360: FFmpeg's test picture (lavfi), and H.264 over RTSP, from a camera on the same machine, which takes
its share of the cores. Time begins when the service's interpreter is started; a camera is live from its first
packet on. CPU is that of all processes below the service. Memory is PSS, which divides what processes share
among them: the sum of all processes below the service, divided by the cameras. Before the first frame, a
camera waits for a server that never answers. Workers are killed (SIGKILL) one at a time, in a program with 12
cameras.""".split("\n")
)


def write_report(report: dict[str, Any], folder: Path) -> None:
    (folder / "start.json").write_text(json.dumps(report, indent=1) + "\n")
    rounds = report["rounds"]
    parts = [
        "# How soon cameras are there",
        machine(report),
        f"Medians of {rounds} {'round' if rounds == 1 else 'rounds'}; {report['seconds']:.0f} s in all."
        + (
            " *Before* is what it was when each worker was an interpreter of its own, on the same machine."
            if report.get("beside")
            else ""
        )
        + (f" {report['note']}" if report.get("note") else ""),
        "## Where we want to be",
        str(targets(report)),
        "## What is measured",
        EXPLAINED,
        "## From `run` to live cameras",
        str(table(report, "start")),
        "## Memory for each camera",
        str(table(report, "memory")),
        "## One worker",
        str(restarts(report)),
    ]
    (folder / "start.md").write_text("\n\n".join(parts) + "\n")


def summary(report: dict[str, Any]) -> str:
    return "\n\n".join(map(str, (targets(report), table(report, "start"), table(report, "memory"))))
