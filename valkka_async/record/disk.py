# SPDX-License-Identifier: MIT
"""Files written by a thread: a disk can take seconds, an event loop cannot.

Each step is done as a whole or not at all: a piece that could not be written is cut off again, a file without
a whole piece is removed, and a descriptor is closed whatever fails before. Pieces wait in a queue. Its length
in bytes is known (`pending`), and callers keep it short.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol, TypeAlias

from valkka_async.foreign import start
from valkka_async.record.contents import READING, Contents

# Recordings show people. Their group may look at them, others may not, and a stricter umask is respected.
_FILE_MODE = 0o640
_FOLDER_MODE = 0o750
_Job: TypeAlias = "tuple[Path | None, bytes | bytearray, Contents | None]"
_LOOKS = 100  # at a lock that whoever asks has for a moment
_TRIES = 5  # at making a folder that somebody else removes, as a clean-up of empty ones does


class Journal(Protocol):
    """Is told of files, in the thread that writes them: it must neither block for long nor raise."""

    def begun(self, path: Path, contents: Contents) -> None:
        """A file has its first frame. `contents` grows with it, in another thread."""

    def ended(self, path: Path, contents: Contents | None) -> None:
        """It will not change any more. None: some of what was to be written is not in it."""


class Disk:
    """Writes one file after the other. All methods return at once; `changed` is called, in the thread,
    when a file is complete, when writing failed, when `pending` has fallen to `low` bytes, and at the end.

    After a failure nothing more is written; `error` says what it was. Raises OSError if there is no thread to
    be had.
    """

    def __init__(self, low: int, changed: Callable[[], object], journal: Journal | None = None) -> None:
        self.path: Path | None = None  # of the file that is being written
        self.error: OSError | None = None
        self.ended = False
        self.files = 0  # begun
        self.pieces = 0  # written
        self.bytes = 0
        self.written_ns: int | None = None  # when the last piece was written, Unix
        self.written_at: float | None = None  # the same, monotonic
        self._low = low
        self._changed = changed
        self._given = 0  # bytes; only begin() and write() count here, only the thread in _taken
        self._taken = 0
        self._complete: SimpleQueue[Path] = SimpleQueue()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._journal = journal
        self._contents: Contents | None = None  # of the file
        self._fd = -1
        self._good = 0  # bytes of the file that are whole pieces
        self._wanted = Path()
        self._number = 1
        start(threading.Thread(target=self._run, name="valkka-disk", daemon=True))

    @property
    def pending(self) -> int:
        """Bytes that are still to be written."""
        return self._given - self._taken

    def begin(self, path: Path, data: bytes | bytearray, contents: Contents | None = None) -> None:
        """Complete the file, and write the next one's first piece. If `path` is there already, "name-2.mp4",
        "name-3.mp4" and so on are tried. Its folder is made. `contents`: with which it will be completed."""
        self._given += len(data)
        self._jobs.put((path, data, contents))

    def write(self, data: bytes | bytearray) -> None:
        """Write another piece, with one system call."""
        self._given += len(data)
        self._jobs.put((None, data, None))

    def finish(self) -> None:
        """Complete the file."""
        self._jobs.put((None, b"", None))

    def stop(self) -> None:
        """Complete the file once all is written, and end the thread."""
        self._jobs.put(None)

    def complete(self) -> list[Path]:
        """The files completed since this was last asked."""
        return [self._complete.get() for _ in range(self._complete.qsize())]

    # What follows runs in the thread.

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                path, data, contents = job
                if self.error is None:
                    self._attempt(path, data, contents)
                before = self.pending
                self._taken += len(data)
                if before > self._low >= self.pending:
                    self._changed()
        finally:
            try:
                self._close()
            finally:
                self.ended = True
                self._changed()

    def _attempt(self, path: Path | None, data: bytes | bytearray, contents: Contents | None) -> None:
        try:
            self._work(path, data, contents)
        except Exception as e:
            self._fail(e, path)
            self._close()
            self._changed()

    def _work(self, path: Path | None, data: bytes | bytearray, contents: Contents | None) -> None:
        if path is not None or not data:
            self._close()
            if self.error is not None:
                return
        if path is not None:
            self._fd, self.path = self._create(path)
            self._contents = contents
            self.files += 1
        if data and self._fd >= 0:
            begins = not self._good
            self._check()
            self._write(data)
            self.pieces += 1
            self.written_ns, self.written_at = time.time_ns(), time.monotonic()
            self.bytes += len(data)
            if begins and self._journal is not None and self._contents is not None:
                assert self.path is not None
                self._journal.begun(self.path, self._contents)

    def _create(self, path: Path) -> tuple[int, Path]:
        if path != self._wanted:
            self._wanted, self._number = path, 1
        tries = _TRIES
        while True:
            mine = path if self._number == 1 else path.with_stem(f"{path.stem}-{self._number}")
            try:
                make_folder(path.parent)
                fd = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
            except FileExistsError:
                self._number += 1
            except FileNotFoundError:
                tries -= 1
                if not tries:
                    raise
            else:
                self._number += 1
                with contextlib.suppress(OSError):  # not all file systems have locks
                    _lock(fd)
                return fd, mine

    def _check(self) -> None:
        """Raises OSError where another program has taken away what was written: nobody would ever see the
        rest."""
        status = os.fstat(self._fd)
        if not status.st_nlink:
            raise OSError(errno.ENOENT, "another program has deleted it", str(self.path))
        if status.st_size < self._good:
            raise OSError(errno.EIO, "another program has cut it off", str(self.path))

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
        contents, whole = self._contents, self._complete_file()
        assert path is not None
        self._fd, self.path, self._good, self._contents = -1, None, 0, None
        try:
            try:
                if not good and _is(path, fd):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
            finally:
                with contextlib.suppress(OSError):  # a process that was forked meanwhile has the lock too
                    fcntl.flock(fd, fcntl.LOCK_UN)
                os.close(fd)  # on some file systems this is where a write fails
        except OSError as e:
            self._fail(e, path)
        if good:
            self._complete.put(path)
            if self._journal is not None and contents is not None:
                self._journal.ended(path, contents if whole else None)
        self._changed()

    def _complete_file(self) -> bool:
        """Write what a complete file ends with. False: not all that was to be in it is."""
        if self._contents is None or self._contents.size != self._good:
            return False
        if self.error is None:
            trailer = self._contents.trailer()
            try:
                self._write(trailer)
                self.bytes += len(trailer)
            except OSError as e:
                self._fail(e, self.path)
        return True

    def _fail(self, error: Exception, path: Path | None) -> None:
        """Keep the first error, as an OSError that names a file."""
        if self.error is not None:
            return
        number, text = errno.EINVAL, str(error)  # of a path that cannot be, for example
        if isinstance(error, OSError):
            number, text = error.errno or errno.EIO, error.strerror or text
            path = Path(error.filename) if isinstance(error.filename, str) else path
        self.error = OSError(number, text, None if path is None else str(path))


def make_folder(folder: Path) -> None:
    """Make it and what is above it, each with our mode (Path.mkdir() gives that to the last one only)."""
    try:
        os.mkdir(folder, _FOLDER_MODE)
    except FileNotFoundError:
        if folder.parent == folder:
            raise
        make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, _FOLDER_MODE)
    except OSError:  # it is there, as a rule; if a file is in the way, open() will say so
        if not os.path.lexists(folder):
            raise


def _lock(fd: int) -> None:
    """For as long as it is written. Raises OSError."""
    for _ in range(_LOOKS):
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # somebody asks in this moment whether it is written
            time.sleep(0.001)
    return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_written(path: Path) -> bool:
    """Does a Disk of any process write this file now? The kernel forgets the lock of one that is killed."""
    try:
        fd = os.open(path, READING)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as e:
        return isinstance(e, BlockingIOError)
    finally:
        os.close(fd)
    return False


def _is(path: Path, fd: int) -> bool:
    """Is the file of that name the one that is open? Another program may have put its own there."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False
