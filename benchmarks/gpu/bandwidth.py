# SPDX-License-Identifier: MIT
"""How fast frames come into a batch on a GPU, beside copies of as many bytes, from pinned memory and not."""

from __future__ import annotations

import asyncio
import mmap
import statistics
import time

import numpy as np
from common import arguments, image, opened, serving

from valkka_async.ring.gpu.device import Device


def copies(device: Device, nbytes: int, parts: int, registered: bool, rounds: int) -> list[float]:
    """Seconds that it takes to copy so many bytes, in so many parts."""
    memory = mmap.mmap(-1, nbytes)
    source = np.frombuffer(memory, np.uint8)
    source[:] = 1
    address, to, part = source.ctypes.data, device.allocate(nbytes), nbytes // parts
    if registered:
        device.register(address, nbytes)
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for at in range(parts):
            device.copy_in(to + at * part, address + at * part, part)
        event = device.record()
        while not device.done(event):
            pass
        taken.append(time.perf_counter() - begun)
        device.forget(event)
    if registered:
        device.unregister(address)
    device.free(to)
    return taken


async def batches(cameras: int, size: tuple[int, int], model: tuple[int, int], rounds: int) -> list[float]:
    """Seconds from frames that are there to the batch."""
    frame = image("nv12", *size, 1)
    taken = []
    async with serving(*(f"cam{i}" for i in range(cameras))) as (servers, merged):
        made = merged.batches(
            cameras, 30, size=model, layout="NCHW", dtype="float16", device="cuda", min_frames=cameras
        )
        for _ in range(rounds + 5):  # the first ones register the slots
            for server in servers:
                server.publish(frame, format="nv12")
            await asyncio.sleep(0)
            begun = time.perf_counter()
            async with asyncio.timeout(30):
                await anext(made)
            taken.append(time.perf_counter() - begun)
    return taken[5:]


def main() -> None:
    fake = arguments().fake
    cameras, size, model, rounds = 16, (1920, 1080), (640, 640), 200
    if fake:
        cameras, size, model, rounds = 3, (128, 64), (32, 32), 5
    each = size[0] * size[1] * 3 // 2
    nbytes = cameras * (each + -each % mmap.PAGESIZE)
    device = opened()
    lines = {
        "memcpy from pinned memory": copies(device, nbytes, cameras, True, rounds),
        "memcpy from pageable memory": copies(device, nbytes, cameras, False, rounds),
        f"batches({model[0]}x{model[1]}, NCHW, float16)": asyncio.run(batches(cameras, size, model, rounds)),
    }
    print(f"{cameras} x {size[0]}x{size[1]} nv12, {nbytes / 1e6:.1f} MB: median ms, GB/s, best ms")
    for name, taken in lines.items():
        median = statistics.median(taken)
        print(f"{name:36} {median * 1e3:8.3f} {nbytes / median / 1e9:8.2f} {min(taken) * 1e3:8.3f}")


if __name__ == "__main__":
    main()
