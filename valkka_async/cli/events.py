# SPDX-License-Identifier: MIT
"""`valkka-async events`: what happens, a line for each event."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

from valkka_async.cli import lines
from valkka_async.ring.events import Event
from valkka_async.ring.listening import events


async def show(cameras: Iterable[str], codes: Iterable[str], *, as_json: bool) -> None:
    """For ever. Raises InvalidNameError."""
    async with events(*cameras, codes=codes) as happening:
        async for event in happening:
            await lines.put(json.dumps(event.to_json()) if as_json else line(event))


def line(event: Event) -> str:
    """For people: 2026-11-30 14:00:00 front camera.failed: wrong password."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time_ns / 1e9))
    said = event.text or " ".join(
        f"{key}={_plain(value)}" for key, value in event.fields.items() if value is not None
    )
    text = f"{when} {event.camera} {event.code}" + (f": {said}" if said else "")
    if event.missed:
        text += f" ({event.missed} events before it were missed)"
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
