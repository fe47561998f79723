/* SPDX-License-Identifier: MIT
 *
 * What the benchmark writes into a frame and how it looks at one; the same code for every contender.
 *
 * A frame carries when it was made, its number and its kind in its first bytes, and the number again in
 * its last. Looking at a frame is touching one byte of each page. One process is one writer or one reader.
 */
#ifndef BENCH_FRAME_H
#define BENCH_FRAME_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define MAX_SAMPLES (1 << 18)

enum { WARM, LATENCY, FLOOD, STOP, KINDS };

typedef struct { int64_t made; uint64_t number, kind; } head_t;

typedef struct {
    uint64_t count, torn, lost, last_number;
    int64_t first, last;              /* when the first and the last of them had been touched */
    int64_t cpu;                      /* of this process when the first came, ns */
} phase_t;

static phase_t phases[KINDS];
static int64_t hand[MAX_SAMPLES], touched[MAX_SAMPLES];   /* ns from made; kind LATENCY only */
static uint64_t current_kind = KINDS;
static int tell_fd = -1;                                  /* gets one byte with the first frame */
static volatile uint8_t sink;

static inline int64_t now_ns(int clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline int64_t cpu_ns(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (u.ru_utime.tv_sec + (int64_t)u.ru_stime.tv_sec) * 1000000000
        + (u.ru_utime.tv_usec + (int64_t)u.ru_stime.tv_usec) * 1000;
}

static inline void stamp_frame(char *frame, uint64_t size, uint64_t kind, int64_t made)
{
    static uint64_t number;
    head_t h = {made, ++number, kind};
    memcpy(frame, &h, sizeof h);
    memcpy(frame + size - 8, &h.number, 8);
}

/* Returns true for the frame after which the reader ends. */
static inline bool touch_frame(const char *frame, uint64_t size)
{
    int64_t in_hand = now_ns(CLOCK_MONOTONIC);
    uint8_t sum = 0;
    for (uint64_t i = 0; i < size; i += PAGE)
        sum += *(volatile const uint8_t *)(frame + i);
    sink = sum;
    int64_t now = now_ns(CLOCK_MONOTONIC);
    head_t h;
    uint64_t tail;
    memcpy(&h, frame, sizeof h);
    memcpy(&tail, frame + size - 8, 8);
    if (h.kind >= KINDS)
        return false;
    phase_t *p = &phases[h.kind];
    if (h.kind != current_kind) {
        current_kind = h.kind;
        if (!p->count) {
            p->cpu = cpu_ns();
            p->first = now;
            p->last_number = h.number - 1;
        }
    }
    if (tell_fd >= 0) {
        if (write(tell_fd, "w", 1) != 1)
            return true;
        tell_fd = -1;
    }
    if (h.kind == LATENCY && p->count < MAX_SAMPLES) {
        hand[p->count] = in_hand - h.made;
        touched[p->count] = now - h.made;
    }
    p->count++;
    p->last = now;
    p->torn += tail != h.number;
    if (h.number > p->last_number)
        p->lost += h.number - p->last_number - 1;
    p->last_number = h.number;
    return h.kind == STOP;
}

#endif
