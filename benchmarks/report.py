# SPDX-License-Identifier: MIT
"""What was measured, as JSON, as Markdown, as a picture, and as a few lines for the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
SIZES = ("270p", "1080p", "4K")


def figure(value: float | None, digits: int = 3) -> str:
    """A number with as many digits as mean something; "-" for none."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def ratio(value: float | None, base: float | None) -> str:
    return "-" if not value or not base else f"{value / base:.2f}"


class Table:
    """Markdown, with columns of one width so that it can be read as text too."""

    def __init__(self, *heads: str) -> None:
        self.rows: list[list[str]] = [list(heads)]

    def add(self, *cells: str) -> None:
        self.rows.append(list(cells))

    def __str__(self) -> str:
        widths = [max(len(row[i]) for row in self.rows) for i in range(len(self.rows[0]))]

        def line(cells: Iterable[str]) -> str:
            padded = [
                c.ljust(w) if i == 0 else c.rjust(w)
                for i, (c, w) in enumerate(zip(cells, widths, strict=True))
            ]
            return f"| {' | '.join(padded)} |"

        rule = [f"{'-' * (w - 1)}{'-' if i == 0 else ':'}" for i, w in enumerate(widths)]
        return "\n".join([line(self.rows[0]), line(rule), *map(line, self.rows[1:])])


class Results:
    """The results of a report, found by what was measured."""

    def __init__(self, report: dict[str, Any]) -> None:
        self.report = report
        self.rows: list[Row] = list(report["results"].values())

    def of(self, work: str, **where: Any) -> list[Row]:
        return [r for r in self.rows if r["work"] == work and all(r[k] == v for k, v in where.items())]

    def get(self, work: str, contender: str, key: str, **where: Any) -> float | None:
        for row in self.of(work, contender=contender, **where):
            return row.get(key)
        return None

    def family(self, row: Row) -> str:
        return str(self.report["families"][row["contender"]])


# ---------------------------------------------------------------------------------------- tables


def failed(table: Table, row: Row, columns: int) -> bool:
    if "error" not in row:
        return False
    table.add(row["contender"], "failed", *["-"] * (columns - 2))
    return True


def latency(results: Results, size: str) -> Table:
    table = Table(
        "contender", "p50 us", "p99 us", "in hand p50", "x floor-hot", "x floor-asyncio", "CPU us/frame"
    )
    base = [results.get("stream", f, "touched_p50_us", size=size) for f in ("floor-hot", "floor-asyncio")]
    for row in results.of("stream", size=size):
        if not failed(table, row, 7):
            p50 = row.get("touched_p50_us")
            table.add(
                row["contender"], figure(p50), figure(row.get("touched_p99_us")),
                figure(row.get("hand_p50_us")), ratio(p50, base[0]), ratio(p50, base[1]),
                figure(row.get("paced_cpu_us")),
            )  # fmt: skip
    return table


def throughput(results: Results, work: str, **where: Any) -> Table:
    table = Table(
        "contender",
        "delivered/s",
        "x floor-hot",
        "published/s",
        "dropped",
        "torn",
        "CPU us/frame",
        "writer",
        "readers",
    )
    base = results.get(work, "floor-hot", "per_s", **where)
    for row in results.of(work, **where):
        if not failed(table, row, 9):
            table.add(
                row["contender"], figure(row.get("per_s")), ratio(row.get("per_s"), base),
                figure(row.get("published_per_s")), figure(row.get("dropped")), figure(row.get("torn")),
                figure(row.get("flood_cpu_us")), figure(row.get("flood_writer_cpu_us")),
                figure(row.get("flood_reader_cpu_us")),
            )  # fmt: skip
    return table


def paced_fan_out(results: Results, readers: int) -> Table:
    table = Table("contender", "p50 us", "p99 us", "x floor-hot", "CPU us/frame")
    base = results.get("fan-out", "floor-hot", "touched_p50_us", readers=readers)
    for row in results.of("fan-out", readers=readers):
        if not failed(table, row, 5):
            p50 = row.get("touched_p50_us")
            table.add(
                row["contender"], figure(p50), figure(row.get("touched_p99_us")), ratio(p50, base),
                figure(row.get("paced_cpu_us")),
            )  # fmt: skip
    return table


