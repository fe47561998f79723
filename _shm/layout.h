/* SPDX-License-Identifier: MIT
 *
 * What lies in shared memory. Nothing here runs; ring.h says what may be done with it.
 *
 * Two kinds of memory are shared, each an anonymous memfd:
 *
 *   the ring         va_ring, then the stream header, then va_slot[slots], then the payloads.
 *                    The server writes it; a reader maps it read-only and the seals keep it so.
 *   a lease page     one per reader, shared by that reader and the server alone.
 *
 * The comment above a field names its writer. Sizes are part of the handshake (VA_LAYOUT), so two
 * builds that disagree refuse each other instead of misreading.
 */
#ifndef VA_LAYOUT_H
#define VA_LAYOUT_H

#include <assert.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define VA_MAGIC UINT64_C(0x474e49524b4c4156) /* "VALKRING" */
#define VA_VERSION 2u

#define VA_LINE 64u            /* a cache line on x86-64 and on most aarch64 */
#define VA_MAX_SLOTS 1024u
#define VA_MAX_LEASES 64u      /* per reader */
#define VA_MAX_DIMS 4u
#define VA_FORMAT_BYTES 16u    /* ASCII, zero-padded */
#define VA_META_BYTES 4096u    /* behind each payload */
#define VA_LEASE_PAGE_BYTES 4096u

/* What the elements of a frame are, in the byte order of the machine. */
typedef enum va_dtype {
    VA_UINT8, VA_UINT16, VA_UINT32, VA_UINT64,
    VA_INT8, VA_INT16, VA_INT32, VA_INT64,
    VA_FLOAT16, VA_FLOAT32, VA_FLOAT64,
    VA_BOOL,
    VA_DTYPES
} va_dtype;

/* What a frame says of itself. Written by the server before va_slot.seq is set; a reader copies it
 * while it holds a lease. The elements lie packed in row-major order, so strides follow from the shape. */
typedef struct va_info {
    uint64_t nbytes;                /* of the payload */
    int64_t timestamp_ns;           /* capture, CLOCK_REALTIME */
    int64_t published_ns;           /* CLOCK_MONOTONIC */
    int64_t pts;                    /* in units of the time base; void without VA_HAS_PTS */
    int64_t dts;                    /* likewise; void without VA_HAS_DTS */
    int64_t duration;               /* likewise; void without VA_HAS_DURATION */
    int32_t time_base_num;
    int32_t time_base_den;          /* 0: no time base */
    uint32_t flags;                 /* VA_KEY | VA_HAS_... */
    uint32_t meta_bytes;
    uint32_t dtype;                 /* a va_dtype */
    uint32_t ndim;
    char format[VA_FORMAT_BYTES];
    uint32_t shape[VA_MAX_DIMS];    /* in elements */
} va_info;

#define VA_KEY 1u
#define VA_HAS_PTS 2u
#define VA_HAS_DTS 4u
#define VA_HAS_DURATION 8u

typedef struct va_slot {
    /* Server. The frame that lies here; 0 while there is none or it is being written. */
    alignas(VA_LINE) _Atomic uint64_t seq;
    va_info info;
} va_slot;

typedef struct va_ring {
    /* Server, once, before anybody else sees the memory. */
    uint64_t magic;
    uint32_t version;
    uint32_t layout;
    uint64_t total_bytes;
    uint64_t base_seq;        /* frames 1..base_seq were published in earlier rings */
    uint64_t slot_bytes;      /* largest payload */
    uint64_t slot_stride;     /* from one payload to the next */
    uint64_t header_offset;   /* the stream header */
    uint64_t header_bytes;
    uint64_t slots_offset;
    uint64_t data_offset;
    uint32_t generation;      /* 1, 2, ... */
    uint32_t header_serial;   /* changes when the stream header does */
    uint32_t slots;
    uint32_t index_mask;      /* index entries in use, a power of two >= slots, minus one */

    /* Server. The newest published frame; base_seq while there is none. */
    alignas(VA_LINE) _Atomic uint64_t head;
    /* Server. 1 once the next ring has been sent to the readers: look at the socket. */
    _Atomic uint32_t superseded;

    /* Server. index[seq & index_mask] is the slot of frame seq, if that slot still says so. */
    alignas(VA_LINE) _Atomic uint32_t index[VA_MAX_SLOTS];
} va_ring;

/* All that the server looks at for an average reader shares one cache line. */
typedef struct va_lease_page {
    /* Reader. The last frame it has done with or given up; UINT64_MAX: it wants no more. */
    alignas(VA_LINE) _Atomic uint64_t cursor;
    /* Reader sets it to 1 before it sleeps; the server takes it back to 0 and rings. */
    _Atomic uint32_t armed;
    /* Server sets it to 1 while it waits for a slot; the reader takes it back to 0 and signals. */
    _Atomic uint32_t waiting;
    /* Reader. 0, or VA_LEASE(generation, slot). */
    _Atomic uint64_t lease[VA_MAX_LEASES];

    /* Reader. Frames that it got, and those that it missed. For display and for nothing else: the server
     * takes no decision by them, and does not look at them when it publishes (hence a line of their own). */
    alignas(VA_LINE) _Atomic uint64_t received;
    _Atomic uint64_t dropped;
} va_lease_page;

#define VA_LEASE(generation, slot) (((uint64_t)(generation) << 32) | ((uint64_t)(slot) + 1))

#define VA_LAYOUT ((uint32_t)(sizeof(va_ring) + sizeof(va_slot) * 8u + sizeof(va_lease_page) * 64u))

static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2,
              "atomics that take a lock do not work between processes");
static_assert(sizeof(_Atomic uint64_t) == 8 && sizeof(_Atomic uint32_t) == 4, "atomics are bare words");
static_assert(sizeof(va_info) == 104, "va_info has no hidden padding");
static_assert(sizeof(va_slot) == 2 * VA_LINE, "a slot header is two cache lines");
static_assert(offsetof(va_ring, head) % VA_LINE == 0 && offsetof(va_ring, index) % VA_LINE == 0,
              "head has a cache line of its own");
static_assert(sizeof(va_ring) % VA_LINE == 0, "what follows the ring header is aligned");
static_assert(offsetof(va_lease_page, lease) == 16, "cursor, bell and six leases share a line");
static_assert(offsetof(va_lease_page, received) % VA_LINE == 0,
              "a reader that counts does not take a line away from the server");
static_assert(sizeof(va_lease_page) <= VA_LEASE_PAGE_BYTES, "a lease page is one page");
static_assert((VA_MAX_SLOTS & (VA_MAX_SLOTS - 1)) == 0, "index entries are a power of two");

#endif
