/* SPDX-License-Identifier: MIT
 *
 * What may be done with the ring: one writer, many readers, no locks.
 *
 * The rule that everything serves: while a reader holds a lease on a slot, nobody writes that slot.
 * A reader announces the slot it is about to read and then checks that the slot still holds the frame
 * it wanted; the writer takes the frame's number away and then looks for announcements. The second
 * of the two sees the first. Each ordering below is one half of a named pair:
 *
 *   LEASE    reader: store lease[k], load slot.seq      writer: store slot.seq = 0, load lease[k]
 *            All four sequentially consistent, so at least one side sees the other (store buffering,
 *            ISO C11 7.17.3): the reader gives up, or the writer picks another slot.
 *   RETURN   reader: store lease[k] = 0 (release)       writer: load lease[k] (at least acquire)
 *            All that the reader read, it read before the writer overwrites it.
 *   FRAME    writer: store slot.seq = n (release)       reader: load slot.seq == n (at least acquire)
 *            Header and payload are there before the number is.
 *   HEAD     writer: store index, then head = n         reader: load head, then index
 *            (release and acquire) index[n] is set before n can be asked for.
 *   BELL     writer: store head = n, load armed         reader: store armed = 1, load head
 *            All four sequentially consistent: the reader sees the frame, or the writer sees the
 *            sleeper and rings.
 *   CURSOR   reader: store lease[k], store cursor (release)   writer: load cursor (acquire), load lease[k]
 *            A frame that a cursor has passed is either leased or done with, never in between.
 *   ROOM     reader: store lease[k] = 0 or cursor, load waiting   writer: store waiting = 1, load both
 *            All sequentially consistent: a writer that waits for a slot sees the one that was given
 *            back, or the reader sees that it waits and signals.
 *
 * The writer's own state (va_writer) is private to its process; its caller sees to it that one thread
 * at a time is inside these functions (in Python: the GIL). Writing into a slot that va_begin gave
 * needs no such care.
 */
#ifndef VA_RING_H
#define VA_RING_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "layout.h"

/* ---------------------------------------------------------------------------------- geometry */

/* Where things are, copied out of the ring header once and checked, so that a peer that scribbles
 * over the header later cannot lead anybody astray. */
typedef struct va_view {
    char *base;
    uint64_t total_bytes, base_seq, slot_bytes, slot_stride;
    uint64_t header_offset, header_bytes, slots_offset, data_offset;
    uint32_t generation, header_serial, slots, index_mask;
} va_view;

static inline uint64_t va_round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

static inline va_ring *va_ring_of(const va_view *v) { return (va_ring *)(void *)v->base; }
static inline va_slot *va_slot_of(const va_view *v, uint32_t slot)
{
    return (va_slot *)(void *)(v->base + v->slots_offset) + slot;
}
static inline char *va_data_of(const va_view *v, uint32_t slot)
{
    return v->base + v->data_offset + v->slot_stride * slot;
}
static inline char *va_meta_of(const va_view *v, uint32_t slot)
{
    return va_data_of(v, slot) + (v->slot_stride - VA_META_BYTES);
}

/* Plans a ring; v->total_bytes is the size its memory needs. Everything but v->base is set. */
static inline void va_plan(va_view *v, uint32_t slots, uint64_t slot_bytes, uint64_t header_bytes,
                           uint32_t generation, uint32_t header_serial, uint64_t base_seq, uint64_t page)
{
    uint32_t entries = 1;
    while (entries < slots)
        entries *= 2;
    v->base = NULL;
    v->base_seq = base_seq;
    v->slots = slots;
    v->index_mask = entries - 1;
    v->generation = generation;
    v->header_serial = header_serial;
    v->slot_bytes = va_round_up(slot_bytes, page);
    v->slot_stride = v->slot_bytes + va_round_up(VA_META_BYTES, page);
    v->slots_offset = va_round_up(sizeof(va_ring), page);
    v->header_offset = v->slots_offset + va_round_up((uint64_t)slots * sizeof(va_slot), page);
    v->header_bytes = header_bytes;
    v->data_offset = v->header_offset + va_round_up(header_bytes, page);
    v->total_bytes = v->data_offset + v->slot_stride * slots;
}

