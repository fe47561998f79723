# SPDX-License-Identifier: MIT
"""The real commands, as processes: what they print, how they end, and that they leave nothing behind.

The fixtures of conftest.py check the runtime directory, /dev/shm and the children of this process after
each test; grandchildren are looked for here, by the runtime directory in their environment.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import numpy as np
import pytest

import valkka_async as va
from support.until import wait_for
from valkka_async.cli.board import Board, Source, State
from valkka_async.cli.picture import Picture
from valkka_async.connection import report

SECONDS = 30.0  # until something that should happen soon counts as not happening
LIVE = "lavfi:testsrc=size=320x180:rate=25"
SMALL = ("--size", "320x180")


class Program:
    """`valkka-async ...` in a session of its own, read line by line; ended by pid when left."""

    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "valkka_async", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.seen = ""
        self._buffer = b""

    def until(self, *patterns: str) -> None:
        """Read lines until each of the patterns was found in one. Raises AssertionError."""
        missing = {*patterns}
        while missing:
            line = self.line()
            missing = {pattern for pattern in missing if not re.search(pattern, line)}

    def line_if_any(self, seconds: float) -> None:
        """Read a line if one comes within so long."""
        assert self.process.stdout is not None
        if b"\n" in self._buffer or select.select([self.process.stdout], [], [], seconds)[0]:
            self.line()

    def line(self) -> str:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        deadline = time.monotonic() + SECONDS
        while b"\n" not in self._buffer:
            ready = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]
            data = os.read(fd, 65536) if ready else b""
            if not data:
                self.process.kill()
                errors = self.process.communicate()[1].decode()
                raise AssertionError(f"{'no more' if ready else 'no'} output after {self.seen!r}; {errors}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        self.seen += line.decode() + "\n"
        return line.decode()

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Send it a signal. Its exit status, and what it said on stderr."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, errors.decode()

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.communicate()


def run(*args: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "valkka_async", *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def eventually(condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def processes(runtime_dir: Path) -> list[int]:
    """Pids, other than ours, that use this runtime directory."""
    mark = f"VALKKA_RUNTIME_DIR={runtime_dir}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:  # gone meanwhile, a zombie, or another user's
                continue
    return found


def pid_of(name: str) -> int | None:
    """The process that serves it now."""
    values = report(name, SECONDS)
    return None if values is None else int(str(values["pid"]))


def listed() -> dict[str, dict[str, Any]]:
    """What `ls --json` knows, by name."""
    result = run("ls", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    return {row["name"]: row for row in json.loads(result.stdout)}


def one_line(text: str) -> str:
    """An error message: one line, no traceback."""
    assert text.count("\n") == 1 and text.startswith("valkka-async: "), text
    return text


# --------------------------------------------------------------------------------------------- demo


def test_demo_shows_all_cameras_and_leaves_nothing(runtime_dir: Path) -> None:
    result = run("demo", "--cameras", "3", "--seconds", "3", *SMALL)
    assert (result.returncode, result.stderr) == (0, "")
    for name in ("demo1", "demo2", "demo3"):
        assert re.search(rf"^{name}  live  320x180 rgb24  .* [1-9]\d* frames", result.stdout, re.M)
    assert processes(runtime_dir) == []
    assert os.listdir(runtime_dir) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_demo_ends_cleanly_on_a_signal_to_all_of_its_process_group(runtime_dir: Path, number: int) -> None:
    with Program("demo", "--cameras", "2", *SMALL) as demo:
        demo.until("demo1  live", "demo2  live")
        os.killpg(demo.process.pid, number)
        assert demo.wait() == (0, "")
    assert processes(runtime_dir) == []
    assert os.listdir(runtime_dir) == []


def test_a_signal_while_the_demo_starts_leaves_nothing(runtime_dir: Path) -> None:
    with Program("demo", "--cameras", "3", *SMALL) as demo:
        assert eventually(lambda: len(processes(runtime_dir)) > 1)
        assert demo.end() == (0, "")
    assert processes(runtime_dir) == []
    assert os.listdir(runtime_dir) == []


def test_cameras_of_a_demo_that_was_killed_end_by_themselves(runtime_dir: Path) -> None:
    with Program("demo", "--cameras", "2", *SMALL) as demo:
        demo.until("demo1  live", "demo2  live")
        assert len(processes(runtime_dir)) == 3
        demo.process.kill()
        demo.process.wait()
        assert eventually(lambda: not processes(runtime_dir))
    assert os.listdir(runtime_dir) == []  # they had the time to clean up


def test_a_camera_that_dies_is_shown_and_started_again(runtime_dir: Path) -> None:
    with Program("demo", "--cameras", "2", *SMALL) as demo:
        demo.until("demo1  live", "demo2  live")
        pid = pid_of("demo1")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        demo.until("^demo1 ended: killed by SIGKILL; starting it again$")
        assert eventually(lambda: pid_of("demo1") not in (None, pid))
        demo.until("demo1  live", "demo2  live")
        assert demo.end() == (0, "")
    assert processes(runtime_dir) == []


def test_what_a_camera_that_was_killed_left_is_removed_at_the_end(runtime_dir: Path) -> None:
    with Program("demo", "--cameras", "2", *SMALL) as demo:
        demo.until("demo1  live", "demo2  live")
        pid = pid_of("demo1")
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)  # neither the end of its input nor SIGTERM ends it now
        assert demo.end() == (0, "")
    assert processes(runtime_dir) == []
    assert os.listdir(runtime_dir) == []


def test_demo_says_which_name_is_taken_and_leaves_the_others_alone(runtime_dir: Path) -> None:
    with va.serve("demo2"), va.serve("cam1"):
        result = run("demo", "--cameras", "3", *SMALL)
        assert result.returncode == 1
        message = one_line(result.stderr)
        assert "'demo2' is served already" in message and str(os.getpid()) in message
        assert processes(runtime_dir) == []
        assert sorted(os.listdir(runtime_dir)) == ["cam1.lock", "cam1.sock", "demo2.lock", "demo2.sock"]


def test_ctrl_c_on_a_terminal_ends_the_demo_and_its_live_table(runtime_dir: Path) -> None:
    terminal, theirs = os.openpty()
    started = (
        "import os, sys; os.login_tty(os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY));"
        "os.execv(sys.executable, [sys.executable, '-m', 'valkka_async', *sys.argv[2:]])"
    )
    command = [sys.executable, "-c", started, os.ttyname(theirs), "demo", "--cameras", "2", *SMALL]
    process = subprocess.Popen(command, env=os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"})
    try:
        shown = ""
        while not re.search(r"demo2\S* +\S*live", shown):
            assert select.select([terminal], [], [], SECONDS)[0], shown
            shown += os.read(terminal, 65536).decode()
        assert "\x1b[32m" in shown  # colours, on a terminal
        os.write(terminal, b"\x03")
        deadline = time.monotonic() + SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.02)[0]:
                shown += os.read(terminal, 65536).decode()
        assert process.poll() == 0
        assert "Traceback" not in shown
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(theirs)
    assert processes(runtime_dir) == []
    assert os.listdir(runtime_dir) == []


# ---------------------------------------------------------------------------------- play, watch, ls


def test_play_is_seen_by_watch_and_ls(runtime_dir: Path) -> None:
    with Program("play", LIVE, "--name", "cam1", "--size", "160x90", "--fps", "10") as player:
        player.until(rf"^cam1 is live: 160x90 rgb24, \d+\.\d fps, from {re.escape(LIVE)}$")
        with Program("watch", "cam*", "nothere") as watcher:
            watcher.until(r"^cam1  live  160x90 rgb24  \d.* [1-9]\d* frames", "^nothere  waiting")
            row = listed()["cam1"]
            assert watcher.end() == (0, "")
        assert (row["state"], row["pid"], row["readers"]) == ("live", player.process.pid, 1)
        assert row["published"] > 0 and row["last_frame_age"] >= 0
        assert re.search(rf"^cam1 +{player.process.pid} .* live *$", run("ls").stdout, re.M)
        assert player.end(signal.SIGTERM) == (0, "")


def test_play_ends_with_its_file_or_its_seconds(runtime_dir: Path) -> None:
    ended = run("play", f"{LIVE}:duration=0.4", "--name", "cam1", "--format", "gray8")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[0] == f"cam1 is live: 320x180 gray8, from {LIVE}:duration=0.4"
    assert ended.stdout.splitlines()[1] == "cam1: the source has ended; 10 frames, 0 dropped"
    looped = run("play", f"{LIVE}:duration=0.4", "--name", "cam1", "--loop", "--seconds", "1.2")
    assert (looped.returncode, looped.stderr) == (0, "")
    assert "ended" not in looped.stdout


def test_watch_follows_servers_that_come_and_go_and_uses_no_colour_in_a_pipe() -> None:
    image = np.zeros((90, 160, 3), np.uint8)
    with Program("watch", "cam*") as watcher:
        watcher.until(r"^cam\*  waiting")
        with va.serve("cam7") as server:
            deadline = time.monotonic() + SECONDS
            while not re.search("cam7  live.* [1-9][0-9]* frames", watcher.seen):
                assert server.publish(image) and time.monotonic() < deadline
                watcher.line_if_any(0.05)
            assert server.stats().readers == 1
        watcher.until("^cam7  waiting")
        assert watcher.end() == (0, "")
        assert "\x1b" not in watcher.seen


def test_watch_of_a_server_that_is_not_there_waits_and_ends_after_its_seconds() -> None:
    result = run("watch", "nothere", "--seconds", "1.2")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search("^nothere  waiting", result.stdout, re.M)
    assert "nothere  waiting" in run("watch", "nothere", "--seconds", "0.1").stdout


def test_watch_ends_quietly_when_nobody_reads_any_more() -> None:
    with Program("watch", "nothere") as watcher:
        watcher.until("waiting")
        assert watcher.process.stdout is not None
        watcher.process.stdout.close()
        watcher.process.stdout = None
        assert watcher.wait() == (0, "")


def test_ls_with_nothing_to_list() -> None:
    result = run("ls")
    assert (result.returncode, result.stderr) == (0, "")
    assert "valkka-async demo" in result.stdout
    assert listed() == {}


def test_ls_leaves_out_the_dead_and_says_who_does_not_answer(runtime_dir: Path) -> None:
    with Program("play", LIVE, "--name", "cam1") as player:
        player.until("is live")
        player.process.send_signal(signal.SIGSTOP)
        assert listed()["cam1"]["state"] == "does not answer"
        player.process.kill()
        player.process.wait()
        assert "cam1.sock" in os.listdir(runtime_dir)
        assert listed() == {}
    va.serve("cam1").close()  # takes over what was left, and removes it


def test_ls_says_what_troubles_a_camera() -> None:
    with va.Camera("cam1", "/no/such/file.mp4"):
        wait_for(lambda: listed()["cam1"]["state"].startswith("failed: "))
        assert "no such stream or file" in listed()["cam1"]["state"]


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("play", LIVE, "--name", "a/b"), "'a/b' is not a name for a server"),
        (("play", "/no/such/file.mp4", "--name", "cam1"), "/no/such/file.mp4: there is no such"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(args: tuple[str, ...], says: str) -> None:
    result = run(*args)
    assert result.returncode == 1
    assert says in one_line(result.stderr)
    assert result.stdout == ""


def test_play_does_not_take_a_name_that_is_in_use() -> None:
    with va.serve("cam1"):
        result = run("play", LIVE, "--name", "cam1")
    assert result.returncode == 1
    assert "'cam1' is served already by process" in one_line(result.stderr)


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (("play", "rtsp://me:s3cr3t@127.0.0.1:1/live", "--name", "cam1"), 1),
        (("play", "--name", "cam1", "x", "rtsp://me:s3cr3t@127.0.0.1:1/live"), 2),
        (("rtsp://me:s3cr3t@127.0.0.1:1/live",), 2),
        (("play", "rtsp://me:s3cr3t@", "--name", "cam1"), 2),
    ],
)
def test_no_message_has_a_password(args: tuple[str, ...], status: int) -> None:
    result = run(*args)
    assert result.returncode == status
    assert "s3cr3t" not in result.stdout + one_line(result.stderr)


@pytest.mark.parametrize(
    "args",
    [
        ("play", LIVE, "--name", "cam1", "--fps", "0"),
        ("play", LIVE, "--name", "cam1", "--size", "161x90", "--format", "nv12"),
        ("play", LIVE, "--name", "cam1", "--transport", "pigeon"),
        ("demo", "--cameras", "0"),
        ("no-such-command",),
    ],
)
def test_bad_usage_has_exit_status_2(args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.returncode == 2
    one_line(result.stderr)


def test_version_and_help_load_no_video_library() -> None:
    version = run("--version")
    assert (version.returncode, version.stdout) == (0, f"valkka-async {va.__version__}\n")
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "valkka_async", "--help"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert result.returncode == 0
    assert all(command in result.stdout for command in ("play", "watch", "ls", "demo"))
    assert "_camera" not in result.stdout
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "typer" in loaded and not loaded & {"av", "uvloop", "rich.live"}


# ------------------------------------------------------------------------- figures and the picture


def frame(seq: int, published_ns: int, dropped: int = 0, source: str = "cam1") -> Any:
    now = time.time_ns()
    return SimpleNamespace(
        source=source,
        seq=seq,
        dropped=dropped,
        shape=(1080, 1920),
        format="nv12",
        published_ns=published_ns,
        timestamp_ns=now,
    )


def test_the_rate_is_the_cameras_although_frames_were_missed() -> None:
    source, now = Source("cam1"), time.monotonic_ns()
    for tick in range(20):  # 25 frames per second, of which we see every tenth
        source.take(frame(1 + 10 * tick, now + tick * 400_000_000, dropped=9 if tick else 0))
        row = source.figures(True, now + tick * 400_000_000)
    assert row.fps == pytest.approx(25)
    assert (row.state, row.picture, row.received, row.dropped) == (State.LIVE, "1920x720 nv12", 20, 171)


def test_a_slow_camera_is_not_stalled_and_a_silent_one_is() -> None:
    source, now = Source("cam1"), time.monotonic_ns()
    for n in range(3):
        source.take(frame(n + 1, now + n * 10_000_000_000))
        row = source.figures(True, now + n * 10_000_000_000)
    last = now + 20_000_000_000
    assert row.fps == pytest.approx(0.1)
    assert source.figures(True, last + 15_000_000_000).state is State.LIVE
    stalled = source.figures(True, last + 31_000_000_000)
    assert (stalled.state, stalled.fps) == (State.STALLED, None)
    assert source.figures(False, last).state is State.WAITING


def test_a_server_that_was_restarted_counts_from_its_own_frames() -> None:
    source, now = Source("cam1"), time.monotonic_ns()
    source.take(frame(5000, now))
    source.figures(True, now)
    for n in range(3):
        source.take(frame(n + 1, now + (n + 1) * 100_000_000))
        row = source.figures(True, now + (n + 1) * 100_000_000)
    assert row.fps == pytest.approx(10)


def test_a_source_that_came_by_a_pattern_and_is_gone_leaves_the_board() -> None:
    board, now = Board(["cam*", "door"]), time.monotonic_ns()
    assert [row.name for row in board.figures({"door": False})] == ["door", "cam*"]
    board.take(frame(1, now - 61_000_000_000, source="cam10"))
    board.take(frame(1, now, source="cam9"))
    assert [row.name for row in board.figures({"door": False, "cam10": True})] == ["cam9", "cam10", "door"]
    assert [row.name for row in board.figures({"door": False})] == ["cam9", "door"]


@pytest.mark.parametrize("size", [(1, 1), (63, 35), (160, 90), (1280, 720)])
def test_the_picture_writes_every_pixel_and_changes_with_each_frame(size: tuple[int, int]) -> None:
    shape = (size[1], size[0], 3)
    picture = Picture("demo1", size, 0.25)
    on_black, on_white = np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)
    picture.draw(on_black, 7, 1_700_000_000_123_456_789)
    picture.draw(on_white, 7, 1_700_000_000_123_456_789)
    assert np.array_equal(on_black, on_white)
    if size[0] > 100:
        next_one, other = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        picture.draw(next_one, 8, 1_700_000_000_163_456_789)
        assert not np.array_equal(on_black, next_one)
        Picture("demo2", size, 0.5).draw(other, 7, 1_700_000_000_123_456_789)
        assert abs(other.mean(axis=(0, 1)) - on_black.mean(axis=(0, 1))).max() > 20
