/* SPDX-License-Identifier: MIT
 *
 * ring.h at full speed: one writer and a few readers, threads of one process, so that ThreadSanitizer and
 * AddressSanitizer can watch. Ends with status 0 and a line of figures, or with 1 and the first thing that
 * was wrong.
 *
 *   stress [seconds [patience in ms [seed [round]]]]
 *
 * The time is shared by the rounds below (or given to one of them). Patience is how long a reader may take
 * to see the newest frame, or the writer to be told of room, before that counts as a lost wake-up.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

#define WORDS 32u                /* of a payload */
#define MAX_READERS 4
#define MAX_LEASES 3
#define MAX_RINGS 64
#define START UINT64_C(0x7fffffffffff0000) /* frame numbers begin high: nothing may depend on small ones */

typedef struct {
    const char *name;
    uint32_t slots, readers;
    uint32_t policy[MAX_READERS];
    uint64_t key_every;          /* 1: raw images */
    uint32_t longest_burst;      /* frames between two waits for all readers to catch up */
    uint32_t switch_every;       /* frames in a ring */
    bool waits;                  /* the writer waits for room instead of dropping */
    bool late;                   /* there is a backlog, and the last reader leaves and comes back */
} round_;

static const round_ rounds[] = {
    {"camera", 5, 4, {VA_LATEST, VA_LATEST, VA_ORDERED, VA_LATEST}, 1, 2000, 5000, false, false},
    {"file", 4, 3, {VA_LOSSLESS, VA_LATEST, VA_ORDERED}, 1, 2000, 5000, true, false},
    {"delta", 8, 4, {VA_LATEST, VA_ORDERED, VA_LOSSLESS, VA_LATEST}, 7, 200, 3000, false, false},
    {"late", 7, 3, {VA_LATEST, VA_ORDERED, VA_LOSSLESS}, 6, 60, 40, false, true},
    {"ping", 4, 2, {VA_LATEST, VA_ORDERED}, 1, 1, 1000000, false, false},
};
#define ROUNDS (sizeof rounds / sizeof *rounds)

typedef struct {
    uint64_t seq;                /* 0: the lease word is free */
    const va_view *view;
    int slot;
} held;

typedef struct {
    alignas(VA_LINE) va_lease_page page;
    pthread_t thread;
    va_cursor cursor;
    held held[MAX_LEASES];
    int bell;
    uint32_t ring;               /* the one in use */
    uint64_t last, received, dropped, slept;
    uint64_t random;
    _Atomic uint32_t asks;       /* 1: to come back, 2: it has */
    bool wholly;                 /* it came back to a backlog: it gets everything from there on */
    uint64_t again, late;        /* frames between two visits (modulo 2^64: it may see some again); visits */
} reader;

static const round_ *now;
static reader readers[MAX_READERS];
static va_view ring[MAX_RINGS];
static _Atomic uint32_t rings_sent; /* stands for the socket: a ring is final once its successor was sent */
static _Atomic bool stop;
static int room;                    /* the writer's bell */
static uint64_t patience_ns = UINT64_C(5000000000);

_Noreturn static void fail(const char *what, uint64_t a, uint64_t b)
{
    fprintf(stderr, "FAILED in round %s: %s (%llu, %llu)\n", now->name, what, (unsigned long long)a,
            (unsigned long long)b);
    _exit(1);
}

static uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t any(uint64_t *random, uint32_t below)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return (uint32_t)(*random >> 33) % below;
}

static void drain(int fd)
{
    uint64_t n;
    if (read(fd, &n, sizeof n) < 0 && errno != EAGAIN)
        fail("read of an eventfd", (uint64_t)errno, 0);
}

static void ring_bell(int fd)
{
    uint64_t one = 1;
    if (write(fd, &one, sizeof one) < 0 && errno != EAGAIN)
        fail("write of an eventfd", (uint64_t)errno, 0);
}

static bool await(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, (int)(patience_ns / 1000000)) > 0;
}

/* ------------------------------------------------------------------------------------ frames */

static bool is_key(uint64_t seq) { return (seq - START - 1) % now->key_every == 0; }