/* Fills the fresh, zeroed memory at v->base. */
static inline void va_init(const va_view *v, const void *header)
{
    va_ring *r = va_ring_of(v);
    r->magic = VA_MAGIC;
    r->version = VA_VERSION;
    r->layout = VA_LAYOUT;
    r->total_bytes = v->total_bytes;
    r->base_seq = v->base_seq;
    r->slot_bytes = v->slot_bytes;
    r->slot_stride = v->slot_stride;
    r->header_offset = v->header_offset;
    r->header_bytes = v->header_bytes;
    r->slots_offset = v->slots_offset;
    r->data_offset = v->data_offset;
    r->generation = v->generation;
    r->header_serial = v->header_serial;
    r->slots = v->slots;
    r->index_mask = v->index_mask;
    if (v->header_bytes)
        memcpy(v->base + v->header_offset, header, v->header_bytes);
    atomic_store_explicit(&r->head, v->base_seq, memory_order_release);
}

/* A part [offset, offset + bytes) that lies within total; no sum can overflow. */
static inline bool va_within(uint64_t offset, uint64_t bytes, uint64_t total)
{
    return offset <= total && bytes <= total - offset;
}

/* Reads the geometry of foreign memory of `total` bytes at `base`. False: not a ring of this layout. */
static inline bool va_open(va_view *v, char *base, uint64_t total)
{
    if (total < sizeof(va_ring))
        return false;
    const va_ring *r = (const va_ring *)(const void *)base;
    if (r->magic != VA_MAGIC || r->version != VA_VERSION || r->layout != VA_LAYOUT)
        return false;
    v->base = base;
    v->total_bytes = r->total_bytes;
    v->base_seq = r->base_seq;
    v->slot_bytes = r->slot_bytes;
    v->slot_stride = r->slot_stride;
    v->header_offset = r->header_offset;
    v->header_bytes = r->header_bytes;
    v->slots_offset = r->slots_offset;
    v->data_offset = r->data_offset;
    v->generation = r->generation;
    v->header_serial = r->header_serial;
    v->slots = r->slots;
    v->index_mask = r->index_mask;
    return v->total_bytes == total && v->slots >= 2 && v->slots <= VA_MAX_SLOTS
        && (v->index_mask & (v->index_mask + 1)) == 0 && v->index_mask < VA_MAX_SLOTS
        && v->index_mask + 1 >= v->slots
        && v->slot_stride > VA_META_BYTES && v->slot_bytes <= v->slot_stride - VA_META_BYTES
        && v->slot_stride <= total / v->slots && v->slots_offset >= sizeof(va_ring)
        && v->slots_offset % VA_LINE == 0
        && va_within(v->slots_offset, (uint64_t)v->slots * sizeof(va_slot), total)
        && va_within(v->header_offset, v->header_bytes, total)
        && va_within(v->data_offset, v->slot_stride * v->slots, total);
}

/* Bytes of an element; 0: there is no such dtype. */
static inline uint32_t va_itemsize(uint32_t dtype)
{
    static const uint8_t bytes[VA_DTYPES] = {1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 1};
    return dtype < VA_DTYPES ? bytes[dtype] : 0;
}

/* Is a frame's description right, and does the frame fit its slot? For descriptions that another process wrote. */
static inline bool va_info_ok(const va_info *i, uint64_t slot_bytes)
{
    if (i->nbytes > slot_bytes || i->meta_bytes > VA_META_BYTES || i->time_base_den < 0)
        return false;
    if (i->ndim == 0 || i->ndim > VA_MAX_DIMS)
        return false;
    uint64_t bytes = va_itemsize(i->dtype); /* of a part with the axes up to d */
    for (uint32_t d = 0; d < i->ndim && bytes; d++)
        bytes = i->shape[d] <= i->nbytes / bytes ? bytes * i->shape[d] : 0; /* no product can overflow */
    return bytes && bytes == i->nbytes;
}

/* ------------------------------------------------------------------------------------ writer */

enum { VA_LATEST = 0, VA_ORDERED = 1, VA_LOSSLESS = 2 };

/* A reader as the writer knows it. What the reader may ask for (leases, policy) stands here and not
 * in the lease page, which the reader can spoil. */
typedef struct va_peer {
    va_lease_page *page;
    uint32_t leases;
    uint32_t policy;
    int bell;
} va_peer;

/* The writer's private notes on a slot. */
typedef struct va_note {
    uint64_t seq;      /* what slot.seq says, or 0 */
    uint64_t used;     /* when it was last written, by va_writer.clock; 0: never, it costs no memory yet */
    uint64_t touched;  /* payload bytes whose pages are there */
    bool writing;      /* begun, neither committed nor aborted */
    bool leased;       /* seen in the current scan */
} va_note;

