# SPDX-License-Identifier: MIT
"""How late frames were, as JSON, as Markdown, and as a few lines for the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from report import Table, figure, machine

MORE = 3.0  # ms that our median may be over the bare decode
EQUAL = 0.5  # ms that make no difference: one more process, and what a run differs from the next
OURS = ("va", "va-yuv420p")


def median(report: dict[str, Any], size: str, fps: int, name: str) -> float | None:
    found = report["results"].get(f"{size}/{fps}/{name}", {}).get("p50_ms")
    return None if found is None else float(found)


def table(report: dict[str, Any], size: str, *, worst: bool = True) -> Table:
    """A row for each contender: the median, and what one in twenty frames exceeds, at each rate."""
    made = Table("ms", *(f"{fps} fps" for fps in report["rates"]))
    for name in report["notes"]:
        cells = []
        for fps in report["rates"]:
            row = report["results"].get(f"{size}/{fps}/{name}", {})
            if "p50_ms" not in row:
                cells.append(f"failed: {row['error']}" if "error" in row else "-")
            elif worst:
                cells.append(f"{figure(row['p50_ms'])} ({figure(row['p95_ms'])})")
            else:
                cells.append(figure(row["p50_ms"]))
        made.add(name, *cells)
    return made


def targets(report: dict[str, Any]) -> Table:
    made = Table("what", "is", "should be", "")
    for size, about in report["sizes"].items():
        for fps in report["rates"]:
            ours = median(report, size, fps, "va")
            if ours is None:
                continue
            aim = about["decode_ms"] + MORE
            what = f"{size} at {fps} fps: ms, median"
            made.add(what, figure(ours), f"<= {figure(aim)}", "yes" if ours <= aim else "NO")
            others = [median(report, size, fps, name) for name in report["notes"] if name not in OURS]
            best = min((one for one in others if one is not None), default=None)
            least = min(one for name in OURS if (one := median(report, size, fps, name)) is not None)
            if best is not None:
                made.add(
                    f"{size} at {fps} fps: the better of ours, beside the best other", figure(least),
                    f"<= {figure(best)} + {EQUAL}", "yes" if least <= best + EQUAL else "NO",
                )  # fmt: skip
    return made


def explained(report: dict[str, Any]) -> str:
    decode = ", ".join(f"{size} {figure(about['decode_ms'])} ms" for size, about in report["sizes"].items())
    parts = [
        "From the moment when a frame's last packet was sent until the decoded frame was in the receiver's "
        "hands; the median, and in parentheses the time that one frame in twenty exceeds. H.264 with one "
        "slice, no B-frames and a key frame every 30, over RTSP (TCP) on loopback, from a camera in a "
        "process of its own; one contender at a time, each in a fresh process. The first second, and the "
        f"first five frames, do not count. Bare decode, with one thread: {decode}.",
        "\n".join(f"- **{name}**: {note}." for name, note in report["notes"].items()),
    ]
    decoders = {row["decoder"] for row in report["results"].values() if "decoder" in row}
    if decoders:
        parts.append(f"GStreamer's decoder: {', '.join(sorted(decoders))}.")
    return "\n\n".join(parts)


def write_report(report: dict[str, Any], folder: Path) -> None:
    (folder / "latency.json").write_text(json.dumps(report, indent=1) + "\n")
    parts = ["# How late a camera's frames are", machine(report), f"{report['seconds']:.0f} s in all."]
    if len((checks := targets(report)).rows) > 1:
        parts += ["## Where we want to be", str(checks)]
    parts += ["## What is measured", explained(report)]
    for size in report["sizes"]:
        parts += [f"## {size}", str(table(report, size))]
    (folder / "latency.md").write_text("\n\n".join(parts) + "\n")


def summary(report: dict[str, Any]) -> str:
    parts = [f"{size}\n\n{table(report, size)}" for size in report["sizes"]]
    return "\n\n".join([*parts, str(targets(report))]) + "\n"
