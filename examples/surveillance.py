# SPDX-License-Identifier: MIT
"""Surveillance: a process for each camera, an OpenCV process for each camera, one detector for all of them.

    camera -> motion --+
    camera -> motion --+--> batches of the newest frames -> people -> people.jpg, new with each batch
    camera -> motion --+

You may kill any process on the left: it is restarted, and only its camera has a gap. (Without cameras the
images are synthetic, and have no people in them.)
What libValkka's version could not do: start a process at any time (all had to be forked first, with slots and
sizes agreed), or notice that one had died.

    .venv/bin/pip install "opencv-python<5"
    .venv/bin/python examples/surveillance.py [--picture people.jpg] [--seconds N] [URL or file ...]

See also surveillance_motion.py and surveillance_people.py, its parts."""

import argparse
import asyncio
import contextlib
import sys
from pathlib import Path

from surveillance_people import watch

import valkka_async as va

MOTION = Path(__file__).with_name("surveillance_motion.py")
SYNTHETIC = ["lavfi:testsrc2=size=1280x720:rate=25", "lavfi:testsrc=size=640x480:rate=10"]
parser = argparse.ArgumentParser()
parser.add_argument("--picture", default="people.jpg", help="the file to write")
parser.add_argument("--seconds", type=float, help="end after so long")
parser.add_argument("sources", nargs="*", default=SYNTHETIC, metavar="URL or file")


async def keep_running(*command: str | Path) -> None:
    """Run a program, and again whenever it ends."""
    while True:
        process = await asyncio.create_subprocess_exec(sys.executable, *command, process_group=0)
        try:
            await process.wait()
        finally:
            if process.returncode is None:  # this task is cancelled
                process.terminate()
                await process.wait()
        await asyncio.sleep(1)


async def main(options: argparse.Namespace) -> None:
    async with asyncio.timeout(options.seconds), va.Supervisor() as cameras, asyncio.TaskGroup() as tasks:
        for number, url in enumerate(options.sources, 1):
            name = f"site{number}"
            tasks.create_task(cameras.add(name, url, [va.Output(name, "bgr24", fps=10)]))
            tasks.create_task(keep_running(MOTION, name))
        await watch(options.picture)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, TimeoutError):
        asyncio.run(main(parser.parse_args()))