typedef struct va_writer {
    va_view view;
    uint64_t head;     /* newest published frame, across rings */
    uint64_t clock;
    uint32_t depth;    /* slots 0 to depth - 1 were written in this ring */
    va_note note[VA_MAX_SLOTS];
    va_peer *peers;
    uint32_t npeers;

    /* The backlog: all frames from the newest key frame on, retained for readers that come late. */
    bool retains;            /* is there to be one? */
    bool outgrown;           /* the slots or bytes did not reach for the newest GOP, or the one before it */
    uint64_t gop;            /* its first frame, a key frame; 0: there is none. All up to head are there */
    uint64_t backlog_bytes;  /* its slots make the ring touch no more than this */
    uint64_t touched;        /* of all slots together */
} va_writer;

static inline bool va_leases_slot(const va_peer *p, uint64_t word)
{
    for (uint32_t k = 0; k < p->leases; k++)
        if (atomic_load_explicit(&p->page->lease[k], memory_order_seq_cst) == word) /* LEASE, RETURN */
            return true;
    return false;
}

/* False once a reader is closed and only frames that it still holds keep it connected. */
static inline bool va_wants_more(const va_peer *p)
{
    return atomic_load_explicit(&p->page->cursor, memory_order_acquire) != UINT64_MAX;   /* CURSOR */
}

/* Notes which slots are leased now, and which unread frames are wanted: those above *ordered, *lossless. */
static inline void va_scan(va_writer *w, uint64_t *ordered, uint64_t *lossless)
{
    const va_view *v = &w->view;
    for (uint32_t s = 0; s < w->depth; s++)
        w->note[s].leased = false;
    *ordered = *lossless = UINT64_MAX;
    for (uint32_t i = 0; i < w->npeers; i++) {
        const va_peer *p = &w->peers[i];
        uint64_t cursor = atomic_load_explicit(&p->page->cursor, memory_order_seq_cst); /* CURSOR, ROOM */
        if (p->policy == VA_ORDERED && cursor < *ordered)
            *ordered = cursor;
        if (p->policy == VA_LOSSLESS && cursor < *lossless)
            *lossless = cursor;
        for (uint32_t k = 0; k < p->leases; k++) {
            uint64_t word = atomic_load_explicit(&p->page->lease[k], memory_order_seq_cst); /* RETURN, ROOM */
            uint32_t s = (uint32_t)word - 1;
            if (word >> 32 == v->generation && s < w->depth)
                w->note[s].leased = true;
        }
    }
}

/* How badly a frame of `nbytes` fits pages that were touched before; 0: well. Pages cannot be given back
 * (the seals forbid it), so where sizes differ, as those of key frames and others do, each slot is to be
 * used for about the same size again and again: best by one that is not twice as large, then by the one that
 * has to grow least. Then the memory is about the frames', and not the largest frame's in every slot. */
static inline uint64_t va_misfit(uint64_t touched, uint64_t nbytes)
{
    if (touched < nbytes)
        return 2 * nbytes - touched;
    return touched - nbytes <= nbytes ? touched - nbytes : touched + nbytes;
}

/* The slot to write next, as far as the last scan knows, or -1 when every slot is leased or still to be read.
 *
 * Of the slots that nobody wants, the one that fits best, and of these the one used last: it is still in the
 * cache. Then the first that was never used, so that only `depth` slots and one more are looked at. Then, where
 * the backlog and unread frames of "ordered" readers fill the ring, the oldest of those, which is one of the
 * backlog if that has any that was read. Never the newest published frame, never a leased one, never one that a
 * "lossless" reader has still to read. */
static inline int va_pick(const va_writer *w, uint64_t nbytes, uint64_t ordered, uint64_t lossless)
{
    enum { UNREAD = 1, UNTOUCHED = 2, FREE = 3 };
    uint64_t least = 0;
    int best = -1;
    int best_class = 0;
    if (w->gop - 1 < ordered) /* without a backlog it is UINT64_MAX */
        ordered = w->gop - 1;
    for (uint32_t s = 0; s < w->view.slots && s <= w->depth; s++) {
        const va_note *n = &w->note[s];
        if (n->writing || n->leased || (n->seq && (n->seq == w->head || n->seq > lossless)))
            continue;
        int class = n->seq > ordered ? UNREAD : n->used ? FREE : UNTOUCHED;
        uint64_t misfit = class == FREE ? va_misfit(n->touched, nbytes) : 0;
        bool better = class > best_class
            || (class == best_class && class == FREE
                && (misfit < least || (misfit == least && n->used > w->note[best].used)))
            || (class == best_class && class == UNREAD && n->seq < w->note[best].seq);
        if (better) {
            best = (int)s;
            best_class = class;
            least = misfit;
        }
    }
    return best;
}

