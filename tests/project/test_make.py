"""`make demo` on a terminal: it shows frames, and Ctrl-C ends it as if that were the plan."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="not run by `make test`: there is no set-up")
def test_make_demo_ends_with_status_0_on_ctrl_c(runtime_dir: Path) -> None:
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        ["make", "demo"],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    try:
        seen = ""
        deadline = time.monotonic() + 40
        pressed = False
        while True:
            assert time.monotonic() < deadline, seen[-2000:]
            if select.select([terminal], [], [], 1)[0]:
                try:
                    seen += os.read(terminal, 65536).decode(errors="replace")
                except OSError:  # EIO: everybody has left the terminal
                    break
            plain = re.sub(r"\x1b\[[\d;]*m", "", seen)
            if not pressed and len(set(re.findall(r"(demo\d)\s+live", plain))) == 4:
                assert plain.startswith("http://127.0.0.1:") or "\nhttp://127.0.0.1:" in plain
                os.write(terminal, b"\x03")
                pressed = True
        assert process.wait(10) == 0, seen[-2000:]
        assert os.listdir(runtime_dir) == []
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(terminal)
