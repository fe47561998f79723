# SPDX-License-Identifier: MIT
"""Batches on a GPU have the bytes of those on the CPU, whatever is asked for; and nothing is left behind."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys

import numpy as np
from common import arguments, image, on_host, opened, serving

from valkka_async.ring.gpu import pinned

FORMATS = ["rgb24", "bgr24", "rgba", "bgra", "gray8", "nv12", "yuv420p"]


class Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


async def main(fake: bool) -> int:
    sizes = [(98, 62)] if fake else [(1920, 1080), (1280, 720), (354, 288), (2, 2)]
    model = (64, 64) if fake else (640, 640)
    said = Warnings()
    logging.getLogger("valkka_async").addHandler(said)
    print(f"{opened().name} is open, and the kernel loaded")
    differ = checked = 0
    options = list(
        itertools.product(
            ["NHWC", "NCHW"], ["uint8", "float32", "float16"], ["area", "linear"], [True, False]
        )
    )
    async with serving(*FORMATS) as (servers, merged):
        for number, (size, option) in enumerate(itertools.product(sizes, options)):
            layout, dtype, resize, letterbox = option
            normalize = None if dtype == "uint8" else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
            wanted = {
                "size": model, "window": 30, "letterbox": letterbox, "layout": layout, "dtype": dtype,
                "resize": resize, "normalize": normalize, "max_frames": len(FORMATS),
            }  # fmt: skip
            arrays = []
            for device in ("cpu", "cuda"):
                for at, server in enumerate(servers):
                    server.publish(image(server.name, *size, number + at), format=server.name)
                async with asyncio.timeout(30):
                    batch = await anext(merged.batches(device=device, **wanted))
                order = np.argsort(batch.names)
                arrays.append((batch.array if device == "cpu" else on_host(batch))[order])
            checked += 1
            if arrays[0].tobytes() != arrays[1].tobytes():
                differ += 1
                far = np.abs(arrays[0].astype(float) - arrays[1].astype(float))
                rows = [sorted(FORMATS)[row] for row in np.unique(np.nonzero(far)[0])]
                print(f"DIFFERENT: {size} {option}: {rows}, by {far.max():g} at most")
        leases = merged.stats().leases
    print(f"{checked} batches of {len(FORMATS)} formats: {differ} differ; {leases} leases are held")
    print("slots were registered as pinned memory" if not said.lines else "\n".join(said.lines))
    async with asyncio.timeout(30):
        while pinned.registered():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return bool(differ or leases or said.lines)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments().fake)))
