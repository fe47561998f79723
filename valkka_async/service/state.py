# SPDX-License-Identifier: MIT
"""What outlives a service: its key, and which sessions have signed out. Two small files in the state
directory, ``NAME.key`` and ``NAME.signed-out``, for its user alone.

That directory is systemd's ($STATE_DIRECTORY), else ``valkka-async`` below $XDG_STATE_HOME, which is
~/.local/state by default. Where nothing can be written, all works as long as the process does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import stat
import threading
from pathlib import Path

_KEY_BYTES = 32
_LARGEST = 1 << 20
SIGNED_OUT = 10_000  # that are remembered, whatever the clock says; each was somebody who had the token

log = logging.getLogger("valkka_async.service")


class _Unfit(Exception):
    """A file is not such that we can trust it; the text says why."""


def directory() -> Path | None:
    """Where the state is; None: nobody says where. Does not look whether it is there."""
    systemd = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if os.path.isabs(systemd):
        return Path(systemd)
    home = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(home):  # which the specification tells us to ignore
        home = os.path.expanduser("~/.local/state")
    return Path(home, "valkka-async") if os.path.isabs(home) else None


class State:
    """Of one service. Methods block while they read and write, and may be called from any thread. They raise
    nothing: what cannot be read or written is logged."""

    def __init__(self, folder: Path | None, name: str) -> None:
        self._folder = folder
        self._name = name
        self._lock = threading.Lock()
        self._held: bytes | None = None  # the key
        self._over: dict[str, None] | None = None  # sessions that have signed out, in that order

    def key(self) -> bytes:
        """The service's key: the same in its next process. It is made when there is none, or none that is
        fit. One that cannot be written is kept as long as this process."""
        with self._lock:
            if self._held is None:
                self._held = self._found_or_made()
            return self._held

    def _found_or_made(self) -> bytes:
        why = "there is no directory for its key"
        if self._folder is not None:
            path = self._folder / f"{self._name}.key"
            try:
                return self._key(self._folder, path)
            except OSError as e:
                why = f"{path}: {e.strerror or e}"
        log.warning("browsers will have to sign in again after a restart: %s", why)
        return secrets.token_bytes(_KEY_BYTES)

    def _key(self, folder: Path, path: Path) -> bytes:
        """Raises OSError."""
        try:
            return _decoded(_read(path))
        except FileNotFoundError:
            pass
        except _Unfit as e:
            log.warning("%s %s: made anew, so browsers have to sign in again", path, e)
        key = secrets.token_bytes(_KEY_BYTES)
        _write(folder, path, key.hex() + "\n")
        return key

    def signed_out(self) -> list[str]:
        """Numbers of sessions, in the order in which they signed out."""
        with self._lock:
            return list(self._known())

    def _known(self) -> dict[str, None]:
        if self._over is None:  # once: a file that cannot be read later is written again as it was
            self._over = dict.fromkeys(self._load())
        return self._over

    def _load(self) -> list[str]:
        if self._folder is None:
            return []
        path = self._folder / f"{self._name}.signed-out"
        try:
            text = _read(path)
        except FileNotFoundError:
            return []
        except (_Unfit, OSError) as e:
            log.warning("%s %s: sessions that have signed out may hold", path, e)
            return []
        return re.findall(r"^[0-9a-f]{32}$", text, re.ASCII | re.MULTILINE)

    def sign_out(self, session: str) -> None:
        """Remember this one, too."""
        with self._lock:
            over = self._known()
            over[session] = None
            while len(over) > SIGNED_OUT:
                del over[next(iter(over))]
            if self._folder is None:
                return
            path = self._folder / f"{self._name}.signed-out"
            try:
                _write(self._folder, path, "".join(f"{id}\n" for id in over))
            except OSError as e:
                log.warning("%s: %s: who has signed out is forgotten with a restart", path, e.strerror or e)


def _read(path: Path) -> str:
    """The text of a file that nobody else can have read or written. Raises OSError, _Unfit."""
    try:
        # A pipe would have no end, and a link would lead to somebody else's file.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as e:
        if stat.S_ISLNK(os.lstat(path).st_mode):
            raise _Unfit("is a link") from None
        if isinstance(e, PermissionError):
            raise _Unfit("may not be read") from None
        raise
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise _Unfit("is no file")
        if about.st_uid != os.geteuid():
            raise _Unfit("belongs to somebody else")
        if stat.S_IMODE(about.st_mode) & 0o077:
            raise _Unfit(
                f"has mode {stat.S_IMODE(about.st_mode):04o} and not 0600, so others may have read it"
            )
        if about.st_nlink != 1:
            raise _Unfit("has another name too")
        return os.read(fd, _LARGEST).decode("ascii", "replace")
    finally:
        os.close(fd)


def _decoded(text: str) -> bytes:
    """Raises _Unfit."""
    if re.fullmatch(rf"[0-9a-f]{{{2 * _KEY_BYTES}}}\n", text, re.ASCII) is None:
        raise _Unfit("has no key in it")
    return bytes.fromhex(text)


def _write(folder: Path, path: Path, text: str) -> None:
    """In one step: after a crash there is the file of before, or this one. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f".{path.name}.{secrets.token_hex(8)}"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="ascii") as file:
            os.fchmod(fd, 0o600)  # whatever the umask says
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
