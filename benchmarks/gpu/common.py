# SPDX-License-Identifier: MIT
"""What the parts of benchmarks/gpu/run.sh share."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

import valkka_async as va
from valkka_async.ring.gpu.device import Device


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fake", action="store_true", help="a GPU of numpy's memory; small sizes")
    found = parser.parse_args()
    if found.fake:
        use_fake()
    return found


def use_fake() -> None:
    """What device="cuda" opens from now on."""
    import valkka_async.ring.gpu.open as opening
    from support.gpu import FakeGpu

    opening.check_installed = lambda: None
    registered: dict[int, int] = {}
    opening.Cuda = lambda index: FakeGpu(f"cuda:{index}", registered)  # type: ignore[misc, assignment]


def opened() -> Device:
    import valkka_async.ring.gpu.open as opening

    return opening.Cuda(0)


def on_host(batch: va.Batch) -> NDArray[Any]:
    """A copy of a batch on a GPU."""

    return np.array(np.from_dlpack(batch, device="cpu"))


def image(format: str, width: int, height: int, seed: int) -> NDArray[np.uint8]:
    channels = {"rgb24": (3,), "bgr24": (3,), "rgba": (4,), "bgra": (4,), "gray8": ()}
    shape = (height, width, *channels[format]) if format in channels else (height * 3 // 2, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@asynccontextmanager
async def serving(*names: str) -> AsyncIterator[tuple[list[va.Server], va.Merge]]:
    """Servers in this process, and a merge that has found them all."""
    servers = [va.serve(name, slots=4) for name in names]
    try:
        async with va.merge(*names) as merged:
            async with asyncio.timeout(30):
                while None in merged.stats().sources.values():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            yield servers, merged
    finally:
        for server in servers:
            server.close()