def resources(results: Results, size: str) -> Table:
    table = Table(
        "contender", "shared MB", "in frames", "all memory MB", "start to first frame ms", "import ms"
    )
    for row in results.of("stream", size=size):
        if not failed(table, row, 6):
            table.add(
                row["contender"], figure(row.get("shared_mb")), figure(row.get("shared_frames")),
                figure(row.get("pss_mb")), figure(row.get("start_ms")), figure(row.get("import_ms")),
            )  # fmt: skip
    return table


def channels(results: Results, number: int) -> Table:
    table = Table(
        "contender", "p50 us", "p99 us", "x floor-asyncio", "reader CPU us/frame", "x floor-asyncio",
        "writers' CPU", "delivered",
    )  # fmt: skip
    base = [
        results.get("channels", "floor-asyncio", k, channels=number)
        for k in ("touched_p50_us", "reader_cpu_us")
    ]
    for row in results.of("channels", channels=number):
        if not failed(table, row, 8):
            p50, cpu = row["touched_p50_us"], row["reader_cpu_us"]
            table.add(
                row["contender"], figure(p50), figure(row["touched_p99_us"]), ratio(p50, base[0]),
                figure(cpu), ratio(cpu, base[1]), figure(row["writer_cpu_us"]), f"{row['delivered']:.1%}",
            )  # fmt: skip
    return table


# ---------------------------------------------------------------------------------------- targets


def targets(results: Results) -> Table:
    """The ratios this library is meant to reach, each beside what it reached."""
    table = Table("what", "is", "should be", "")

    def check(what: str, value: float | None, limit: float, at_least: bool) -> None:
        if value is None:
            return
        ok = value >= limit if at_least else value <= limit
        table.add(what, f"{value:.2f}", f"{'>=' if at_least else '<='} {limit:g}", "yes" if ok else "NO")

    def best(
        work: str, key: str, family: str, pick: Callable[[list[float]], float], **where: Any
    ) -> float | None:
        values = [
            r[key] for r in results.of(work, **where)
            if results.family(r) == family and r["contender"] != "va-loan" and r.get(key)
        ]  # fmt: skip
        return pick(values) if values else None

    def over(a: float | None, b: float | None) -> float | None:
        return a / b if a and b else None

    for size in SIZES:
        where = {"size": size}
        ours = best("stream", "per_s", "ours", max, **where)
        if size != "270p":
            floor = results.get("stream", "floor-hot", "per_s", **where)
            check(f"{size}: frames/s, best of ours over floor-hot", over(ours, floor), 0.97, True)
        peer = best("stream", "per_s", "peer", max, **where)
        check(f"{size}: frames/s, best of ours over best peer", over(ours, peer), 1, True)
    for size in SIZES:
        where = {"size": size}
        floor = results.get("stream", "floor-asyncio", "touched_p50_us", **where)
        for name in ("va-asyncio", "va-uvloop"):
            p50 = results.get("stream", name, "touched_p50_us", **where)
            check(f"{size}: p50 latency, {name} over floor-asyncio", over(p50, floor), 1, False)
        peer = best("stream", "touched_p50_us", "peer", min, **where)
        for name in ("va-asyncio", "va-uvloop", "va-attach"):
            p50 = results.get("stream", name, "touched_p50_us", **where)
            check(f"{size}: p50 latency, {name} over best peer", over(p50, peer), 1, False)
    loan = [results.get("stream", "va-loan", "touched_p50_us", size=s) for s in ("4K", "270p")]
    check("p50 latency, va-loan at 4K over 270p", over(*loan), 1.5, False)
    loan = [results.get("stream", "va-loan", "hand_p50_us", size=s) for s in ("4K", "270p")]
    check("the same, untouched", over(*loan), 1.5, False)
    for readers in (4, 16):
        where = {"readers": readers}
        ours = best("fan-out", "per_s", "ours", max, **where)
        floor = results.get("fan-out", "floor-hot", "per_s", **where)
        check(
            f"{readers} readers: sum of frames/s, best of ours over floor-hot", over(ours, floor), 0.95, True
        )
        cpu = [best("fan-out", "paced_cpu_us", f, min, **where) for f in ("ours", "peer")]
        check(
            f"{readers} readers: CPU per frame at 30 fps, best of ours over best peer", over(*cpu), 1, False
        )
    for size in SIZES:
        for key, what in (("paced_cpu_us", "at 30 fps"), ("flood_cpu_us", "at full speed")):
            cpu = [best("stream", key, f, min, size=size) for f in ("ours", "peer")]
            check(
                f"{size}: CPU per delivered frame {what}, best of ours over best peer", over(*cpu), 1, False
            )
    for key, what in (("reader_cpu_us", "reader CPU"), ("touched_p50_us", "p50 latency")):
        for ours, floor in (("va-merge", "floor-asyncio"), ("va-merge-uvloop", "floor-uvloop")):
            values = [results.get("channels", c, key, channels=64) for c in (ours, floor)]
            check(f"64 channels: {what}, {ours} over {floor}", over(*values), 1, False)
    for name in ("va-merge", "va-merge-uvloop", "va-clients", "va-clients-uvloop"):
        cpu = [results.get("channels", name, "reader_cpu_us", channels=n) for n in (1000, 64)]
        check(f"{name}: reader CPU per frame, 1000 channels over 64", over(*cpu), 1.3, False)
    for name in ("va-asyncio", "va-attach"):
        check(
            f"1080p: slots that {name} touches (3, and 1 that its reader holds)",
            results.get("stream", name, "shared_frames", size="1080p"), 4.05, False,
        )  # fmt: skip
    return table


