# SPDX-License-Identifier: MIT
"""``{people}``: what examples/surveillance.py makes of real footage.

There is no footage with the sources. Where the tests have fetched some, and there is OpenCV, the example is
run on it, and its image is left beside it for the next time. Elsewhere the page says how to come by it:
nothing is fetched for the documentation.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "surveillance.py"
CACHE = ROOT / ".cache"
FOOTAGE = CACHE / "vtest.avi"  # tests/support/footage.py
PEOPLE = 3  # that must be found at once: it is to be worth looking at
SECONDS = 30.0

ALT = "Pedestrians on a campus, seen by a CCTV camera; orange boxes around the people that were found"
LEGEND = (
    "Its picture of one camera. Grey: what moves, from the camera's own process, in the frame's metadata. "
    "Orange: who the detector found. Footage: vtest.avi of OpenCV."
)
WITHOUT = "`make test docs` puts a picture here: it takes OpenCV and footage, which the tests fetch."


def picture(footage: Path = FOOTAGE, kept: Path = CACHE / "people.jpg") -> Path | None:
    """Where the picture is, drawn now unless it has been; None where it cannot be."""
    if not footage.exists():
        return None
    newest = max(path.stat().st_mtime for path in (footage, *EXAMPLE.parent.glob("surveillance*.py")))
    if not kept.exists() or kept.stat().st_mtime < newest:
        with tempfile.TemporaryDirectory(prefix="va-") as folder:
            made = Path(folder, "people.jpg")
            if not _run(footage, made):
                return None
            part = kept.with_name(f".{kept.name}.{os.getpid()}")  # two may build at the same time
            part.write_bytes(made.read_bytes())
            part.replace(kept)
    return kept


def _run(footage: Path, made: Path) -> bool:
    """Run the example until it finds enough people. False: it cannot, or did not in time."""
    process = subprocess.Popen(
        [sys.executable, EXAMPLE, "--picture", made, footage],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=made.parent,
        env=os.environ | {"VALKKA_RUNTIME_DIR": str(made.parent), "PYTHONPATH": str(ROOT)},
    )
    try:
        in_a_row = 0
        for line in _lines(process, time.monotonic() + SECONDS):
            found = re.match(r"site1: (\d+) people", line)
            in_a_row = in_a_row + 1 if found is not None and int(found[1]) >= PEOPLE else 0
            if in_a_row == 3:  # it writes each image after its line, and we may read that late
                return True
        return False
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _lines(process: subprocess.Popen[bytes], deadline: float) -> Iterator[str]:
    """Until it ends, or the time is over."""
    assert process.stdout is not None
    fd, data = process.stdout.fileno(), b""
    while select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
        if not (piece := os.read(fd, 4096)):
            return
        *lines, data = (data + piece).split(b"\n")
        yield from (line.decode() for line in lines)


class People(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(__file__)
        if (made := picture()) is None:
            return self.parse_text_to_nodes(WITHOUT)
        here = Path(self.env.doc2path(self.env.docname)).parent
        image = nodes.image(uri=os.path.relpath(made, here), alt=ALT)
        return [nodes.figure("", image, nodes.caption("", LEGEND))]


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("people", People)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
