/* SPDX-License-Identifier: MIT */
/* A frame into a row of a model's array: resized, in the model's colours, layout and type, in one pass.
 *
 * No Python here, no memory management and no checks: _rows.pyx does those. A row of the result is first the
 * weighted sum of rows of the source, which a compiler makes vectors of, then of its columns. The weights of an
 * axis are whole numbers that add up to the same `total` everywhere (the block's width where the sizes are in a
 * whole proportion, so that the mean is exact; else 256). */
#ifndef VA_ROWS_H
#define VA_ROWS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "wide.h"

/* With more, a sum of weighted bytes would not fit in 16 bits. */
#define VA_MAX_TOTAL 257

/* One axis: of output i, `taps` sources from first[i] on have the weights[i * taps ...]. */
typedef struct {
    const int32_t *first;
    const uint16_t *weights;
    int taps;
    uint32_t total;
} va_axis;

/* sums[i] = the weighted sum of rows, one below the other */
VA_WIDE static void va_weigh_rows(uint16_t *restrict sums, const uint8_t *restrict from, ptrdiff_t stride,
                                  ptrdiff_t width, const uint16_t *restrict weights, int taps) {
    const uint8_t *restrict second = from + (taps > 1 ? stride : 0);
    const uint8_t *restrict third = from + (taps > 2 ? 2 * stride : 0);
    const uint16_t a = weights[0], b = taps > 1 ? weights[1] : 0, c = taps > 2 ? weights[2] : 0;
    if (taps < 3)
        for (ptrdiff_t i = 0; i < width; i++)
            sums[i] = (uint16_t)(a * from[i] + b * second[i]);
    else
        for (ptrdiff_t i = 0; i < width; i++)
            sums[i] = (uint16_t)(a * from[i] + b * second[i] + c * third[i]);
    for (int tap = 3; tap < taps; tap++) {
        const uint8_t *restrict next = from + tap * stride;
        const uint16_t w = weights[tap];
        for (ptrdiff_t i = 0; i < width; i++)
            sums[i] = (uint16_t)(sums[i] + w * next[i]);
    }
}

VA_INLINE void va_columns(uint8_t *restrict to, const uint16_t *restrict sums, ptrdiff_t width,
                          const va_axis *axis, int taps, int channels, uint64_t factor, uint32_t half) {
    for (ptrdiff_t x = 0; x < width; x++) {
        const uint16_t *from = sums + (ptrdiff_t)axis->first[x] * channels;
        const uint16_t *weights = axis->weights + x * taps;
        for (int channel = 0; channel < channels; channel++) {
            uint32_t sum = half;
            for (int tap = 0; tap < taps; tap++)
                sum += (uint32_t)weights[tap] * from[tap * channels + channel];
            to[x * channels + channel] = (uint8_t)(sum * factor >> 40);
        }
    }
}

/* The same for the numbers of taps that are met with most, as constants */
#define VA_TAPS(channels)                                                                                    \
    switch (axis->taps) {                                                                                    \
    case 1: va_columns(to, sums, width, axis, 1, channels, factor, half); return;                            \
    case 2: va_columns(to, sums, width, axis, 2, channels, factor, half); return;                            \
    case 3: va_columns(to, sums, width, axis, 3, channels, factor, half); return;                            \
    case 4: va_columns(to, sums, width, axis, 4, channels, factor, half); return;                            \
    default: va_columns(to, sums, width, axis, axis->taps, channels, factor, half); return;                  \
    }

VA_WIDE static void va_weigh_columns(uint8_t *restrict to, const uint16_t *restrict sums, ptrdiff_t width,
                                     const va_axis *axis, int channels, uint64_t factor, uint32_t half) {
    switch (channels) {
    case 1: VA_TAPS(1)
    case 2: VA_TAPS(2)
    case 3: VA_TAPS(3)
    default: VA_TAPS(4)
    }
}

/* Row y of the result, `width` pixels; rows of the source are `across` pixels. The factor's error, below
 * total / 2^40, times a sum of at most 255 * total + half, is less than 1 / total. */
static void va_resample(uint8_t *to, const uint8_t *from, ptrdiff_t stride, ptrdiff_t across, ptrdiff_t width,
                        ptrdiff_t y, const va_axis *columns, const va_axis *rows, int channels,
                        uint16_t *sums) {
    const uint32_t total = columns->total * rows->total;
    if (columns->taps == 1 && rows->taps == 1 && width == across) { /* nothing to resize */
        memcpy(to, from + rows->first[y] * stride, (size_t)(width * channels));
        return;
    }
    va_weigh_rows(sums, from + rows->first[y] * stride, stride, across * channels,
                  rows->weights + y * rows->taps, rows->taps);
    va_weigh_columns(to, sums, width, columns, channels, (((uint64_t)1 << 40) + total - 1) / total, total / 2);
}

