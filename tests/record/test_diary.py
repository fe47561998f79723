# SPDX-License-Identifier: MIT
"""What happened besides what recordings say: told with them, kept over restarts, and never in their way."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from valkka_async.record import diary as module
from valkka_async.record.diary import Diary
from valkka_async.record.timeline import Event

S = 10**9


def versioned(path: Path, version: int) -> None:
    """An empty file of this version."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(f"PRAGMA user_version = {version}")


def test_what_happened_is_found_again_by_the_next_service(tmp_path: Path) -> None:
    path = tmp_path / ".events.sqlite"
    diary = Diary(path)
    for at, camera, code in (
        (5, "a", "camera.live"),
        (3, "a", "person"),
        (4, "b", "person"),
        (9, "a", "person"),
    ):
        diary.note(camera, at * S, code, "at the door")
    diary.close()
    diary = Diary(path)
    there = [Event(3 * S, "person", "at the door"), Event(5 * S, "camera.live", "at the door")]
    assert diary.between("a", 3 * S, 9 * S) == there and diary.between("c", 0, 99 * S) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    diary.close()


def test_many_events_are_counted_together_and_the_oldest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST", 50)
    diary = Diary(tmp_path / ".events.sqlite")
    for at in range(100):
        diary.note("a", at * S, "person", "x" * 999)
    assert [one.at_ns // S for one in diary.between("a", 0, 1000 * S)] == [*range(50, 100)]
    found = diary.between("a", 0, 20_000 * S)
    assert sum(one.count for one in found) == 50 and len(found) < 5 and len(found[0].text) == 200
    diary.close()


@pytest.mark.parametrize("harm", ["garbage", "no table", "other version", "a folder"])
def test_one_that_cannot_be_used_costs_its_events_and_nothing_else(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / ".events.sqlite"
    match harm:
        case "garbage":
            path.write_bytes(os.urandom(20000))
        case "no table":
            versioned(path, 1)
        case "other version":
            versioned(path, 77)
        case "a folder":
            path.mkdir()
    diary = Diary(path)
    for at in range(1, 4):
        diary.note("a", at * S, "person", "")
    found = [one.at_ns // S for one in diary.between("a", 0, 9 * S)]
    assert found == ([2, 3] if harm in ("garbage", "no table") else [])
    assert len(caplog.messages) == 1 and str(path) in caplog.text
    diary.close()


def test_where_nothing_is_recorded_nothing_is_noted(tmp_path: Path) -> None:
    diary = Diary(tmp_path / "recordings" / ".events.sqlite")
    diary.note("a", S, "person", "")
    assert diary.between("a", 0, 9 * S) == [] and not any(tmp_path.iterdir())
    (tmp_path / "recordings").mkdir()
    diary.note("a", S, "person", "")
    assert len(diary.between("a", 0, 9 * S)) == 1
    diary.close()
