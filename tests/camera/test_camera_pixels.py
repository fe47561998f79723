"""The compiled loops against numpy's arithmetic: means of blocks, and the range of luma."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from valkka_async.camera.pixels._pixels import MAX_BLOCK, shrink, stretch


def mean(source: Any, columns: int, rows: int, channels: int) -> Any:
    height, width = source.shape[0] // rows, source.shape[1] // columns // channels
    cut = source[: height * rows, : width * columns * channels].astype(np.uint32)
    sums = cut.reshape(height, rows, width, columns, channels).sum(axis=(1, 3))
    return ((sums + columns * rows // 2) // (columns * rows)).reshape(height, -1)


@pytest.mark.parametrize("channels", [1, 2])
def test_each_pixel_is_the_rounded_mean_of_its_block(channels: int) -> None:
    rng = np.random.default_rng(5)
    for columns in (*range(1, 18), 85, 255):
        for rows in range(1, MAX_BLOCK // columns + 1):
            height, width = int(rng.integers(1, 4)), int(rng.integers(1, 70))
            source = rng.integers(0, 256, (height * rows, width * columns * channels + 3), np.uint8)
            memory = np.full((height + 2, width * channels + 2), 0x5A, np.uint8)
            out = memory[1:-1, 1:-1]
            shrink(source, out, columns, rows, channels)
            assert np.array_equal(out, mean(source, columns, rows, channels)[:, : out.shape[1]])
            memory[1:-1, 1:-1] = 0x5A
            assert (memory == 0x5A).all(), (columns, rows)


def test_the_mean_is_exact_for_every_sum() -> None:
    for columns, rows in ((2, 2), (3, 3), (4, 4), (5, 3), (6, 6), (15, 15), (255, 1), (1, 251)):
        count = columns * rows
        sums = np.arange(0, 255 * count + 1, max(1, count // 7))
        sums = np.unique(np.concatenate([sums, [255 * count, 255 * count - count // 2]]))
        blocks = np.zeros((len(sums), count), np.uint8)
        for block, total in zip(blocks, sums, strict=True):
            block[:] = total // count
            block[: total % count] += 1
        source = blocks.reshape(len(sums), rows, columns).transpose(1, 0, 2).reshape(rows, -1)
        out = np.empty((1, len(sums)), np.uint8)
        shrink(np.ascontiguousarray(source), out, columns, rows)
        assert np.array_equal(out[0], (sums + count // 2) // count)


def test_luma_is_stretched_to_the_nearest() -> None:
    luma = np.arange(256)
    wanted = np.clip(np.rint((luma - 16) * 255 / 219), 0, 255)
    for width in (1, 7, 33, 256):
        source = np.resize(luma.astype(np.uint8), (9, 300))[:, 5 : 5 + width]
        memory = np.full((9, width + 2), 0x5A, np.uint8)
        stretch(source, memory[:, 1:-1])
        assert np.array_equal(memory[:, 1:-1], wanted[source])
        assert (memory[:, 0] == 0x5A).all() and (memory[:, -1] == 0x5A).all()


def test_rows_may_be_bottom_up() -> None:
    source = np.random.default_rng(1).integers(0, 256, (12, 30), np.uint8)
    out = np.empty((6, 15), np.uint8)
    shrink(source[::-1], out, 2, 2)
    assert np.array_equal(out, mean(source[::-1], 2, 2, 1))


@pytest.mark.parametrize(
    ("shape", "out", "columns", "rows", "channels"),
    [
        ((10, 10), (5, 6), 2, 2, 1),
        ((10, 10), (6, 5), 2, 2, 1),
        ((10, 10), (5, 5), 2, 2, 2),
        ((10, 10), (5, 5), 2, 2, 3),
        ((10, 10), (5, 5), 0, 2, 1),
        ((10, 10), (5, 5), 2, -1, 1),
        ((600, 600), (1, 1), 16, 16, 1),
        ((600, 600), (1, 1), 65537, 65537, 1),
    ],
)
def test_blocks_that_do_not_fit_are_refused(
    shape: tuple[int, int], out: tuple[int, int], columns: int, rows: int, channels: int
) -> None:
    with pytest.raises(ValueError, match="block|channels"):
        shrink(np.zeros(shape, np.uint8), np.zeros(out, np.uint8), columns, rows, channels)


def test_other_arrays_are_refused() -> None:
    some = np.zeros((8, 8), np.uint8)
    fixed = np.zeros((4, 4), np.uint8)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        shrink(some, fixed, 2, 2)
    with pytest.raises(ValueError, match="side by side"):
        shrink(np.zeros((8, 16), np.uint8)[:, ::2], np.zeros((4, 4), np.uint8), 2, 2)
    with pytest.raises(ValueError, match="side by side"):
        stretch(some, np.zeros((8, 16), np.uint8)[:, ::2])
    with pytest.raises(ValueError, match="shapes differ"):
        stretch(some, np.zeros((8, 7), np.uint8))
    with pytest.raises(ValueError, match="dtype"):
        stretch(some.astype(np.uint16), some)  # type: ignore[arg-type]


def test_no_pixels_are_no_work() -> None:
    for shape in ((0, 4), (4, 0)):
        shrink(np.zeros((8, 8), np.uint8), np.zeros(shape, np.uint8), 2, 2)
        stretch(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))