static void fill(const va_view *v, int s, uint64_t seq, va_info *info)
{
    uint64_t *words = (uint64_t *)(void *)va_data_of(v, (uint32_t)s);
    for (uint32_t i = 0; i < WORDS; i++)
        words[i] = seq * 1000003u + i;
    memcpy(va_meta_of(v, (uint32_t)s), &seq, sizeof seq);
    memset(info, 0, sizeof *info);
    info->nbytes = WORDS * 8;
    info->dtype = VA_UINT64;
    info->ndim = 1;
    info->shape[0] = WORDS;
    info->meta_bytes = sizeof seq;
    info->pts = (int64_t)seq;
    info->flags = VA_HAS_PTS | (is_key(seq) ? VA_KEY : 0);
}

__attribute__((noinline)) static void check(const va_view *v, int s, uint64_t seq)
{
    const uint64_t *words = (const uint64_t *)(const void *)va_data_of(v, (uint32_t)s);
    for (uint32_t i = 0; i < WORDS; i++)
        if (words[i] != seq * 1000003u + i)
            fail("a payload changed under its lease", seq, i);
    uint64_t meta;
    memcpy(&meta, va_meta_of(v, (uint32_t)s), sizeof meta);
    const va_info *info = &va_slot_of(v, (uint32_t)s)->info;
    if (meta != seq || info->pts != (int64_t)seq || info->nbytes != WORDS * 8)
        fail("a description changed under its lease", seq, meta);
    if (!va_info_ok(info, v->slot_bytes) || !(info->flags & VA_KEY) != !is_key(seq))
        fail("a description makes no sense", seq, 0);
}

/* ------------------------------------------------------------------------------------ reader */

static void signal_writer(reader *r)
{
    if (va_must_signal(&r->page))
        ring_bell(room);
}

static void let_go(reader *r, uint32_t k)
{
    held *h = &r->held[k];
    if (!h->seq)
        return;
    check(h->view, h->slot, h->seq);
    h->seq = 0;
    va_unpin(&r->page, k);
    signal_writer(r);
}

/* As _shm.Reader.claim does it, rings and all. */
static int claim(reader *r, uint32_t k, uint64_t *seq)
{
    uint32_t newest = atomic_load_explicit(&rings_sent, memory_order_acquire) - 1;
    for (;;) {
        const va_view *v = &ring[r->ring];
        int s = VA_EMPTY;
        if (r->ring == newest || r->cursor.policy != VA_LATEST || !va_has_frames(&ring[newest]))
            s = va_claim(&r->cursor, v, &r->page, k, seq);
        if (s != VA_EMPTY || r->ring == newest)
            return s;
        v = &ring[++r->ring];
        if (v->base_seq > r->cursor.seen) {
            r->cursor.broken = true;
            va_pass(&r->cursor, &r->page, v->base_seq);
        }
    }
}

/* The newest frame is always there: who does not find it finds a newer head. */
static void probe(reader *r, uint32_t k)
{
    const va_view *v = &ring[r->ring];
    if (!va_has_frames(v))
        return;
    uint64_t head = atomic_load(&va_ring_of(v)->head);
    int s = va_pin(v, &r->page, k, head);
    if (s >= 0) {
        check(v, s, head);
        va_unpin(&r->page, k);
        signal_writer(r);
    } else if (atomic_load(&va_ring_of(v)->head) == head)
        fail("the newest frame was destroyed", head, 0);
}

static void take(reader *r, uint32_t k, uint64_t head, int s, uint64_t seq)
{
    const va_view *v = &ring[r->ring];
    uint32_t policy = r->cursor.policy;
    check(v, s, seq);
    if (seq <= r->last)
        fail("a frame came out of order", seq, r->last);
    if (policy == VA_LATEST && now->key_every == 1 && seq < head)
        fail("a \"latest\" reader got an old frame", seq, head);
    if (policy == VA_LOSSLESS && seq != r->last + 1 && r->wholly)
        fail("a \"lossless\" reader lost a frame", seq, r->last);
    r->wholly = true;
    if (!is_key(seq) && seq != r->last + 1)
        fail("a frame came without the one before it", seq, r->last);
    r->dropped += seq - r->last - 1;
    r->received++;
    r->last = seq;
    r->held[k] = (held){.seq = seq, .view = v, .slot = s};
}

static void linger(reader *r)
{
    switch (any(&r->random, 64)) {
    case 0:
        usleep(any(&r->random, 300));
        break;
    case 1: case 2: case 3: case 4:
        sched_yield();
        break;
    default:
        for (volatile uint32_t i = any(&r->random, 200); i; i--)
            ;
    }
}

