# SPDX-License-Identifier: MIT
"""The index of recordings: which files there are, of which camera, from when to when, with which gaps.

SQLite, with a write-ahead log: a process that is killed leaves it whole. It holds nothing that the files do
not say themselves, so one that is lost, damaged or of another version is made again. It blocks, and belongs
to one thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valkka_async.errors import DataError
from valkka_async.record import contents as files
from valkka_async.record.contents import Contents

_VERSION = 3
_LATEST_NS = (1 << 63) - 1
_BUSY_MS = 1000  # while another program writes; some want to read meanwhile
_MODE = 0o640  # as that of recordings
_SCHEMA = """
CREATE TABLE files (
    id INTEGER PRIMARY KEY,
    camera TEXT NOT NULL,
    path TEXT NOT NULL UNIQUE,
    begin_ns INTEGER NOT NULL,
    end_ns INTEGER NOT NULL,
    size INTEGER NOT NULL,
    whole INTEGER NOT NULL,
    init TEXT NOT NULL,
    codec TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL
);
CREATE INDEX by_time ON files (camera, begin_ns);
CREATE INDEX by_age ON files (begin_ns);
CREATE TABLE contents (file INTEGER PRIMARY KEY REFERENCES files ON DELETE CASCADE, text TEXT NOT NULL);
CREATE TABLE gaps (
    file INTEGER NOT NULL REFERENCES files ON DELETE CASCADE,
    begin_ns INTEGER NOT NULL,
    end_ns INTEGER NOT NULL
);
CREATE INDEX by_file ON gaps (file);
CREATE TABLE events (file INTEGER NOT NULL REFERENCES files ON DELETE CASCADE, at_ns INTEGER NOT NULL);
CREATE INDEX of_file ON events (file);
"""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_ERROR}
_FIELDS = "camera, path, begin_ns, end_ns, size, whole, init, codec, width, height"
_TYPES = (str, str, int, int, int, int, str, str, int, int)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file. `whole`: it will not change any more; one that is not was begun, and no more is known. `init`
    "": nothing can be read of it."""

    camera: str
    path: Path
    begin_ns: int
    end_ns: int
    size: int  # of the whole file
    whole: bool
    init: str
    codec: str
    width: int
    height: int
    gaps: tuple[tuple[int, int], ...] = ()
    events: tuple[int, ...] = ()  # when they happened


@dataclass(frozen=True, slots=True)
class Stored:
    """What there is of a camera. Times are Unix nanoseconds."""

    bytes: int
    files: int
    oldest_ns: int  # when the oldest file begins
    newest_ns: int  # when the newest one ends, as far as it is written


def entry(camera: str, path: Path, contents: Contents, size: int, *, whole: bool) -> Entry:
    """The entry of a file with these contents."""
    c = contents
    about = c.init, c.codec, c.width, c.height
    return Entry(camera, path, c.begin_ns, c.end_ns, size, whole, *about, tuple(c.gaps), tuple(c.events))


