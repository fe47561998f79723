"""The README's programs run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from support.program import Child

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def test_a_camera_and_who_watches_it() -> None:
    camera, watcher, _ = BLOCKS
    with Child(watcher.replace('old")', 'old", flush=True)')) as seen, Child(camera) as server:
        for _ in range(5):
            line = seen.line(30)
            assert re.match(r"cam1 \d+ \d+\.\d+ -?\d+ ms old$", line), line
        server.kill()
        seen.kill()
    with Child('[va.serve(n).close() for n in ("cam1", "cam1.small")]; say("ok")') as tidy:
        assert tidy.line() == "ok"


def test_frames_in_frames_out() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKS[2]], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("bgr24 (480, 640, 3) 0 {}\n", "")


def test_the_figures_are_those_of_the_report() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "readme.py"
    assert subprocess.run([sys.executable, script, "--check"], timeout=30).returncode == 0
