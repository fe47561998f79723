# SPDX-License-Identifier: MIT
"""What programs and webhooks have in common: who gets an event."""

from __future__ import annotations

from typing import Protocol


class Undelivered(Exception):
    """It was not taken. The text has neither addresses nor secrets. `again`: it may be, another time."""

    def __init__(self, text: str, *, again: bool) -> None:
        super().__init__(text)
        self.again = again


class Receiver(Protocol):
    """Gets events, one after the other."""

    async def deliver(self, body: bytes, code: str, camera: str) -> None:
        """Raises Undelivered. Cancelling it, as its time-out does, leaves nothing behind."""

    async def aclose(self) -> None:
        """Idempotent."""
