# SPDX-License-Identifier: MIT
"""Many cameras in one task of an asyncio program, while they come and go.

`va.merge("merge*")` follows every ring with such a name, including rings that do not exist yet. This program
switches each camera off and on again; each second it prints which cameras are there, and how many frames came
from each.

What libValkka's version could not do: all servers and clients had to be known, and made in the right order,
before the first frame. A lost camera had to be unregistered by hand, and none could be added.

    .venv/bin/python examples/many_merge.py [URL or file ...]

See also many_select.py, the same without asyncio.
"""

import asyncio
import collections
import contextlib
import sys

import valkka_async as va

SOURCES = sys.argv[1:] or ["lavfi:testsrc2=size=1280x720:rate=25", "lavfi:testsrc=size=640x360:rate=15"]


async def come_and_go(number: int, url: str) -> None:
    """A camera that is on for some seconds, and then off."""
    name = f"merge{number}"
    while True:
        async with va.Camera(name, url, [va.Output(name, size=(480, 270))]):
            await asyncio.sleep(1 + number)
        await asyncio.sleep(2)


async def report(cameras: va.Merge, counts: collections.Counter[str]) -> None:
    while True:
        await asyncio.sleep(1)
        each = "  ".join(f"{name} {counts[name]}" for name in sorted(cameras.sources))
        print(f"frames: {each or 'no cameras'}", flush=True)
        counts.clear()


async def main() -> None:
    counts: collections.Counter[str] = collections.Counter()
    async with va.merge("merge*") as cameras, asyncio.TaskGroup() as tasks:
        for number, url in enumerate(SOURCES, 1):
            tasks.create_task(come_and_go(number, url))
        tasks.create_task(report(cameras, counts))
        async for frame in cameras:  # cameras take turns; one that hangs delays no other
            with frame:
                counts[frame.source] += 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
