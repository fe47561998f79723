# SPDX-License-Identifier: MIT
"""Server and clients in one file, one process and one event loop.

A camera, a task that looks at every picture, and one that takes its time over some. The camera is a thread of
which you see nothing; the tasks share its ring, and the slow one holds up neither the other nor the camera.

What libValkka's version could not do: its client blocked the program in which it was, or wanted a thread of
yours; and a second client wanted a second branch of filters and a second ring.

    .venv/bin/python examples/one_file.py [URL or file]

Goes with processes.py, where the clients are processes; camera.py and client.py are two programs.
"""

import asyncio
import contextlib
import sys

import valkka_async as va

URL = sys.argv[1] if sys.argv[1:] else "lavfi:testsrc2=size=1920x1080:rate=25"


async def quick() -> None:
    """Every frame, in order."""
    count, oldest = 0, 0.0
    async with va.connect("one_file", policy="ordered") as client:
        async for frame in client:
            with frame:
                count, oldest = count + 1, max(oldest, frame.age)
                if count % 10 == 0:
                    what = f"{oldest * 1000:.0f} ms old at most, brightness {frame.array.mean():.0f}"
                    print(f"quick: {count} frames, {what}", flush=True)
                    oldest = 0.0


async def slow() -> None:
    """The newest frame, whenever there is time for one."""
    async with va.connect("one_file") as client:
        async for frame in client:
            with frame:
                print(
                    f"slow: frame {frame.seq}, {frame.age * 1000:.0f} ms old, {frame.dropped} left out",
                    flush=True,
                )
            await asyncio.sleep(1)  # as if it did something that takes so long


async def main() -> None:
    async with (
        va.Camera("one_file", URL, [va.Output("one_file", size=(480, 270), fps=10)]),
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(quick())
        tasks.create_task(slow())


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