/* There is no backlog before the next key frame: a frame of it is missing, or is of no use any more. */
static inline void va_forget(va_writer *w) { w->gop = 0; }

/* Does the backlog stand in the way of writing into slot s? */
static inline bool va_outgrows(const va_writer *w, int s, uint64_t nbytes)
{
    const va_note *n = &w->note[s];
    return w->gop
        && (n->seq >= w->gop
            || (nbytes > n->touched && w->touched + (nbytes - n->touched) > w->backlog_bytes));
}

/* `nbytes` of slot s have pages now. */
static inline void va_touch(va_writer *w, int s, uint64_t nbytes)
{
    w->touched += nbytes - w->note[s].touched;
    w->note[s].touched = nbytes;
}

/* Takes the slot that va_pick chooses for a frame of `nbytes`. -1: none; the writer never waits for one.
 * The backlog always gives way, and as a whole: what follows a lost frame is of no use. */
static inline int va_begin(va_writer *w, uint64_t nbytes)
{
    const va_view *v = &w->view;
    uint64_t ordered, lossless;
    va_scan(w, &ordered, &lossless);
    for (;;) {
        int best = va_pick(w, nbytes, ordered, lossless);
        if (best < 0) {
            va_forget(w); /* this frame will be missing */
            return -1;
        }
        if (va_outgrows(w, best, nbytes)) {
            va_forget(w);
            w->outgrown = true;
            continue;
        }
        va_note *n = &w->note[best];
        va_slot *slot = va_slot_of(v, (uint32_t)best);
        if (n->seq) {
            atomic_store_explicit(&slot->seq, 0, memory_order_seq_cst); /* LEASE */
            uint64_t word = VA_LEASE(v->generation, best);
            for (uint32_t i = 0; i < w->npeers && !n->leased; i++)
                n->leased = va_leases_slot(&w->peers[i], word);
            if (n->leased) { /* somebody was quicker; the frame is untouched, give its number back */
                atomic_store_explicit(&slot->seq, n->seq, memory_order_release); /* FRAME */
                continue;
            }
            n->seq = 0;
        }
        n->writing = true;
        n->used = ++w->clock;
        w->depth += (uint32_t)best == w->depth;
        return best;
    }
}

/* What a reader says of itself: received, dropped, and how many of its leases it uses. Words that it may
 * have made up; each is read whole, but they need not be of one moment. */
typedef struct va_tally {
    uint64_t received, dropped;
    uint32_t leases;
} va_tally;

static inline va_tally va_tally_of(const va_peer *p)
{
    va_tally t = {atomic_load_explicit(&p->page->received, memory_order_relaxed),
                  atomic_load_explicit(&p->page->dropped, memory_order_relaxed), 0};
    for (uint32_t k = 0; k < p->leases; k++)
        t.leases += atomic_load_explicit(&p->page->lease[k], memory_order_relaxed) != 0;
    return t;
}

/* Would va_begin find a slot? If not, the readers are asked to signal when they give something back. */
static inline bool va_has_room(va_writer *w)
{
    uint64_t ordered, lossless;
    for (uint32_t i = 0; i < w->npeers; i++)
        atomic_store_explicit(&w->peers[i].page->waiting, 1, memory_order_seq_cst); /* ROOM */
    va_scan(w, &ordered, &lossless);
    return va_pick(w, 0, ordered, lossless) >= 0;
}

/* Publishes the slot that va_begin gave, described by `info`; returns the frame's number.
 * Ring the doorbells (va_must_ring) afterwards. */
static inline uint64_t va_commit(va_writer *w, int s, const va_info *info)
{
    va_ring *r = va_ring_of(&w->view);
    va_slot *slot = va_slot_of(&w->view, (uint32_t)s);
    uint64_t n = w->head + 1;
    slot->info = *info;
    atomic_store_explicit(&slot->seq, n, memory_order_release);                          /* FRAME */
    atomic_store_explicit(&r->index[n & w->view.index_mask], (uint32_t)s, memory_order_relaxed);
    atomic_store_explicit(&r->head, n, memory_order_seq_cst);                            /* HEAD, BELL */
    w->head = n;
    w->note[s].seq = n;
    w->note[s].writing = false;
    if (w->retains && info->flags & VA_KEY) {
        w->outgrown = w->outgrown && !w->gop;
        w->gop = n;
    }
    return n;
}

