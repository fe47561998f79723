# SPDX-License-Identifier: MIT
"""Many decoders, one model: a process for each camera, one batch of all for the network, results for each.

    camera process --+                              +--> one1.boxes --+
    camera process --+--> (N, 96, 160, 3) --> model +--> one2.boxes --+--> found.py, the page, ...
    camera process --+                              +--> one3.boxes --+

The network has random weights, so it finds nothing that is there; yours goes in its place. It gets the newest
frame of each camera, and slows none of them down. What libValkka's version could not do: its detector read
copies, which each client had to serve, and nobody could tell to which frame a result belonged.

    .venv/bin/python examples/one_model.py [URL or file ...]

See also found.py, which shows the results with their frames."""

import asyncio
import contextlib
import sys

import numpy as np

import valkka_async as va

SOURCES = sys.argv[1:] or ["lavfi:testsrc2=size=640x360:rate=10"] * 4
RANDOM = np.random.default_rng(7)
LAYERS = [RANDOM.normal(0, 0.05, shape).astype(np.float32) for shape in ((768, 64), (64, 1))]


def network(images: np.ndarray) -> list[list[tuple[list[int], float]]]:
    """Three cells of 16 x 16 pixels in each image: their corners and scores."""
    cells = images.reshape(-1, 6, 16, 10, 16, 3).swapaxes(2, 3).reshape(-1, 60, 768)
    scores = 1 / (1 + np.exp(-(np.maximum(cells @ LAYERS[0], 0) @ LAYERS[1])[..., 0]))
    found = []
    for row in scores:
        best = [(int(n % 10) * 16, int(n // 10) * 16, float(row[n])) for n in row.argsort()[-3:]]
        found.append([([x, y, x + 16, y + 16], score) for x, y, score in best])
    return found


async def predict(names: list[str]) -> None:
    with contextlib.ExitStack() as stack:
        results = {name: stack.enter_context(va.serve(f"{name}.boxes")) for name in names}
        async with va.merge(*names) as cameras:
            async for batch in cameras.batches(size=(160, 96), dtype="float32", max_age=1.0):
                found = await asyncio.to_thread(network, batch.array)
                for row, frame in enumerate(batch):
                    boxes = [va.Box(*batch.to_frame(row, box), "cell", score) for box, score in found[row]]
                    results[frame.source].publish_result(frame, boxes)
                ages = sorted(f"{frame.source} {frame.age * 1000:.0f} ms" for frame in batch)
                print("age at the result:", ", ".join(ages), flush=True)


async def main() -> None:
    async with va.Supervisor() as cameras, asyncio.TaskGroup() as tasks:
        for number, url in enumerate(SOURCES, 1):
            tasks.create_task(cameras.add(f"one{number}", url, [va.Output(f"one{number}", "nv12")]))
        await predict([f"one{number}" for number in range(1, len(SOURCES) + 1)])


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
