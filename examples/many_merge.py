# SPDX-License-Identifier: MIT
"""Many cameras in one task of an asyncio program, while they come and go.

`va.merge("merge*")` follows every ring of such a name, those too that do not exist yet. Here each camera is
switched off and on again for as long as this runs; each second a line tells which are there, and how many
frames came from each.

What libValkka's version could not do: all servers and clients had to be known, and made in the right order,
before the first frame; a camera that went had to be unregistered by hand, and none could be added.

    .venv/bin/python examples/many_merge.py [URL or file ...]

Goes with many_select.py, which is the same without asyncio.
"""

import asyncio
import collections
import contextlib
import sys

import valkka_async as va

SOURCES = sys.argv[1:] or ["lavfi:testsrc2=size=1280x720:rate=25", "lavfi:testsrc=size=640x360:rate=15"]


async def come_and_go(number: int, url: str) -> None:
    """A camera that is there for some seconds, and then is not."""
    name = f"merge{number}"
    while True:
        async with va.Camera(name, url, [va.Output(name, size=(480, 270))]):
            await asyncio.sleep(1 + number)
        await asyncio.sleep(2)


async def report(cameras: va.Merge, counts: collections.Counter[str]) -> None:
    while True:
        await asyncio.sleep(1)
        each = "  ".join(f"{name} {counts[name]}" for name in sorted(cameras.sources))
        print(f"frames: {each or 'nobody is there'}", flush=True)
        counts.clear()


async def main() -> None:
    counts: collections.Counter[str] = collections.Counter()
    async with va.merge("merge*") as cameras, asyncio.TaskGroup() as tasks:
        for number, url in enumerate(SOURCES, 1):
            tasks.create_task(come_and_go(number, url))
        tasks.create_task(report(cameras, counts))
        async for frame in cameras:  # cameras take turns; one that hangs holds up nobody
            with frame:
                counts[frame.source] += 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