/* Gives back a slot that va_begin gave, unpublished. */
static inline void va_abort(va_writer *w, int s) { w->note[s].writing = false; }

/* After va_commit, for each peer: true if it sleeps and its doorbell must be rung. */
static inline bool va_must_ring(const va_peer *p)
{
    return atomic_load_explicit(&p->page->armed, memory_order_seq_cst) == 1              /* BELL */
        && atomic_exchange_explicit(&p->page->armed, 0, memory_order_seq_cst) == 1;
}

/* The slot of a frame that is there. */
static inline uint32_t va_find(const va_view *v, uint64_t seq)
{
    return atomic_load_explicit(&va_ring_of(v)->index[seq & v->index_mask], memory_order_relaxed);
}

/* Goes on in a new, initialised ring that nobody else has seen. The old one stays as it is: its frames are
 * never written again. The new one begins behind its newest frame or, if it is to `carry` the backlog, with
 * copies of that, which have their numbers: readers that have read the old ring have read them. */
static inline void va_next_ring(va_writer *w, const va_view *v, bool carry)
{
    const va_view old = w->view;
    const uint64_t gop = carry ? w->gop : 0;
    va_ring *r = va_ring_of(v);
    w->view = *v;
    w->view.base_seq = r->base_seq = gop ? gop - 1 : w->head;
    memset(w->note, 0, sizeof w->note);
    w->touched = 0;
    w->gop = gop;
    uint32_t to = 0;
    for (uint64_t n = gop; n && n <= w->head; n++, to++) {
        uint32_t from = va_find(&old, n);
        va_slot *slot = va_slot_of(v, to);
        slot->info = va_slot_of(&old, from)->info;
        memcpy(va_data_of(v, to), va_data_of(&old, from), slot->info.nbytes);
        memcpy(va_meta_of(v, to), va_meta_of(&old, from), slot->info.meta_bytes);
        atomic_store_explicit(&slot->seq, n, memory_order_relaxed);
        atomic_store_explicit(&r->index[n & v->index_mask], to, memory_order_relaxed);
        w->note[to].seq = n;
        w->note[to].used = ++w->clock;
        va_touch(w, (int)to, slot->info.nbytes);
    }
    w->depth = to;
    atomic_store_explicit(&r->head, w->head, memory_order_release);
}

static inline void va_supersede(char *old_ring)
{
    atomic_store_explicit(&((va_ring *)(void *)old_ring)->superseded, 1, memory_order_relaxed);
}

/* ------------------------------------------------------------------------------------ reader */

/* Where a reader stands; private to its process. */
typedef struct va_cursor {
    uint64_t seen;     /* frames up to here are delivered or given up */
    uint32_t policy;
    bool broken;       /* something is missing before the next frame: wait for a key frame */
} va_cursor;

enum { VA_EMPTY = -1, VA_CORRUPT = -2, VA_GONE = -3 };

static inline void va_unpin(va_lease_page *page, uint32_t k)
{
    atomic_store_explicit(&page->lease[k], 0, memory_order_seq_cst);                     /* RETURN, ROOM */
}

/* Leases the slot of frame seq with lease word k. VA_GONE: that frame is no longer there. */
static inline int va_pin(const va_view *v, va_lease_page *page, uint32_t k, uint64_t seq)
{
    const va_ring *r = va_ring_of(v);
    uint32_t s = atomic_load_explicit(&r->index[seq & v->index_mask], memory_order_relaxed);
    if (s >= v->slots)
        return VA_CORRUPT;
    atomic_store_explicit(&page->lease[k], VA_LEASE(v->generation, s), memory_order_seq_cst);    /* LEASE */
    if (atomic_load_explicit(&va_slot_of(v, s)->seq, memory_order_seq_cst) == seq)    /* LEASE, FRAME */
        return (int)s;
    va_unpin(page, k);
    return VA_GONE;
}

static inline void va_pass(va_cursor *c, va_lease_page *page, uint64_t seq)
{
    c->seen = seq;
    atomic_store_explicit(&page->cursor, seq, memory_order_seq_cst);                     /* CURSOR, ROOM */
}

