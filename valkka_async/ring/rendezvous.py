# SPDX-License-Identifier: MIT
"""Where servers and readers find each other: the runtime directory, names, sockets and locks.

A server called NAME owns ``NAME.sock`` and holds a lock on ``NAME.lock`` (names.py has what becomes of a
slash). The lock dies with the
process, so what a killed server leaves behind never blocks the next one. A service called NAME (service/)
owns ``NAME.control`` in the same way.

Files can be deleted under a live server, by a cleaner of /tmp for one. So a server also locks a byte of the
directory itself, which nobody can delete while it has entries; it looks for its files every
``LOOK_SECONDS``, if the directory has changed, and makes them again; and it deletes nothing that is not its
own.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import pwd
import socket
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import blake2b
from pathlib import Path

from valkka_async.errors import ConnectError, NameInUseError
from valkka_async.foreign import pass_on
from valkka_async.ring import _shm, patched
from valkka_async.ring.names import check_name as check_name
from valkka_async.ring.names import name_of, stem

log = logging.getLogger("valkka_async")

_SOCKET_PATH_BYTES = 107  # sun_path less its end
LOOK_SECONDS = 1.0  # between a server's looks for its socket and lock
_YOUNG_SECONDS = 1.0  # a socket that may not have its permissions yet
_UNMAPPED = 65534  # what the kernel shows for users of another user namespace
_PEER = struct.Struct("iII")  # ucred: pid, uid, gid
_FLOCK = struct.Struct("hhqqi0q")  # type, whence, start, length, pid

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}

_Identity = tuple[int, int]  # of a file: device and inode


def runtime_dir(*, create: bool = False) -> Path:
    """The directory of the sockets; see DESIGN.md, "Finding each other".

    Raises ConnectError if what is there cannot be trusted.
    """
    if path := os.environ.get("VALKKA_RUNTIME_DIR"):
        return _checked(_absolute(path), explicit=True, create=create)
    if base := os.environ.get("XDG_RUNTIME_DIR"):
        return _checked(_absolute(base) / "valkka-async", explicit=False, create=create)
    return _checked(Path(f"/tmp/valkka-async-{os.geteuid()}"), explicit=False, create=create)


@cache
def _absolute(path: str) -> Path:
    """Where a path led first, whatever becomes the working directory of the process (a daemon's is /)."""
    if os.path.isabs(path):
        return Path(path)
    try:
        return Path.cwd() / path
    except OSError as e:
        raise refused(e, f"{path} is below the working directory", Path(path)) from None


def _checked(path: Path, *, explicit: bool, create: bool) -> Path:
    """The directory, made if need be and if that is wanted. Raises ConnectError if it cannot be trusted."""
    if create and not _exists(path):
        if not explicit and (reason := _foreign_base(path.parent)):
            raise ConnectError(errno.EPERM, reason)
        try:
            path.mkdir(mode=0o700, exist_ok=True, parents=explicit)
        except FileExistsError:
            pass  # not a directory: said below
        except OSError as e:
            raise refused(e, f"cannot make the runtime directory {path}", path.parent) from None
    try:
        # One that the user named may be a link; the default in a world-writable place may not.
        st = os.stat(path) if explicit else os.lstat(path)
    except FileNotFoundError:
        return path
    except OSError as e:
        pass_on(e)
        if reason := "" if explicit else _foreign_base(path.parent):
            raise ConnectError(errno.EPERM, reason) from None
        raise refused(e, f"cannot look at the runtime directory {path}", path.parent) from None
    if not stat.S_ISDIR(st.st_mode):
        raise ConnectError(errno.ENOTDIR, f"{path} is not a directory: remove it, or set VALKKA_RUNTIME_DIR")
    if explicit:
        if st.st_mode & stat.S_IWOTH and not st.st_mode & stat.S_ISVTX:
            raise ConnectError(errno.EPERM, f"{path} may be written by anybody: chmod o-w {path}")
    elif st.st_uid != os.geteuid():
        raise ConnectError(
            errno.EPERM,
            f"{path} is not this user's alone: it belongs to {_user(st.st_uid)}; {_way_out(st.st_uid)}",
        )
    elif st.st_mode & 0o077:
        raise ConnectError(
            errno.EPERM,
            f"{path} is not this user's alone: chmod 700 {path}, or set VALKKA_RUNTIME_DIR to a "
            f"directory that "
            "may be shared",
        )
    return path


def _exists(path: Path) -> bool:
    """False, too, if we may not look."""
    try:
        os.stat(path)
    except OSError as e:
        pass_on(e)
        return False
    return True


def _foreign_base(base: Path) -> str:
    """Why nothing of ours may be made in XDG_RUNTIME_DIR: as root with the environment of a user (sudo -E) it
    would keep that user from it for good. "" if all is well."""
    if not os.environ.get("XDG_RUNTIME_DIR"):
        return ""
    try:
        owner = os.stat(base).st_uid
    except FileNotFoundError:
        return (
            f"XDG_RUNTIME_DIR is {base}, which is not there: unset it, or set "
            f"VALKKA_RUNTIME_DIR to a directory of "
            "your own"
        )
    except OSError as e:
        pass_on(e)
        return (
            f"XDG_RUNTIME_DIR is {base}, which cannot be entered ({e.strerror}): unset it (it may be another "
            "user's, after su or sudo -E), or set VALKKA_RUNTIME_DIR"
        )
    if owner == os.geteuid():
        return ""
    return f"XDG_RUNTIME_DIR is {base}, which belongs to {_user(owner)}; {_way_out(owner)}"


def _user(uid: int) -> str:
    if _unmapped(uid):
        return "a user that this user namespace does not know"
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def _unmapped(uid: int) -> bool:
    """Is this what the kernel shows of users unknown in our user namespace? Elsewhere it is nobody."""
    try:
        whole = Path("/proc/self/uid_map").read_text().split() == ["0", "0", str(2**32 - 1)]
    except OSError as e:
        pass_on(e)
        whole = True
    return uid == _UNMAPPED and not whole


def _way_out(owner: int) -> str:
    """What to do when a directory belongs to another user."""
    if _unmapped(owner):
        return (
            "map it into the container (--userns=keep-id), or set VALKKA_RUNTIME_DIR to a directory that is "
            "shared"
        )
    if os.geteuid() == 0:
        return (
            "run as that user, or without its environment (sudo without -E), or set VALKKA_RUNTIME_DIR "
            "on both sides"
        )
    return f"run as that user (a container with --user {owner}), or set VALKKA_RUNTIME_DIR on both sides"


def refused(e: OSError, what: str, directory: Path) -> ConnectError:
    """The error of an operation that the system refused, with what to do about it. Raises ``e`` itself if it
    is not the system's."""
    pass_on(e)
    match e.errno:
        case errno.EACCES | errno.EPERM:
            hint = f"{_way_in(directory)}, or set VALKKA_RUNTIME_DIR to a directory of your own"
        case errno.EROFS:
            hint = f"{directory} is read-only: set VALKKA_RUNTIME_DIR to a directory that can be written"
        case errno.ENOSPC | errno.EDQUOT:
            hint = f"{directory} is full: make room, or set VALKKA_RUNTIME_DIR to another file system"
        case errno.EMFILE:
            hint = "this process has too many files open: raise the limit (ulimit -n)"
        case errno.ENFILE:
            hint = "the system has too many files open: raise fs.file-max"
        case errno.ENOMEM | errno.ENOBUFS:
            hint = "the system or this process has no memory left: raise the limit (ulimit -v, cgroup)"
        case errno.ENOENT | errno.ENOTDIR:
            hint = f"make {directory}, or set VALKKA_RUNTIME_DIR to another directory"
        case errno.ELOOP:
            hint = "remove the link that is there"
        case errno.ENOSYS:
            hint = "the kernel or a seccomp filter lacks it: allow it in the container's profile"
        case _:
            hint = "look with `valkka-async doctor`"
    return ConnectError(e.errno, f"{what}: {e.strerror}; {hint}")


def _way_in(directory: Path) -> str:
    """What to do when a directory cannot be entered or written."""
    try:
        st = os.stat(directory)
    except OSError as e:
        pass_on(e)
        return f"chmod +x the directories above {directory}"
    if st.st_uid != os.geteuid():
        return f"chown {os.geteuid()} {directory}"
    if st.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        return f"chmod u+rwx {directory}"
    return f"see what else guards {directory} (lsattr, a security module)"


def _foreign_lock(e: OSError, path: str, name: str) -> ConnectError:
    """A lock that may not be opened: of a server that ran as root, say."""
    pass_on(e)
    try:
        owner = os.stat(path, follow_symlinks=False).st_uid
    except OSError as other:
        pass_on(other)
        return refused(e, f"cannot open {path}", Path(path).parent)
    if owner == os.geteuid():
        return ConnectError(e.errno, f"cannot open {path}: {e.strerror}; chmod 600 {path}")
    return ConnectError(
        e.errno,
        f"cannot serve {name!r}: {path} belongs to {_user(owner)}: stop the server that this "
        f"user runs under the name; "
        f"if there is none, remove what it left: sudo rm {path} {path.removesuffix('.lock')}.sock",
    )


def check_server(sock: socket.socket, path: str) -> None:
    """Who serves there? This user or root; others only where the directory says that this is meant: they own
    it, or it is a group's. Raises ConnectError."""
    _, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if uid in (0, os.geteuid()):
        return
    st = os.stat(os.path.dirname(path))
    if not st.st_mode & stat.S_IWOTH and (uid == st.st_uid or st.st_mode & stat.S_IWGRP):
        return
    raise ConnectError(
        errno.EPERM,
        f"{path} is served by {_user(uid)}, and anybody may serve in its directory: to read it, "
        f"share a directory that "
        "this user owns or a group may write (VALKKA_RUNTIME_DIR)",
    )


def is_young(path: str) -> bool:
    """Was it made just now? Then it may not have its permissions yet."""
    try:
        return abs(time.time() - os.stat(path, follow_symlinks=False).st_ctime) < _YOUNG_SECONDS
    except OSError as e:
        pass_on(e)
        return e.errno == errno.ENOENT  # it was replaced meanwhile


def socket_path(directory: Path, name: str, kind: str = "sock") -> str:
    """The path of a server's socket. Raises ConnectError if it is too long for a socket."""
    path = str(directory / f"{stem(name)}.{kind}")
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
            names = [name_of(e.name.removesuffix(f".{kind}")) for e in entries if e.name.endswith(f".{kind}")]
    except FileNotFoundError:
        return []
    except OSError as e:
        raise refused(e, f"cannot look into {directory}", directory) from None
    return sorted(filter(None, names))


def sweep(name: str) -> None:
    """Remove what a killed server left in the runtime directory; nothing if a live one has the name, or if
    that cannot be done."""
    lock: list[int] = []
    guard: list[int] = []
    try:
        directory = runtime_dir()
        lock_path = str(directory / f"{stem(name)}.lock")
        _shm.note(lock, os.open, lock_path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        _check_lock(lock_path, lock)
        fcntl.flock(lock[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A lock of another inode: another server has come and gone meanwhile.
        if _is_at(lock_path, _identity(lock[0])):
            _guard(guard, directory, stem(name), name)
            _vacate(socket_path(directory, name), name)
            os.unlink(lock_path)
    except OSError as e:  # NameInUseError among them
        pass_on(e)
    finally:
        _unguard(guard)
        _shm.close_all(lock)


class Claim:
    """A server's hold on its name: the locks and the listening socket.

    Raises NameInUseError if a live server has it, ConnectError if the directory refuses. Nothing is left of
    one that could not be made, whatever a signal's handler raises meanwhile.
    """

    listener: socket.socket

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
        patched.refuse()
        self._explicit = bool(os.environ.get("VALKKA_RUNTIME_DIR"))
        directory = runtime_dir(create=True)
        called = stem(name) if kind == "sock" else f"{name}.{kind}"
        self._name = name
        self._stem = called
        self._directory = directory
        self._type = type
        self._mode = mode
        self._group = group
        self._backlog = backlog
        self._socket_path = socket_path(directory, name, kind)
        self._lock_path = str(directory / f"{called}.lock")
        # Descriptors, noted as they are opened.
        self._lock: list[int] = []
        self._guard: list[int] = []
        if group >= 0:
            self._let_in(group)
        try:
            self._take_lock(self._lock)
            _guard(self._guard, directory, called, name)
            self._listen()
        except BaseException as e:
            self.close()
            if isinstance(e, OSError) and not isinstance(e, ConnectError):
                # raises what a signal's handler raised
                raise refused(e, f"cannot serve {name!r}", directory) from None
            raise

    def _let_in(self, group: int) -> None:
        """Let a group into the directory if it may be shared and is only ours so far; else say what to do."""
        directory = self._directory
        st = os.stat(directory)
        if st.st_mode & stat.S_IXOTH or (st.st_gid == group and st.st_mode & stat.S_IXGRP):
            return
        if self._explicit and st.st_uid == os.geteuid() and not st.st_mode & 0o070:
            try:
                os.chown(directory, -1, group)
                os.chmod(directory, stat.S_IMODE(st.st_mode) | 0o050)
                return
            except OSError as e:  # not a group of ours
                pass_on(e)
        log.warning(
            "%s: group %d cannot enter %s: set VALKKA_RUNTIME_DIR on both sides to a directory of that "
            "group with mode 2750",
            self._name,
            group,
            directory,
        )

    def _take_lock(self, fds: list[int]) -> None:
        """Hold NAME.lock, by a descriptor that is noted in ``fds`` and closed if it raises."""
        try:
            while True:
                self._open_lock(fds)
                _check_lock(self._lock_path, fds)
                fcntl.flock(fds[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The holder before us may have removed the file between our open and our lock.
                if _is_at(self._lock_path, _identity(fds[0])):
                    os.ftruncate(fds[0], 0)
                    os.pwrite(fds[0], b"%d\n" % os.getpid(), 0)
                    return
                _shm.close_all(fds)
        except BlockingIOError:
            pid = os.pread(fds[0], 20, 0).decode("ascii", "replace").strip()
            _shm.close_all(fds)
            raise _in_use(self._name, f" by process {pid}" if pid else "") from None
        except BaseException:  # the disk is full, or an interrupt: nobody may find a lock that nobody holds
            for fd in fds:
                with _tolerant():
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _unlink(self._lock_path, _identity(fd))
            _shm.close_all(fds)
            raise

    def _open_lock(self, fds: list[int]) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        while not fds:
            # In two steps: in a sticky directory even root is refused O_CREAT for another user's file.
            try:
                _shm.note(fds, os.open, self._lock_path, flags)
                return
            except FileNotFoundError:
                pass
            except PermissionError as e:
                raise _foreign_lock(e, self._lock_path, self._name) from None
            except OSError as e:
                if e.errno in (errno.EISDIR, errno.ENXIO, errno.ELOOP):  # a directory, a socket, a link
                    raise _in_the_way(self._lock_path, os.lstat(self._lock_path).st_mode, "lock") from None
                raise
            try:
                _shm.note(fds, os.open, self._lock_path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:  # another was quicker
                if stat.S_ISLNK(mode := os.lstat(self._lock_path).st_mode):  # which O_NOFOLLOW leaves alone
                    raise _in_the_way(self._lock_path, mode, "lock") from None

    def _listen(self) -> None:
        """Bound under its final name: the kernel lists that, and cleaners of /tmp leave what is listed."""
        path = self._socket_path
        _vacate(path, self._name)
        made: list[socket.socket] = []
        try:
            _shm.note(made, socket.socket, socket.AF_UNIX, self._type | socket.SOCK_NONBLOCK)
            listener = made[0]
            os.fchmod(listener.fileno(), self._mode if self._group < 0 else 0o600)  # never wider than asked
            listener.bind(path)
            identity = _identity(path)
            if self._group >= 0:
                os.chown(path, -1, self._group)
            os.chmod(path, self._mode)
            listener.listen(self._backlog)
            self.listener, self._socket = listener, identity
        except BaseException:
            for listener in made:
                with _tolerant():
                    if listener.getsockname():  # it was bound, and so made the file
                        os.unlink(path)
                listener.close()
            raise

    @property
    def directory(self) -> str:
        """Where its files are."""
        return str(self._directory)

    def whole(self) -> bool:
        """Are the socket and the lock where readers and other servers look for them?"""
        try:
            return _is_at(self._socket_path, self._socket) and _is_at(
                self._lock_path, _identity(self._lock[0])
            )
        except OSError as e:  # no descriptor is needed for a look: the directory cannot be entered
            pass_on(e)
            return False

    def restore(self) -> None:
        """Make again what is not whole(): ``listener`` may be another then, and the caller closes the one
        before. Raises NameInUseError if another server has the name by now, ConnectError."""
        try:
            self._restore_locks()
            if not _is_at(self._socket_path, self._socket):
                self._listen()
        except ConnectError:
            raise
        except OSError as e:
            raise refused(e, f"cannot serve {self._name!r} again", self._directory) from None

    def _restore_locks(self) -> None:
        _checked(self._directory, explicit=self._explicit, create=True)
        fresh: list[int] = []
        if not _is_at(self._lock_path, _identity(self._lock[0])):
            self._take_lock(fresh)
            self._lock, fresh = fresh, self._lock
            _shm.close_all(fresh)
        if not _is_at(self._directory, _identity(self._guard[0])):
            try:
                _guard(fresh, self._directory, self._stem, self._name)
                self._guard, fresh = fresh, self._guard
            finally:
                _unguard(fresh)  # the one before, or, if another server has the name, the new one

    def close(self) -> None:
        """Stop listening and give the name back. It may be called again, also after an interrupt."""
        if hasattr(self, "listener"):
            _unlink(self._socket_path, self._socket)
            self.listener.close()
            self._socket = (0, 0)  # from here on the number of its file may be another's
        for fd in self._lock:
            _unlink(self._lock_path, _identity(fd))
        _shm.close_all(self._lock)
        _unguard(self._guard)

    def after_fork(self) -> None:
        """In a forked child: the name is the parent's; close the descriptors and touch nothing else."""
        self.listener.close()
        _shm.close_all(self._lock)
        _shm.close_all(self._guard)


# --------------------------------------------------------------------------------------- parts


@contextmanager
def _tolerant() -> Iterator[None]:
    """Do what the system lets us do."""
    try:
        yield
    except OSError as e:
        pass_on(e)


def _identity(file: int | str | Path) -> _Identity:
    st = os.fstat(file) if isinstance(file, int) else os.stat(file, follow_symlinks=False)
    return st.st_dev, st.st_ino


def _is_at(path: str | Path, identity: _Identity) -> bool:
    """Is this the file that is there? Raises OSError if nobody may look."""
    try:
        return _identity(path) == identity
    except FileNotFoundError:
        return False


def _unlink(path: str, identity: _Identity) -> None:
    """Delete a file, if it is this one."""
    try:
        if _is_at(path, identity):
            os.unlink(path)
    except OSError as e:
        pass_on(e)


def _vacate(path: str, name: str) -> None:
    """Delete the socket that a killed server left. Raises NameInUseError if somebody listens there, and
    ConnectError if it is something else."""
    try:
        st = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(st.st_mode):
        raise _in_the_way(path, st.st_mode, "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.connect(path)
        except FileNotFoundError:
            return
        except OSError as e:
            pass_on(e)
            # Neither dead, nor something that is no socket, nor another's: full, or of another type
            if e.errno in (errno.EAGAIN, errno.EPROTOTYPE):
                raise _in_use(name) from None
        else:
            raise _in_use(name)
    if _is_at(path, (st.st_dev, st.st_ino)):
        os.unlink(path)


def _check_lock(path: str, fds: list[int]) -> None:
    """Raises ConnectError, and closes it, if this is not a file: a server deletes its lock in the end."""
    mode = os.fstat(fds[0]).st_mode
    if not stat.S_ISREG(mode):
        _shm.close_all(fds)
        raise _in_the_way(path, mode, "lock")


def _in_the_way(path: str, mode: int, what: str) -> ConnectError:
    there = _KINDS.get(stat.S_IFMT(mode), "device")
    return ConnectError(errno.EEXIST, f"{path} is a {there} where a {what} of ours belongs: move it away")


def _in_use(name: str, by: str = "") -> NameInUseError:
    return NameInUseError(
        errno.EADDRINUSE, f"{name!r} is served already{by}: choose another name, or stop that one"
    )


def _guard(fds: list[int], directory: Path, called: str, name: str) -> None:
    """Note in ``fds`` a descriptor of the directory that holds one byte of it locked, for this name. Raises
    NameInUseError.

    A directory cannot be opened for writing, so it cannot be locked for writing. But the kernel says whether
    such a lock would meet another; two that come at once are ordered by ``NAME.lock``, which they hold. The
    shared lock on the whole keeps systemd-tmpfiles out of the directory.
    """
    try:
        _shm.note(fds, os.open, directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # it may be entered and written, but not read: then not its names either
        _shm.note(fds, os.open, "/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        return
    fd = fds[0]
    at = int.from_bytes(blake2b(os.fsencode(called), digest_size=8).digest(), "little") >> 2
    query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, at, 1, 0))
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EAGAIN):
            raise
        return  # a file system without such locks: there remains NAME.lock
    if _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK:
        raise _in_use(name)


def _unguard(fds: list[int]) -> None:
    """Give the byte back and close. Closing alone is not enough: a process that was forked at this moment has
    the same open file, and its locks, until it has dropped what it inherited."""
    try:
        for fd in fds:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
            fcntl.flock(fd, fcntl.LOCK_UN)
    except OSError as e:
        pass_on(e)  # else a file system without such locks
    finally:
        _shm.close_all(fds)
