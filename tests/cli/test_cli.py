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
from pathlib import Path
from typing import Any

import pytest

import valkka_async as va
from support.program import SECONDS, Child, Program, one_line, run

LIVE = "lavfi:testsrc=size=320x180:rate=25"


def listed(*names: str) -> dict[str, dict[str, Any]]:
    """The servers that `top --once --json` knows, by name."""
    result = run("top", "--once", "--json", *names)
    assert (result.returncode, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    rings = [ring for camera in document["cameras"] for ring in camera["rings"]]
    return {ring["name"]: ring for ring in (*document["servers"], *rings)}


# ----------------------------------------------------------------------------------------- play, top


def test_play_is_seen_by_top(runtime_dir: Path) -> None:
    with Program("play", LIVE, "--name", "cam1", "--size", "160x90", "--fps", "10") as player:
        player.until(rf"^cam1 is live: 160x90 rgb24, \d+\.\d fps, from {re.escape(LIVE)}$")
        row = listed("cam*")["cam1"]
        assert (row["state"], row["pid"], row["readers"]) == ("live", player.pid, 0)
        assert row["published"] > 0 and row["fps"] > 0 and row["age"] >= 0
        assert re.search(r"^ *cam1 +live +160x90 rgb24 ", run("top", "--once").stdout, re.M)
        assert player.end(signal.SIGTERM) == (0, "")


def test_play_ends_with_its_file_or_its_seconds(runtime_dir: Path) -> None:
    ended = run("play", f"{LIVE}:duration=0.4", "--name", "cam1", "--format", "gray8")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[0] == f"cam1 is live: 320x180 gray8, from {LIVE}:duration=0.4"
    assert ended.stdout.splitlines()[1] == "cam1: the source has ended; 10 frames, 0 dropped"
    looped = run("play", f"{LIVE}:duration=0.4", "--name", "cam1", "--loop", "--seconds", "1.2")
    assert (looped.returncode, looped.stderr) == (0, "")
    assert "ended" not in looped.stdout


def test_top_ends_after_its_seconds_and_quietly_when_nobody_reads_any_more() -> None:
    result = run("top", "nothere", "--seconds", "1.5")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search("^nothere  not running", result.stdout, re.M)
    with Program("top", "nothere") as top:
        top.until("not running")
        top.hang_up()
        assert top.finish() == (0, "")


def test_top_leaves_out_the_dead_and_says_what_does_not_answer(runtime_dir: Path) -> None:
    with Program("play", LIVE, "--name", "cam1") as player:
        player.until("is live")
        player.signal(signal.SIGSTOP)
        assert listed()["cam1"]["state"] == "no answer"
        player.kill()
        assert "cam1.sock" in os.listdir(runtime_dir)
        assert listed() == {}
    va.serve("cam1").close()  # takes over what was left, and removes it


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
    assert all(command in result.stdout for command in ("play", "top", "rec", "demo"))
    assert "_camera" not in result.stdout
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "typer" in loaded and not loaded & {"av", "uvloop", "rich.live"}


@pytest.mark.parametrize(
    ("arguments", "work", "status"),
    [
        (["play", LIVE, "--name", "cam1"], "valkka_async.cli.play.play", 0),
        (["rec", "cam1"], "valkka_async.cli.rec.find", 1),
        (["snap", "cam1"], "valkka_async.cli.snap.snap", 1),
        (["probe", LIVE], "valkka_async.cli.address.read_url", 1),
    ],
)
def test_ctrl_c_before_a_command_has_begun(arguments: list[str], work: str, status: int) -> None:
    """Status 1 for those that were to bring something."""
    module, _, function = work.rpartition(".")
    code = f"""
        import {module} as module
        from valkka_async.cli import main
        def interrupted(*args, **kwargs): raise KeyboardInterrupt
        module.{function} = interrupted
        sys.argv = ["valkka-async", *{arguments!r}]
        main()
    """
    with Child(code) as child:
        assert child.finish()[0] == status


@pytest.mark.parametrize(
    ("package", "name"), [("pydantic", "pydantic"), ("aiohttp", "aiohttp"), ("yaml", "PyYAML")]
)
def test_a_package_that_is_missing_is_named_whoever_imports_it(package: str, name: str) -> None:
    """Also where that is typer, in the middle of reading the arguments."""
    hide = f"import sys; sys.modules[{package!r}] = None; from valkka_async.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", hide, "run", "none.yaml"], capture_output=True, text=True)
    assert done.returncode == 1 and re.fullmatch(
        rf'valkka-async: \w+ command needs {name}: pip install "valkka-async\[service\]"\n', done.stderr
    )
