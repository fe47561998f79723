/* SPDX-License-Identifier: MIT */
/* Loops over bytes that no library at hand has: means of whole blocks, and the range of luma.
 *
 * No Python here, no memory management and no checks: _pixels.pyx does those. The loops are written so
 * that a compiler makes vectors of them; where it can, a second version for AVX2 is chosen at run time
 * (1.8 times as fast). */
#ifndef VA_PIXELS_H
#define VA_PIXELS_H

#include <stddef.h>
#include <stdint.h>

#include "wide.h"

/* A block has at most so many bytes: with more, the sums' products would not fit in 32 bits. */
#define VA_MAX_BLOCK 255

/* sums[i] = the sum of `rows` bytes, one below the other */
VA_WIDE static void va_add_rows(uint16_t *restrict sums, const uint8_t *restrict from, ptrdiff_t stride,
                                ptrdiff_t width, int rows) {
    if (rows == 1) {
        for (ptrdiff_t i = 0; i < width; i++)
            sums[i] = from[i];
        return;
    }
    for (ptrdiff_t i = 0; i < width; i++)
        sums[i] = (uint16_t)(from[i] + from[i + stride]);
    for (int row = 2; row < rows; row++) {
        const uint8_t *restrict next = from + row * stride;
        for (ptrdiff_t i = 0; i < width; i++)
            sums[i] = (uint16_t)(sums[i] + next[i]);
    }
}

/* `size` is the number of bytes in a block. The quotient is exact for every sum of so many bytes: the
 * factor's error, below size / 2^24, times a sum below 256 * size, is less than 1 / size. */
VA_INLINE void va_mean(uint8_t *restrict to, const uint16_t *restrict sums, ptrdiff_t width, int columns,
                       int channels, uint32_t size) {
    const uint32_t factor = ((1u << 24) + size - 1) / size, half = size / 2;
    for (ptrdiff_t i = 0; i < width; i++)
        for (int channel = 0; channel < channels; channel++) {
            uint32_t sum = half;
            for (int column = 0; column < columns; column++)
                sum += sums[(i * columns + column) * channels + channel];
            to[i * channels + channel] = (uint8_t)(sum * factor >> 24);
        }
}

/* The same for the numbers of columns that are met with most, as constants */
VA_WIDE static void va_add_columns(uint8_t *restrict to, const uint16_t *restrict sums, ptrdiff_t width,
                                   int columns, int channels, uint32_t size) {
    if (channels == 1)
        switch (columns) {
        case 1: va_mean(to, sums, width, 1, 1, size); return;
        case 2: va_mean(to, sums, width, 2, 1, size); return;
        case 3: va_mean(to, sums, width, 3, 1, size); return;
        case 4: va_mean(to, sums, width, 4, 1, size); return;
        case 6: va_mean(to, sums, width, 6, 1, size); return;
        default: va_mean(to, sums, width, columns, 1, size); return;
        }
    switch (columns) {
    case 1: va_mean(to, sums, width, 1, 2, size); return;
    case 2: va_mean(to, sums, width, 2, 2, size); return;
    case 3: va_mean(to, sums, width, 3, 2, size); return;
    case 4: va_mean(to, sums, width, 4, 2, size); return;
    default: va_mean(to, sums, width, columns, 2, size); return;
    }
}

/* `width` pixels of 1 or 2 channels in each of `height` rows, each the rounded mean of a block of
 * `columns` x `rows`. `sums` has room for width * columns * channels. */
static void va_shrink(uint8_t *to, ptrdiff_t to_stride, const uint8_t *from, ptrdiff_t stride,
                      ptrdiff_t width, ptrdiff_t height, int columns, int rows, int channels,
                      uint16_t *sums) {
    for (ptrdiff_t y = 0; y < height; y++) {
        va_add_rows(sums, from + y * rows * stride, stride, width * columns * channels, rows);
        va_add_columns(to + y * to_stride, sums, width, columns, channels, (uint32_t)(columns * rows));
    }
}

/* 16..235 to 0..255, rounded to the nearest: (y - 16) * 255 / 219, with 38155 = 255 / 219 * 2^15 */
VA_WIDE static void va_stretch(uint8_t *restrict to, ptrdiff_t to_stride, const uint8_t *restrict from,
                               ptrdiff_t stride, ptrdiff_t width, ptrdiff_t height) {
    for (ptrdiff_t y = 0; y < height; y++)
        for (ptrdiff_t x = 0; x < width; x++) {
            uint16_t luma = from[y * stride + x];
            luma = luma < 16 ? 16 : luma > 235 ? 235 : luma;
            luma = (uint16_t)((luma - 16) << 8);
            to[y * to_stride + x] = (uint8_t)((((uint32_t)luma * 38155u >> 16) + 64) >> 7);
        }
}

#endif
