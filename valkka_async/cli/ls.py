# SPDX-License-Identifier: MIT
"""`valkka-async ls`: the servers of this host, and what they say of themselves."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from valkka_async.cli.program import explain
from valkka_async.cli.shape import seconds
from valkka_async.errors import ConnectError
from valkka_async.ring.connection import report
from valkka_async.ring.rendezvous import runtime_dir, servers

_ANSWER_SECONDS = 1.0
_AT_ONCE = 32  # servers asked at a time: those that hang must not add up
_WIDE = 250  # columns when nobody looks: a pipe should get names in full


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    state: str  # "live", or how its camera is, or why there are no figures
    pid: int | None = None
    readers: int | None = None
    published: int | None = None
    dropped: int | None = None
    last_frame_age: float | None = None  # seconds


def ls(*, as_json: bool) -> None:
    """Print the list. Raises ConnectError if the runtime directory cannot be trusted."""
    names = servers()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        rows = [row for row in pool.map(_ask, names) if row is not None]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    elif rows:
        _print(rows)
    else:
        print(f"no servers in {runtime_dir()}; start one with: valkka-async demo")


def _ask(name: str) -> Row | None:
    """None for the socket that a killed server has left behind."""
    try:
        values = report(name, _ANSWER_SECONDS)
    except TimeoutError:
        return Row(name, "does not answer")
    except ConnectError as e:
        return Row(name, explain(e))
    if values is None:
        return None
    last, now = _number(values, "last_published_ns"), _number(values, "now_ns")
    return Row(
        name,
        _state(values.get("camera")),
        pid=_number(values, "pid"),
        readers=_number(values, "readers"),
        published=_number(values, "published"),
        dropped=_number(values, "dropped"),
        last_frame_age=(now - last) / 1e9 if now and last else None,
    )


def _state(camera: object) -> str:
    """A camera says how it is; any other server that answers is live."""
    if not isinstance(camera, dict):
        return "live"
    reason = camera.get("reason")
    return f"{camera.get('state')}: {reason}" if reason else str(camera.get("state"))


def _number(values: dict[str, object], key: str) -> int | None:
    value = values.get(key)
    return value if isinstance(value, int) else None


def _print(rows: list[Row]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("NAME", overflow="fold")
    for heading in ("PID", "READERS", "FRAMES", "DROPPED", "LAST FRAME"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("STATE")
    for row in rows:
        age = "never" if row.last_frame_age is None else f"{seconds(row.last_frame_age)} ago"
        figures = [row.pid, row.readers, row.published, row.dropped, age if row.pid is not None else None]
        cells = ["-" if x is None else str(x) for x in figures]
        state = Text(row.state, style="green" if row.state == "live" else "red")
        table.add_row(Text(row.name), *cells, state)
    Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False).print(table)
