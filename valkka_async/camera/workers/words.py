# SPDX-License-Identifier: MIT
"""The last words of a worker: where its threads were when it crashed. No PyAV here."""

from __future__ import annotations

import itertools
import os

_numbers = itertools.count(1)
_LONGEST = 64 << 10  # bytes that are read of them


class LastWords:
    """A file in memory into which a worker's faulthandler writes. The supervisor tells them with the rest of
    how it ended: on standard error they would be lines that belong to nobody. Raises OSError."""

    def __init__(self) -> None:
        self.fd = os.memfd_create(f"last words {next(_numbers)}", os.MFD_CLOEXEC)

    def read(self) -> str:
        """ "": there are none. May be called when it is closed."""
        return "" if self.fd < 0 else os.pread(self.fd, _LONGEST, 0).decode("utf-8", "replace").strip()

    def close(self) -> None:
        """Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
