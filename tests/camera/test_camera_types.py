"""What a type checker knows of cameras: a misspelt setting is found before the program runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import valkka_async as va

output = va.Output("x", "gray8", size=(640, None), fps=5)
spec = va.CameraSpec("x", "rtsp://h/x", (output,), transport="udp")
with va.Camera("x", "rtsp://h/x", output, transport="tcp", hwaccel="cuda:1") as camera:
    print(camera.status().state == va.CameraState.LIVE, camera.closed)
with va.Camera("x", "rtsp://h/x", [output]), va.serve("y") as server:
    with va.play("x.mp4", server, format="nv12", size=(640, None), transport="udp") as player:
        player.join()
supervisor = va.Supervisor(group_size=2, restart_max=1)
async def supervise() -> None:
    await supervisor.add("x", "rtsp://h/x", output, transport="udp", options={"a": "b"})
    await supervisor.add(spec)
    await supervisor.change("x", "rtsp://h/x", [output], retry_max=1)
    status = supervisor.status()["x"]
    print(status.state == va.CameraState.LIVE, status.cause is va.Cause.AUTH, status.camera.codec)
    print([worker.state == "running" for worker in supervisor.workers()])
"""
WRONG = """
va.Camera("x", "rtsp://h/x", transport="tpc")
va.Camera("x", "rtsp://h/x", tranport="tcp")
va.CameraSpec("x", "rtsp://h/x", transport="tpc")
va.Output("x", "rgb42")
va.Output("x", slots="16")
va.play("x.mp4", server, format="rgb42")
va.play("x.mp4", server, format="fmp4")
va.play("x.mp4", server, transport="tpc")
camera.status().state == "lvie"
async def add() -> None: await supervisor.add("x", "rtsp://h/x", tranport="tcp")
async def misspelt() -> None: await supervisor.add("x", "rtsp://h/x", transport="tpc")
async def change() -> None: await supervisor.change("x", "rtsp://h/x", retry_maximum=1)
async def both() -> None: await supervisor.add(spec, transport="tcp")
supervisor.status()["x"].state == "lvie"
camera.status().state == "lvie"
"""


@pytest.mark.timeout(300)
def test_a_type_checker_finds_misspelt_settings_and_nothing_else(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + WRONG)
    done = subprocess.run(  # with this package's own settings, which are strict, and its cache
        [sys.executable, "-m", "mypy", str(program)], capture_output=True, text=True, cwd=ROOT, timeout=240
    )
    found = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    first = PROGRAM.count("\n") + 2
    assert found == set(range(first, first + len(WRONG.strip().splitlines()))), done.stdout + done.stderr