/* Leaves, and comes back where the writer says. */
static void come_late(reader *r)
{
    for (uint32_t k = 0; k < MAX_LEASES; k++)
        let_go(r, k);
    va_pass(&r->cursor, &r->page, UINT64_MAX);
    signal_writer(r);
    atomic_store(&r->asks, 1);
    while (atomic_load(&r->asks) == 1 && !atomic_load(&stop))
        linger(r);
}

static void *read_on(void *arg)
{
    reader *r = arg;
    for (;;) {
        if (now->late && r == &readers[now->readers - 1] && any(&r->random, 50) == 0) {
            come_late(r);
            if (atomic_load(&r->asks) == 1)
                break; /* over */
        }
        uint32_t k = any(&r->random, MAX_LEASES);
        let_go(r, k);
        if (r->cursor.policy == VA_LATEST && any(&r->random, 8) == 0)
            probe(r, k);
        uint64_t seq = 0;
        uint64_t head = atomic_load(&va_ring_of(&ring[r->ring])->head);
        int s = claim(r, k, &seq);
        if (s >= 0) {
            take(r, k, head, s, seq);
            linger(r);
            continue;
        }
        if (s != VA_EMPTY)
            fail("the ring makes no sense", (uint64_t)-s, 0);
        if (head > r->cursor.seen)
            fail("a frame was there and not seen", head, r->cursor.seen);
        if (atomic_load(&stop))
            break;
        for (uint32_t i = 0; i < MAX_LEASES; i++) /* a writer that waits gets its room */
            let_go(r, i);
        if (any(&r->random, 2))
            linger(r);
        drain(r->bell);
        signal_writer(r);
        if (va_arm(&r->cursor, &ring[r->ring], &r->page)
            && atomic_load(&rings_sent) == r->ring + 1 && !atomic_load(&stop)) {
            r->slept++;
            if (!await(r->bell) && atomic_load(&va_ring_of(&ring[r->ring])->head) > r->cursor.seen)
                fail("a reader slept through a frame", atomic_load(&va_ring_of(&ring[r->ring])->head),
                     r->cursor.seen);
        }
    }
    for (uint32_t i = 0; i < MAX_LEASES; i++)
        let_go(r, i);
    return NULL;
}

/* ------------------------------------------------------------------------------------ writer */

static void ring_bells(const va_writer *w)
{
    for (uint32_t i = 0; i < w->npeers; i++)
        if (va_must_ring(&w->peers[i]))
            ring_bell(w->peers[i].bell);
}

static void next_ring(va_writer *w)
{
    uint32_t n = atomic_load(&rings_sent);
    va_view *v = &ring[n];
    va_plan(v, now->slots, WORDS * 8, 0, n + 1, 0, w->head, VA_LINE);
    v->base = aligned_alloc(VA_LINE, v->total_bytes);
    if (!v->base)
        fail("no memory", v->total_bytes, 0);
    memset(v->base, 0, v->total_bytes);
    va_init(v, "");
    va_next_ring(w, v, w->head & 1);
    v->base_seq = w->view.base_seq;
    atomic_store(&rings_sent, n + 1);
    for (uint32_t i = 0; n > 0 && i < w->npeers; i++)
        ring_bell(w->peers[i].bell); /* the socket becomes readable */
    if (n > 0)
        va_supersede(ring[n - 1].base);
}

/* As _shm.Writer.add_peer does it. */
static void admit(va_writer *w, reader *r)
{
    if (atomic_load(&r->asks) != 1)
        return;
    uint64_t start = w->gop ? w->gop - 1 : w->head > w->view.base_seq ? w->head - 1 : w->head;
    r->ring = atomic_load(&rings_sent) - 1;
    r->cursor.broken = true;
    r->wholly = w->gop != 0;
    r->again += start - r->last;
    r->last = start;
    r->late += r->wholly;
    va_pass(&r->cursor, &r->page, start);
    atomic_store(&r->asks, 2);
}

/* -1: dropped. With a "lossless" reader the writer waits instead. */
static int begin(va_writer *w)
{
    for (;;) {
        int s = va_begin(w, WORDS * 8);
        if (s >= 0 || !now->waits)
            return s;
        drain(room);
        if (!va_has_room(w) && !await(room))
            fail("the writer was not told of room", w->head, 0);
    }
}

static void let_all_see(const va_writer *w)
{
    uint64_t deadline = clock_ns() + patience_ns;
    for (uint32_t i = 0; i < w->npeers; i++)
        while (atomic_load(&w->peers[i].page->cursor) < w->head) {
            if (clock_ns() > deadline)
                fail("a reader never saw the newest frame", w->head, i);
            sched_yield();
        }
}

