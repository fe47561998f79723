# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, freethreading_compatible=False
# SPDX-License-Identifier: MIT
"""Loops over pixels: the checks, and where the GIL is let go. The loops are in pixels.h."""

from libc.stdint cimport uint8_t, uint16_t
from libc.stdlib cimport free, malloc

cdef extern from "limited.h":
    pass

cdef extern from "pixels.h" nogil:
    int VA_MAX_BLOCK
    void va_shrink(uint8_t *to, Py_ssize_t to_stride, const uint8_t *source, Py_ssize_t stride,
                   Py_ssize_t width, Py_ssize_t height, int columns, int rows, int channels, uint16_t *sums)
    void va_stretch(uint8_t *to, Py_ssize_t to_stride, const uint8_t *source, Py_ssize_t stride,
                    Py_ssize_t width, Py_ssize_t height)

MAX_BLOCK = VA_MAX_BLOCK


def shrink(const uint8_t[:, :] source, uint8_t[:, :] out, int columns, int rows, int channels=1):
    """Make each pixel of `out` the mean of a block of `columns` x `rows` pixels, rounded half up.

    `source`, `out`: uint8, (height, width * channels), rows without gaps inside; what `source` has beyond
    whole blocks is not looked at. `channels`: 1, or 2 for the interleaved colour of nv12. They may not
    overlap. A block has MAX_BLOCK pixels at most. Lets the GIL go. Raises ValueError.
    """
    cdef Py_ssize_t height = out.shape[0], width
    cdef uint16_t *sums
    if channels != 1 and channels != 2:
        raise ValueError(f"channels is 1 or 2, not {channels}")
    if not (0 < columns <= VA_MAX_BLOCK and 0 < rows <= VA_MAX_BLOCK and columns * rows <= VA_MAX_BLOCK):
        raise ValueError(f"a block has 1 to {VA_MAX_BLOCK} pixels, not {columns} x {rows}")
    if out.shape[1] % channels:
        raise ValueError(f"a row of {out.shape[1]} bytes is not of {channels} channels")
    width = out.shape[1] // channels
    if source.shape[0] < height * rows or source.shape[1] < width * columns * channels:
        raise ValueError(
            f"{height} x {width} blocks of {rows} x {columns} are more than {source.shape[0]} x "
            f"{source.shape[1] // channels} pixels"
        )
    if height == 0 or width == 0:
        return
    if source.strides[1] != 1 or out.strides[1] != 1:
        raise ValueError("the bytes of a row must lie side by side")
    with nogil:
        sums = <uint16_t *>malloc(width * columns * channels * sizeof(uint16_t))
        if sums != NULL:
            va_shrink(&out[0, 0], out.strides[0], &source[0, 0], source.strides[0], width, height,
                      columns, rows, channels, sums)
            free(sums)
    if sums == NULL:
        raise MemoryError


def stretch(const uint8_t[:, :] source, uint8_t[:, :] out):
    """Luma of video, 16 to 235, as gray from 0 to 255, to the nearest; beyond is cut off.

    `source`, `out`: uint8, (height, width), rows without gaps inside, of the same shape, not overlapping.
    Lets the GIL go. Raises ValueError.
    """
    if source.shape[0] != out.shape[0] or source.shape[1] != out.shape[1]:
        raise ValueError(
            f"the shapes differ: {source.shape[0]} x {source.shape[1]}, {out.shape[0]} x {out.shape[1]}"
        )
    if out.shape[0] == 0 or out.shape[1] == 0:
        return
    if source.strides[1] != 1 or out.strides[1] != 1:
        raise ValueError("the bytes of a row must lie side by side")
    with nogil:
        va_stretch(&out[0, 0], out.strides[0], &source[0, 0], source.strides[0], out.shape[1], out.shape[0])
