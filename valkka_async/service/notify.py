# SPDX-License-Identifier: MIT
"""Tells systemd how the service is: the protocol of sd_notify(3). Does nothing where nobody listens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator


class Manager:
    """The program that started us and wants to know how we are, if there is one.

    It is told in the order of sd_notify(3): READY=1 once we have started; RELOADING=1 only after that, each
    time with a READY=1 behind it; none of these after STOPPING=1. What cannot be sent is lost, which is no
    reason to fail. One socket serves for all, so it can be told when there are no descriptors left.
    """

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the NUL of an abstract socket.
        self._address = {"/": address, "@": "\0" + address[1:]}.get(address[:1], "")
        self._sock: socket.socket | None = None
        self._ready = False
        self._stopping = False

    def ready(self, status: str = "") -> None:
        """We have started. `status`: a line for people."""
        if not self._stopping:
            self._ready = True
            self._send("READY=1", *([f"STATUS={' '.join(status.split())}"] if status else []))

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """While in it, we read our config again, whether that succeeds or not."""
        if self._ready:
            self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            if self._ready and not self._stopping:
                self._send("READY=1")

    def stopping(self) -> None:
        """We end."""
        self._stopping = True
        self._send("STOPPING=1")

    async def watchdog(self) -> None:
        """For ever: say that the event loop runs, twice as often as WatchdogSec= asks for."""
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        pid = os.environ.get("WATCHDOG_PID", "")
        wanted = microseconds.isdecimal() and int(microseconds) > 0 and pid in ("", str(os.getpid()))
        if not (wanted and self._address):
            await asyncio.Event().wait()
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(int(microseconds) / 2e6)

    def close(self) -> None:
        """Nothing more is told. Idempotent."""
        self._address = ""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            if self._sock is None:
                self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._sock.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except OSError:
            pass