/* Tells the server what this reader has counted. Nothing hangs on it, so it orders nothing. */
static inline void va_tell(va_lease_page *page, uint64_t received, uint64_t dropped)
{
    atomic_store_explicit(&page->received, received, memory_order_relaxed);
    atomic_store_explicit(&page->dropped, dropped, memory_order_relaxed);
}

/* After va_unpin, and before sleeping: true if the writer waits for a slot and must be signalled. */
static inline bool va_must_signal(va_lease_page *page)
{
    return atomic_load_explicit(&page->waiting, memory_order_seq_cst) == 1               /* ROOM */
        && atomic_exchange_explicit(&page->waiting, 0, memory_order_seq_cst) == 1;
}

static inline bool va_is_key(const va_view *v, int s) { return va_slot_of(v, (uint32_t)s)->info.flags & VA_KEY; }

/* Was anything published in this ring yet? */
static inline bool va_has_frames(const va_view *v)
{
    return atomic_load_explicit(&va_ring_of(v)->head, memory_order_acquire) > v->base_seq; /* HEAD */
}

/* Is there a frame that this reader has not seen? (It may still turn out to be of no use to it.) */
static inline bool va_has_newer(const va_cursor *c, const va_view *v)
{
    return atomic_load_explicit(&va_ring_of(v)->head, memory_order_acquire) > c->seen;   /* HEAD */
}

/* Is there a newer ring? A hint for readers that are too busy to look at their socket; what makes a
 * ring final is that its successor was sent, not this word. */
static inline bool va_is_superseded(const va_view *v)
{
    return atomic_load_explicit(&va_ring_of(v)->superseded, memory_order_relaxed);
}

/* The oldest frame that the index can still know of, and that the reader has not seen. */
static inline uint64_t va_oldest(const va_view *v, const va_cursor *c, uint64_t head)
{
    uint64_t span = (uint64_t)v->index_mask + 1;
    uint64_t first = head > span ? head - span + 1 : 1;
    if (first <= v->base_seq)
        first = v->base_seq + 1;
    return first > c->seen ? first : c->seen + 1;
}

/* Leases the next frame for this reader with lease word k, and moves its cursor there.
 * Returns the slot (its number in *seq), VA_EMPTY, or VA_CORRUPT when the memory makes no sense. */
static inline int va_claim(va_cursor *c, const va_view *v, va_lease_page *page, uint32_t k, uint64_t *seq)
{
    const va_ring *r = va_ring_of(v);
    /* A pin fails only after the writer has moved on, so an honest ring cannot use up the tries. */
    for (uint32_t tries = 0; tries < 100000; tries++) {
        uint64_t head = atomic_load_explicit(&r->head, memory_order_acquire);            /* HEAD */
        if (head <= c->seen || head <= v->base_seq)
            return VA_EMPTY;
        uint64_t want = c->policy == VA_LATEST ? head : va_oldest(v, c, head);
        int s = va_pin(v, page, k, want);
        if (s == VA_CORRUPT)
            return s;
        if (s >= 0 && (va_is_key(v, s) || (!c->broken && want == c->seen + 1))) {
            c->broken = false;
            va_pass(c, page, want);
            *seq = want;
            return s;
        }
        if (s >= 0)
            va_unpin(page, k);
        if (c->policy != VA_LATEST) { /* lost, or useless without its key frame */
            c->broken = true;
            va_pass(c, page, want);
            continue;
        }
        if (s == VA_GONE)
            continue; /* a newer one is there */
        /* "latest" in a delta-coded stream, with a gap before the newest: the newest key frame will do,
         * or, while nothing is missing yet, the very next frame */
        uint64_t first = va_oldest(v, c, head);
        for (uint64_t back = want; back > first;) {
            back--;
            s = va_pin(v, page, k, back);
            if (s >= 0 && (va_is_key(v, s) || (!c->broken && back == c->seen + 1))) {
                c->broken = false;
                va_pass(c, page, back);
                *seq = back;
                return s;
            }
            if (s >= 0)
                va_unpin(page, k);
        }
        c->broken = true;
        va_pass(c, page, want);
    }
    return VA_CORRUPT;
}

/* Before sleeping: true when it is safe to sleep on the doorbell, false when a frame is there already. */
static inline bool va_arm(const va_cursor *c, const va_view *v, va_lease_page *page)
{
    atomic_store_explicit(&page->armed, 1, memory_order_seq_cst);                        /* BELL */
    return v == NULL || atomic_load_explicit(&va_ring_of(v)->head, memory_order_seq_cst) <= c->seen;
}

#endif
