# SPDX-License-Identifier: MIT
"""The README's table of figures, from benchmarks/report/report.json.

python benchmarks/readme.py           writes it between the markers
python benchmarks/readme.py --check   says whether it is what the report gives
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
REPORT = Path(__file__).parent / "report" / "report.json"
BEGIN, END = "<!-- figures: benchmarks/readme.py -->", "<!-- end of figures -->"

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


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = f"{before}{BEGIN}\n{table(json.loads(REPORT.read_text()))}\n{END}{after}"
    if "--check" in sys.argv:
        return 0 if wanted == text else 1
    readme.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