class _FalseError(sqlite3.DatabaseError):
    """A row as nobody has written it: SQLite does not check types."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def broken(camera: str, path: Path, status: os.stat_result) -> Entry:
    """The entry of a file of which nothing can be read: it counts, and is as old as its last change."""
    ns = min(max(0, status.st_mtime_ns), _LATEST_NS)
    return Entry(camera, path, ns, ns, status.st_size, True, "", "", 0, 0)


def is_damage(error: sqlite3.Error) -> bool:
    """Is the file at fault, and not the disk or another program that has it locked?"""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # it comes from the module: a text that is no UTF-8
        return isinstance(error, sqlite3.OperationalError)
    return isinstance(error, sqlite3.DatabaseError) and code & 0xFF in _DAMAGED


class Index:
    """`path` None: in memory. `fresh`: it knows nothing, since there was none, or one of no use. Raises
    OSError and sqlite3.Error where a file cannot be written."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.fresh = False
        self._db = self._open()
        self._status: os.stat_result | None = None
        if path is not None:
            with contextlib.suppress(OSError):
                self._status = os.stat(path)

    def close(self) -> None:
        self._db.close()

    def discard(self) -> None:
        """Close it, and delete its file."""
        self._db.close()
        if self.path is not None:
            self._discard()

    def is_there(self) -> bool:
        """Is what its path names still this one?"""
        if self.path is None:
            return True
        try:
            return self._status is not None and os.path.samestat(os.stat(self.path), self._status)
        except OSError as e:  # a disk that does not answer has it still
            return e.errno not in (errno.ENOENT, errno.ENOTDIR)

    def _open(self) -> sqlite3.Connection:
        if self.path is None:
            return self._made(sqlite3.connect(":memory:", check_same_thread=False))
        try:
            db = connect(self.path)
            try:
                (version,) = db.execute("PRAGMA user_version").fetchone()
                if version == _VERSION and db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
                    db.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
                    return db
            except BaseException:
                db.close()
                raise
            db.close()
        except sqlite3.Error as e:
            if not is_damage(e):
                raise
        self._discard()
        return self._made(connect(self.path))

    def _made(self, db: sqlite3.Connection) -> sqlite3.Connection:
        try:
            with db:
                db.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
                db.execute("PRAGMA foreign_keys = ON")
                db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {_VERSION};COMMIT;")
        except BaseException:
            db.close()
            raise
        self.fresh = True
        return db

    def _discard(self) -> None:
        assert self.path is not None
        for ending in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.path}{ending}")

    # ------------------------------------------------------------------------------------- files

    def put(self, entries: Iterable[tuple[Entry, Contents | None]]) -> None:
        """Add files, or replace what is known of them, all or none. Raises sqlite3.Error."""
        with self._db as db:
            for one, contents in entries:
                values = (one.camera, str(one.path), one.begin_ns, one.end_ns, one.size, one.whole)
                about = (one.init, one.codec, one.width, one.height)
                db.execute("DELETE FROM files WHERE path = ?", (str(one.path),))
                new = db.execute(f"INSERT INTO files ({_FIELDS}) VALUES (?{',?' * 9})", (*values, *about))
                number = new.lastrowid
                db.executemany("INSERT INTO gaps VALUES (?, ?, ?)", ((number, *gap) for gap in one.gaps))
                db.executemany("INSERT INTO events VALUES (?, ?)", ((number, at) for at in one.events))
                if contents is not None:
                    text = files.dumps(contents)
                    db.execute("INSERT INTO contents VALUES (?, ?)", (number, text))

    def forget(self, paths: Iterable[Path]) -> None:
        """Files that are gone. Raises sqlite3.Error."""
        with self._db as db:
            db.executemany("DELETE FROM files WHERE path = ?", ((str(path),) for path in paths))

    def known(self) -> dict[Path, tuple[str, int, bool]]:
        """Camera and size of each file, and whether all is known of it."""
        rows = self._rows(f"SELECT {_FIELDS} FROM files", (), *_TYPES)  # the types of all are looked at
        return {one.path: (one.camera, one.size, one.whole) for one in map(_entry, rows)}

    def between(
        self, camera: str, from_ns: int, to_ns: int, after: Entry | None = None, most: int = -1
    ) -> list[Entry]:
        """Files with something of that time, in their order: those after another, and so many at most (-1:
        all)."""
        gaps: dict[int, list[tuple[int, int]]] = {}
        where = "camera = ? AND begin_ns < ? AND end_ns > ? AND init != '' AND (begin_ns, path) > (?, ?)"
        where += " ORDER BY begin_ns, path LIMIT ?"
        begin = (-1 << 63, "") if after is None else (after.begin_ns, str(after.path))
        values = (camera, to_ns, from_ns, *begin, most)
        of_these = f"file IN (SELECT id FROM files WHERE {where})"
        inside = f"SELECT file, begin_ns, end_ns FROM gaps WHERE {of_these}"
        for number, begin, end in self._rows(inside, values, int, int, int):
            gaps.setdefault(number, []).append((begin, end))
        events: dict[int, list[int]] = {}
        for number, at in self._rows(f"SELECT file, at_ns FROM events WHERE {of_these}", values, int, int):
            events.setdefault(number, []).append(at)
        text = f"SELECT id, {_FIELDS} FROM files WHERE {where}"
        rows = self._rows(text, values, int, *_TYPES)
        return [_entry(row[1:], tuple(gaps.get(row[0], ())), tuple(events.get(row[0], ()))) for row in rows]

    def unfinished(self, camera: str) -> list[Path]:
        """Files that are being written, or were when their recorder was killed."""
        rows = self._rows("SELECT path FROM files WHERE camera = ? AND NOT whole", (camera,), str)
        return [Path(path) for (path,) in rows]

    def cameras(self) -> list[str]:
        """All that there are recordings of."""
        rows = self._rows("SELECT DISTINCT camera FROM files ORDER BY camera", (), str)
        return [name for (name,) in rows]

    def contents(self, path: Path) -> Contents | None:
        """What is in a file; None: that is not known."""
        what = "SELECT text FROM contents JOIN files ON file = id WHERE path = ?"
        row = next(self._rows(what, (str(path),), str), None)
        try:
            return None if row is None else files.loads(row[0])
        except DataError:
            return None

    def oldest_first(self, latest_ns: int, *, ahead: bool = False) -> Iterator[Entry]:
        """All files that end by then; `ahead`: all others."""
        where = f"end_ns {'>' if ahead else '<='} ?"
        what = f"SELECT {_FIELDS} FROM files WHERE {where} ORDER BY begin_ns"
        return (_entry(row) for row in self._rows(what, (latest_ns,), *_TYPES))

    def before(self, ns: int) -> list[Entry]:
        """Files that are whole and end before then."""
        what = f"SELECT {_FIELDS} FROM files WHERE begin_ns < ? AND end_ns < ? AND whole"
        return [_entry(row) for row in self._rows(what, (ns, ns), *_TYPES)]

    def stored(self) -> dict[str, Stored]:
        """What there is of each camera, of files that are whole."""
        rows = self._rows(
            "SELECT camera, sum(size), count(*), min(begin_ns), max(end_ns) FROM files "
            "WHERE whole GROUP BY camera",
            (),
            *(str, int, int, int, int),
        )
        return {camera: Stored(*values) for camera, *values in rows}

    def _rows(self, text: str, values: tuple[object, ...], *types: type) -> Iterator[tuple[Any, ...]]:
        """Rows of these types. Raises sqlite3.Error, also for one of others."""
        with contextlib.closing(self._db.execute(text, values)) as rows:
            for row in rows:
                if tuple(map(type, row)) != types:
                    raise _FalseError("a row with a value of a wrong type")
                yield row


