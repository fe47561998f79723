"""The kernel's bytes are those of the CPU's, whatever frame and model. It is compiled for the CPU here."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import valkka_async as va
from support.gpu import FakeGpu
from valkka_async.ring.fitting import Shape, fitting
from valkka_async.ring.gpu import kernel
from valkka_async.ring.gpu.tensor import GpuTensor
from valkka_async.ring.tensor import Tensor

CHANNELS = {"rgb24": 3, "bgr24": 3, "rgba": 4, "bgra": 4}
SIDES = st.one_of(st.integers(1, 70), st.sampled_from([128, 257, 320]))


def image(format: str, width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Noise. Half of it is dark or bright, where rounding and clipping show."""
    shape: tuple[int, ...] = (height, width)
    if format in CHANNELS:
        shape = (height, width, CHANNELS[format])
    elif format != "gray8":
        shape = (height * 3 // 2, width)
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, shape, np.uint8)
    return np.where(random.integers(0, 2, shape, bool), noise, random.choice([0, 1, 254, 255], shape)).astype(
        np.uint8
    )


async def both(frames: list[tuple[NDArray[Any], Any]], **shape: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """The batch of these frames, by the CPU and by the fake GPU."""
    gpu = FakeGpu()  # first: it skips the test where there is no compiler
    servers = [va.serve(f"cam{i}") for i in range(len(frames))]
    readers = [va.attach(server.name) for server in servers]
    cpu, other = Tensor(Shape(**shape), 1, True), GpuTensor(Shape(**shape), False, lambda: gpu)
    try:
        for server, (array, format) in zip(servers, frames, strict=True):
            server.publish(array, format=format)
        rows = [reader.recv(5) for reader in readers]
        assert all(cpu.takes(row) and other.takes(row) for row in rows)
        expected, places, done = cpu.begin(rows)
        await done
        array, same, whole = other.begin(rows)
        await whole
        assert places == same and array.shape == expected.shape and array.dtype == expected.dtype
        found = np.from_dlpack(array).copy()
    finally:
        cpu.close()
        other.close()
        for thing in (*readers, *servers):
            thing.close()
    assert gpu.wrong == [] and gpu.launches == 1
    return expected, found


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    frames=st.lists(
        st.tuples(st.sampled_from([*CHANNELS, "gray8", "nv12", "yuv420p"]), SIDES, SIDES),
        min_size=1,
        max_size=3,
    ),
    size=st.tuples(SIDES, SIDES),
    letterbox=st.booleans(),
    layout=st.sampled_from(["NHWC", "NCHW"]),
    kind=st.sampled_from([("uint8", None), ("float32", None), ("float16", ((0.4, 0.5, 0.6), 0.25))]),
    format=st.sampled_from(["rgb24", "bgr24"]),
    resize=st.sampled_from(["area", "linear"]),
    pad=st.integers(0, 255),
    seed=st.integers(0, 1000),
)
def test_bytes_are_those_of_the_cpu(
    runtime_dir: Path,
    frames: list[tuple[str, int, int]],
    kind: tuple[str, Any],
    seed: int,
    **shape: Any,
) -> None:
    made = []
    for number, (format, width, height) in enumerate(frames):
        if format in ("nv12", "yuv420p"):
            width, height = width + width % 2, height + height % 2
        made.append((image(format, width, height, seed + number), format))
    expected, found = asyncio.run(both(made, dtype=kind[0], normalize=kind[1], **shape))
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("format", "frame", "size"),
    [
        ("rgb24", (1, 1), (640, 640)),
        ("gray8", (1, 1), (1, 1)),
        ("nv12", (2, 2), (33, 7)),
        ("yuv420p", (2, 2), (1, 1)),
        ("rgb24", (1024, 2), (1, 1)),  # more columns than a weight has parts
        ("nv12", (1920, 1080), (640, 640)),
        ("rgb24", (514, 257), (2, 1)),  # the largest sums that there are
    ],
)
@pytest.mark.parametrize("resize", ["area", "linear"])
async def test_the_smallest_and_the_largest(
    runtime_dir: Path, format: str, frame: tuple[int, int], size: tuple[int, int], resize: str
) -> None:
    for white in (False, True):
        made = image(format, *frame, 7)
        made = np.full_like(made, 255) if white else made
        expected, found = await both([(made, format)], size=size, resize=resize)
        assert found.tobytes() == expected.tobytes()


def test_a_description_is_as_the_kernel_reads_it() -> None:
    """Members of 8 bytes each, in the order of the struct."""
    source = kernel.SOURCE
    members = re.search(r"typedef struct \{([^}]*)\} va_row;", source)
    assert members is not None
    names = re.findall(r"(\w+)(?=[,;])", re.sub(r"/\*.*?\*/", "", members[1]))
    assert tuple(names) == kernel.ROW.names
    assert kernel.ROW.itemsize == 8 * (10 + 2 * (3 + 3 + 2))
    row = kernel.Row(fitting(Shape(size=(64, 64)), "nv12", (72, 64)))
    at = row.at(1000, 2000)
    assert at["source"] == 1000 and at["kind"] == 1 and (at["across"], at["down"]) == (64, 48)
    assert 2000 == at["all"]["columns"]["first"] < at["colour"]["rows"]["weights"] < 2000 + row.tables.nbytes