# ---------------------------------------------------------------------------------------- report


def machine(report: dict[str, Any]) -> str:
    m = report["machine"]
    packages = ", ".join(f"{k} {v}" for k, v in m["packages"].items())
    return (
        f"{m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB; {m['kernel']}, {m['libc']}; {m['python']}; "
        f"load before the run {m['load_before']}.\n\n{packages}."
    )


def write_report(report: dict[str, Any], folder: Path) -> None:
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    results = Results(report)
    parts = [
        "# Benchmark report",
        machine(report),
        f"Medians of {report['rounds']} rounds, contenders in turn; {report['seconds']:.0f} s in all. "
        "Compare ratios within this report, not figures of two reports.",
    ]
    if plot(results, folder / "report.svg"):
        parts.append("![ratios](report.svg)")
    if len((checks := targets(results)).rows) > 1:
        parts += ["## Where we want to be", str(checks)]
    sizes = [s for s in SIZES if results.of("stream", size=s)]
    for size in sizes:
        parts += [
            f"## One reader, {size}: latency at 30 frames per second",
            "From just before publish until one byte of each page was read (p50, p99), and until the frame "
            "was in the reader's hand. CPU is that of writer and reader together, per delivered frame.",
            str(latency(results, size)),
        ]
    for size in sizes:
        parts += [
            f"## One reader, {size}: as fast as the writer can",
            "Lossy contenders publish more than is delivered. Torn: frames that changed while they were "
            "read, as far as first and last bytes tell. CPU of both sides per delivered frame, then the "
            "writer's per published frame and the readers' per delivered frame.",
            str(throughput(results, "stream", size=size)),
        ]
    for readers in sorted({r["readers"] for r in results.of("fan-out")}):
        parts += [
            f"## {readers} readers, 1080p: as fast as the writer can, summed",
            str(throughput(results, "fan-out", readers=readers)),
            f"## {readers} readers, 1080p: latency at 30 frames per second",
            str(paced_fan_out(results, readers)),
        ]
    for number in sorted({r["channels"] for r in results.of("channels")}):
        parts += [
            f"## {number} channels of 64x48 RGB into one process",
            "1,920 frames per second of all channels together, evenly spread, from two writer processes.",
            str(channels(results, number)),
        ]
    for size in sizes:
        parts += [
            f"## Memory and start, {size}",
            "Shared: what is resident of memfds and /dev/shm. All memory: growth of the proportional set "
            "size of writer and reader. Start: from before both sides open until the first frame was read, "
            "without imports.",
            str(resources(results, size)),
        ]
    parts += ["## What is measured", notes(report)]
    if errors := [r for r in results.rows if "error" in r or r.get("failed_rounds")]:
        parts += ["## What failed", "\n".join(failure(r) for r in errors)]
    (folder / "report.md").write_text("\n\n".join(parts) + "\n")


def failure(row: Row) -> str:
    text = row.get("error") or f"{len(row['failed_rounds'])} of its rounds: {row['failed_rounds'][-1]}"
    last = text.strip().splitlines()[-1]
    where = f"{row['channels']} channels" if row["channels"] else f"{row['readers']} readers"
    return f"- {row['contender']} ({row['work']}, {row['size']}, {where}): {last}"


def notes(report: dict[str, Any]) -> str:
    common = (
        "Everybody publishes the same random picture with a stamp in its first bytes. Python readers hold a "
        "numpy array. Rings and queues hold 8 frames (the hot floor: 2). Each measurement runs in fresh "
        "processes, unpinned."
    )
    return common + "\n\n" + "\n".join(f"- **{name}**: {note}." for name, note in report["notes"].items())


