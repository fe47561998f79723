# SPDX-License-Identifier: MIT
"""The thread that writes files: what it leaves when a step fails, and the permissions of what it wrote."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.recordings import head
from support.until import wait_for
from valkka_async.record.contents import Contents
from valkka_async.record.disk import Disk, is_written


@pytest.fixture
def disk() -> Iterator[Disk]:
    one = Disk(1, lambda: None)
    yield one
    one.stop()
    wait_for(lambda: one.ended)


def done(disk: Disk) -> None:
    """All that it was given is written, or refused."""
    wait_for(lambda: not disk.pending)


def closed(disk: Disk) -> None:
    disk.stop()
    wait_for(lambda: disk.ended)


def open_files(folder: Path) -> list[str]:
    """Those that this process has open below a folder."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
        if target.startswith(str(folder)):
            found.append(target)
    return found


def failing(number: int) -> Callable[..., int]:
    """A system call that fails."""

    def call(*args: object) -> int:
        raise OSError(number, os.strerror(number))

    return call


# ------------------------------------------------------------------------------------------ permissions


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o000, 0o640, 0o750), (0o022, 0o640, 0o750), (0o077, 0o600, 0o700)]
)
def test_others_may_not_read_recordings_and_a_stricter_umask_holds(
    umask: int, file: int, folder: int, tmp_path: Path, disk: Disk
) -> None:
    before = os.umask(umask)
    try:
        disk.begin(tmp_path / "cam" / "day" / "a.mp4", b"x")
        disk.begin(tmp_path / "cam" / "day" / "a.mp4", b"y")
        done(disk)
    finally:
        os.umask(before)
    assert disk.error is None
    modes = {path.name: path.stat().st_mode & 0o777 for path in sorted(tmp_path.rglob("*"))}
    assert modes == {"cam": folder, "day": folder, "a.mp4": file, "a-2.mp4": file}


def test_a_folder_that_is_there_keeps_its_permissions(tmp_path: Path, disk: Disk) -> None:
    (tmp_path / "cam").mkdir(mode=0o777)
    (tmp_path / "cam").chmod(0o777)
    disk.begin(tmp_path / "cam" / "a.mp4", b"x")
    done(disk)
    assert (tmp_path / "cam").stat().st_mode & 0o777 == 0o777


# ------------------------------------------------------------------------------------- steps that fail


