"""Frames in a model's size, layout and type: against plain arithmetic, and how memory is used again."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import math
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import valkka_async as va
from support.until import until, wait_for
from valkka_async.ring.batches import Limits
from valkka_async.ring.fitting import Fits, Placement, Shape, fitting
from valkka_async.ring.tensor import Tensor

Image = NDArray[np.uint8]
RNG = np.random.default_rng(16)


def noise(*shape: int) -> Image:
    return RNG.integers(0, 256, shape, np.uint8)


def row_of(image: Image, source: va.FrameFormat, /, **shape: Any) -> tuple[NDArray[Any], Placement]:
    """The only row of a batch of one, and where the frame lies in it."""

    async def fill() -> tuple[NDArray[Any], Placement]:
        with va.serve("one") as server, va.attach("one") as reader:
            server.publish(image, format=source)
            rows = Tensor(Shape(**shape), 1, False)
            frame = reader.recv(5)
            assert rows.takes(frame)
            array, places, done = rows.begin([frame])
            await done
            rows.close()
            return array[0].copy(), places[0]

    return asyncio.run(fill())


def weights(source: int, size: int, resize: str) -> NDArray[np.float64]:
    """(size, source): the share of each pixel in each of the result, in plain arithmetic."""
    shares = np.zeros((size, source))
    for i in range(size):
        if resize == "area" and source >= size:
            begin, end = i * source / size, (i + 1) * source / size
            for k in range(int(begin), min(source, int(np.ceil(end - 1e-9)))):
                shares[i, k] = (min(end, k + 1) - max(begin, k)) * size / source
        else:
            at = min(max((i + 0.5) * source / size - 0.5, 0), source - 1)
            for k in (int(at), min(int(at) + 1, source - 1)):
                shares[i, k] += 1 - abs(k - at) if k == int(at) or k > at else 0
            shares[i] /= shares[i].sum()
    return shares


def resized(image: Image, width: int, height: int, resize: str) -> NDArray[np.float64]:
    down, across = weights(image.shape[0], height, resize), weights(image.shape[1], width, resize)
    return np.einsum("yh,hwc,xw->yxc", down, image.astype(float), across, optimize=True)


SIDES = st.integers(1, 70)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    size=st.tuples(SIDES, SIDES),
    frame=st.tuples(SIDES, SIDES),
    resize=st.sampled_from(["area", "linear"]),
    letterbox=st.booleans(),
)
def test_a_row_is_the_frame_resized_and_padded(
    runtime_dir: Path, size: tuple[int, int], frame: tuple[int, int], resize: str, letterbox: bool
) -> None:
    image = noise(frame[1], frame[0], 3)
    row, place = row_of(image, "rgb24", size=size, resize=resize, letterbox=letterbox, pad=7)
    right, bottom = (round(n) for n in place.to_model([frame[0], frame[1]]))
    inside = row[place.top : bottom, place.left : right]
    assert inside.shape[0] == size[1] or inside.shape[1] == size[0]
    assert letterbox or inside.shape == row.shape
    expected = resized(image, inside.shape[1], inside.shape[0], resize)
    # Weights are of 256 parts, so a sharp edge may be a few levels off.
    assert np.abs(inside - expected).max() <= 3.5
    outside = np.ones(row.shape, bool)
    outside[place.top : bottom, place.left : right] = False
    assert (row[outside] == 7).all()


def test_means_in_whole_proportions_are_exact() -> None:
    image = noise(90, 120, 3)
    row, _ = row_of(image, "rgb24", size=(40, 30))
    means = image.reshape(30, 3, 40, 3, 3).mean(axis=(1, 3))
    assert (row == np.floor(means + 0.5)).all()


@pytest.mark.parametrize("frame", [(7680, 9), (513, 700), (1, 4000), (1 << 16, 2)])
def test_a_pixel_of_very_many_is_their_mean(frame: tuple[int, int]) -> None:
    """Also of more than there are parts of weights: none is left out for another."""
    across, down = (np.linspace(0, 120, n) for n in frame)
    image = np.repeat((across + down[:, None]).astype(np.uint8)[..., None], 3, axis=2)
    row, _ = row_of(image, "rgb24", size=(2, 2), letterbox=False)
    assert np.abs(row - resized(image, 2, 2, "area")).max() <= 1


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(*[st.integers(1, 1 << 14)] * 2),
    frame=st.tuples(*[st.integers(1, 1 << 16)] * 2),
    letterbox=st.booleans(),
)
def test_a_frame_of_any_proportions_lies_in_its_row_and_comes_back(
    size: tuple[int, int], frame: tuple[int, int], letterbox: bool
) -> None:
    found = fitting(Shape(size, letterbox), "gray8", frame[::-1])
    corners = [0, 0, *frame]
    left, top, right, bottom = found.place.to_model(corners)
    assert 0 <= left < right <= size[0] + 1e-6 and 0 <= top < bottom <= size[1] + 1e-6
    assert np.allclose(found.place.to_frame([left, top, right, bottom]), corners, rtol=1e-9, atol=1e-6)
    assert (len(found.columns.first), len(found.rows.first)) == (round(right - left), round(bottom - top))


@pytest.mark.parametrize("format", ["rgb24", "bgr24"])
@pytest.mark.parametrize("source", ["rgb24", "bgr24", "rgba", "bgra", "gray8", "nv12", "yuv420p"])
def test_formats_become_the_models_colours(source: va.FrameFormat, format: str) -> None:
    cv2 = pytest.importorskip("cv2")
    shape = {"gray8": (48, 64), "nv12": (72, 64), "yuv420p": (72, 64)}.get(source)
    image = noise(*(shape or (48, 64, 4 if source in ("rgba", "bgra") else 3)))
    code = {
        "rgb24": None, "bgr24": cv2.COLOR_BGR2RGB, "rgba": cv2.COLOR_RGBA2RGB, "bgra": cv2.COLOR_BGRA2RGB,
        "gray8": cv2.COLOR_GRAY2RGB, "nv12": cv2.COLOR_YUV2RGB_NV12, "yuv420p": cv2.COLOR_YUV2RGB_I420,
    }[source]  # fmt: skip
    if source in ("nv12", "yuv420p"):  # OpenCV does not interpolate colour, so it is the same everywhere
        image = np.clip(image, 16, 235)
        first, second = (
            (image[48:, ::2], image[48:, 1::2]) if source == "nv12" else (image[48:60], image[60:])
        )
        first[:], second[:] = 90, 170
    rgb = image if code is None else cv2.cvtColor(image, code)
    row, _ = row_of(image, source, size=(64, 48), format=format)
    wanted = (rgb if format == "rgb24" else rgb[..., ::-1]).astype(int)
    assert np.abs(row - wanted).max() <= (1 if source in ("nv12", "yuv420p") else 0)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16"])
def test_layout_and_type_are_the_models(layout: str, dtype: str) -> None:
    image = noise(30, 40, 3)
    row, _ = row_of(image, "rgb24", size=(40, 40), layout=layout, dtype=dtype, pad=51)
    assert row.dtype == dtype and row.flags.c_contiguous
    plain = np.full((40, 40, 3), 51, np.uint8)
    plain[5:35] = image
    wanted = (plain if dtype == "uint8" else plain / 255).astype(dtype)
    assert (row == (wanted if layout == "NHWC" else wanted.transpose(2, 0, 1))).all()


def test_values_are_normalized_by_channel() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image = noise(32, 32, 3)
    row, _ = row_of(image, "rgb24", size=(32, 32), dtype="float32", normalize=(mean, std))
    assert np.allclose(row, (image / 255 - np.array(mean)) / np.array(std), atol=1e-6)
    row, _ = row_of(image, "rgb24", size=(32, 32), dtype="float32", normalize=(0.5, 0.5))
    assert np.allclose(row, image / 127.5 - 1, atol=1e-6)


@given(
    scale=st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)),
    corner=st.tuples(st.integers(0, 4096), st.integers(0, 4096)),
    points=st.lists(st.tuples(*[st.floats(-1e4, 1e4)] * 4), min_size=1, max_size=5),
)
def test_coordinates_come_back(
    scale: tuple[float, float], corner: tuple[int, int], points: list[tuple[float, ...]]
) -> None:
    place = Placement(*scale, *corner)
    assert np.allclose(place.to_frame(place.to_model(points)), points, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("size", [(640, 640), (320, 200), (200, 320)])
@pytest.mark.parametrize("letterbox", [True, False])
def test_a_box_in_a_row_is_where_it_is_in_the_frame(size: tuple[int, int], letterbox: bool) -> None:
    box = [400, 100, 800, 300]
    image = np.zeros((720, 1280, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    row, place = row_of(image, "rgb24", size=size, letterbox=letterbox, pad=0)
    ys, xs = np.nonzero(row[..., 0] > 127)
    found = place.to_frame([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    assert np.abs(found - box).max() <= 1 / min(place.scale_x, place.scale_y)


def test_coordinates_are_pairs() -> None:
    for points in ([1.0, 2.0, 3.0], 5.0):
        with pytest.raises(ValueError, match="pairs"):
            Placement(1, 1, 0, 0).to_frame(points)


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({"size": (0, 5)}, "size"),
        ({"size": (640,)}, "size"),
        ({"size": 640}, "size"),
        ({"size": (640.0, 640.0)}, "size"),
        ({"size": "64"}, "size"),
        ({"size": (1, 1 << 15)}, "size"),
        ({"layout": "HWC"}, "layout"),
        ({"dtype": "float64"}, "dtype"),
        ({"format": "gray8"}, "format"),
        ({"resize": "cubic"}, "resize"),
        ({"pad": 256}, "pad"),
        ({"normalize": (0, 1)}, "normalize"),
        ({"dtype": "float32", "normalize": (0, 0)}, "normalize"),
        ({"dtype": "float32", "normalize": ((0, 0), 1)}, "normalize"),
        ({"dtype": "float32", "normalize": 5}, "normalize"),
        ({"dtype": "float16", "normalize": (0, 1e-6)}, "normalize"),
        ({"pad": 1.5}, "pad"),
        ({"threads": 0}, "threads"),
        ({"threads": 1.5}, "threads"),
    ],
)
async def test_what_cannot_be_is_refused(arguments: dict[str, Any], wrong: str) -> None:
    async with va.merge() as merged:
        with pytest.raises(ValueError, match=wrong):
            merged.batches(**{"size": (64, 64), **arguments})


def test_numbers_may_be_numpy_s_and_a_size_a_list_that_changes_later() -> None:
    size = list(np.array([64, 48]))
    shape = Shape(size, pad=np.uint8(3))  # type: ignore[arg-type]
    size[0] = np.int64(32)
    assert (shape.size, shape.pad) == ((64, 48), 3)
    limits = Limits(np.int64(4), np.int64(2), math.inf, math.inf, "capture", math.inf)  # type: ignore[arg-type]
    assert limits.max_frames == 4


# ------------------------------------------------------------------------------------ batches of them

Cameras = tuple[list[va.Server], va.Merge]


@pytest.fixture
async def cameras() -> AsyncIterator[Cameras]:
    servers = [va.serve(f"cam{i}") for i in range(3)]
    async with va.merge("cam*") as merged:
        await until(lambda: len(merged.sources) == 3 and None not in merged.stats().sources.values())
        yield servers, merged
    for server in servers:
        server.close()


def level(server: va.Server, value: int, width: int = 96) -> None:
    server.publish(np.full((48, width, 3), value, np.uint8))


async def test_each_row_is_its_frame_and_leases_go_back(cameras: Cameras) -> None:
    servers, merged = cameras
    batches = merged.batches(window=30, size=(96, 48))
    for turn in range(5):
        for number, server in enumerate(servers):
            level(server, 40 * number + turn, 96 if turn < 3 else 192)  # another size in mid-stream
        async with asyncio.timeout(10):
            batch = await anext(batches)
        assert merged.stats().leases == 0 and all(frame.released for frame in batch)
        assert batch.array.shape == (3, 48, 96, 3)
        for row, frame in zip(batch.array, batch, strict=True):
            value = 40 * int(frame.source[3:]) + turn
            assert (row[12:36] == value).all() and frame.seq == turn + 1 and frame.age < 60


async def test_frames_are_kept_if_asked_for(cameras: Cameras) -> None:
    servers, merged = cameras
    for server in servers:
        level(server, 9)
    async with asyncio.timeout(10):
        batch = await anext(merged.batches(window=30, size=(96, 48), keep=True))
    assert merged.stats().leases == 3 and (batch[0].array == 9).all()
    batch.release()
    assert merged.stats().leases == 0


async def test_memory_is_used_again_and_not_before(cameras: Cameras, monkeypatch: pytest.MonkeyPatch) -> None:
    servers, merged = cameras
    made: list[int] = []
    empty = np.empty

    def noted(nbytes: int, dtype: type) -> NDArray[Any]:
        made.append(nbytes)
        return empty(nbytes, dtype)

    monkeypatch.setattr("valkka_async.ring.tensor.np.empty", noted)
    batches = merged.batches(window=30, size=(96, 48))

    async def one(value: int) -> va.Batch:
        for server in servers:
            level(server, value)
        async with asyncio.timeout(10):
            return await anext(batches)

    batch = await one(1)
    view, there = np.from_dlpack(batch)[:, 20:30], batch.array.ctypes.data
    for value in range(2, 6):
        batch = await one(value)
        assert batch.array.ctypes.data != there and (batch.array == value).all()
    assert (view == 1).all()
    del view, batch
    gc.collect()
    blocks = len(made)
    for value in range(6, 12):
        batch = await one(value)
        assert (batch.array == value).all()
    assert len(made) == blocks <= 3, "held, handed out, being filled"


async def test_what_is_no_image_is_left_out_counted_and_said_once(
    cameras: Cameras, caplog: pytest.LogCaptureFixture
) -> None:
    servers, merged = cameras
    batches = merged.batches(window=30, size=(96, 48))
    with caplog.at_level(logging.WARNING):
        for turn in range(3):
            level(servers[0], turn)
            servers[1].publish(b"a JPEG, say" * (turn + 1), format="jpeg")
            servers[2].publish(np.zeros((48, 96), np.float32))
            async with asyncio.timeout(10):
                assert (await anext(batches)).names == ["cam0"]
    assert batches.stats().unusable == {"cam1": 3, "cam2": 3} and merged.stats().leases == 0
    assert len(caplog.records) == 2


async def test_a_frame_whose_side_is_too_long_is_left_out(cameras: Cameras) -> None:
    servers, merged = cameras
    for server, shape in zip(servers, [(1, (1 << 16) + 1), ((1 << 16) + 1, 1), (1, 1 << 16)], strict=True):
        server.publish(np.full(shape, 9, np.uint8), format="gray8")
    batches = merged.batches(window=30, size=(64, 64), letterbox=False)
    async with asyncio.timeout(30):
        batch = await anext(batches)
    assert batch.names == ["cam2"] and (batch.array == 9).all()
    assert batches.stats().unusable == {"cam0": 1, "cam1": 1}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("fails", ["a row", "the memory", "the first thread", "other threads"])
async def test_what_fails_costs_no_lease_and_all_goes_on(
    cameras: Cameras, monkeypatch: pytest.MonkeyPatch, fails: str, threads: int
) -> None:
    servers, merged = cameras
    batches = merged.batches(window=30, size=(96, 48), threads=threads)
    for server in servers:
        level(server, 1)
    start, count = threading.Thread.start, itertools.count(1)

    def refuse(*args: Any) -> Any:
        del args  # no view of a frame in the traceback: the real one has none
        raise MemoryError

    def start_some(thread: threading.Thread) -> None:
        if fails == "the first thread" or next(count) > 1:
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as m:
        if fails == "a row":
            m.setattr(Fits, "of", lambda self, frame: (SimpleNamespace(fill=refuse), Placement(1, 1, 0, 0)))
        elif fails == "the memory":
            m.setattr("valkka_async.ring.tensor.np.empty", refuse)
        else:
            m.setattr(threading.Thread, "start", start_some)
        async with asyncio.timeout(10):
            if fails == "other threads":
                assert (await anext(batches)).array.all(), "those that there are fill all"
            else:
                with pytest.raises((MemoryError, RuntimeError)) as error:
                    await anext(batches)
                assert error.value.__traceback__ is not None and merged.stats().leases == 0
    for server in servers:
        level(server, 2)
    async with asyncio.timeout(10):
        assert ((await anext(batches)).array == 2).all()


async def test_an_array_that_is_being_filled_belongs_to_its_loop(
    cameras: Cameras, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers, merged = cameras
    gate = threading.Event()
    slow = SimpleNamespace(fill=lambda line, data: gate.wait(60) and line.fill(5))
    monkeypatch.setattr(Fits, "of", lambda self, frame: (slow, Placement(1, 1, 0, 0)))
    batches = merged.batches(window=0, size=(64, 64))
    level(servers[0], 1)
    task = asyncio.create_task(anext(batches))
    await until(lambda: merged.stats().received)
    task.cancel()
    await asyncio.wait([task])
    for _ in range(2):
        with pytest.raises(va.ConcurrencyError):
            await asyncio.to_thread(lambda: asyncio.run(batches.__anext__()))  # type: ignore[arg-type]
    gate.set()
    async with asyncio.timeout(10):
        assert ((await anext(batches)).array == 5).all()


def test_a_loop_that_ends_while_an_array_is_filled_is_told_nothing(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()
    slow = SimpleNamespace(fill=lambda line, data: gate.wait(60))
    monkeypatch.setattr(Fits, "of", lambda self, frame: (slow, Placement(1, 1, 0, 0)))

    async def begin_and_leave() -> None:
        async with va.merge("a") as merged:
            task = asyncio.create_task(anext(merged.batches(size=(8, 8))))
            await until(lambda: merged.stats().received)
            task.cancel()
            await asyncio.wait([task])

    with va.serve("a") as server:
        level(server, 1)
        asyncio.run(begin_and_leave())

    gate.set()
    wait_for(lambda: not any(one.name.startswith("valkka-batch") for one in threading.enumerate()))
    assert not caplog.records


async def test_forgotten_batches_give_their_memory_and_threads_back_at_once(cameras: Cameras) -> None:
    servers, merged = cameras
    batches = merged.batches(size=(96, 48))
    level(servers[0], 1)
    async with asyncio.timeout(10):
        await anext(batches)
    rows = weakref.ref(batches._tensor)
    del batches
    assert rows() is None, "and not when the collector comes"


async def test_a_batch_that_is_cancelled_while_it_is_filled_comes_next(cameras: Cameras) -> None:
    servers, merged = cameras
    batches = merged.batches(window=30, size=(640, 640))
    for turn in range(20):
        for server in servers:
            level(server, turn)
        seen: list[va.Batch] = []
        async with asyncio.timeout(20):
            while not seen:
                task = asyncio.ensure_future(anext(batches))
                for _ in range(turn):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    seen.append(task.result())
                elif turn < 4:
                    seen.append(await anext(batches))
        assert {frame.seq for frame in seen[0]} == {turn + 1}
        assert (seen[0].array[:, 320] == turn).all()


async def test_it_ends_as_batches_do_and_without_size_there_is_no_array() -> None:
    async with va.serve("a") as a, va.merge("a", reconnect=False) as merged:
        await until(lambda: None not in merged.stats().sources.values())
        level(a, 1)
        a.close()
        async with asyncio.timeout(10):
            seen = [len(batch) async for batch in merged.batches(size=(32, 32))]
    assert seen == [1]
    async with va.serve("a") as a, va.merge("a") as merged:
        level(a, 1)
        async with asyncio.timeout(10):
            batch = await anext(merged.batches())
        for wrong in (lambda: batch.array, lambda: batch.to_frame(0, [1, 2])):
            with pytest.raises(ValueError, match="size"):
                wrong()