def summary(report: dict[str, Any]) -> str:
    results = Results(report)
    lines: list[str] = [machine(report).split("\n")[0]]
    for size in SIZES:
        if rows := results.of("stream", size=size):
            table = Table(
                f"{size}",
                "p50 us",
                "x floor-asyncio",
                "frames/s",
                "x floor-hot",
                "CPU us/frame",
                "frames resident",
            )
            p50 = results.get("stream", "floor-asyncio", "touched_p50_us", size=size)
            per_s = results.get("stream", "floor-hot", "per_s", size=size)
            for row in rows:
                if not failed(table, row, 7):
                    table.add(
                        row["contender"], figure(row.get("touched_p50_us")),
                        ratio(row.get("touched_p50_us"), p50), figure(row.get("per_s")),
                        ratio(row.get("per_s"), per_s), figure(row.get("paced_cpu_us")),
                        figure(row.get("shared_frames")),
                    )  # fmt: skip
            lines.append(str(table))
    for readers in sorted({r["readers"] for r in results.of("fan-out")}):
        table = Table(f"{readers} readers, 1080p", "p50 us", "frames/s", "x floor-hot", "CPU us/frame")
        per_s = results.get("fan-out", "floor-hot", "per_s", readers=readers)
        for row in results.of("fan-out", readers=readers):
            if not failed(table, row, 5):
                table.add(
                    row["contender"], figure(row.get("touched_p50_us")), figure(row.get("per_s")),
                    ratio(row.get("per_s"), per_s), figure(row.get("paced_cpu_us")),
                )  # fmt: skip
        lines.append(str(table))
    counts = sorted({r["channels"] for r in results.of("channels")})
    lines += [f"{n} channels of 64x48 into one process\n\n{channels(results, n)}" for n in counts]
    if len(table := targets(results).rows) > 1:
        missed = [row for row in table[1:] if row[3] == "NO"]
        said = [f"{len(table) - 1 - len(missed)} of {len(table) - 1} targets reached; not:"]
        said += [f"- {what}: {value}, should be {limit}" for what, value, limit, _ in missed]
        lines.append("\n".join(said))
    if errors := [failure(r) for r in results.rows if "error" in r or r.get("failed_rounds")]:
        lines.append("\n".join(["failed:", *errors]))
    return "\n\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------- picture


def plot(results: Results, path: Path) -> bool:
    """Latency, throughput, fan-out and channels as bars. False without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("svg")
        matplotlib.rcParams["svg.fonttype"] = "none"
        matplotlib.rcParams["svg.hashsalt"] = "valkka-async"
        import matplotlib.pyplot as plt
    except Exception:
        return False
    colours = {"floor": "#9a9a9a", "ours": "#c8553d", "peer": "#588b9c"}
    panels: list[tuple[str, list[Row], str, bool]] = [
        *(
            (f"p50 latency at 30 fps, {s} [us]", results.of("stream", size=s), "touched_p50_us", True)
            for s in SIZES
        ),
        *((f"frames/s at full speed, {s}", results.of("stream", size=s), "per_s", True) for s in SIZES),
        *(
            (f"frames/s, {n} readers, 1080p", results.of("fan-out", readers=n), "per_s", True)
            for n in (4, 16)
        ),
        ("64 channels: reader CPU [us/frame]", results.of("channels", channels=64), "reader_cpu_us", False),
    ]
    panels = [(title, [r for r in rows if r.get(key)], key, log) for title, rows, key, log in panels]
    panels = [p for p in panels if p[1]]
    if not panels:
        return False
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure_, axes = plt.subplots(lines, columns, figsize=(5.2 * columns, 4.2 * lines), squeeze=False)
    flat = [axis for row in axes for axis in row]
    for axis, (title, rows, key, log) in zip(flat, panels, strict=False):
        names = [r["contender"] for r in rows]
        axis.barh(names, [r[key] for r in rows], color=[colours[results.family(r)] for r in rows])
        axis.invert_yaxis()
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
        if log:
            axis.set_xscale("log")
        axis.spines[["top", "right"]].set_visible(False)
    for axis in flat[len(panels) :]:
        axis.set_visible(False)
    figure_.tight_layout()
    figure_.savefig(path, metadata={"Date": None})
    plt.close(figure_)
    return True
