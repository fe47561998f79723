# SPDX-License-Identifier: MIT
"""Anonymous shared memory: memfds, and the seals that make them safe to map.

No process can truncate sealed memory under another, and only the server can write a ring: it mapped the ring
before sealing it.
"""

from __future__ import annotations

import errno
import fcntl
import os

from valkka_async.errors import RingMemoryError
from valkka_async.foreign import pass_on
from valkka_async.ring import _shm

# linux/fcntl.h; Python 3.11 does not name the last
_FIXED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_FUTURE_WRITE = 0x0010

_SECCOMP = "a seccomp filter or the kernel forbids memfd_create: allow it in the container's profile"
_HINTS = {
    errno.EPERM: _SECCOMP,
    errno.EACCES: _SECCOMP,
    errno.ENOSYS: _SECCOMP,
    errno.EMFILE: "this process has too many files open: raise the limit (ulimit -n)",
    errno.ENFILE: "the system has too many files open: raise fs.file-max",
}


def make(name: str, size: int, fds: list[int]) -> int:
    """A memfd of this size, not yet sealed. It is noted in ``fds``, which the caller closes, also when this
    raises RingMemoryError."""
    try:
        _shm.note(fds, os.memfd_create, name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fd = fds[-1]
        os.ftruncate(fd, size)
    except OSError as e:
        pass_on(e)
        hint = _HINTS.get(
            e.errno or 0, "use fewer slots or smaller frames, or raise the limit (ulimit -f -v)"
        )
        raise RingMemoryError(f"no memory for a ring of {size} bytes ({e.strerror}): {hint}") from None
    return fd


def seal(fd: int, *, writable: bool) -> None:
    """Fix its size. Unless `writable`, all maps made from now on are read-only."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _FIXED if writable else _FIXED | _FUTURE_WRITE)


def is_sealed(fd: int, size: int, *, writable: bool) -> bool:
    """Check memory of a server: its size is fixed and, unless `writable`, only the server writes it."""
    try:
        held = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as e:  # not a memfd
        pass_on(e)
        return False
    needed = fcntl.F_SEAL_SHRINK if writable else fcntl.F_SEAL_SHRINK | _FUTURE_WRITE
    return os.fstat(fd).st_size == size > 0 and held & needed == needed
