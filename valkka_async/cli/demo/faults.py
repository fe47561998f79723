# SPDX-License-Identifier: MIT
"""What `demo --fault` does to a camera every ten seconds, to show how it recovers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import Literal

from valkka_async.camera.status import CameraState
from valkka_async.cli.demo.fleet import CameraProcess, Say
from valkka_async.service.service import Service

Fault = Literal["stall", "drop", "resize", "kill"]

_EVERY = 10.0  # s from one to the next
_REST = 4.0  # s in between, at least, in which the camera is well
_LOOK = 0.1
_SECONDS = {"stall": 5.0, "drop": 3.0, "resize": 5.0}
_ANNOUNCED = {
    "stall": "stays connected and sends nothing",
    "drop": "cuts the connection and refuses others",
    "resize": "sends frames of half the size",
}


async def have_faults(fault: Fault, camera: CameraProcess, service: Service, say: Say) -> None:
    """For ever. The service's log tells how it deals with each."""
    due = 0.0
    while True:
        await _well(service, camera.name)
        due = max(due + _EVERY, time.monotonic() + _REST)
        await asyncio.sleep(due - time.monotonic())
        if fault == "kill":
            _kill(service, camera.name, say)
        else:
            seconds = _SECONDS[fault]
            say(f"{camera.name}: FAULT: {_ANNOUNCED[fault]} for {seconds:g} s")
            await camera.have(f"{fault} {seconds:g}")
            await asyncio.sleep(seconds)
            say(f"{camera.name}: the fault is over")


def _kill(service: Service, name: str, say: Say) -> None:
    camera = service.status().camera(name)
    pid = None if camera is None else camera.worker.pid
    if pid is None:  # it has just ended by itself
        return
    say(f"{name}: FAULT: its worker process {pid} is killed (SIGKILL)")
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def _well(service: Service, name: str) -> None:
    """Wait until the camera is live, by what came after now."""
    now = time.time_ns()
    while True:
        camera = service.status().camera(name)
        if camera is not None and camera.state is CameraState.LIVE and camera.camera.last_packet_ns > now:
            return
        await asyncio.sleep(_LOOK)
