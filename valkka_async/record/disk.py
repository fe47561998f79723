# SPDX-License-Identifier: MIT
"""Files written by a thread: a disk can take seconds, an event loop cannot.

The thread never leaves half a piece behind: one that could not be written is cut off again. Pieces wait in
a queue whose length in bytes is known (`pending`); to keep it short is up to who fills it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue


class Disk:
    """Writes one file after the other. All methods return at once; `changed` is called, in the thread,
    when a file is complete, when writing failed, when `pending` has fallen to `low` bytes, and at the end.

    After a failure nothing more is written; `error` says what it was.
    """

    def __init__(self, low: int, changed: Callable[[], object]) -> None:
        self.path: Path | None = None  # of the file that is being written
        self.error: OSError | None = None
        self.ended = False
        self.files = 0  # begun
        self.pieces = 0  # written
        self.bytes = 0
        self._low = low
        self._changed = changed
        self._given = 0  # bytes; only begin() and write() count here, only the thread in _taken
        self._taken = 0
        self._complete: SimpleQueue[Path] = SimpleQueue()
        self._jobs: SimpleQueue[tuple[Path | None, bytes | bytearray] | None] = SimpleQueue()
        self._fd = -1
        self._good = 0  # bytes of the file that are whole pieces
        self._wanted = Path()
        self._number = 1
        threading.Thread(target=self._run, name="valkka-disk", daemon=True).start()

    @property
    def pending(self) -> int:
        """Bytes that are still to be written."""
        return self._given - self._taken

    def begin(self, path: Path, data: bytes | bytearray) -> None:
        """Complete the file, and write the next one's first piece. If `path` is there already, "name-2.mp4",
        "name-3.mp4" and so on are tried; its folder is made."""
        self._given += len(data)
        self._jobs.put((path, data))

    def write(self, data: bytes | bytearray) -> None:
        """Write another piece, with one system call."""
        self._given += len(data)
        self._jobs.put((None, data))

    def finish(self) -> None:
        """Complete the file."""
        self._jobs.put((None, b""))

    def stop(self) -> None:
        """Complete the file once all is written, and end the thread."""
        self._jobs.put(None)

    def complete(self) -> list[Path]:
        """The files completed since this was last asked."""
        return [self._complete.get() for _ in range(self._complete.qsize())]

    # What follows runs in the thread.

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            path, data = job
            if self.error is None:
                try:
                    self._work(path, data)
                except OSError as e:
                    self.error = e.with_traceback(None)
                    self._close()
                    self._changed()
            before = self.pending
            self._taken += len(data)
            if before > self._low >= self.pending:
                self._changed()
        self._close()
        self.ended = True
        self._changed()

    def _work(self, path: Path | None, data: bytes | bytearray) -> None:
        if path is not None or not data:
            self._close()
        if path is not None:
            self._fd, self.path = self._create(path)
            self.files += 1
        if data and self._fd >= 0:
            self._write(data)
            self.pieces += 1
            self.bytes += len(data)

    def _create(self, path: Path) -> tuple[int, Path]:
        if path != self._wanted:
            self._wanted, self._number = path, 1
        with contextlib.suppress(FileExistsError):  # a file is in the way, which open() will say
            path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            mine = path if self._number == 1 else path.with_stem(f"{path.stem}-{self._number}")
            self._number += 1
            try:
                return os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), mine
            except FileExistsError:
                pass

    def _write(self, data: bytes | bytearray) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as e:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._good)
            raise OSError(e.errno, e.strerror, str(self.path)) from None
        self._good += len(data)

    def _close(self) -> None:
        if self._fd < 0:
            return
        fd, path, good = self._fd, self.path, self._good
        assert path is not None
        self._fd, self.path, self._good = -1, None, 0
        try:
            if not good:
                os.unlink(path)
            os.close(fd)  # on some file systems this is where a write fails
        except OSError as e:
            self.error = self.error or OSError(e.errno, e.strerror, str(path))
        if good:
            self._complete.put(path)
        self._changed()
