# SPDX-License-Identifier: MIT
"""What happened to cameras, and before them, besides what their recordings say: the newest of it, for the
strip of time. And which cameras were recorded: a config may lack them by now.

SQLite, as the index, and beside it: the index can be made again from the files, and this cannot. It blocks,
and belongs to one thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from valkka_async.record.index import connect, is_damage
from valkka_async.record.timeline import Event

_VERSION = 1
_MOST = 100_000  # events; the oldest go
_TEXT = 200  # characters
_PIECES = 1000  # of a range; events of one code within a piece are counted together
_AT_ONCE = 5000  # events that are told of a range
_SCHEMA = """
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    camera TEXT NOT NULL,
    at_ns INTEGER NOT NULL,
    code TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX by_time ON events (camera, at_ns);
"""
_CAMERAS = "CREATE TABLE IF NOT EXISTS cameras (name TEXT PRIMARY KEY)"  # which older files have not

log = logging.getLogger("valkka_async.service")


class Diary:
    """In the file `path`, once its folder is there. Raises nothing: why it cannot be written or read is
    logged once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._trouble = ""

    def note(self, camera: str, at_ns: int, code: str, text: str) -> None:
        """Something has happened, at a Unix time in nanoseconds."""
        with self._trying():
            if (db := self._opened()) is None:
                return
            with db:
                values = (camera, at_ns, code, text[:_TEXT])
                new = db.execute("INSERT INTO events (camera, at_ns, code, text) VALUES (?, ?, ?, ?)", values)
                db.execute("DELETE FROM events WHERE id <= ?", ((new.lastrowid or 0) - _MOST,))
            self._trouble = ""

    def between(self, camera: str, from_ns: int, to_ns: int) -> list[Event]:
        """What happened in that time, in its order."""
        piece = max(1, (to_ns - from_ns) // _PIECES)
        asked = (
            "SELECT min(at_ns), code, text, count(*) FROM events "
            "WHERE camera = ? AND at_ns >= ? AND at_ns < ? GROUP BY code, at_ns / ? ORDER BY 1 LIMIT ?"
        )
        with self._trying():
            if (db := self._opened()) is not None:
                rows = db.execute(asked, (camera, from_ns, to_ns, piece, _AT_ONCE))
                return [Event(at_ns, code, text, count) for at_ns, code, text, count in rows]
        return []

    def cameras(self) -> set[str]:
        """Those that keep_cameras() said, and recorded() since."""
        with self._trying():
            if (db := self._opened()) is not None:
                return {str(name) for (name,) in db.execute("SELECT name FROM cameras")}
        return set()

    def recorded(self, camera: str) -> None:
        """There are recordings of it."""
        with self._trying():
            if (db := self._opened()) is not None:
                with db:
                    db.execute("INSERT OR IGNORE INTO cameras VALUES (?)", (camera,))

    def keep_cameras(self, names: Iterable[str]) -> None:
        """There are recordings of these, and of no others."""
        rows = [(name,) for name in sorted(names)]
        with self._trying():
            if (db := self._opened()) is not None:
                with db:
                    db.execute("DELETE FROM cameras")
                    db.executemany("INSERT INTO cameras VALUES (?)", rows)

    def shift(self, before_ns: int, by_ns: int) -> None:
        """What is told of a time before that one happened so much later."""
        with self._trying():
            if (db := self._opened()) is not None:
                with db:
                    db.execute("UPDATE events SET at_ns = at_ns + ? WHERE at_ns < ?", (by_ns, before_ns))

    def close(self) -> None:
        """Idempotent."""
        if self._db is not None:
            self._db.close()
            self._db = None

    @contextlib.contextmanager
    def _trying(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as e:
            self.close()
            text = f"{self._path}: events are missing on the strip of time: {e}"
            if text != self._trouble:
                self._trouble = text
                log.warning("%s", text)
            if isinstance(e, sqlite3.Error) and is_damage(e):  # the next one begins it again
                for ending in ("", "-wal", "-shm"):
                    with contextlib.suppress(OSError):
                        os.unlink(f"{self._path}{ending}")

    def _opened(self) -> sqlite3.Connection | None:
        """None: there are no recordings yet. Raises OSError, sqlite3.Error."""
        if self._db is None and self._path.parent.is_dir():
            self._db = _open(self._path)
        return self._db


def _open(path: Path) -> sqlite3.Connection:
    """Raises OSError, sqlite3.Error; also for one of another version, which stays as it is."""
    db = connect(path)
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {_VERSION};COMMIT;")
        elif version != _VERSION:
            raise sqlite3.NotSupportedError("it is of another version of valkka-async")
        db.execute(_CAMERAS)
    except BaseException:
        db.close()
        raise
    return db
