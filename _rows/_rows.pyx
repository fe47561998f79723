# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, freethreading_compatible=False
# cython: auto_pickle=False
# SPDX-License-Identifier: MIT
"""Frames into the rows of a model's array: the checks, and where the GIL is let go. The loops are in rows.h."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc

cdef extern from "limited.h":
    pass

cdef extern from "rows.h" nogil:
    int VA_MAX_TOTAL
    ctypedef struct va_axis:
        const int32_t *first
        const uint16_t *weights
        int taps
        uint32_t total
    void va_resample(uint8_t *to, const uint8_t *source, Py_ssize_t stride, Py_ssize_t across, Py_ssize_t width,
                     Py_ssize_t y, const va_axis *columns, const va_axis *rows, int channels, uint16_t *sums)
    void va_to_rgb(uint8_t *to, const uint8_t *luma, const uint8_t *u, const uint8_t *v, Py_ssize_t step,
                   Py_ssize_t width)
    void va_pad(void *to, int size, Py_ssize_t pixel, Py_ssize_t plane, Py_ssize_t width, uint8_t byte,
                const void *table)
    void va_store(void *to, int size, Py_ssize_t pixel, Py_ssize_t plane, const uint8_t *line, int step, int swap,
                  Py_ssize_t width, const void *table)

MAX_TOTAL = VA_MAX_TOTAL

cdef enum:
    PACKED, NV12, YUV420P


cdef class Axis:
    """The weights of one axis: output i is the sum of ``weights[i]`` (uint16) times the sources from ``first[i]``
    (int32) on, divided by the sum of the weights, which is the same for all, at most MAX_TOTAL. Raises ValueError.
    """
    cdef object first
    cdef object weights
    cdef va_axis axis
    cdef readonly Py_ssize_t source
    cdef readonly Py_ssize_t size

    def __init__(self, Py_ssize_t source, const int32_t[::1] first, const uint16_t[:, ::1] weights):
        cdef Py_ssize_t i, tap
        cdef uint32_t total
        self.source = source
        self.size = first.shape[0]
        if self.size < 1 or weights.shape[0] != self.size or not 1 <= weights.shape[1] <= source:
            raise ValueError("an axis has weights for each of its outputs")
        self.axis.taps = <int>weights.shape[1]
        self.axis.total = 0
        for i in range(self.size):
            if not 0 <= first[i] <= source - self.axis.taps:
                raise ValueError(f"output {i} is of sources that there are not")
            total = 0
            for tap in range(self.axis.taps):
                total += weights[i, tap]
            if total < 1 or total > VA_MAX_TOTAL or (i and total != self.axis.total):
                raise ValueError(f"the weights of each output add up to the same number, up to {VA_MAX_TOTAL}")
            self.axis.total = total
        self.first, self.weights = first, weights  # what the pointers point into
        self.axis.first = &first[0]
        self.axis.weights = &weights[0, 0]


cdef class Fit:
    """How frames of one format and size become rows of one array.

    ``kind``: a number of channels (1 to 4), "nv12" or "yuv420p". ``columns``, ``rows``: of the whole frame (luma);
    ``chroma``: both axes of its colour, or None. The result lies at (left, top) in an array of (width, height) with
    3 channels, in planes or by pixels, of ``itemsize`` 1, 2 or 4; ``table`` has 3 x 256 elements, what a byte of
    each channel becomes; beside the result is ``pad``. ``swap``: the channels are stored the other way round.
    Raises ValueError.
    """
    cdef Axis columns
    cdef Axis rows
    cdef Axis chroma_columns
    cdef Axis chroma_rows
    cdef int kind
    cdef int channels
    cdef int itemsize
    cdef bint swap
    cdef bint planes
    cdef Py_ssize_t width
    cdef Py_ssize_t height
    cdef Py_ssize_t left
    cdef Py_ssize_t top
    cdef bytes table
    cdef const char *values  # of the table
    cdef uint8_t pad
    cdef readonly Py_ssize_t source_bytes
    cdef readonly Py_ssize_t row_bytes

    def __init__(self, kind, Axis columns not None, Axis rows not None, chroma, size, corner, bint planes, int itemsize,
                 bytes table not None, uint8_t pad, bint swap):
        cdef Py_ssize_t pixels = columns.source * rows.source
        self.columns, self.rows = columns, rows
        self.kind = PACKED if isinstance(kind, int) else NV12 if kind == "nv12" else YUV420P
        self.channels = kind if self.kind == PACKED else 1
        if not 1 <= self.channels <= 4 or (self.kind != PACKED and kind not in ("nv12", "yuv420p")):
            raise ValueError(f"there is no way from {kind!r}")
        if self.kind != PACKED:
            self.chroma_columns, self.chroma_rows = chroma
            if (self.chroma_columns.source * 2, self.chroma_rows.source * 2) != (columns.source, rows.source) or (
                    self.chroma_columns.size, self.chroma_rows.size) != (columns.size, rows.size):
                raise ValueError("colour has half the size of luma, and becomes as large")
        self.width, self.height = size
        self.left, self.top = corner
        if not (0 <= self.left <= self.width - columns.size and 0 <= self.top <= self.height - rows.size):
            raise ValueError("the result is larger than the array")
        if itemsize not in (1, 2, 4) or len(table) != 3 * 256 * itemsize:
            raise ValueError("a table has 3 x 256 elements of 1, 2 or 4 bytes")
        self.planes, self.itemsize, self.table, self.pad, self.swap = planes, itemsize, table, pad, swap
        self.values = <const char *>table
        self.source_bytes = pixels * self.channels if self.kind == PACKED else pixels * 3 // 2
        self.row_bytes = self.width * self.height * 3 * itemsize

    def fill(self, uint8_t[::1] out, const uint8_t[::1] source):
        """Make the row. Both are bytes, as many as ``row_bytes`` and ``source_bytes``. Lets the GIL go. Raises
        ValueError, MemoryError."""
        cdef Py_ssize_t across = self.columns.source, wide = self.columns.size
        cdef uint8_t *line
        cdef uint16_t *sums
        if out.shape[0] != self.row_bytes or source.shape[0] != self.source_bytes:
            raise ValueError("a buffer has another size")
        with nogil:
            # line: one of the result; for YUV also its luma and two of colour. sums: one of the source
            line = <uint8_t *>malloc((wide if wide > self.width else self.width) * 7)
            sums = <uint16_t *>malloc(across * 4 * sizeof(uint16_t))
            if line != NULL and sums != NULL:
                self.run(&out[0], &source[0], line, sums)
        try:
            if line == NULL or sums == NULL:
                raise MemoryError
        finally:
            free(line)
            free(sums)

    cdef void run(self, uint8_t *out, const uint8_t *source, uint8_t *line, uint16_t *sums) noexcept nogil:
        cdef Py_ssize_t across = self.columns.source, down = self.rows.source, wide = self.columns.size
        cdef Py_ssize_t pixel = 1 if self.planes else 3
        cdef Py_ssize_t plane = self.width * self.height if self.planes else 1
        cdef Py_ssize_t y, x, right
        cdef uint8_t *luma = line + 3 * self.width
        cdef uint8_t *colour = luma + self.width
        cdef const uint8_t *chroma = source + across * down
        cdef int step = 3 if self.kind != PACKED else self.channels
        for y in range(self.height):
            if not self.top <= y < self.top + self.rows.size:
                self.beside(out, y, 0, self.width, pixel, plane)
        right = self.left + wide
        for y in range(self.rows.size):
            self.beside(out, y + self.top, 0, self.left, pixel, plane)
            self.beside(out, y + self.top, right, self.width - right, pixel, plane)
            if self.kind == PACKED:
                va_resample(line, source, across * self.channels, across, wide, y, &self.columns.axis, &self.rows.axis,
                            self.channels, sums)
            else:
                va_resample(luma, source, across, across, wide, y, &self.columns.axis, &self.rows.axis, 1, sums)
                if self.kind == NV12:
                    va_resample(colour, chroma, across, across // 2, wide, y, &self.chroma_columns.axis,
                                &self.chroma_rows.axis, 2, sums)
                    va_to_rgb(line, luma, colour, colour + 1, 2, wide)
                else:
                    for x in range(2):
                        va_resample(colour + x * wide, chroma + x * (across // 2) * (down // 2), across // 2,
                                    across // 2, wide, y, &self.chroma_columns.axis, &self.chroma_rows.axis, 1, sums)
                    va_to_rgb(line, luma, colour, colour + wide, 1, wide)
            self.store(out, y + self.top, self.left, line, step, wide, pixel, plane)

    cdef void beside(self, uint8_t *out, Py_ssize_t y, Py_ssize_t x, Py_ssize_t count, Py_ssize_t pixel,
                     Py_ssize_t plane) noexcept nogil:
        va_pad(out + (y * self.width + x) * pixel * self.itemsize, self.itemsize, pixel, plane, count, self.pad,
               self.values)

    cdef void store(self, uint8_t *out, Py_ssize_t y, Py_ssize_t x, const uint8_t *line, int step, Py_ssize_t count,
                    Py_ssize_t pixel, Py_ssize_t plane) noexcept nogil:
        va_store(out + (y * self.width + x) * pixel * self.itemsize, self.itemsize, pixel, plane, line, step, self.swap,
                 count, self.values)