VA_INLINE uint8_t va_clip(int32_t value) { return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value); }

/* Limited range and BT.601, as OpenCV and FFmpeg read nv12 of unknown origin; 14 bits of fraction */
VA_WIDE static void va_to_rgb(uint8_t *restrict to, const uint8_t *restrict luma, const uint8_t *restrict u,
                              const uint8_t *restrict v, ptrdiff_t step, ptrdiff_t width) {
    for (ptrdiff_t x = 0; x < width; x++) {
        const int32_t y = 19077 * (luma[x] - 16) + 8192, cb = u[x * step] - 128, cr = v[x * step] - 128;
        to[3 * x] = va_clip((y + 26149 * cr) >> 14);
        to[3 * x + 1] = va_clip((y - 6419 * cb - 13320 * cr) >> 14);
        to[3 * x + 2] = va_clip((y + 33050 * cb) >> 14);
    }
}

/* A line of pixels (`step` bytes each, red at 0 or 2) through the table of each channel into the array. */
#define VA_STORE(type)                                                                                       \
    VA_INLINE void va_store_##type(type *restrict to, ptrdiff_t pixel, ptrdiff_t plane,                      \
                                   const uint8_t *restrict line, int step, int swap, ptrdiff_t width,        \
                                   const type *restrict table) {                                             \
        for (int c = 0; c < 3; c++) {                                                                        \
            const uint8_t *from = line + (step == 1 ? 0 : swap ? 2 - c : c);                                 \
            const type *restrict value = table + 256 * c;                                                    \
            for (ptrdiff_t x = 0; x < width; x++)                                                            \
                to[c * plane + x * pixel] = value[from[x * step]];                                           \
        }                                                                                                    \
    }
VA_STORE(uint16_t)
VA_STORE(uint32_t)

/* Bytes stay as they are, so they need no table. */
VA_WIDE static void va_store_bytes(uint8_t *restrict to, ptrdiff_t pixel, ptrdiff_t plane,
                                   const uint8_t *restrict line, int step, int swap, ptrdiff_t width) {
    if (pixel == 3 && step == 3 && !swap)
        memcpy(to, line, (size_t)width * 3);
    else if (pixel == 3 && step == 3)
        for (ptrdiff_t x = 0; x < width; x++) {
            const uint8_t first = line[3 * x], second = line[3 * x + 1], third = line[3 * x + 2];
            to[3 * x] = third;
            to[3 * x + 1] = second;
            to[3 * x + 2] = first;
        }
    else
        for (int c = 0; c < 3; c++) {
            const uint8_t *from = line + (step == 1 ? 0 : swap ? 2 - c : c);
            for (ptrdiff_t x = 0; x < width; x++)
                to[c * plane + x * pixel] = from[x * step];
        }
}

/* What lies beside the picture, `width` pixels of it: the table has what the byte becomes in each channel. */
#define VA_PAD(type)                                                                                         \
    VA_INLINE void va_pad_##type(type *restrict to, ptrdiff_t pixel, ptrdiff_t plane, ptrdiff_t width,       \
                                 uint8_t byte, const type *restrict table) {                                 \
        const type first = table[byte], second = table[256 + byte], third = table[512 + byte];               \
        for (ptrdiff_t x = 0; x < width; x++) {                                                              \
            to[x * pixel] = first;                                                                           \
            to[plane + x * pixel] = second;                                                                  \
            to[2 * plane + x * pixel] = third;                                                               \
        }                                                                                                    \
    }
VA_PAD(uint16_t)
VA_PAD(uint32_t)

VA_WIDE static void va_pad(void *to, int size, ptrdiff_t pixel, ptrdiff_t plane, ptrdiff_t width,
                           uint8_t byte, const void *table) {
    uint8_t *bytes = to;
    if (size == 2)
        va_pad_uint16_t(to, pixel, plane, width, byte, table);
    else if (size == 4)
        va_pad_uint32_t(to, pixel, plane, width, byte, table);
    else if (pixel == 3)
        memset(bytes, byte, (size_t)width * 3);
    else
        for (int c = 0; c < 3; c++)
            memset(bytes + c * plane, byte, (size_t)width);
}

/* Elements of 1, 2 or 4 bytes */
static void va_store(void *to, int size, ptrdiff_t pixel, ptrdiff_t plane, const uint8_t *line, int step,
                     int swap, ptrdiff_t width, const void *table) {
    if (size == 1)
        va_store_bytes(to, pixel, plane, line, step, swap, width);
    else if (size == 2)
        va_store_uint16_t(to, pixel, plane, line, step, swap, width, table);
    else
        va_store_uint32_t(to, pixel, plane, line, step, swap, width, table);
}

#endif
