# SPDX-License-Identifier: MIT
"""`valkka-async demo` as a process: its page, its cameras, its faults, and that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import valkka_async as va
from support.program import SECONDS, Program, one_line, processes, run
from support.terminal import Terminal
from support.until import wait_for

SMALL = ("--size", "320x180", "--port", "0")
COLOUR = re.compile(r"\x1b\[[\d;]*m")
TWO = ("demo", "--cameras", "2", *SMALL)


class Demo(Program):
    """A demo, whose page answers."""

    def __init__(self, *args: str) -> None:
        super().__init__(*args)
        self.page = ""

    def __enter__(self) -> Demo:
        found = re.fullmatch(r"(http://127\.0\.0\.1:\d+/)  <- open this in a browser", self.line())
        assert found, self.seen
        self.page = found[1]
        return self

    def cameras(self) -> dict[str, dict[str, Any]]:
        """What the service says of each."""
        with urllib.request.urlopen(f"{self.page}api/status", timeout=SECONDS) as answer:
            return {camera["name"]: camera for camera in json.load(answer)["cameras"]}

    def live(self) -> bool:
        return all(camera["state"] == "live" for camera in self.cameras().values())


def synthetics(runtime_dir: Path) -> dict[str, int]:
    """The processes of the synthetic cameras."""
    found = {}
    for pid in processes(runtime_dir):
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if "_camera" in words:
            found[words[words.index("_camera") + 1]] = pid
    return found


def nothing_is_left(runtime_dir: Path) -> bool:
    return processes(runtime_dir) == [] and os.listdir(runtime_dir) == []


def test_the_first_line_is_the_page_and_the_frames_are_there_for_programs(runtime_dir: Path) -> None:
    with Demo("demo", "--cameras", "3", "--size", "320x180") as demo:
        with urllib.request.urlopen(demo.page, timeout=SECONDS) as answer:
            assert answer.status == 200 and b"<html" in answer.read()
        wait_for(demo.live)
        cameras = demo.cameras()
        assert list(cameras) == ["demo1", "demo2", "demo3"]
        for name, camera in cameras.items():
            assert (camera["live"], camera["still"]) == (f"{name}.fmp4", f"{name}.jpeg")
            status = camera["camera"]
            (stream,) = status["streams"]
            assert (stream["codec"], stream["width"], stream["height"]) == ("h264", 320, 180)
            assert stream["decoded"] == 0  # a camera without readers is not decoded
        with va.attach("demo2") as reader, reader.recv(SECONDS) as frame:
            assert (frame.shape, frame.format) == ((180, 320, 3), "rgb24")
        demo.until(r"connect\('demo1'\)", "async for frame in c")
        os.killpg(demo.pid, signal.SIGTERM)  # to all of the group, as a terminal sends SIGINT
        assert demo.finish() == (0, "")
    assert nothing_is_left(runtime_dir)


def test_it_ends_after_its_seconds_and_takes_a_free_port_if_8088_is_taken(runtime_dir: Path) -> None:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # somebody else has it
            stack.enter_context(socket.create_server(("127.0.0.1", 8088)))
        with Demo("demo", "--cameras", "1", "--size", "320x180", "--seconds", "1") as demo:
            assert ":8088/" not in demo.page
            assert demo.finish() == (0, "")
    assert nothing_is_left(runtime_dir)


def test_of_two_demos_that_start_at_once_one_runs_and_the_other_says_why(runtime_dir: Path) -> None:
    with Program(*TWO) as one, Program(*TWO) as two:
        wait_for(lambda: one.process.poll() is not None or two.process.poll() is not None)
        loser, winner = (one, two) if one.process.poll() is not None else (two, one)
        status, errors = loser.finish()
        assert (status, loser.seen) == (1, "")
        assert f"'demo' is served already by process {winner.pid}" in one_line(errors)
        assert "Errno" not in errors
        winner.until("open this in a browser")
        assert winner.end() == (0, "")
    assert nothing_is_left(runtime_dir)


def test_into_a_pipe_each_thing_is_said_once_and_it_ends_when_nobody_reads_any_more(
    runtime_dir: Path,
) -> None:
    with Program(*TWO) as demo:
        demo.until("open this in a browser", "^demo1: live", "^demo2: live")
        demo.line_if_any(2.5)  # no row of a table, which would come each second
        assert demo.seen.count("demo1: live") == 1 and " fps" not in demo.seen
        demo.hang_up()
        assert demo.finish() == (0, "")
    assert nothing_is_left(runtime_dir)


def test_a_port_that_was_asked_for_and_is_taken_is_an_error(runtime_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("demo", "--port", port)
    assert result.returncode == 1 and result.stdout == ""
    message = one_line(result.stderr)
    assert port in message and "--port" in message
    assert nothing_is_left(runtime_dir)


def test_a_name_that_is_taken_is_said_and_nobody_else_is_harmed(runtime_dir: Path) -> None:
    with va.serve("demo2"), va.serve("cam1"):
        result = run("demo", "--cameras", "3", *SMALL)
        assert result.returncode == 1 and result.stdout == ""
        message = one_line(result.stderr)
        assert "'demo2' is served already" in message and str(os.getpid()) in message
        assert "VALKKA_RUNTIME_DIR" in message
        assert processes(runtime_dir) == []
        assert sorted(os.listdir(runtime_dir)) == ["cam1.lock", "cam1.sock", "demo2.lock", "demo2.sock"]


def test_a_signal_while_it_starts_leaves_nothing(runtime_dir: Path) -> None:
    with Program("demo", "--cameras", "3", *SMALL) as demo:
        wait_for(lambda: synthetics(runtime_dir))
        assert demo.end() == (0, "")
    assert nothing_is_left(runtime_dir)


def test_all_ends_by_itself_when_the_demo_is_killed(runtime_dir: Path) -> None:
    with Demo(*TWO) as demo:
        wait_for(demo.live)
        wait_for(lambda: len(processes(runtime_dir)) == 6)  # it, two cameras, two workers, and their parent
        demo.kill()
        demo.wait()
        wait_for(lambda: not processes(runtime_dir))
    # The others had the time to clean up; what the demo itself has left the next one takes over.
    left = ["demo.control", "demo.control.lock", "demo.events.lock", "demo.events.sock"]
    assert sorted(os.listdir(runtime_dir)) == left
    assert run(*TWO, "--seconds", "0.1").returncode == 0
    assert nothing_is_left(runtime_dir)


def test_what_hangs_is_ended_by_force(runtime_dir: Path) -> None:
    with Demo(*TWO) as demo:
        wait_for(demo.live)
        os.kill(demo.cameras()["demo1"]["worker"]["pid"], signal.SIGSTOP)
        os.kill(synthetics(runtime_dir)["demo2"], signal.SIGSTOP)
        assert demo.end()[0] == 0
    assert nothing_is_left(runtime_dir)


def test_a_synthetic_camera_that_dies_is_started_again_where_it_was(runtime_dir: Path) -> None:
    with Demo(*TWO) as demo:
        wait_for(demo.live)
        (before,) = demo.cameras()["demo1"]["camera"]["streams"]
        os.kill(synthetics(runtime_dir)["demo1"], signal.SIGKILL)
        demo.until("^demo1: the synthetic camera ended: killed by SIGKILL; restarting it$")
        reconnects = before["reconnects"]

        def now() -> dict[str, Any]:
            stream: dict[str, Any] = demo.cameras()["demo1"]["camera"]["streams"][0]
            return stream

        wait_for(lambda: now()["reconnects"] > reconnects and demo.live())
        assert now()["url"] == before["url"]
        assert demo.end() == (0, "")


def test_the_last_camera_has_the_fault_and_recovers(runtime_dir: Path) -> None:
    with Demo(*TWO, "--fault", "kill") as demo:
        wait_for(demo.live)
        before = demo.cameras()
        demo.until(rf"^demo2: FAULT: its worker process {before['demo2']['worker']['pid']} is killed")
        wait_for(lambda: demo.cameras()["demo2"]["worker"]["restarts"] and demo.live())
        after = demo.cameras()
        assert after["demo2"]["worker"]["pid"] != before["demo2"]["worker"]["pid"]
        assert after["demo1"]["worker"]["pid"] == before["demo1"]["worker"]["pid"]
        assert demo.end() == (0, "")
    assert nothing_is_left(runtime_dir)


def test_ctrl_c_on_a_terminal_ends_it_and_its_live_table(runtime_dir: Path) -> None:
    with Terminal(*TWO) as terminal:
        terminal.until(r"demo2\s*(\x1b\[[\d;]*m\s*)+live")  # a row of the table, in colours
        assert terminal.shown.startswith("http://127.0.0.1:")
        terminal.press("\x03")
        assert terminal.wait() == 0
        assert "Traceback" not in terminal.shown
    assert nothing_is_left(runtime_dir)


@pytest.mark.parametrize(
    "args",
    [("--cameras", "0"), ("--fps", "0.5"), ("--size", "321x180"), ("--fault", "fire")],
)
def test_bad_usage_has_exit_status_2(args: tuple[str, ...]) -> None:
    result = run("demo", *args)
    assert result.returncode == 2
    one_line(result.stderr)
