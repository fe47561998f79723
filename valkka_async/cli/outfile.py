# SPDX-License-Identifier: MIT
"""Files that commands make: whole or not at all, and no file is overwritten unasked."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path


def write(path: Path, blocks: Iterable[bytes], force: bool) -> None:
    """Write the file completely or not at all. Raises OSError, which names this path and no other, and what
    `blocks` raise."""
    aside = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            with open(fd, "wb") as out:
                for block in blocks:
                    out.write(block)
                out.flush()
                os.fsync(fd)
            if force:
                os.replace(aside, path)
            else:
                _link(aside, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside)
            raise
    except OSError as e:
        raise OSError(e.errno, e.strerror, str(path)) from None


def _link(aside: Path, path: Path) -> None:
    """Rename unless there is such a file."""
    try:
        os.link(aside, path)
    except FileExistsError:
        raise exists(str(path)) from None
    except OSError:  # a file system without hard links
        if path.exists():
            raise exists(str(path)) from None
        os.rename(aside, path)
    else:
        os.unlink(aside)


def exists(path: str) -> FileExistsError:
    return FileExistsError(
        errno.EEXIST, "exists already: choose another name, or overwrite it with --force", path
    )
