# SPDX-License-Identifier: MIT
"""`valkka-async doctor`: that it sees what is wrong, and says what to do."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import valkka_async as va
from support.program import SECONDS, Program, run
from valkka_async.cgroups import Cgroups
from valkka_async.cli.doctor import machine, media
from valkka_async.cli.doctor.capacity import fit
from valkka_async.cli.doctor.check import OK, PROBLEM, WARNING, Check, look_at

LIVE = "lavfi:testsrc=size=320x180:rate=25"
GB = 1_000_000_000


def checked(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """What `doctor --json` found; the exit status has to fit, and whatever is not ok has a fix."""
    found = json.loads(done.stdout)
    checks: list[dict[str, Any]] = found["checks"]
    assert found["ok"] == all(check["state"] != PROBLEM for check in checks)
    assert (done.returncode, done.stderr) == (0 if found["ok"] else 1, "")
    assert all((check["state"] == OK) == (check["fix"] == "") for check in checks)
    return checks


def one(checks: list[dict[str, Any]], name: str, word: str = "") -> dict[str, Any]:
    """The check of that name whose text has the word."""
    (check,) = (c for c in checks if c["name"] == name and word in c["found"])
    return check


def test_this_machine_can_do_what_the_tests_need(runtime_dir: Path) -> None:
    checks = checked(run("doctor", "--json"))
    assert one(checks, "kernel")["state"] == OK
    assert one(checks, "PyAV")["state"] == OK
    assert {"h264", "hevc", "mjpeg"} <= {*one(checks, "decoders")["found"].split(", ")}
    assert "libx264" in one(checks, "encoders")["found"]
    assert one(checks, "libraries")["state"] == one(checks, "service")["state"] == OK
    assert str(runtime_dir) in one(checks, "directory")["found"]
    assert {"Python", "descriptors", "memory", "cores", "UDP", "clock"} <= {c["name"] for c in checks}
    for size in ("640x360", "1920x1080"):
        assert re.match(r"[1-9]\d* at 25/s, .* ms a frame, \d+ MB", one(checks, f"cameras {size}")["found"])

    text = run("doctor")
    assert text.returncode in (0, 1) and text.stderr == ""
    assert "\x1b" not in text.stdout and "Linux" in text.stdout
    assert text.stdout.count("fix: ") == sum(check["state"] != OK for check in checks)
    assert os.listdir(runtime_dir) == []


@pytest.mark.parametrize(
    ("size", "seconds", "cores", "memory", "cameras", "short"),
    [
        ((1920, 1080), 5e-3, 2.0, 1e9, 11, "cores"),
        ((640, 360), 1e-3, 2.0, 0.5e9, 19, "memory"),
        ((640, 360), 1e-3, 0.5, 1e9, 10, "cores"),
        ((3840, 2160), 20e-3, 8.0, 150e6, 0, "memory"),
        ((640, 360), 1e-3, 2.0, 0, 0, "memory"),
    ],
)
def test_how_many_cameras_fit_is_what_is_short_first(
    size: tuple[int, int], seconds: float, cores: float, memory: float, cameras: int, short: str
) -> None:
    """Of two cores and a gigabyte, and of less."""
    there = fit(size, seconds, cores, memory)
    assert there.cameras == cameras
    assert (there.by_memory < there.by_cores) == (short == "memory")
    assert there.recorded >= there.cameras
    more = fit(size, seconds, 2 * cores, 2 * memory)
    assert more.cameras >= there.cameras


def test_too_few_descriptors_are_a_problem() -> None:
    done = subprocess.run(
        ["sh", "-c", f"ulimit -n 90; exec {sys.executable} -m valkka_async doctor --json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    check = one(checked(done), "descriptors")
    assert (check["state"], done.returncode) == (PROBLEM, 1)
    assert "90 per process" in check["found"] and "LimitNOFILE" in check["fix"]


def test_servers_that_hang_and_servers_that_were_killed() -> None:
    with (
        Program("play", LIVE, "--name", "hangs") as hanging,
        Program("play", LIVE, "--name", "died") as dead,
        va.serve("lives"),
    ):
        hanging.until("is live")
        dead.until("is live")
        dead.kill()
        dead.wait()
        hanging.signal(signal.SIGSTOP)
        checks = checked(run("doctor", "--json"))
        assert one(checks, "servers", "2 running")["found"] == "2 running: hangs, lives"
        pid = str(hanging.pid)
        check = one(checks, "servers", "hangs does not answer")
        assert pid in check["found"] and f"kill {pid}" in check["fix"]
        assert "died" in one(checks, "servers", "was killed")["found"]
        hanging.signal(signal.SIGCONT)
        assert hanging.end() == (0, "")
    va.serve("died").close()  # as it says: this takes over what was left, and removes it


def test_a_runtime_directory_that_cannot_be_used(
    runtime_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    monkeypatch.setenv("VALKKA_RUNTIME_DIR", str(open_to_all))
    check = one(checked(run("doctor", "--json")), "directory")
    assert (check["state"], check["fix"]) == (PROBLEM, f"chmod o-w {open_to_all}")

    long = tmp_path / ("x" * 95)
    monkeypatch.setenv("VALKKA_RUNTIME_DIR", str(long))
    check = one(checked(run("doctor", "--json")), "directory", "so long")
    assert check["state"] == PROBLEM and "shorter" in check["fix"]
    assert not long.exists()  # looking does not make it


@pytest.mark.parametrize(("module", "name", "state"), [("av", "PyAV", PROBLEM), ("yaml", "service", WARNING)])
def test_a_library_that_is_missing_is_told_and_no_traceback(module: str, name: str, state: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; sys.argv[1:] = ['doctor', '--json']\n"
    code += "from valkka_async.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    check = one(checked(done), name, "cannot be imported")
    assert check["state"] == state and "pip install" in check["fix"]
    assert done.returncode == (1 if state == PROBLEM else done.returncode)


@pytest.mark.parametrize(("version", "state"), [("17.1.0", PROBLEM), ("19.0.2", OK), ("20.0.0", WARNING)])
def test_a_video_library_that_was_not_tried_is_told(
    version: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("av.__version__", version)
    (check,) = (check for check in media.video() if check.name == "PyAV")
    assert check.state == state and version in check.found
    assert ("pip install" in check.fix) == (state != OK)


def test_pixels_that_go_the_long_way_are_told_with_what_that_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = (check for check in media.video() if check.name == "pixels")
    assert (check.state, check.fix) == (OK, "")
    monkeypatch.setattr("valkka_async.camera.pixels.swscale.reason", lambda: "libswscale 99 is not known")
    (check,) = (check for check in media.video() if check.name == "pixels")
    assert check.state == WARNING and "pip install" in check.fix
    assert "libswscale 99" in check.found and "1.3 times the CPU" in check.found


def test_a_look_that_fails_is_a_result_too() -> None:
    def look() -> Iterator[Check]:
        yield Check("thing", OK, "good so far")
        raise RuntimeError("broken\nin two lines")

    before, check = look_at("thing", look)
    assert before.state == OK
    assert (check.name, check.state) == ("thing", WARNING) and "RuntimeError: broken in two" in check.found


# ------------------------------------------------------------------------------------- control groups


class Planted:
    """The files of a process's control groups."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proc = folder / "proc"
        self.proc.mkdir()
        (self.proc / "cgroup").touch()
        (self.proc / "mountinfo").touch()

    def group(self, line: str) -> None:
        with (self.proc / "cgroup").open("a") as file:
            file.write(line + "\n")

    def mount(self, name: str, root: str, kind: str, options: str) -> None:
        with (self.proc / "mountinfo").open("a") as file:
            file.write(f"30 20 0:26 {root} {self.folder / name} rw shared:4 - {kind} x {options}\n")

    def file(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text + "\n")


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path)


