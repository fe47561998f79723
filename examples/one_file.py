# SPDX-License-Identifier: MIT
"""Server and clients in one file, one process and one event loop.

There is a camera, a task that reads every frame, and a slow task that reads some. The camera has a thread of
its own. The tasks share its ring, and the slow one delays neither the other task nor the camera.

What libValkka's version could not do: its client blocked the program, or needed a thread of yours; and a
second client needed a second branch of filters and a second ring.

    .venv/bin/python examples/one_file.py [URL or file]

See also processes.py, where the clients are processes; camera.py and client.py are two programs.
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
    """The newest frame, whenever there is time."""
    async with va.connect("one_file") as client:
        async for frame in client:
            with frame:
                print(
                    f"slow: frame {frame.seq}, {frame.age * 1000:.0f} ms old, {frame.dropped} left out",
                    flush=True,
                )
            await asyncio.sleep(1)  # stands for work that takes so long


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
