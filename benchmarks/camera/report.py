# SPDX-License-Identifier: MIT
"""What the cameras cost, as JSON, as Markdown, and as a few lines for the terminal."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from report import Row, Table, figure, machine, ratio

AIMS = {"va-nv12": 1.12, "va-rgb24": 1.27, "va-640x360": 1.2}  # over the bare decode, at 1080p
STAGES = ("receive", "decode", "convert", "publish", "mux")


class Results:
    def __init__(self, report: dict[str, Any]) -> None:
        self.report = report
        self.rows: list[Row] = list(report["results"].values())

    def of(self, clip: str, cameras: int, *, stages: bool = False) -> list[Row]:
        return [
            r for r in self.rows
            if r["clip"] == clip and r["cameras"] == cameras and r["stages"] == stages
        ]  # fmt: skip

    def ms(self, clip: str, cameras: int, contender: str) -> float | None:
        for row in self.of(clip, cameras):
            if row["contender"] == contender:
                return row.get("ms")
        return None

    def groups(self) -> list[tuple[str, int]]:
        return sorted({(r["clip"], r["cameras"]) for r in self.rows}, key=lambda g: (g[0][:3] != "108", g[1]))


def title(report: dict[str, Any], clip: str, cameras: int) -> str:
    c = report["clips"][clip]
    number = "one camera" if cameras == 1 else f"{cameras} cameras"
    return f"{c['width']}x{c['height']} at {c['fps']} frames per second, {c['mbit']:g} Mbit/s: {number}"


def costs(results: Results, clip: str, cameras: int) -> Table:
    table = Table(
        "contender", "CPU ms/frame", "x decode", "% of a core per camera", "delivered", "worst camera",
        "reader ms/frame", "RSS MB",
    )  # fmt: skip
    base = results.ms(clip, cameras, results.report["base"])
    for row in results.of(clip, cameras):
        if "error" in row:
            table.add(row["contender"], "failed", *["-"] * 6)
            continue
        table.add(
            row["contender"], f"{row['ms']:.2f}", ratio(row["ms"], base), f"{row['core']:.1%}",
            f"{row['delivered']:.0%}", f"{row['worst']:.0%}", figure(row.get("reader_cpu_ms")),
            figure(row["rss_mb"]),
        )  # fmt: skip
    return table


def stages(results: Results) -> Table:
    table = Table("cameras", *(f"{s} ms" for s in STAGES), "the rest ms", "all ms", "% of a core per camera")
    for row in results.rows:
        if row["stages"] and "error" not in row:
            parts = [row[f"stage_{s}_ms"] for s in STAGES]
            table.add(
                f"{row['cameras']} x {row['clip']}, {row['contender']}", *(f"{p:.3f}" for p in parts),
                f"{row['ms'] - sum(parts):.3f}", f"{row['ms']:.3f}", f"{row['core']:.1%}",
            )  # fmt: skip
    return table


def targets(results: Results) -> Table:
    table = Table("what", "is", "should be", "")
    for clip, cameras in results.groups():
        if not clip.startswith("1080p"):
            continue
        base = results.ms(clip, cameras, results.report["base"])
        for contender, aim in AIMS.items():
            ms = results.ms(clip, cameras, contender)
            if ms and base:
                what = f"{cameras} x 1080p at {results.report['clips'][clip]['fps']} fps"
                table.add(
                    f"{what}: CPU per frame, {contender} over {results.report['base']}",
                    f"{ms / base:.3f}", f"<= {aim:g}", "yes" if ms / base <= aim else "NO",
                )  # fmt: skip
    return table


def failures(results: Results) -> list[str]:
    lines = []
    for row in results.rows:
        errors = [row["error"]] if "error" in row else row.get("failed_rounds", [])
        if errors:
            last = errors[-1].strip().splitlines()[-1]
            lines.append(f"- {row['contender']} ({row['clip']}, {row['cameras']} cameras): {last}")
    return lines


def write_report(report: dict[str, Any], folder: Path) -> None:
    (folder / "cameras.json").write_text(json.dumps(report, indent=1) + "\n")
    results = Results(report)
    parts = [
        "# What a camera costs",
        machine(report),
        f"Medians of up to {max(r['rounds'] for r in results.rows)} rounds, contenders in turn; "
        f"{report['seconds']:.0f} s in all. Compare ratios within this report, not figures of two reports. "
        + company(results),
    ]
    if len((checks := targets(results)).rows) > 1:
        parts += ["## Where we want to be", str(checks)]
    parts += ["## What is measured", explained(report)]
    for clip, cameras in results.groups():
        if results.of(clip, cameras):
            parts += [f"## {title(report, clip, cameras)}", str(costs(results, clip, cameras))]
    if len((table := stages(results)).rows) > 1:
        parts += [
            "## Where the time goes",
            "CPU time of va.Camera's own steps, per frame of the camera: receive is FFmpeg's demuxer and the "
            "deadline around it, publish is what surrounds the conversion, the rest is Python between the "
            "steps, other threads, and the timers themselves.",
            str(table),
        ]
    if lines := failures(results):
        parts += ["## What failed", "\n".join(lines)]
    (folder / "cameras.md").write_text("\n\n".join(parts) + "\n")


def company(results: Results) -> str:
    """How busy the machine was with other things: then all figures are larger, and frames are late."""
    shares = [row["other_cores"] for row in results.rows if "other_cores" in row]
    if not shares:
        return ""
    return (
        f"Other processes took {statistics.median(shares):.2f} cores meanwhile (the median; our readers are "
        "among them)."
    )


def explained(report: dict[str, Any]) -> str:
    common = (
        f"Footage ({report['footage']}) as H.264 high profile with a key frame every 2 s, one slice and no "
        "B-frames, over TCP from an RTSP server in a process of its own (not counted), each camera with a "
        "clock of its own. CPU is user and system time of the contender's process after warm-up, per frame "
        "delivered; delivered is the part of the frames sent that came out at the end, on average and for "
        "the camera that fares worst (above 100 %: it had fallen behind and is catching up). Rings are read "
        "by one process, which has a column of its own and looks at one byte of each page. Others' frames "
        "are in their own memory, ours in shared memory, for any number of processes."
    )
    if any(c["fps"] == 10 for c in report["clips"].values()):
        common += (
            " 16 cameras of 1920x1080 send 10 frames per second: at 25 the decode alone takes two cores of "
            "the usual kind, and nothing would be left to compare."
        )
    return common + "\n\n" + "\n".join(f"- **{name}**: {note}." for name, note in report["notes"].items())


def summary(report: dict[str, Any]) -> str:
    results = Results(report)
    parts = [machine(report).split("\n")[0], company(results)]
    for clip, cameras in results.groups():
        if results.of(clip, cameras):
            parts.append(f"{title(report, clip, cameras)}\n\n{costs(results, clip, cameras)}")
    if len((table := stages(results)).rows) > 1:
        parts.append(str(table))
    if len((table := targets(results)).rows) > 1:
        parts.append(str(table))
    return "\n\n".join(parts + failures(results)) + "\n"
