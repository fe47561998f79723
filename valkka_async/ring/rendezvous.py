# SPDX-License-Identifier: MIT
"""Where servers and readers find each other: the runtime directory, names, sockets and locks.

A server called NAME owns ``NAME.sock`` and holds a lock on ``NAME.lock``. The lock dies with the
process, so what a killed server leaves behind never blocks the next one. A service called NAME (service/)
owns ``NAME.control`` in the same way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import stat
from pathlib import Path

from valkka_async.errors import ConnectError, InvalidNameError, NameInUseError

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SOCKET_PATH_BYTES = 107  # sun_path less its end


def check_name(name: str) -> str:
    """The name, if it is one. Raises InvalidNameError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (".", ".."):
        raise InvalidNameError(f"{name!r} is not a name for a server: 1 to 64 of A-Z a-z 0-9 . _ -")
    return name


def runtime_dir(*, create: bool = False) -> Path:
    """The directory of the sockets; see DESIGN.md, "Finding each other".

    Raises ConnectError if what is there cannot be trusted.
    """
    explicit = os.environ.get("VALKKA_RUNTIME_DIR")
    if explicit:
        path = Path(explicit)
    elif base := os.environ.get("XDG_RUNTIME_DIR"):
        path = Path(base, "valkka-async")
    else:
        path = Path(f"/tmp/valkka-async-{os.geteuid()}")
    if create:
        try:
            path.mkdir(mode=0o700, exist_ok=True, parents=bool(explicit))
        except FileExistsError:
            pass  # not a directory: said below
        except OSError as e:
            raise ConnectError(e.errno, f"cannot make the runtime directory {path}: {e.strerror}") from None
    try:
        # One that the user named may be a link; the default in a world-writable place may not.
        st = os.stat(path) if explicit else os.lstat(path)
    except FileNotFoundError:
        return path
    except OSError as e:
        raise ConnectError(e.errno, f"cannot look at the runtime directory {path}: {e.strerror}") from None
    if not stat.S_ISDIR(st.st_mode):
        raise ConnectError(errno.ENOTDIR, f"{path} is not a directory: remove it, or set VALKKA_RUNTIME_DIR")
    if explicit:
        if st.st_mode & stat.S_IWOTH and not st.st_mode & stat.S_ISVTX:
            raise ConnectError(errno.EPERM, f"{path} may be written by anybody: chmod o-w {path}")
    elif st.st_uid != os.geteuid() or st.st_mode & 0o077:
        raise ConnectError(
            errno.EPERM, f"{path} is not this user's alone: remove it, or set VALKKA_RUNTIME_DIR"
        )
    return path


def socket_path(directory: Path, name: str, kind: str = "sock") -> str:
    """The path of a server's socket. Raises ConnectError if it is too long for a socket."""
    path = str(directory / f"{name}.{kind}")
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        raise ConnectError(
            errno.ENAMETOOLONG, f"{path} is too long for a socket: set VALKKA_RUNTIME_DIR to a shorter one"
        )
    return path


def servers(kind: str = "sock") -> list[str]:
    """Names that have a socket, sorted. A server that was killed may be among them. Raises ConnectError."""
    directory = runtime_dir()
    try:
        with os.scandir(directory) as entries:
            names = [e.name.removesuffix(f".{kind}") for e in entries if e.name.endswith(f".{kind}")]
    except FileNotFoundError:
        return []
    except OSError as e:
        raise ConnectError(e.errno, f"cannot look into {directory}: {e.strerror}") from None
    return sorted(n for n in names if _NAME.fullmatch(n))


def sweep(name: str) -> None:
    """Remove what a killed server left in the runtime directory; nothing if a live one has the name, or if
    that cannot be done."""
    try:
        directory = runtime_dir()
        lock_path = directory / f"{name}.lock"
        fd = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_ino == os.stat(lock_path).st_ino:  # else another has come and gone meanwhile
            for path in (directory / f"{name}.sock", directory / f"{name}~", lock_path):
                path.unlink(missing_ok=True)
    except OSError:
        pass
    finally:
        os.close(fd)


class Claim:
    """A server's hold on its name: the lock and the listening socket.

    Raises NameInUseError if a live server has it, ConnectError if the directory refuses.
    """

    def __init__(
        self,
        name: str,
        *,
        mode: int,
        group: int,
        backlog: int,
        kind: str = "sock",
        type: socket.SocketKind = socket.SOCK_SEQPACKET,
    ) -> None:
        directory = runtime_dir(create=True)
        stem = name if kind == "sock" else f"{name}.{kind}"
        self._type = type
        self._socket_path = socket_path(directory, name, kind)
        self._aside = str(directory / f"{stem}~")
        self._lock_path = str(directory / f"{stem}.lock")
        try:
            self._lock = self._take_lock(name)
        except PermissionError as e:
            raise ConnectError(e.errno, f"cannot write to {directory}: {e.strerror}") from None
        try:
            self.listener = self._listen(mode, group, backlog)
        except BaseException:
            self._drop_lock()
            raise

    def _take_lock(self, name: str) -> int:
        while True:
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
                os.close(fd)
                by = f" by process {pid}" if pid else ""
                raise NameInUseError(
                    errno.EADDRINUSE, f"{name!r} is served already{by}: choose another name, or stop that one"
                ) from None
            try:
                # The holder before us may have removed the file between our open and our lock.
                if os.fstat(fd).st_ino == os.stat(self._lock_path).st_ino:
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
                    return fd
            except FileNotFoundError:
                pass
            os.close(fd)

    def _listen(self, mode: int, group: int, backlog: int) -> socket.socket:
        # Bound aside and renamed, so that it is never seen before it has its mode and listens.
        aside = self._aside
        listener = socket.socket(socket.AF_UNIX, self._type | socket.SOCK_NONBLOCK)
        try:
            try:
                os.unlink(aside)
            except FileNotFoundError:
                pass
            listener.bind(aside)
            os.chmod(aside, mode)
            if group >= 0:
                os.chown(aside, -1, group)
            listener.listen(backlog)
            os.rename(aside, self._socket_path)
        except BaseException:
            listener.close()
            raise
        return listener

    def _drop_lock(self) -> None:
        try:
            os.unlink(self._lock_path)
        except OSError:
            pass
        os.close(self._lock)

    def close(self) -> None:
        """Stop listening and give the name back."""
        try:
            os.unlink(self._socket_path)
        except OSError:
            pass
        self.listener.close()
        self._drop_lock()

    def after_fork(self) -> None:
        """In a forked child: the name is the parent's; close the descriptors and touch nothing else."""
        self.listener.close()
        os.close(self._lock)
