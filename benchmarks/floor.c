/* SPDX-License-Identifier: MIT
 *
 * The floor: what memfd, eventfd and epoll cost in C, and nothing else. No leases, no handshake, no
 * metadata: a frame may be overwritten while it is read. Two slots are "hot", eight go "round robin".
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "frame.h"

#define MAX_READERS 32

typedef struct {
    _Alignas(64) _Atomic uint64_t head;                              /* frames published */
    struct { _Alignas(64) _Atomic uint32_t armed; } reader[MAX_READERS]; /* 1: asleep, ring its bell */
} shared_t;

typedef struct {
    shared_t *shared;
    char *data;
    uint64_t slots, stride, size;
    int readers, bell[MAX_READERS];
} ring_t;

/* Made before the writer and the readers are forked, so nobody has to find anybody. */
static bool ring_make(ring_t *r, uint64_t slots, uint64_t size, int readers)
{
    r->slots = slots;
    r->size = size;
    r->stride = (size + PAGE - 1) / PAGE * PAGE;
    r->readers = readers;
    uint64_t total = PAGE + r->slots * r->stride;
    int fd = memfd_create("bench-floor", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)total))
        return false;
    char *base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (base == MAP_FAILED)
        return false;
    r->shared = (shared_t *)(void *)base;
    r->data = base + PAGE;
    for (int i = 0; i < readers; i++)
        if ((r->bell[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) < 0)
            return false;
    return true;
}

static void ring_publish(ring_t *r, const char *frame)
{
    uint64_t n = atomic_load_explicit(&r->shared->head, memory_order_relaxed) + 1;
    uint64_t one = 1;
    memcpy(r->data + n % r->slots * r->stride, frame, r->size);
    atomic_store(&r->shared->head, n);
    for (int i = 0; i < r->readers; i++)
        if (atomic_load(&r->shared->reader[i].armed) && atomic_exchange(&r->shared->reader[i].armed, 0))
            if (write(r->bell[i], &one, sizeof one) < 0)
                continue; /* it is ringing already */
}

/* The slot of the newest frame, or -1 when it has been seen. */
static inline int ring_newest(const ring_t *r, uint64_t *seen)
{
    uint64_t n = atomic_load_explicit(&r->shared->head, memory_order_acquire);
    if (n == *seen)
        return -1;
    *seen = n;
    return (int)(n % r->slots);
}

/* True: the bell will ring for the next frame. False: it is there already. */
static inline bool ring_arm(ring_t *r, int reader, uint64_t seen)
{
    atomic_store(&r->shared->reader[reader].armed, 1);
    return atomic_load(&r->shared->head) == seen;
}

static void ring_drain(const ring_t *r, int reader)
{
    uint64_t count;
    if (read(r->bell[reader], &count, sizeof count) < 0)
        return;
}

static void sleep_until(int64_t t)
{
    struct timespec at = {t / 1000000000, t % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL))
        ;
}

/* One frame every `period` ns, over all rings in turn. */
static void floor_pace(ring_t *rings, uint64_t nrings, char *image, uint64_t kind, int64_t period, uint64_t count)
{
    int64_t next = now_ns(CLOCK_MONOTONIC);
    for (uint64_t i = 0; i < count; i++) {
        sleep_until(next += period);
        ring_t *r = &rings[i % nrings];
        stamp_frame(image, r->size, kind, now_ns(CLOCK_MONOTONIC));
        ring_publish(r, image);
    }
}

static uint64_t floor_flood(ring_t *r, char *image, int64_t ns)
{
    uint64_t count = 0;
    int64_t now = now_ns(CLOCK_MONOTONIC), end = now + ns;
    for (; now < end; now = now_ns(CLOCK_MONOTONIC), count++) {
        stamp_frame(image, r->size, FLOOD, now);
        ring_publish(r, image);
    }
    return count;
}

static void floor_read(ring_t *r, int reader)
{
    uint64_t seen = 0;
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};
    epoll_ctl(epoll, EPOLL_CTL_ADD, r->bell[reader], &event);
    for (;;) {
        int slot = ring_newest(r, &seen);
        if (slot >= 0) {
            if (touch_frame(r->data + (uint64_t)slot * r->stride, r->size))
                break;
        } else if (ring_arm(r, reader, seen)) {
            epoll_wait(epoll, &event, 1, -1);
            ring_drain(r, reader);
        }
    }
    close(epoll);
}
