"""`make demo` on a terminal, as a person has it: python machines/demo.py [SECONDS]

Waits for four cameras in the table, reads the page, its status and a still of each camera, presses Ctrl-C.
Prints after how many seconds the cameras were there. Needs nothing but Python, as the machine is bare.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
CAMERAS = {f"demo{number}" for number in range(1, 5)}
END_SECONDS = 30
COLOURS = re.compile(r"\x1b\[[\d;]*m")


class Terminal:
    """A program on a terminal of its own, and what it wrote there."""

    def __init__(self, *command: str) -> None:
        self.text = ""
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)

    def read(self) -> bool:
        """Whatever comes within a second. False: nobody has the terminal any more."""
        if select.select([self._ours], [], [], 1)[0]:
            try:
                self.text += COLOURS.sub("", os.read(self._ours, 65536).decode(errors="replace"))
            except OSError:  # EIO
                return False
        return True

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
        self.process.wait()
        os.close(self._ours)


def main(seconds: float) -> None:
    begun = time.monotonic()
    terminal = Terminal("make", "demo")
    try:
        while set(re.findall(r"(demo\d)\s+live", terminal.text)) != CAMERAS:
            if time.monotonic() > begun + seconds or not terminal.read():
                sys.exit(f"no table of four cameras within {seconds:.0f} s:\n{terminal.text[-4000:]}")
        took = time.monotonic() - begun
        shown = re.search(r"^http://127\.0\.0\.1:\d+\S*", terminal.text, re.M)
        if shown is None:
            sys.exit(f"no address of the page:\n{terminal.text[-4000:]}")
        look(shown[0].rstrip("/"))
        terminal.press(b"\x03")
        end = time.monotonic() + END_SECONDS
        while terminal.read():
            if time.monotonic() > end:
                sys.exit(f"Ctrl-C does not end it:\n{terminal.text[-4000:]}")
        if status := terminal.process.wait(END_SECONDS):
            sys.exit(f"Ctrl-C ends it with status {status}:\n{terminal.text[-4000:]}")
    finally:
        terminal.close()
    print(f"{took:.0f}")


def look(page: str) -> None:
    """Exits in words if the page is not what the table says."""
    if b"<html" not in get(f"{page}/"):
        sys.exit(f"{page} is not a page")
    cameras = json.loads(get(f"{page}/api/status"))["cameras"]
    names = {camera["name"] for camera in cameras}
    if names != CAMERAS:
        sys.exit(f"the page knows other cameras: {names}")
    for name in CAMERAS:
        if get(f"{page}/api/cameras/{name}/snapshot.jpg")[:2] != b"\xff\xd8":
            sys.exit(f"no still of {name}")


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        content: bytes = answer.read()
    return content


if __name__ == "__main__":
    main(float(sys.argv[1]) if sys.argv[1:] else 600)