def test_the_tightest_of_nested_groups_counts(planted: Planted) -> None:
    planted.mount("fs", "/", "cgroup2", "rw")
    planted.group("0::/system.slice/va.service")
    planted.file("fs/system.slice/va.service/memory.max", "max")
    planted.file("fs/system.slice/va.service/cpu.max", "max 100000")
    planted.file("fs/system.slice/memory.max", str(2 * GB))
    planted.file("fs/system.slice/memory.current", str(GB))
    planted.file("fs/system.slice/memory.stat", f"anon 5\ninactive_file {GB // 2}")
    planted.file("fs/system.slice/cpu.max", "150000 100000")
    groups = Cgroups(planted.proc)
    assert groups.memory() == (2 * GB, 3 * GB // 2)  # cached files can be given back
    assert groups.cores() == 1.5


def test_version_1_with_each_controller_on_its_own(planted: Planted) -> None:
    planted.mount("mem", "/", "cgroup", "rw,memory")
    planted.mount("cpu", "/", "cgroup", "rw,cpu,cpuacct")
    planted.mount("cpuset", "/", "cgroup", "rw,cpuset")
    planted.group("4:memory:/box")
    planted.group("3:cpuset:/")
    planted.group("2:cpu,cpuacct:/box")
    planted.file("mem/memory.limit_in_bytes", "9223372036854771712")  # no limit
    planted.file("mem/box/memory.limit_in_bytes", str(GB))
    planted.file("mem/box/memory.usage_in_bytes", str(GB // 4))
    planted.file("cpu/cpu.cfs_quota_us", "-1")
    planted.file("cpu/cpu.cfs_period_us", "100000")
    planted.file("cpu/box/cpu.cfs_quota_us", "50000")
    planted.file("cpu/box/cpu.cfs_period_us", "100000")
    groups = Cgroups(planted.proc)
    assert groups.memory() == (GB, GB - GB // 4)
    assert groups.cores() == 0.5
    check = machine.cores(groups)
    assert check.state == WARNING and "0.5" in check.found and "CPUQuota" in check.fix


def test_a_container_whose_group_is_what_is_mounted(planted: Planted) -> None:
    planted.mount("fs", "/docker/abc", "cgroup2", "rw")
    planted.group("0::/docker/abc")
    planted.file("fs/memory.max", str(GB // 2))
    planted.file("fs/memory.current", str(GB // 2 - 50_000_000))
    groups = Cgroups(planted.proc)
    assert groups.memory() == (GB // 2, 50_000_000)
    meminfo = planted.folder / "meminfo"
    meminfo.write_text("MemTotal: 16000000 kB\nMemFree: 1 kB\nMemAvailable: 12000000 kB\n")
    check = machine.memory(groups, meminfo)
    assert check.state == PROBLEM and "--memory" in check.fix


def test_no_groups_are_no_limit(planted: Planted) -> None:
    assert (Cgroups(planted.proc).memory(), Cgroups(planted.proc).cores()) == (None, None)
    assert Cgroups(planted.folder / "nothing").memory() is None
    meminfo = planted.folder / "meminfo"
    meminfo.write_text("MemTotal: 16000000 kB\nMemFree: 1 kB\nMemAvailable: 12000000 kB\n")
    assert machine.memory(Cgroups(planted.proc), meminfo).state == OK
    meminfo.write_text("MemTotal: 16000000 kB\nMemFree: 1 kB\nMemAvailable: 300000 kB\n")
    assert machine.memory(Cgroups(planted.proc), meminfo).state == WARNING
