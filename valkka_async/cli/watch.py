# SPDX-License-Identifier: MIT
"""`valkka-async watch`: what arrives from servers, as a live table, or as lines when nobody looks."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

import valkka_async as va
from valkka_async.cli.board import Board, Figures, State
from valkka_async.cli.shape import seconds
from valkka_async.ring.rendezvous import runtime_dir

_REFRESH_SECONDS = 0.25
_TICKS_PER_LINE = 4  # without a terminal, one line per source each second
_COLOURS = {State.LIVE: "green", State.STALLED: "red", State.WAITING: "yellow"}

Say = Callable[[str], None]


async def watch(names: list[str]) -> None:
    """For ever. Raises InvalidNameError, ConnectError."""
    async with Watch(names) as view:
        await view.show()


class Watch:
    """The view of `watch`, for who has `notes` below the table, or something to `say` above it."""

    def __init__(self, names: list[str], *, notes: Iterable[str] = ()) -> None:
        runtime_dir()  # raises if it cannot be trusted
        self._board = Board(names)
        self._merge = va.merge(*names, policy="latest")
        self._notes = [Text(note, style="dim", overflow="fold") for note in notes]
        self._console = Console(highlight=False)
        self._terminal = sys.stdout.isatty() and not self._console.is_dumb_terminal

    async def __aenter__(self) -> Watch:
        await self._merge.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._merge.aclose()

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._terminal:
            self._console.print(Text(line))
        else:
            print(line, flush=True)

    async def show(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._receive())
            group.create_task(self._show_table() if self._terminal else self._show_lines())

    async def _receive(self) -> None:
        async for frame in self._merge:
            with frame:
                self._board.take(frame)

    def _figures(self) -> list[Figures]:
        stats = self._merge.stats()
        return self._board.figures({name: one is not None for name, one in stats.sources.items()})

    async def _show_table(self) -> None:
        with Live(self._table(), console=self._console, auto_refresh=False) as live:
            try:
                while True:
                    await asyncio.sleep(_REFRESH_SECONDS)
                    live.update(self._table(), refresh=True)
            finally:
                live.update(self._table())

    def _table(self) -> Group:
        rows = self._figures()
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        table.add_column("source", min_width=6)  # may be wrapped, so rich makes room here first; see below
        table.add_column("state", no_wrap=True, min_width=7)
        table.add_column("picture", no_wrap=True, overflow="ellipsis", min_width=9)
        for heading in ("fps", "age", "frames", "dropped"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in rows:
            name = Text(row.name, no_wrap=True, overflow="ellipsis")
            table.add_row(name, Text(row.state, style=_COLOURS[row.state]), *_cells(row))
        hint = [] if any(row.picture for row in rows) else [Text(_HINT, style="dim")]
        return Group(table, *self._notes, *hint)

    async def _show_lines(self) -> None:
        ticks = 0
        try:
            while True:
                # Figures are asked for at each tick, as the rate is measured from them.
                await asyncio.sleep(_REFRESH_SECONDS)
                rows = self._figures()
                ticks += 1
                if ticks % _TICKS_PER_LINE == 0:
                    _print_lines(rows)
        finally:
            if ticks < _TICKS_PER_LINE:  # it was a short look
                _print_lines(self._figures())


_HINT = "Nothing to see yet; `valkka-async demo` starts cameras, `valkka-async ls` lists servers."


def _cells(row: Figures) -> list[str]:
    return [
        row.picture or "-",
        "-" if row.fps is None else f"{row.fps:.1f}",
        "-" if row.age is None else seconds(row.age),
        str(row.received),
        str(row.dropped),
    ]


def _print_lines(rows: list[Figures]) -> None:
    for row in rows:
        picture, fps, age, frames, dropped = _cells(row)
        print(
            f"{row.name}  {row.state}  {picture}  {fps} fps  age {age}  {frames} frames  {dropped} dropped",
            flush=True,
        )
