# SPDX-License-Identifier: MIT
"""Who may catch up now: no more decoders at once than the machine has cores, in whichever processes they are.

A turn is an abstract address of a socket. The kernel gives each to one alone, and takes it back when that
one's process ends.
"""

from __future__ import annotations

import os
import socket

from valkka_async.ring import fork

_PREFIX = "\0valkka-async-catching-up"


class Turn:
    """A place among those that catch up. `idle`: among those for which nobody waits, which are counted by
    themselves. For one thread."""

    def __init__(self) -> None:
        self._held: socket.socket | None = None
        fork.in_child(self, Turn.give)  # or the child would keep it

    def take(self, *, idle: bool) -> bool:
        """Is there room? Does not wait."""
        name = f"{_PREFIX}-{os.getuid()}-{'idle' if idle else 'wanted'}"
        for place in range(len(os.sched_getaffinity(0))):
            if self._held is not None:
                break
            with fork.steady():
                one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                try:
                    one.bind(f"{name}-{place}")
                    self._held = one
                except OSError:  # another one has it
                    one.close()
        return self._held is not None

    def give(self) -> None:
        """Somebody else may. Idempotent."""
        held, self._held = self._held, None
        if held is not None:
            held.close()
