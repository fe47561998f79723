# SPDX-License-Identifier: MIT
"""The README's tables of figures, from report.json, latency.json and batches.json in benchmarks/report/.

python benchmarks/readme.py           writes them between the markers
python benchmarks/readme.py --check   says whether they are what the reports give
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
REPORTS = Path(__file__).parent / "report"
BEGIN, END = "<!-- figures: benchmarks/readme.py -->", "<!-- end of figures -->"
MODEL, MODEL_END = "<!-- batches: benchmarks/readme.py -->", "<!-- end of batches -->"
LATE, LATE_END = "<!-- latency: benchmarks/readme.py -->", "<!-- end of latency -->"

SIZES = ("270p", "1080p", "4K")
OURS = ("va-uvloop", "va-attach", "va-loan")


def value(results: dict[str, Any], key: str, field: str) -> float | None:
    found = results.get(key, {}).get(field)
    return float(found) if found is not None else None


def cells(report: dict[str, Any], contender: str, field: str, digits: int) -> str:
    row = []
    for size in SIZES:
        number = value(report["results"], f"stream/{size}/1/{contender}", field)
        row.append("-" if number is None else f"{number:,.{digits}f}")
    return " / ".join(row)


def label(contender: str) -> str:
    names = {
        "va-uvloop": "**`connect` on uvloop**",
        "va-asyncio": "**`connect` on asyncio**",
        "va-attach": "**`attach`**",
        "va-loan": "**`loan`, no copy, `connect`**",
        "floor-hot": "C floor, 2 hot slots, tears",
        "floor-asyncio": "the same floor under asyncio, tears",
    }
    return names.get(contender, contender)


def table(report: dict[str, Any]) -> str:
    families = report["families"]
    peers = [c for c, family in families.items() if family == "peer"]
    reached = report["results"]
    peers.sort(key=lambda c: value(reached, f"stream/1080p/1/{c}", "touched_p50_us") or 1e12)
    rows = ["floor-hot", "floor-asyncio", "va-asyncio", *OURS, *peers]
    m = report["machine"]
    lines = [
        "| one writer, one reader | latency at 30 frames/s, us | frames/s, flat out |",
        "|---|---|---|",
        *(
            f"| {label(c)} | {cells(report, c, 'touched_p50_us', 0)} | {cells(report, c, 'per_s', 0)} |"
            for c in rows
            if f"stream/1080p/1/{c}" in reached
        ),
        "",
        f"480x270 / 1920x1080 / 3840x2160 RGB; medians of {report['rounds']} rounds in one run; latency is",
        "from before `publish` until one byte of each page was read. Compare ratios, not figures:",
        f"{m['cpu']}, {m['cores']} cores, {m['kernel'].split('-')[0]}, {m['python']}.",
        "`make bench` makes [the whole report](benchmarks/report/report.md).",
    ]
    return "\n".join(lines)


LATE_NAMES = {
    "va": "**`va.Camera`, `attach`**, bgr24",
    "va-yuv420p": "**the same**, yuv420p",
    "pyav": "PyAV, bgr24",
    "cv2": "OpenCV, bgr24",
    "cv2-1": "OpenCV with one thread, bgr24",
    "ffmpeg": "ffmpeg to a pipe, yuv420p",
    "gst": "GStreamer `latency=0`, I420",
}


LATE_RATES = (1, 25, 60)  # the report has more


def latency(report: dict[str, Any]) -> str:
    rates = [fps for fps in report["rates"] if fps in LATE_RATES]

    def one(size: str, fps: int, name: str) -> str:
        number = value(report["results"], f"{size}/{fps}/{name}", "p50_ms")
        return "-" if number is None else f"{number:,.1f}" if number < 100 else f"{number:,.0f}"

    def cell(size: str, name: str) -> str:
        return " / ".join(one(size, fps, name) for fps in rates)

    m = report["machine"]
    decode = ", ".join(f"{size} {about['decode_ms']:.1f}" for size, about in report["sizes"].items())
    lines = [
        f"| ms from a frame's last packet to its pixels, at {' / '.join(map(str, rates))} fps | "
        + " | ".join(report["sizes"])
        + " |",
        "|---" * (len(report["sizes"]) + 1) + "|",
        *(
            f"| {LATE_NAMES[name]} | " + " | ".join(cell(size, name) for size in report["sizes"]) + " |"
            for name in report["notes"]
        ),
        "",
        f"H.264 over RTSP (TCP) on loopback; medians of one run. Decoding alone takes, in ms: {decode}.",
        f"{m['cpu']}, {m['cores']} cores, {m['kernel'].split('-')[0]}, {m['python']}.",
        "`make bench-latency` makes [the whole report](benchmarks/report/latency.md).",
    ]
    return "\n".join(lines)


def batches(report: dict[str, Any]) -> str:
    works = list(report["works"])
    fields = ("frames_per_s", "age_p50_ms", "age_p99_ms", "cpu_ms_per_frame")

    def cell(work: str, name: str) -> str:
        rounds = report["results"].get(f"{work}/{name}", [])
        if not rounds or any("error" in one for one in rounds):
            return "-"
        fps, p50, p99, cpu = (statistics.median(one[field] for one in rounds) for field in fields)
        per_batch = fps / statistics.median(one["batches_per_s"] for one in rounds)
        return f"{fps / per_batch:.1f} x {per_batch:.0f} / {p50:,.0f}, {p99:,.0f} / {cpu:.2f}"

    m = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["packages"].items() if name != "numpy")
    offered = ", ".join(f"{w}: {about['fps']} fps each" for w, about in report["works"].items())
    lines = [
        "| batches/s x frames / age of the oldest, ms (p50, p99) / CPU, ms a frame | "
        + " | ".join(works) + " |",
        "|---" * (len(works) + 1) + "|",
        *(
            f"| {about['label']} ({about['note']}) | " + " | ".join(cell(w, name) for w in works) + " |"
            for name, about in report["contenders"].items()
        ),
        "",
        f"Rings of bgr24 ({offered}) into (N, 640, 640, 3)",
        f"for a model that takes no time; medians of {report['rounds']} rounds in one run. The others read",
        f"the rings as a `cv2.VideoCapture`. {versions}.",
        f"{m['cpu']}, {m['cores']} cores, {m['kernel'].split('-')[0]}, {m['python']}; load before:",
        f"{m['load_before']}. `make bench-batches` makes it.",
    ]  # fmt: skip
    return "\n".join(lines)


def between(text: str, begin: str, end: str, new: str) -> str:
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{new}\n{end}{after}"


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text()
    wanted = between(text, BEGIN, END, table(json.loads((REPORTS / "report.json").read_text())))
    late = latency(json.loads((REPORTS / "latency.json").read_text()))
    wanted = between(wanted, LATE, LATE_END, late)
    many = batches(json.loads((REPORTS / "batches.json").read_text()))
    wanted = between(wanted, MODEL, MODEL_END, many)
    if "--check" in sys.argv:
        return 0 if wanted == text else 1
    readme.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