static void run(const round_ *r, uint64_t ns, uint64_t seed)
{
    static va_writer w;
    va_peer peers[MAX_READERS];
    uint64_t dropped = 0, random = seed * 2654435761u + 1, end = clock_ns() + ns;

    now = r;
    memset(&w, 0, sizeof w);
    memset(readers, 0, sizeof readers);
    atomic_store(&rings_sent, 0);
    atomic_store(&stop, false);
    room = eventfd(0, EFD_NONBLOCK);
    w.head = START;
    w.retains = r->late;
    w.backlog_bytes = UINT64_MAX;
    w.peers = peers;
    w.npeers = r->readers;
    for (uint32_t i = 0; i < r->readers; i++) {
        readers[i].bell = eventfd(0, EFD_NONBLOCK);
        readers[i].random = seed * 7919 + i + 1;
        readers[i].last = START;
        readers[i].wholly = true;
        readers[i].cursor = (va_cursor){.policy = r->policy[i], .broken = true};
        va_pass(&readers[i].cursor, &readers[i].page, START);
        peers[i] = (va_peer){&readers[i].page, MAX_LEASES, r->policy[i], readers[i].bell};
    }
    next_ring(&w);
    for (uint32_t i = 0; i < r->readers; i++)
        if (pthread_create(&readers[i].thread, NULL, read_on, &readers[i]))
            fail("no thread", i, 0);

    while (clock_ns() < end) {
        for (uint32_t burst = 1 + any(&random, r->longest_burst); burst; burst--) {
            if (w.head - w.view.base_seq >= r->switch_every && atomic_load(&rings_sent) < MAX_RINGS)
                next_ring(&w);
            admit(&w, &readers[r->readers - 1]);
            int s = begin(&w);
            if (s < 0) {
                dropped++;
                sched_yield();
                continue;
            }
            va_info info;
            fill(&w.view, s, w.head + 1, &info);
            if (any(&random, 100) == 0) {
                va_abort(&w, s);
                continue;
            }
            va_commit(&w, s, &info);
            ring_bells(&w);
        }
        let_all_see(&w);
    }

    atomic_store(&stop, true);
    for (uint32_t i = 0; i < r->readers; i++)
        ring_bell(peers[i].bell);
    printf("%s: %llu frames, %llu dropped, %u rings;", r->name, (unsigned long long)(w.head - START),
           (unsigned long long)dropped, atomic_load(&rings_sent));
    for (uint32_t i = 0; i < r->readers; i++) {
        reader *x = &readers[i];
        pthread_join(x->thread, NULL);
        if (x->received + x->dropped + x->again != x->last - START)
            fail("frames do not add up", x->received, x->dropped);
        if (now->key_every == 1 && x->last != w.head)
            fail("a reader did not get the newest frame", x->last, w.head);
        for (uint32_t k = 0; k < VA_MAX_LEASES; k++)
            if (atomic_load(&x->page.lease[k]))
                fail("a lease was not returned", i, k);
        printf(" %llu+%llu (slept %llu", (unsigned long long)x->received, (unsigned long long)x->dropped,
               (unsigned long long)x->slept);
        if (r->late)
            printf(", late %llu", (unsigned long long)x->late);
        printf(")");
        close(x->bell);
    }
    puts("");
    /* Nobody holds or wants anything: every slot but the newest frame's can be had. */
    uint32_t free_slots = 0;
    while (va_begin(&w, WORDS * 8) >= 0)
        free_slots++;
    if (free_slots != r->slots - (w.head > w.view.base_seq))
        fail("slots did not come back", free_slots, r->slots);
    for (uint32_t i = 0; i < atomic_load(&rings_sent); i++)
        free(ring[i].base);
    close(room);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 2;
    if (argc > 2)
        patience_ns = strtoull(argv[2], NULL, 10) * 1000000;
    uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 10) : clock_ns();
    uint64_t only = 0;
    for (uint64_t i = 0; i < ROUNDS; i++)
        only += argc > 4 && strcmp(argv[4], rounds[i].name) == 0;
    for (uint64_t i = 0; i < ROUNDS; i++)
        if (!only || strcmp(argv[4], rounds[i].name) == 0)
            run(&rounds[i], (uint64_t)(seconds * 1e9 / (double)(only ? 1 : ROUNDS)), seed + i);
    return 0;
}
