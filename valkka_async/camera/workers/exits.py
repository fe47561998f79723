# SPDX-License-Identifier: MIT
"""How a process ended."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from valkka_async.camera.workers.status import WorkerEnd


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended; `text` follows "the worker process". `signal`: the name of one that killed it.
    `words`: where its threads were when it crashed, in lines."""

    end: WorkerEnd
    text: str
    signal: str = ""
    words: str = ""


def ended(status: int | None) -> Exit:
    """How a process ended; `status` is Popen's; None: nobody knows."""
    if status is None:
        return Exit(WorkerEnd.UNKNOWN, "ended, and how is not known")
    if status >= 0:
        return Exit(WorkerEnd.EXITED, f"ended with status {status}")
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal
        name = f"signal {-status}"
    return Exit(WorkerEnd.KILLED, f"was killed by {name}", name)
