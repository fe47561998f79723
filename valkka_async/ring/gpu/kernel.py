# SPDX-License-Identifier: MIT
"""The kernel that makes rows of frames, and how it is told of them.

Its arithmetic is that of _rows/rows.h, in whole numbers, so its bytes are the same. It is C: what CUDA adds
are the macros at its beginning, so the tests compile it for the CPU."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from valkka_async.ring.fitting import Fitting

#: Threads of a block, across and down.
BLOCK = (32, 8)

NAME = "va_rows"

SOURCE = r"""
#ifdef __CUDACC_RTC__
#define VA_KERNEL extern "C" __global__ void
#define VA_DEVICE static __device__ __forceinline__
#endif

typedef unsigned char byte;
typedef long long i64;
typedef unsigned long long u64;

/* One axis: output i is of `taps` sources from first[i] on, with the weights[i * taps ...]. */
typedef struct { const int *first; const unsigned short *weights; i64 taps; } va_axis;

/* Both axes of a plane, and what divides by the sum of all weights: 2^40 / sum, rounded up, and sum / 2. */
typedef struct { va_axis columns, rows; i64 factor, half; } va_plane;

/* One row of the batch: where the frame is, what it is, and where it goes. All members have 8 bytes. */
typedef struct {
    const byte *source;
    i64 kind;                      /* 0: packed, 1: nv12, 2: yuv420p */
    i64 channels;                  /* of packed ones */
    i64 across, down;              /* of the frame, in pixels */
    i64 left, top, wide, high;     /* of the result, in the row */
    i64 swap;
    va_plane all, colour;          /* `all` is the luma of nv12 and yuv420p */
} va_row;

/* A byte of the frame, resized: the weighted sum of its sources, rounded. */
VA_DEVICE byte va_resample(const byte *from, i64 stride, i64 step, const va_plane *plane, i64 x, i64 y) {
    const va_axis *columns = &plane->columns, *rows = &plane->rows;
    const unsigned short *across = columns->weights + x * columns->taps;
    const unsigned short *down = rows->weights + y * rows->taps;
    unsigned sum = (unsigned)plane->half;
    from += rows->first[y] * stride + columns->first[x] * step;
    for (i64 i = 0; i < columns->taps; i++) {
        unsigned column = 0;
        for (i64 j = 0; j < rows->taps; j++)
            column += (unsigned)down[j] * from[j * stride + i * step];
        sum += across[i] * column;
    }
    return (byte)(sum * (u64)plane->factor >> 40);
}

VA_DEVICE byte va_clip(int value) { return (byte)(value < 0 ? 0 : value > 255 ? 255 : value); }

/* Thread (x, y) of block row z makes one pixel of that row. */
VA_KERNEL va_rows(const va_row *all, byte *out, const byte *table, i64 width, i64 height, i64 planes,
                  i64 itemsize, i64 pad) {
    const i64 x = (i64)blockIdx.x * blockDim.x + threadIdx.x, y = (i64)blockIdx.y * blockDim.y + threadIdx.y;
    const va_row *row = all + blockIdx.z;
    const i64 inside = x - row->left, below = y - row->top;
    byte rgb[3] = {(byte)pad, (byte)pad, (byte)pad};
    if (x >= width || y >= height)
        return;
    if (inside >= 0 && inside < row->wide && below >= 0 && below < row->high) {
        if (row->kind == 0) {
            for (int c = 0; c < 3; c++) {
                const i64 channel = row->channels == 1 ? 0 : row->swap ? 2 - c : c;
                rgb[c] = va_resample(row->source + channel, row->across * row->channels, row->channels,
                                     &row->all, inside, below);
            }
        } else {
            const i64 half = row->across / 2, nv12 = row->kind == 1;
            const byte *chroma = row->source + row->across * row->down;
            const byte *second = chroma + (nv12 ? 1 : half * (row->down / 2));
            const i64 stride = nv12 ? row->across : half, step = nv12 ? 2 : 1;
            const int luma = va_resample(row->source, row->across, 1, &row->all, inside, below);
            const int u = va_resample(chroma, stride, step, &row->colour, inside, below);
            const int v = va_resample(second, stride, step, &row->colour, inside, below);
            const int light = 19077 * (luma - 16) + 8192, cb = u - 128, cr = v - 128;
            const byte red = va_clip((light + 26149 * cr) >> 14), blue = va_clip((light + 33050 * cb) >> 14);
            rgb[0] = row->swap ? blue : red;
            rgb[1] = va_clip((light - 6419 * cb - 13320 * cr) >> 14);
            rgb[2] = row->swap ? red : blue;
        }
    }
    for (int c = 0; c < 3; c++) {
        const i64 at = planes ? (((i64)blockIdx.z * 3 + c) * height + y) * width + x
                              : (((i64)blockIdx.z * height + y) * width + x) * 3 + c;
        const i64 value = c * 256 + rgb[c];
        if (itemsize == 1)
            out[at] = table[value];
        else if (itemsize == 2)
            ((unsigned short *)out)[at] = ((const unsigned short *)table)[value];
        else
            ((unsigned *)out)[at] = ((const unsigned *)table)[value];
    }
}
"""

_AXIS = np.dtype([("first", "u8"), ("weights", "u8"), ("taps", "i8")])
_PLANE = np.dtype([("columns", _AXIS), ("rows", _AXIS), ("factor", "i8"), ("half", "i8")])

#: va_row.
ROW = np.dtype(
    [
        ("source", "u8"), ("kind", "i8"), ("channels", "i8"), ("across", "i8"), ("down", "i8"),
        ("left", "i8"), ("top", "i8"), ("wide", "i8"), ("high", "i8"), ("swap", "i8"),
        ("all", _PLANE), ("colour", _PLANE),
    ]
)  # fmt: skip


class Row:
    """A fitting as the kernel takes it: ``tables`` are its weights, to be put into the device's memory."""

    def __init__(self, fitting: Fitting) -> None:
        self._row = row = np.zeros((), ROW)
        row["kind"] = {"nv12": 1, "yuv420p": 2}.get(str(fitting.kind), 0)
        row["channels"] = fitting.kind if isinstance(fitting.kind, int) else 1
        row["across"], row["down"] = fitting.columns.source, fitting.rows.source
        row["left"], row["top"] = fitting.place.left, fitting.place.top
        row["wide"], row["high"] = len(fitting.columns.first), len(fitting.rows.first)
        row["swap"] = fitting.swap
        parts: list[bytes] = []
        self._planes = ["all"] if fitting.chroma is None else ["all", "colour"]
        for name, axes in zip(self._planes, ((fitting.columns, fitting.rows), fitting.chroma), strict=False):
            assert axes is not None
            plane = row[name]
            total = math.prod(int(axis.parts[0].sum()) for axis in axes)
            plane["factor"], plane["half"] = -(-(1 << 40) // total), total // 2
            for side, axis in zip(("columns", "rows"), axes, strict=True):
                plane[side]["taps"] = axis.parts.shape[1]
                for part, array in (("first", axis.first), ("weights", axis.parts)):
                    plane[side][part] = sum(map(len, parts))  # from the beginning of the tables
                    data = array.tobytes()
                    parts.append(data + bytes(-len(data) % 8))
        self.tables = np.frombuffer(b"".join(parts), np.uint8)

    def at(self, source: int, tables: int) -> NDArray[np.void]:
        """One of ROW, for a frame and its tables in the device's memory."""
        row = self._row.copy()
        row["source"] = source
        for plane in self._planes:
            for side in ("columns", "rows"):
                for part in ("first", "weights"):
                    row[plane][side][part] += tables
        return row