def _entry(
    row: tuple[Any, ...], gaps: tuple[tuple[int, int], ...] = (), events: tuple[int, ...] = ()
) -> Entry:
    camera, path, begin, end, size, whole, init, codec, width, height = row
    return Entry(camera, Path(path), begin, end, size, bool(whole), init, codec, width, height, gaps, events)


def connect(path: Path) -> sqlite3.Connection:
    """A database with a write-ahead log, made if it is not there. Raises OSError, sqlite3.Error."""
    with contextlib.suppress(FileExistsError):  # SQLite would let everybody read it
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))
    db = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        db.close()
        raise
    return db


def readable(path: Path) -> Index:
    """One that another process writes. Raises sqlite3.Error, also where there is none."""
    return _Foreign(path)


class _Foreign(Index):
    def _open(self) -> sqlite3.Connection:
        assert self.path is not None
        try:
            return self._opened("mode=ro")
        except sqlite3.Error as e:
            # Nobody has it open, and who may not write into the folder cannot make what SQLite shares there.
            if e.sqlite_errorcode != sqlite3.SQLITE_CANTOPEN or os.path.exists(f"{self.path}-wal"):
                raise
            return self._opened("immutable=1")

    def _opened(self, how: str) -> sqlite3.Connection:
        assert self.path is not None
        db = sqlite3.connect(f"{self.path.absolute().as_uri()}?{how}", uri=True, timeout=5.0)
        try:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version != _VERSION:
                raise DataError(f"{self.path} is an index of another version of valkka-async")
        except BaseException:
            db.close()
            raise
        return db
