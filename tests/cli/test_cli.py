# SPDX-License-Identifier: MIT
"""The real commands, as processes: what they print, how they end, and that they leave nothing behind.

The fixtures of conftest.py check the runtime directory, /dev/shm and the children of this process after
each test; grandchildren are looked for here, by the runtime directory in their environment.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import valkka_async as va
from support.program import SECONDS, Program, one_line, run
from support.until import wait_for
from valkka_async.cli.board import Board, Source, State

LIVE = "lavfi:testsrc=size=320x180:rate=25"


def listed() -> dict[str, dict[str, Any]]:
    """What `ls --json` knows, by name."""
    result = run("ls", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    return {row["name"]: row for row in json.loads(result.stdout)}


# ---------------------------------------------------------------------------------- play, watch, ls


def test_play_is_seen_by_watch_and_ls(runtime_dir: Path) -> None:
    with Program("play", LIVE, "--name", "cam1", "--size", "160x90", "--fps", "10") as player:
        player.until(rf"^cam1 is live: 160x90 rgb24, \d+\.\d fps, from {re.escape(LIVE)}$")
        with Program("watch", "cam*", "nothere") as watcher:
            watcher.until(r"^cam1  live  160x90 rgb24  \d.* [1-9]\d* frames", "^nothere  waiting")
            row = listed()["cam1"]
            assert watcher.end() == (0, "")
        assert (row["state"], row["pid"], row["readers"]) == ("live", player.pid, 1)
        assert row["published"] > 0 and row["last_frame_age"] >= 0
        assert re.search(rf"^cam1 +{player.pid} .* live *$", run("ls").stdout, re.M)
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
        watcher.hang_up()
        assert watcher.finish() == (0, "")


def test_ls_with_nothing_to_list() -> None:
    result = run("ls")
    assert (result.returncode, result.stderr) == (0, "")
    assert "valkka-async demo" in result.stdout
    assert listed() == {}


def test_ls_leaves_out_the_dead_and_says_who_does_not_answer(runtime_dir: Path) -> None:
    with Program("play", LIVE, "--name", "cam1") as player:
        player.until("is live")
        player.signal(signal.SIGSTOP)
        assert listed()["cam1"]["state"] == "does not answer"
        player.kill()
        player.wait()
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


# ------------------------------------------------------------------------------------------ figures


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
