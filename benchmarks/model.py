# SPDX-License-Identifier: MIT
"""Eight cameras, a process for each, and one model for all: ``python benchmarks/model.py [--short]``.

The model is a convolutional network in the shape of YOLO's (five strides of 2, a head of one box for each
cell) with random weights, in torch on the CPU; where torch is missing, a patch network in numpy. It reads
`merge.batches(size=...)` and publishes boxes for each frame; a `join` reads the first camera and its results.

What is measured: the age of a frame when its result is published, since it was captured; and the frames per
second that each camera publishes, beside those with a reader without a model, and with a model that is much
too slow. A frame that is joined has its result; a slow model does not look at each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from numpy.typing import NDArray
from run import private_folder

import valkka_async as va
from valkka_async.ring.connection import report

HERE = Path(__file__).resolve().parent
CAMERAS, FPS = 8, 10
SOURCE = f"lavfi:testsrc2=size=640x360:rate={FPS}"
WIDTH, HEIGHT = 320, 192
WARM = 10.0  # s: the first row's cameras are started meanwhile

Network = Callable[[NDArray[Any]], NDArray[Any]]


def torch_network() -> Network:
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(1)  # the cameras decode beside it
    layers: list[torch.nn.Module] = []
    for before, after in zip((3, 16, 32, 64, 128), (16, 32, 64, 128, 128), strict=True):
        layers += [torch.nn.Conv2d(before, after, 3, 2, 1), torch.nn.SiLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Conv2d(128, 5, 1)).eval()

    def run(images: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            found: NDArray[Any] = model(torch.from_dlpack(images)).numpy()  # (N, 5, H / 32, W / 32)
        return found

    return run


def numpy_network() -> Network:
    random = np.random.default_rng(1)
    layers = [
        random.normal(0, 0.02, shape).astype(np.float32) for shape in ((3072, 512), (512, 512), (512, 5))
    ]

    def run(images: NDArray[Any]) -> NDArray[Any]:
        count, rows, columns = len(images), HEIGHT // 32, WIDTH // 32
        x = images.reshape(count, 3, rows, 32, columns, 32).transpose(0, 2, 4, 1, 3, 5)
        x = x.reshape(count, rows, columns, -1)
        for layer in layers[:-1]:
            x = np.maximum(x @ layer, 0)
        return np.ascontiguousarray((x @ layers[-1]).transpose(0, 3, 1, 2))

    return run


def boxes_of(cells: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Corners and scores of the ten best cells of one image."""
    scores = 1 / (1 + np.exp(-cells[4].ravel()))
    best = scores.argsort()[-10:]
    y, x = np.divmod(best, cells.shape[2])
    return np.stack([x * 32, y * 32, x * 32 + 32, y * 32 + 32], 1), scores[best]


async def predict(network: Network | None, pause: float, names: list[str], ages: list[float]) -> None:
    """``network=None``: a reader that has no model."""
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(va.serve(f"{name}.boxes")) for name in names}
        async with va.merge(*names) as cameras:
            async for batch in cameras.batches(size=(WIDTH, HEIGHT), layout="NCHW", dtype="float32"):
                found = None if network is None else await asyncio.to_thread(network, batch.array)
                if pause:
                    await asyncio.sleep(pause)
                for row, frame in enumerate(batch):
                    boxes = []
                    if found is not None:
                        corners, scores = boxes_of(found[row])
                        corners = batch.to_frame(row, corners)
                        boxes = [va.Box(*box, "", score) for box, score in zip(corners, scores, strict=True)]
                    servers[frame.source].publish_result(frame, boxes)
                    ages.append(frame.age)
                del batch, found


async def pair(name: str) -> va.JoinStats:
    async with va.join(name, f"{name}.boxes", wait=1.0, depth=FPS) as found:
        try:
            async for frame, _ in found:
                frame.release()
                del frame
        except asyncio.CancelledError:
            pass
        return found.stats()


async def published(names: list[str]) -> dict[str, int]:
    states = await asyncio.gather(*(asyncio.to_thread(report, name, 10) for name in names))
    return {name: int(state["published"]) for name, state in zip(names, states, strict=True) if state}


async def measure(network: Network | None, pause: float, names: list[str], seconds: float) -> dict[str, Any]:
    ages: list[float] = []
    tasks = [asyncio.create_task(predict(network, pause, names, ages)), asyncio.create_task(pair(names[0]))]
    await asyncio.sleep(WARM)
    ages.clear()
    began, before = time.monotonic(), await published(names)
    cpu = time.process_time()
    await asyncio.sleep(seconds)
    after, passed = await published(names), time.monotonic() - began
    cpu = time.process_time() - cpu
    for task in tasks:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[1], va.JoinStats), done
    rates = sorted((after[name] - before[name]) / passed for name in names)
    order = statistics.quantiles(ages, n=100) if len(ages) > 1 else [float("nan")] * 99
    given = done[1].matched + done[1].unmatched
    return {
        "results_per_s": len(ages) / passed,
        "age_ms": [round(order[n] * 1e3) for n in (49, 98)],
        "camera_fps": [round(rates[0], 2), round(statistics.median(rates), 2)],
        "cpu": round(cpu / passed, 2),
        "joined": round(done[1].matched / given, 2) if given else 0.0,
    }


async def run(seconds: float) -> tuple[str, dict[str, dict[str, Any]]]:
    try:
        name, network = "torch, one thread", torch_network()
    except ImportError:
        name, network = "numpy (torch is not installed)", numpy_network()
    names = [f"cam{n}" for n in range(CAMERAS)]
    works: list[tuple[str, Network | None, float]] = [
        ("a reader without a model", None, 0.0),
        ("the network", network, 0.0),
        ("the network, 0.5 s slower", network, 0.5),
        ("a reader without a model, again", None, 0.0),
    ]
    async with va.Supervisor() as cameras:
        await asyncio.gather(*(cameras.add(one, SOURCE, [va.Output(one, "nv12")]) for one in names))
        return name, {label: await measure(model, pause, names, seconds) for label, model, pause in works}


def table(network: str, results: dict[str, dict[str, Any]]) -> str:
    lines = [
        f"{CAMERAS} cameras of 640x360 at {FPS} frames per second, each in a process of its own; {network}.",
        "",
        "| | results/s | age at the result, ms: p50, p99 | frames/s of a camera: slowest, median "
        "| predictor's CPU | frames joined |",
        "|---|---|---|---|---|---|",
    ]
    for label, one in results.items():
        ages, rates = one["age_ms"], one["camera_fps"]
        lines.append(
            f"| {label} | {one['results_per_s']:.1f} | {ages[0]}, {ages[1]} | {rates[0]:.2f}, {rates[1]:.2f} "
            f"| {one['cpu']:.2f} | {one['joined']:.0%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--short", action="store_true", help="some seconds for each row")
    options = parser.parse_args()
    with private_folder() as folder:
        os.environ["VALKKA_RUNTIME_DIR"] = str(folder)
        network, results = asyncio.run(run(5.0 if options.short else 20.0))
    text = table(network, results)
    sys.stdout.write(text)
    (HERE / "report").mkdir(exist_ok=True)
    (HERE / "report" / "model.md").write_text(f"# One model for many cameras\n\n{text}")
    data = {"machine": describe({}, []), "network": network, "results": results}
    (HERE / "report" / "model.json").write_text(json.dumps(data, indent=1) + "\n")