@pytest.mark.parametrize("call", ["write", "unlink", "ftruncate"])
def test_a_descriptor_is_closed_whatever_fails_before(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(1, lambda: None)
    with monkeypatch.context() as patch:
        # The first piece cannot be written, so there is no whole one, and the file is removed.
        patch.setattr(os, "write", failing(errno.ENOSPC))
        if call != "write":
            patch.setattr(os, call, failing(errno.EPERM))
        disk.begin(tmp_path / "a.mp4", b"first piece")
        done(disk)
        wait_for(lambda: disk.path is None)
        closed(disk)
    assert open_files(tmp_path) == []
    assert disk.error is not None and disk.error.errno == errno.ENOSPC
    assert disk.error.filename == str(tmp_path / "a.mp4")
    assert disk.complete() == [] and os.listdir(tmp_path) == (["a.mp4"] if call == "unlink" else [])


def test_a_file_whose_close_fails_is_closed_once_and_nothing_is_written_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(1, lambda: None)
    disk.begin(tmp_path / "a.mp4", b"whole")
    done(disk)
    close = os.close
    with monkeypatch.context() as patch:

        def failing_once(fd: int) -> None:
            monkeypatch.setattr(os, "close", close)
            close(fd)
            raise OSError(errno.EIO, "no disk")

        patch.setattr(os, "close", failing_once)
        disk.begin(tmp_path / "b.mp4", b"more")
        disk.write(b"and more")
        done(disk)
    closed(disk)
    assert disk.error is not None and (disk.error.errno, disk.error.filename) == (
        errno.EIO,
        str(tmp_path / "a.mp4"),
    )
    assert os.listdir(tmp_path) == ["a.mp4"] and open_files(tmp_path) == []
    assert (disk.files, disk.pieces, disk.bytes) == (1, 1, 5)


def test_a_piece_that_is_written_in_part_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(1, lambda: None)
    disk.begin(tmp_path / "a.mp4", b"whole")
    done(disk)
    write = os.write
    with monkeypatch.context() as patch:

        def half(fd: int, data: memoryview) -> int:
            if len(data) < 4:
                raise OSError(errno.EDQUOT, "quota")
            return write(fd, data[: len(data) // 2])

        patch.setattr(os, "write", half)
        disk.write(b"half of this")
        done(disk)
    closed(disk)
    assert (tmp_path / "a.mp4").read_bytes() == b"whole"
    assert disk.complete() == [tmp_path / "a.mp4"]
    assert disk.error is not None and disk.error.errno == errno.EDQUOT


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("x" * 300 + ".mp4", errno.ENAMETOOLONG),
        ("a\0b.mp4", errno.EINVAL),
        ("\ud800.mp4", errno.EINVAL),
        ("file/a.mp4", errno.ENOTDIR),
        ("file/folder/a.mp4", errno.ENOTDIR),
        ("loop/a.mp4", errno.ELOOP),
    ],
)
def test_a_path_that_cannot_be_is_an_error_and_the_thread_ends(
    path: str, number: int, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    disk = Disk(1, lambda: None)
    disk.begin(tmp_path / path, b"x")
    disk.write(b"y")
    done(disk)
    closed(disk)
    assert disk.error is not None and disk.error.errno == number
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


def test_a_folder_that_is_removed_meanwhile_is_made_once_more(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a timer that removes empty folders, between making it and opening the file."""
    opened, tries = os.open, []

    def removed(path: Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if Path(path).name == "a.mp4" and len(tries) < 3:
            tries.append(path)
            shutil.rmtree(tmp_path / "cam")
        return opened(path, flags, mode, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", removed)
        disk.begin(tmp_path / "cam" / "day" / "a.mp4", b"x")
        done(disk)
    assert disk.error is None and len(tries) == 3
    assert (tmp_path / "cam" / "day" / "a.mp4").read_bytes() == b"x"


def test_a_file_that_somebody_else_put_there_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(1, lambda: None)

    def replaced(fd: int, data: memoryview) -> int:
        (tmp_path / "new").write_bytes(b"somebody else's")
        (tmp_path / "new").rename(tmp_path / "a.mp4")
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr("valkka_async.record.disk.os.write", replaced)
        disk.begin(tmp_path / "a.mp4", b"x")
        done(disk)
        closed(disk)
    assert (tmp_path / "a.mp4").read_bytes() == b"somebody else's"


def test_without_a_thread_there_is_an_error_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(OSError) as caught:
        Disk(1, lambda: None)
    assert caught.value.errno == errno.EAGAIN


def test_a_callback_that_fails_does_not_keep_the_end_from_being_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failures: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)

    def fail() -> None:
        raise ZeroDivisionError

    disk = Disk(1, fail)
    disk.begin(tmp_path / "a.mp4", b"xyz")
    wait_for(lambda: disk.ended)
    wait_for(lambda: failures)


# ------------------------------------------------------------------------------------------ what it tells


class Heard:
    """A journal that keeps all."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, bool]] = []

    def begun(self, path: Path, contents: Contents) -> None:
        self.told.append(("begun", path.name, path.exists()))

    def ended(self, path: Path, contents: Contents | None) -> None:
        self.told.append(("ended", path.name, contents is not None))


def test_files_are_told_as_they_begin_and_end_and_only_whole_ones_have_their_record(tmp_path: Path) -> None:
    heard = Heard()
    disk = Disk(1, lambda: None, heard)
    for number, missing in enumerate((0, 10)):
        contents = Contents.of(head())
        contents.add(100, 10**18, 0, 3600, mark=True)
        data = head() + bytes(100 - missing)  # of the second one, not all could be written
        disk.begin(tmp_path / f"{number}.mp4", data, contents)
    closed(disk)
    assert heard.told == [
        ("begun", "0.mp4", True),
        ("ended", "0.mp4", True),
        ("begun", "1.mp4", True),
        ("ended", "1.mp4", False),
    ]
    assert (tmp_path / "0.mp4").read_bytes()[-12:-8] == b"mfro"
    assert (tmp_path / "1.mp4").stat().st_size == len(head()) + 90


def test_a_file_without_a_whole_piece_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    disk = Disk(1, lambda: None, heard)
    monkeypatch.setattr(os, "write", failing(errno.ENOSPC))
    disk.begin(tmp_path / "a.mp4", b"x", Contents.of(head()))
    closed(disk)
    assert (heard.told, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize("also", ["nobody", "a copy of the descriptor", "a program"])
def test_who_asks_whether_a_file_is_being_written_is_told(tmp_path: Path, disk: Disk, also: str) -> None:
    path = tmp_path / "a.mp4"
    disk.begin(path, b"abc")
    done(disk)
    assert is_written(path) and not is_written(tmp_path / "none")
    (one,) = [int(fd) for fd in os.listdir("/proc/self/fd") if link_of(fd) == str(path)]
    copy = os.dup(one) if also == "a copy of the descriptor" else -1
    child = subprocess.Popen(["sleep", "60"], pass_fds=[one]) if also == "a program" else None
    try:
        disk.finish()
        wait_for(lambda: not is_written(path))
    finally:
        if copy >= 0:
            os.close(copy)
        if child is not None:
            child.kill()
            child.wait()


@pytest.mark.parametrize("times", [1, 5])
def test_who_asks_in_the_moment_in_which_a_file_begins_keeps_it_from_nothing(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """As another service that looks through the folder: it has the lock while it asks."""
    flock, asked = fcntl.flock, []

    def asks(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and len(asked) < times:
            asked.append(fd)
            raise BlockingIOError(errno.EAGAIN, "in use")
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", asks)
    disk.begin(tmp_path / "a.mp4", b"abc")
    done(disk)
    assert is_written(tmp_path / "a.mp4") and len(asked) == times


def link_of(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


@pytest.mark.parametrize(("change", "number"), [(None, errno.ENOENT), (0, errno.EIO), (2, errno.EIO)])
def test_a_file_that_another_program_takes_away_is_not_written_on(
    tmp_path: Path, disk: Disk, change: int | None, number: int
) -> None:
    path = tmp_path / "a.mp4"
    disk.begin(path, b"abc")
    done(disk)
    if change is None:
        path.unlink()
    else:
        os.truncate(path, change)
    disk.write(b"def")
    done(disk)
    assert disk.error is not None and (disk.error.errno, disk.error.filename) == (number, str(path))
    assert disk.bytes == 3 and open_files(tmp_path) == []
