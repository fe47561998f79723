# SPDX-License-Identifier: MIT
"""Tells systemd how the service is: the protocol of sd_notify(3). Does nothing where nobody listens."""

from __future__ import annotations

import asyncio
import os
import socket
import time


def notify(*lines: str) -> None:
    """Send assignments such as "READY=1"; what cannot be sent is lost, as that is no reason to fail."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address[0] == "@":  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.sendto("\n".join(lines).encode(), address)
        except OSError:
            pass


def reloading() -> None:
    """Say that a reload has begun; notify("READY=1") says that it is over."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


async def watchdog() -> None:
    """For ever: say that the event loop runs, twice as often as WatchdogSec= asks for."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or (pid and pid != str(os.getpid())):
        await asyncio.Event().wait()
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(int(microseconds) / 2e6)
