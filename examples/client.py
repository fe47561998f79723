# SPDX-License-Identifier: MIT
"""A client in asyncio: `async for frame in client`.

It prints each frame's number, shape, capture time and age. asyncio's timeout works around everything that
waits, here around the first frame. A server that restarts costs a gap and nothing else.

What libValkka's version could not do: know the size of frames and the number of slots by itself, wait without
blocking the program, or protect a frame from being overwritten while you use it.

    .venv/bin/python examples/client.py [URL, file, or the name of a ring]

See also camera.py (the ring "camera") and publish.py (the ring "publish"); start them in any order.
"""

import asyncio
import contextlib
import os
import sys
from datetime import datetime

import valkka_async as va


def show(frame: va.Frame) -> None:
    taken = datetime.fromtimestamp(frame.timestamp_ns / 1e9)
    print(f"frame {frame.seq}: {frame.format} {frame.shape}, taken {taken:%H:%M:%S.%f},", end=" ")
    print(f"{frame.age * 1000:.0f} ms old, {frame.dropped} missed, meta {frame.meta}", flush=True)


async def first_frame(client: va.Client) -> va.Frame:
    while True:
        try:
            async with asyncio.timeout(2):
                return await client.recv()  # may be cancelled at any moment, and loses nothing
        except TimeoutError:
            print(f"no frame from {client.name!r} within 2 s; still waiting", flush=True)


async def main(ring: str) -> None:
    print(f"waiting for {ring!r}", flush=True)
    async with va.connect(ring, open_timeout=None, reconnect=True) as client:
        show(await first_frame(client))
        async for frame in client:
            with frame:  # released here; without `with`, when the next one has come
                show(frame)


if __name__ == "__main__":
    ring = source = sys.argv[1] if sys.argv[1:] else "lavfi:testsrc2=size=1920x1080:rate=25"
    own: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if ":" in source or os.path.exists(source):  # not the ring of another program: a camera of our own
        ring = "client"
        own = va.Camera(ring, source, [va.Output(ring, size=(480, 270), fps=5)])
    with contextlib.suppress(KeyboardInterrupt), own:
        asyncio.run(main(ring))
