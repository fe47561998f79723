# SPDX-License-Identifier: MIT
"""`valkka-async top`: cameras, their rings and the readers of these, as a live table."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from valkka_async.cli.figures import Collector, Figures
from valkka_async.cli.lines import put
from valkka_async.cli.survey import ANSWER_SECONDS, Survey
from valkka_async.cli.topview import View, document, lines, widths
from valkka_async.ring.rendezvous import runtime_dir
from valkka_async.service.status import ServiceStatus

_INTERVAL = 1.0  # s from look to look
_PATIENCE = 0.5  # s for what is slow to answer, before the rest is shown without it


async def top(names: list[str] | None = None, *, as_json: bool = False, once: bool = False) -> None:
    """For ever, or once. Raises ConnectError."""
    async with Top(names) as view:
        if once:
            await view.show_once(as_json=as_json)
        elif as_json:
            await view.show_json()
        else:
            await view.show()


class Top:
    """The view of `top`, for programs that have `notes` below the table or something to `say` above it::

        async with Top(["demo*"], notes=["Ctrl-C ends it"], services={"demo": service.status}) as view:
            view.say("demo1 stalls on purpose")
            await view.show()      # for ever

    `names` are those of cameras and of servers, or patterns as "cam*"; None: all that there are. A name that
    is not there has a row that says so. `services` are those of this process, by name, with what tells their
    status; others are asked through their control sockets. Raises ConnectError if the runtime directory
    cannot be trusted.
    """

    def __init__(
        self,
        names: Iterable[str] | None = None,
        *,
        notes: Iterable[str] = (),
        services: Mapping[str, Callable[[], ServiceStatus]] | None = None,
    ) -> None:
        self._hint = f"nothing is running in {runtime_dir()}; start some cameras with: valkka-async demo"
        self._survey = Survey(services)
        self._collector = Collector(names)
        self._notes = [Text(note, style="dim", overflow="fold") for note in notes]
        self._console = Console(highlight=False)
        self.terminal = sys.stdout.isatty() and not self._console.is_dumb_terminal

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._survey.__aexit__(kind, error, trace)

    def say(self, line: str) -> None:
        """A line that stays."""
        if self.terminal:
            self._console.print(Text(line))
        else:
            print(line, flush=True)

    async def figures(self, patience: float = _PATIENCE) -> Figures:
        """How all is now. Rates are those of the last seconds, measured from call to call."""
        return self._collector.take(await self._survey.look(patience))

    async def show(self) -> None:
        """For ever: a table on a terminal, else lines."""
        if self.terminal:
            await self._show_table()
        else:
            await self._show_lines()

    async def show_json(self) -> None:
        """For ever: a JSON document on a line, for each interval."""
        await self.figures()  # from which the first rates are measured
        while True:
            await asyncio.sleep(_INTERVAL)
            await put(json.dumps(document(await self.figures())))

    async def show_once(self, *, as_json: bool = False) -> None:
        """What happened in an interval: all rows, and names in full however narrow the terminal is."""
        figures = await self.figures(ANSWER_SECONDS)  # what hangs is found out now
        if figures.cameras or figures.servers:
            await asyncio.sleep(_INTERVAL)
            figures = await self.figures(_INTERVAL)
        if as_json:
            print(json.dumps(document(figures), indent=2))
            return
        least, full = widths(figures)
        width = max(least, self._console.width) if self.terminal else full
        Console(width=width, highlight=False).print(View(figures, self._notes, hint=self._hint))

    async def _show_table(self) -> None:
        figures = await self.figures()
        with Live(self._view(figures), console=self._console, auto_refresh=False) as live:
            live.refresh()
            while True:
                await asyncio.sleep(_INTERVAL)
                live.update(self._view(await self.figures()), refresh=True)

    def _view(self, figures: Figures) -> View:
        return View(figures, self._notes, self._console.height - 1, self._hint)

    async def _show_lines(self) -> None:
        await self.figures()
        while True:
            await asyncio.sleep(_INTERVAL)
            for line in lines(await self.figures()):
                await put(line)
