# SPDX-License-Identifier: MIT
"""`valkka-async doctor`: what this machine has and lacks, and how to fix it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from valkka_async.cli.doctor import capacity, link, machine, media, servers
from valkka_async.cli.doctor.check import OK, PROBLEM, WARNING, Check, Look, look_at

_LOOKS: dict[str, Look] = {
    "Python": machine.python,
    "kernel": machine.kernel,
    "descriptors": machine.descriptors,
    "memory": machine.memory,
    "cores": machine.cores,
    "UDP": machine.udp,
    "clock": machine.clock,
    "video": media.video,
    "libraries": media.libraries,
    "service": media.service,
    "cameras": capacity.cameras,
    "directory": servers.directory,
    "servers": servers.running,
    "links": link.links,
}
_WIDE = 250  # columns without a terminal: a pipe should get lines in full
_COLOURS = {OK: "green", WARNING: "yellow", PROBLEM: "bold red"}


def doctor(*, as_json: bool) -> bool:
    """Look at everything and print it. False if something does not work. Takes two seconds or three."""
    checks = [check for name, look in _LOOKS.items() for check in look_at(name, look)]
    good = all(check.state != PROBLEM for check in checks)
    if as_json:
        print(json.dumps({"ok": good, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _print(checks)
    return good


def _print(checks: list[Check]) -> None:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for check in checks:
        grid.add_row(Text(check.state, style=_COLOURS[check.state]), Text(check.name), Text(check.found))
        if check.fix:
            grid.add_row("", "", Text(f"fix: {check.fix}", style="dim"))
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    console.print(grid)
    counts = {state: sum(check.state == state for check in checks) for state in (WARNING, PROBLEM)}
    said = [f"{n} {state}{'' if n == 1 else 's'}" for state, n in counts.items() if n]
    console.print(Text(", ".join(said) or "all is well"))
