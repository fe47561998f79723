# SPDX-License-Identifier: MIT
"""What programs and webhooks have in common: who gets an event."""

from __future__ import annotations

from typing import Protocol


class Undelivered(Exception):
    """It was not taken. `text` says why; str() has what the other side `said`, too. Neither has addresses or
    secrets of ours. `again`: it may be taken another time, so many seconds `after` this one at the
    earliest."""

    def __init__(self, text: str, *, again: bool, said: str = "", after: float = 0.0) -> None:
        super().__init__(f"{text}: {said}" if said else text)
        self.text = text
        self.again = again
        self.after = after


class Receiver(Protocol):
    """Gets events, one after the other."""

    async def deliver(self, body: bytes, code: str, camera: str) -> None:
        """Raises Undelivered. Cancelling it, as its time-out does, leaves nothing behind."""

    async def aclose(self) -> None:
        """Idempotent."""
