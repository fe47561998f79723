# SPDX-License-Identifier: MIT
"""`valkka-async probe`: what a camera sends, or why it does not."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import asdict

from rich.console import Console
from rich.live import Live
from rich.text import Text

from valkka_async.camera.source.secrets import Address
from valkka_async.camera.spec import Transport
from valkka_async.cli.probe.findings import Findings, OtherWay
from valkka_async.cli.probe.session import Session
from valkka_async.cli.probe.words import lines
from valkka_async.errors import CameraAuthError, CameraBusyError, CameraNotFoundError

_TICK = 0.1
_LEAVE_SECONDS = 5.0  # for a thread that was told to stop; a DNS lookup cannot be interrupted
_OTHER_SECONDS = 5.0  # that the other transport gets to open, and to send a frame


class Probe:
    """One look at a source: `run()` it, then `tell()`. The source has `patience` seconds to open, and as many
    to send the next frame."""

    def __init__(
        self,
        address: Address,
        transport: Transport,
        seconds: float,
        *,
        patience: float = 10.0,
        input_format: str | None = None,
    ) -> None:
        self._address = address
        self._transport = transport
        self._seconds = seconds
        self._input_format = input_format
        self._patience = patience
        self._console = Console(stderr=True, highlight=False)
        self._terminal = sys.stderr.isatty() and not self._console.is_dumb_terminal
        self._findings: Findings | None = None

    async def run(self) -> None:
        """Look; tell() says what is wrong with the source. Cancelling ends the listening, and what has come
        by then counts."""
        # What goes wrong with a source is logged too, and once is enough.
        logging.getLogger("valkka_async.camera").setLevel(logging.CRITICAL)
        session = Session(self._address, self._transport, self._patience, self._input_format)
        await self._follow(session, self._seconds, "opening")
        self._findings = found = session.findings
        # No other way gets past a wrong password or path or too many viewers, and cameras lock accounts.
        told = isinstance(session.error, CameraAuthError | CameraNotFoundError | CameraBusyError)
        if session.error is not None and not told and not found.packets and self._address.scheme == "rtsp":
            found.other_way = await self._try_other()
            found.conclude()

    async def _try_other(self) -> OtherWay:
        other: Transport = "udp" if self._transport == "tcp" else "tcp"
        session = Session(self._address, other, min(self._patience, _OTHER_SECONDS))
        await self._follow(session, _TICK, f"trying {other.upper()} at")
        return OtherWay(other, session.findings.packets > 0, session.findings.error)

    async def _follow(self, session: Session, seconds: float, doing: str) -> None:
        """Let a session run, until it has listened for so long."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        work = asyncio.create_task(asyncio.to_thread(session.run, seconds))
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            try:
                while not work.done():
                    await asyncio.wait([work], timeout=_TICK)
                    session.finish_after(seconds)
                    if self._terminal:
                        live.update(
                            Text(self._progress(session, seconds, doing, loop.time() - began)), refresh=True
                        )
            except asyncio.CancelledError:
                session.stop()
                await asyncio.wait([work], timeout=_LEAVE_SECONDS)
                if work.done() and session.findings.packets:
                    self._findings = session.findings
                raise
        await work

    def _progress(self, session: Session, seconds: float, doing: str, took: float) -> str:
        frames = session.findings.packets
        if not frames:
            return f"{doing} {self._address} ... {took:.1f} s"
        listened = min(session.listened(), seconds)
        return f"listening to {self._address} ... {listened:.1f} of {seconds:g} s, {frames} frames"

    def tell(self, *, as_json: bool) -> str:
        """Print what was found. What is wrong, in a line; "" if the source can be used."""
        found = self._findings
        if found is None:
            return "stopped before anything was found"
        if as_json:
            print(json.dumps({"ok": not found.error} | asdict(found), indent=2))
        elif found.packets or found.advice:
            console = Console(highlight=False, soft_wrap=True)
            for line in lines(found):
                console.print(line)
        return found.error
