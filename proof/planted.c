/* SPDX-License-Identifier: MIT
 *
 * ring.h step by step: each test plants a state in memory, takes one step and looks. What a second process
 * would do in between is planted by a hook behind the atomic stores and loads.
 *
 *   planted [part of a test's name]
 */
#include <stdio.h>

#include "layout.h"

static void (*after_store)(const volatile void *where);
static void (*after_load)(const volatile void *where);

#undef atomic_store_explicit
#define atomic_store_explicit(p, v, order) ({ \
    __auto_type p_ = (p); \
    __typeof__((void)0, *p_) v_ = (v); \
    __atomic_store(p_, &v_, order); \
    if (after_store) \
        after_store(p_); \
})
#undef atomic_load_explicit
#define atomic_load_explicit(p, order) ({ \
    __auto_type q_ = (p); \
    __typeof__((void)0, *q_) w_; \
    __atomic_load(q_, &w_, order); \
    if (after_load) \
        after_load(q_); \
    w_; \
})
#include "ring.h"

static const char *running;
#define CHECK(x) ((x) ? (void)0 : wrong(#x, __LINE__))

_Noreturn static void wrong(const char *what, int line)
{
    fprintf(stderr, "FAILED %s, line %d: %s\n", running, line, what);
    exit(1);
}

/* ------------------------------------------------------------------------------- a small world */

#define PEERS 3
static va_view v;
static va_writer w;
static va_lease_page page[PEERS];
static va_peer peer[PEERS];
static char *memory;

static void hooks_off(void) { after_store = after_load = NULL; }

static void new_ring(uint32_t slots, uint64_t base_seq)
{
    va_plan(&v, slots, 64, 0, w.view.generation + 1, 0, base_seq, VA_LINE);
    free(memory);
    memory = v.base = aligned_alloc(VA_LINE, v.total_bytes);
    memset(memory, 0, v.total_bytes);
    va_init(&v, "");
    w.head = base_seq;
    va_next_ring(&w, &v, false);
}

/* A ring of generation 1 without frames, and no reader. */
static void world(uint32_t slots, uint64_t base_seq)
{
    hooks_off();
    memset(&w, 0, sizeof w);
    memset(page, 0, sizeof page);
    memset(peer, 0, sizeof peer);
    new_ring(slots, base_seq);
    w.peers = peer;
}

/* The same, with a backlog. */
static void retaining_world(uint32_t slots, uint64_t base_seq)
{
    world(slots, base_seq);
    w.retains = true;
    w.backlog_bytes = UINT64_MAX;
}

static va_peer *join(uint32_t policy, uint64_t cursor)
{
    uint32_t i = w.npeers++;
    peer[i] = (va_peer){&page[i], 2, policy, -1};
    atomic_store(&page[i].cursor, cursor);
    return &peer[i];
}

static int publish(uint32_t flags)
{
    va_info info = {.nbytes = 1, .ndim = 1, .shape = {1}, .flags = flags};
    int s = va_begin(&w, 1);
    CHECK(s >= 0);
    va_commit(&w, s, &info);
    return s;
}

static uint64_t seq_of(int s) { return atomic_load(&va_slot_of(&v, (uint32_t)s)->seq); }
static uint64_t head(void) { return atomic_load(&va_ring_of(&v)->head); }
static void lease(uint32_t i, uint32_t k, int s) { atomic_store(&page[i].lease[k], VA_LEASE(v.generation, s)); }
static uint64_t leased(uint32_t i, uint32_t k) { return atomic_load(&page[i].lease[k]); }

/* Frame n lies in slot s: both sides know it. */
static void plant(int s, uint64_t n, uint32_t flags)
{
    va_slot *slot = va_slot_of(&v, (uint32_t)s);
    memset(&slot->info, 0, sizeof slot->info);
    slot->info.flags = flags;
    atomic_store(&slot->seq, n);
    atomic_store(&va_ring_of(&v)->index[n & v.index_mask], (uint32_t)s);
    w.note[s].seq = n;
    w.note[s].used = ++w.clock;
    if (w.depth <= (uint32_t)s)
        w.depth = (uint32_t)s + 1;
    if (n > w.head) {
        w.head = n;
        atomic_store(&va_ring_of(&v)->head, n);
    }
}

static va_cursor reader(uint32_t policy, uint64_t seen, bool broken)
{
    return (va_cursor){.seen = seen, .policy = policy, .broken = broken};
}

static uint64_t got;
static int claim(va_cursor *c) { got = 0; return va_claim(c, &v, &page[0], 0, &got); }

/* ------------------------------------------------------------------------------------ geometry */

static void the_parts_of_a_ring_lie_one_behind_the_other(void)
{
    const uint32_t counts[] = {2, 3, 16, 17, VA_MAX_SLOTS};
    const uint64_t pages[] = {64, 4096, 16384}, headers[] = {0, 1, 4096, 5000};
    for (int a = 0; a < 5; a++)
        for (int b = 0; b < 3; b++)
            for (int c = 0; c < 4; c++) {
                va_view x;
                va_plan(&x, counts[a], 1000, headers[c], 3, 4, 5, pages[b]);
                CHECK(x.slots_offset >= sizeof(va_ring));
                CHECK(x.header_offset >= x.slots_offset + counts[a] * sizeof(va_slot));
                CHECK(x.data_offset >= x.header_offset + headers[c]);
                CHECK(x.slot_bytes >= 1000 && x.slot_stride >= x.slot_bytes + VA_META_BYTES);
                CHECK(x.total_bytes == x.data_offset + counts[a] * x.slot_stride);
                CHECK(x.data_offset % pages[b] == 0 && x.slot_stride % pages[b] == 0);
                CHECK(x.base == NULL && x.generation == 3 && x.header_serial == 4 && x.base_seq == 5);
            }
}

static void the_index_is_a_power_of_two_and_holds_all_slots(void)
{
    for (uint32_t slots = 2; slots <= VA_MAX_SLOTS; slots++) {
        va_view x;
        va_plan(&x, slots, 1, 0, 1, 0, 0, 64);
        CHECK(x.index_mask + 1 >= slots && (x.index_mask & (x.index_mask + 1)) == 0);
        CHECK(x.index_mask < 2 * slots - 1 && x.index_mask < VA_MAX_SLOTS);
    }
}

static void the_meta_area_ends_where_the_slot_does(void)
{
    world(3, 0);
    CHECK(va_meta_of(&v, 2) + VA_META_BYTES == v.base + v.total_bytes);
    CHECK(va_data_of(&v, 1) + v.slot_stride == va_data_of(&v, 2));
}

static void what_was_initialised_opens(void)
{
    va_view a, b;
    va_plan(&a, 5, 100, 4, 7, 8, 9, 64);
    a.base = aligned_alloc(64, a.total_bytes);
    memset(a.base, 0, a.total_bytes);
    va_init(&a, "abcd");
    memset(&b, 0, sizeof b);
    CHECK(va_open(&b, a.base, a.total_bytes));
    CHECK(b.base == a.base && b.total_bytes == a.total_bytes && b.base_seq == 9 && b.generation == 7);
    CHECK(b.slot_bytes == a.slot_bytes && b.slot_stride == a.slot_stride && b.data_offset == a.data_offset);
    CHECK(b.slots_offset == a.slots_offset && b.header_offset == a.header_offset && b.header_bytes == 4);
    CHECK(b.header_serial == 8 && b.slots == 5 && b.index_mask == 7);
    CHECK(memcmp(b.base + b.header_offset, "abcd", 4) == 0);
    CHECK(!va_has_frames(&b) && !va_is_superseded(&b));
    va_supersede(a.base);
    CHECK(va_is_superseded(&b));
    free(a.base);
}

static void memory_smaller_than_a_ring_header_is_not_looked_at(void)
{
    va_view x;
    char *one = malloc(1);
    CHECK(!va_open(&x, one, 1)); /* AddressSanitizer sees what is read */
    CHECK(!va_open(&x, one, sizeof(va_ring) - 1));
    free(one);
}

static bool opens_with(size_t offset, uint64_t value, size_t bytes)
{
    world(4, 0);
    memcpy(v.base + offset, &value, bytes);
    va_view x;
    return va_open(&x, v.base, v.total_bytes);
}
#define WITH(field, value) opens_with(offsetof(va_ring, field), value, sizeof ((va_ring *)0)->field)

static void a_header_that_lies_is_refused(void)
{
    world(4, 0);
    const va_view g = v;
    CHECK(WITH(magic, VA_MAGIC));
    CHECK(!WITH(magic, VA_MAGIC + 1));
    CHECK(!WITH(version, VA_VERSION + 1));
    CHECK(!WITH(layout, VA_LAYOUT + 1));
    CHECK(!WITH(total_bytes, g.total_bytes + 1));
    CHECK(!WITH(total_bytes, g.total_bytes - 1));
    CHECK(!WITH(slots, 0) && !WITH(slots, 1) && WITH(slots, 2));
    CHECK(!WITH(slots, VA_MAX_SLOTS + 1) && !WITH(slots, UINT32_MAX));
    CHECK(!WITH(index_mask, 4) && !WITH(index_mask, UINT32_MAX) && !WITH(index_mask, 2 * VA_MAX_SLOTS - 1));
    CHECK(!WITH(slot_stride, 0) && !WITH(slot_stride, VA_META_BYTES) && !WITH(slot_stride, UINT64_MAX));
    CHECK(!WITH(slot_stride, g.total_bytes / 4 + 1) && !WITH(slot_stride, UINT64_MAX / 4 + 2));
    CHECK(!WITH(slot_bytes, g.slot_stride - VA_META_BYTES + 1) && !WITH(slot_bytes, UINT64_MAX));
    CHECK(!WITH(slots_offset, sizeof(va_ring) - VA_LINE) && !WITH(slots_offset, g.slots_offset + 8));
    CHECK(!WITH(slots_offset, g.total_bytes / VA_LINE * VA_LINE) && !WITH(slots_offset, UINT64_MAX - 63));
    CHECK(!WITH(header_offset, g.total_bytes + 1) && !WITH(header_offset, UINT64_MAX));
    CHECK(WITH(header_offset, g.total_bytes)); /* nothing of it is read: it is empty */
    CHECK(!WITH(header_bytes, g.total_bytes) && !WITH(header_bytes, UINT64_MAX));
    CHECK(!WITH(data_offset, g.data_offset + 1) && !WITH(data_offset, UINT64_MAX));
}

static void a_part_lies_within_whatever_the_sum_would_be(void)
{
    CHECK(va_within(0, 0, 0) && va_within(4, 0, 4) && va_within(1, 3, 4));
    CHECK(!va_within(5, 0, 4) && !va_within(1, 4, 4) && !va_within(2, UINT64_MAX, 4) && !va_within(UINT64_MAX, 2, 4));
}

/* -------------------------------------------------------------------------------- descriptions */

static va_info image(uint32_t rows, uint32_t columns, uint32_t dtype, uint64_t nbytes)
{
    return (va_info){.nbytes = nbytes, .dtype = dtype, .ndim = 2, .shape = {rows, columns}};
}

static void a_true_description_is_taken(void)
{
    va_info i = image(10, 8, VA_UINT8, 80);
    CHECK(va_info_ok(&i, 80));
    CHECK(va_info_ok(&i, 4096));
    i = image(10, 8, VA_FLOAT64, 640);
    CHECK(va_info_ok(&i, 640));
    i = (va_info){.nbytes = 48, .dtype = VA_FLOAT16, .ndim = 4, .shape = {1, 2, 3, 4}};
    CHECK(va_info_ok(&i, 48));
    i.meta_bytes = VA_META_BYTES;
    CHECK(va_info_ok(&i, 48));
}

static void every_dtype_has_a_size_and_no_other_number_is_one(void)
{
    const uint32_t bytes[] = {1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 1};
    CHECK(sizeof bytes / sizeof *bytes == VA_DTYPES);
    for (uint32_t dtype = 0; dtype < VA_DTYPES; dtype++) {
        va_info i = image(3, 2, dtype, 6 * bytes[dtype]);
        CHECK(va_itemsize(dtype) == bytes[dtype] && va_info_ok(&i, 4096));
    }
    const uint32_t others[] = {VA_DTYPES, VA_DTYPES + 1, 255, 256, UINT32_MAX};
    for (int n = 0; n < 5; n++) {
        va_info i = image(3, 2, others[n], 6);
        CHECK(va_itemsize(others[n]) == 0 && !va_info_ok(&i, 4096));
    }
}

static void a_description_that_leaves_its_slot_is_refused(void)
{
    va_info i = image(10, 8, VA_UINT8, 80);
    CHECK(!va_info_ok(&i, 79));
    i = image(11, 8, VA_UINT8, 80); /* the last row sticks out */
    CHECK(!va_info_ok(&i, 80));
    i = image(10, 8, VA_INT16, 80); /* elements twice as long */
    CHECK(!va_info_ok(&i, 160));
    i = image(10, 8, VA_UINT8, 81); /* bytes that no element has */
    CHECK(!va_info_ok(&i, 81));
    i = image(10, 8, VA_UINT8, 80);
    i.meta_bytes = VA_META_BYTES + 1;
    CHECK(!va_info_ok(&i, 80));
}

static void a_description_without_sense_is_refused(void)
{
    va_info i = image(10, 8, VA_UINT8, 80);
    i.ndim = 0;
    CHECK(!va_info_ok(&i, 80));
    i.ndim = VA_MAX_DIMS + 1;
    CHECK(!va_info_ok(&i, 80));
    struct { va_info info; uint32_t behind[4]; } more = {.info = image(10, 8, VA_UINT8, 80), .behind = {1, 1, 1, 1}};
    more.info.ndim = VA_MAX_DIMS + 1; /* right but for the number, if what lies behind were sizes */
    more.info.shape[2] = more.info.shape[3] = 1;
    CHECK(!va_info_ok(&more.info, 80));
    i = image(10, 8, VA_UINT8, 80);
    i.time_base_den = -1;
    CHECK(!va_info_ok(&i, 80));
    i = image(10, 0, VA_UINT8, 80);
    CHECK(!va_info_ok(&i, 80));
    i = image(10, 0, VA_UINT8, 0); /* an empty frame */
    CHECK(!va_info_ok(&i, 80));
}

static void sizes_whose_product_overflows_are_refused(void)
{
    va_info i = {.nbytes = 0, .dtype = VA_UINT8, .ndim = 2, .shape = {UINT32_MAX, UINT32_MAX}};
    CHECK(!va_info_ok(&i, UINT64_MAX));
    i.nbytes = (uint64_t)UINT32_MAX * UINT32_MAX; /* right, and fits a slot of that size */
    CHECK(va_info_ok(&i, UINT64_MAX) && !va_info_ok(&i, 4096));
    i = (va_info){.nbytes = 0, .dtype = VA_INT32, .ndim = 2, .shape = {UINT32_C(1) << 31, UINT32_C(1) << 31}}; /* 2^64 */
    CHECK(!va_info_ok(&i, UINT64_MAX));
    i = (va_info){.nbytes = 16, .dtype = VA_UINT8, .ndim = 4,
                  .shape = {1 << 16, 1 << 16, 1 << 16, (1 << 16) + 1}}; /* 2^64 + 2^48 */
    CHECK(!va_info_ok(&i, UINT64_MAX));
}

/* -------------------------------------------------------------------------------- slot choice */

static void an_unused_ring_gives_its_first_slot(void)
{
    world(3, 0);
    CHECK(va_begin(&w, 1) == 0);
    CHECK(w.note[0].writing && w.note[0].used == 1);
}

static void what_is_being_written_is_not_given_twice(void)
{
    world(2, 0);
    CHECK(va_begin(&w, 1) == 0 && va_begin(&w, 1) == 1 && va_begin(&w, 1) == -1);
    va_abort(&w, 1);
    CHECK(va_begin(&w, 1) == 1);
}

static void an_aborted_slot_holds_no_frame_and_comes_back(void)
{
    world(2, 0);
    publish(VA_KEY);
    int s = va_begin(&w, 1);
    va_abort(&w, s);
    CHECK(seq_of(s) == 0 && w.head == 1 && head() == 1 && va_begin(&w, 1) == s);
}

static void a_commit_numbers_indexes_and_describes_the_frame(void)
{
    world(4, 0);
    va_info info = {.nbytes = 3, .pts = 77, .dts = 76, .duration = 2, .dtype = VA_INT8};
    int s = va_begin(&w, 1);
    CHECK(va_commit(&w, s, &info) == 1);
    CHECK(seq_of(s) == 1 && head() == 1 && w.head == 1 && w.note[s].seq == 1 && !w.note[s].writing);
    CHECK(atomic_load(&va_ring_of(&v)->index[1]) == (uint32_t)s);
    const va_info *said = &va_slot_of(&v, (uint32_t)s)->info;
    CHECK(said->pts == 77 && said->dts == 76 && said->duration == 2 && said->dtype == VA_INT8);
    CHECK(va_has_frames(&v));
}

static void of_free_slots_the_one_written_last_is_taken(void)
{
    world(5, 0);
    plant(2, 1, 0);
    plant(0, 2, 0);
    plant(3, 3, 0);
    plant(1, 4, 0);
    CHECK(va_begin(&w, 1) == 3); /* 1 holds the newest; 4 was never used */
    CHECK(seq_of(3) == 0);    /* frame 3 can no longer be claimed */
}

static void a_slot_that_was_never_used_comes_before_an_unread_frame(void)
{
    world(4, 0);
    join(VA_ORDERED, 0);
    plant(0, 1, 0);
    plant(1, 2, 0);
    CHECK(va_begin(&w, 1) == 2);
}

static void slots_are_taken_into_use_one_by_one_whatever_a_lease_says_of_the_others(void)
{
    world(4, 0);
    join(VA_LATEST, 0);
    lease(0, 0, 2); /* where nothing ever was */
    CHECK(publish(VA_KEY) == 0 && publish(VA_KEY) == 1 && publish(VA_KEY) == 0 && w.depth == 2);
    lease(0, 1, 1);
    CHECK(publish(VA_KEY) == 2 && w.depth == 3); /* 0 has the newest, 1 is leased */
}

static void a_frame_that_nobody_wants_comes_before_a_slot_never_used(void)
{
    world(4, 0);
    join(VA_ORDERED, 1);
    plant(0, 1, 0);
    plant(1, 2, 0);
    CHECK(va_begin(&w, 1) == 0);
}

static void of_unread_frames_the_oldest_goes(void)
{
    world(4, 0);
    join(VA_ORDERED, 3);
    plant(0, 5, 0);
    plant(1, 4, 0);
    plant(2, 6, 0);
    plant(3, 7, 0);
    CHECK(va_begin(&w, 1) == 1 && seq_of(1) == 0 && seq_of(0) == 5 && seq_of(2) == 6);
}

static void the_slowest_ordered_reader_counts(void)
{
    world(4, 0);
    join(VA_ORDERED, 2);
    join(VA_ORDERED, 1);
    plant(0, 1, 0);
    plant(1, 2, 0);
    plant(2, 3, 0);
    CHECK(va_begin(&w, 1) == 0); /* 2 is still wanted, 1 is not */
}

static void latest_readers_keep_nothing(void)
{
    world(3, 0);
    join(VA_LATEST, 0);
    plant(0, 1, 0);
    plant(1, 2, 0);
    plant(2, 3, 0);
    CHECK(va_begin(&w, 1) == 1);
}

static void the_newest_frame_stays(void)
{
    world(2, 0);
    plant(0, 1, 0);
    plant(1, 2, 0);
    CHECK(va_begin(&w, 1) == 0 && va_begin(&w, 1) == -1 && seq_of(1) == 2);
}

static void a_leased_slot_stays(void)
{
    world(3, 0);
    join(VA_LATEST, 0);
    plant(0, 1, 0);
    plant(1, 2, 0);
    plant(2, 3, 0);
    lease(0, 1, 1);
    CHECK(va_begin(&w, 1) == 0 && va_begin(&w, 1) == -1 && seq_of(1) == 2);
}

static void a_lease_beyond_those_granted_does_not_count(void)
{
    world(2, 0);
    join(VA_LATEST, 0);
    plant(0, 1, 0);
    plant(1, 2, 0);
    lease(0, 2, 0); /* two words were granted: 0 and 1 */
    CHECK(va_begin(&w, 1) == 0);
}

static void nonsense_in_a_lease_word_does_not_count(void)
{
    const uint64_t nonsense[] = {VA_LEASE(1, 2), VA_LEASE(1, UINT32_MAX - 1), UINT64_C(1) << 32, UINT64_MAX, 1};
    for (size_t i = 0; i < sizeof nonsense / sizeof *nonsense; i++) {
        world(2, 0);
        join(VA_LATEST, 0);
        plant(0, 1, 0);
        plant(1, 2, 0);
        atomic_store(&page[0].lease[0], nonsense[i]);
        CHECK(va_begin(&w, 1) == 0);
    }
}

static void a_lease_of_an_older_ring_does_not_keep_the_slot_of_that_number(void)
{
    world(2, 0);
    join(VA_LATEST, 0);
    publish(VA_KEY);
    publish(VA_KEY);
    lease(0, 0, 0);
    lease(0, 1, 1);
    new_ring(2, w.head);
    CHECK(v.generation == 2 && va_has_room(&w));
    publish(VA_KEY);
    publish(VA_KEY);
    publish(VA_KEY);
    CHECK(w.head == 5);
}

static void a_lossless_reader_keeps_what_it_has_not_read(void)
{
    world(3, 0);
    join(VA_LOSSLESS, 1);
    join(VA_LOSSLESS, 2);
    plant(0, 1, 0);
    plant(1, 2, 0);
    plant(2, 3, 0);
    CHECK(va_begin(&w, 1) == 0 && va_begin(&w, 1) == -1 && seq_of(1) == 2);
}

static void a_reader_that_wants_no_more_keeps_nothing(void)
{
    world(2, 0);
    join(VA_LOSSLESS, UINT64_MAX);
    join(VA_ORDERED, UINT64_MAX);
    plant(0, 1, 0);
    plant(1, 2, 0);
    CHECK(va_begin(&w, 1) == 0);
}

static void a_reader_that_is_closed_wants_no_more(void)
{
    world(2, 0);
    va_peer *p = join(VA_LOSSLESS, 7);
    va_cursor c = reader(VA_LOSSLESS, 7, false);
    CHECK(va_wants_more(p));
    va_pass(&c, &page[0], UINT64_MAX);
    CHECK(!va_wants_more(p));
}

static void a_new_ring_knows_no_slot_of_the_old_one(void)
{
    world(2, 0);
    publish(VA_KEY);
    publish(VA_KEY);
    CHECK(va_begin(&w, 1) == 0); /* and never committed */
    new_ring(3, w.head);
    CHECK(w.clock == 3 && w.head == 2 && w.depth == 0 && !va_has_frames(&v));
    CHECK(va_begin(&w, 1) == 0 && va_begin(&w, 1) == 1 && va_begin(&w, 1) == 2);
}

static void lease_it_when_its_number_is_gone(const volatile void *where)
{
    va_slot *slot = va_slot_of(&v, 1);
    if (where == &slot->seq && __atomic_load_n((uint64_t *)(void *)&slot->seq, __ATOMIC_SEQ_CST) == 0) {
        hooks_off();
        lease(1, 1, 1);
    }
}

/* ------------------------------------------------------------------------------------- backlog */

static void a_key_frame_begins_a_backlog_of_all_that_follows(void)
{
    retaining_world(8, 0);
    publish(0);
    CHECK(w.gop == 0);
    publish(VA_KEY);
    publish(0);
    publish(0);
    CHECK(w.gop == 2 && w.head == 4 && !w.outgrown);
    for (uint64_t n = 2; n <= 4; n++)
        CHECK(seq_of((int)va_find(&v, n)) == n);
    publish(VA_KEY);
    CHECK(w.gop == 5);
}

static void there_is_no_backlog_unless_it_was_asked_for(void)
{
    world(3, 0);
    publish(VA_KEY);
    publish(0);
    CHECK(w.gop == 0 && va_begin(&w, 1) == 0);
}

static void a_slot_never_used_comes_before_the_backlog(void)
{
    retaining_world(3, 0);
    CHECK(publish(VA_KEY) == 0 && publish(0) == 1 && va_begin(&w, 1) == 2 && w.gop == 1);
}

static void the_backlog_before_is_free_once_the_next_one_begins(void)
{
    retaining_world(4, 0);
    publish(VA_KEY);
    publish(0);
    publish(VA_KEY);
    CHECK(va_begin(&w, 1) == 1 && w.gop == 3 && va_begin(&w, 1) == 0);
}

static void a_backlog_that_outgrows_the_slots_is_given_up_as_a_whole(void)
{
    retaining_world(3, 0);
    publish(VA_KEY);
    publish(0);
    publish(0);
    CHECK(va_begin(&w, 1) == 1); /* the slot written last, and not the oldest of the backlog */
    CHECK(w.gop == 0 && w.outgrown && va_begin(&w, 1) == 0);
}

static void an_unread_frame_outlives_the_backlog(void)
{
    retaining_world(5, 0);
    join(VA_ORDERED, 3);
    for (int s = 0; s < 5; s++)
        plant(s, (uint64_t)s + 1, s ? 0 : VA_KEY);
    w.gop = 1; /* 4 is unread, too; 1 to 3 are there for late readers alone */
    for (int s = 2; s >= 0; s--)
        CHECK(va_begin(&w, 1) == s && w.gop == 0);
    CHECK(va_begin(&w, 1) == 3);
}

static void a_frame_that_is_dropped_ends_the_backlog(void)
{
    retaining_world(2, 0);
    join(VA_LATEST, 0);
    publish(VA_KEY);
    publish(0);
    lease(0, 0, 0);
    CHECK(w.gop == 1 && va_begin(&w, 1) == -1 && w.gop == 0);
    CHECK(!w.outgrown); /* nothing was wrong with the number of slots */
}

static void what_a_longer_gop_was_like_is_known_until_one_was_retained(void)
{
    retaining_world(3, 0);
    publish(VA_KEY);
    publish(0);
    publish(0);
    publish(0); /* too long */
    CHECK(w.gop == 0 && w.outgrown);
    publish(VA_KEY);
    CHECK(w.gop == 5 && w.outgrown); /* nobody knows yet how long this one will be */
    publish(0);
    publish(VA_KEY);
    CHECK(w.gop == 7 && !w.outgrown);
}

static void without_one_key_frames_are_like_others(void)
{
    world(4, 0);
    publish(VA_KEY);
    publish(0);
    CHECK(w.gop == 0 && !w.outgrown);
    for (int i = 0; i < 4; i++)
        publish(0);
    CHECK(w.gop == 0 && !w.outgrown);
}

static void the_backlog_does_not_make_the_ring_grow_beyond_its_bytes(void)
{
    retaining_world(8, 0);
    w.backlog_bytes = 25;
    for (int i = 0; i < 3; i++) {
        va_info info = {.nbytes = 10, .ndim = 1, .shape = {10}, .flags = i == 0 ? VA_KEY : 0};
        int s = va_begin(&w, 10);
        va_touch(&w, s, 10);
        va_commit(&w, s, &info);
        CHECK(w.gop == (i < 2) && w.outgrown == (i == 2) && w.touched == (i ? 20 : 10));
    }
    CHECK(va_begin(&w, 10) == 1); /* 0 holds the newest frame */
}

static void a_slot_that_has_its_pages_already_costs_nothing(void)
{
    retaining_world(8, 0);
    w.backlog_bytes = 20;
    for (int s = 0; s < 2; s++) {
        plant(s, (uint64_t)s + 1, s ? VA_KEY : 0);
        va_touch(&w, s, 10);
    }
    w.gop = 2;
    CHECK(va_begin(&w, 10) == 0 && w.gop == 2);
    CHECK(va_begin(&w, 1) == 2 && w.gop == 0); /* this one would */
}

static void of_free_slots_the_one_that_fits_best_is_taken(void)
{
    const uint64_t touched[] = {400, 20, 50, 0}, frame[] = {399, 21, 19, 15, 35, 8, 1000, 401};
    const int wanted[] = {0, 1, 1, 1, 2, 1, 0, 0};
    for (int i = 0; i < 8; i++) {
        world(4, 0);
        for (int s = 0; s < 4; s++) {
            plant(s, (uint64_t)s + 1, 0);
            va_touch(&w, s, touched[s]);
        }
        CHECK(va_begin(&w, frame[i]) == wanted[i]);
    }
}

static void a_misfit_is_never_better_than_a_fit(void)
{
    for (uint64_t n = 1; n < 40; n++) {
        CHECK(va_misfit(n, n) == 0);
        for (uint64_t fits = n; fits <= 2 * n; fits++)
            for (uint64_t grows = 0; grows < n; grows++)
                for (uint64_t wastes = 2 * n + 1; wastes < 5 * n; wastes++)
                    CHECK(va_misfit(fits, n) < va_misfit(grows, n) && va_misfit(grows, n) < va_misfit(wastes, n));
    }
}

static void a_new_ring_begins_behind_the_newest_frame(void)
{
    retaining_world(3, 7);
    publish(VA_KEY);
    publish(0);
    char *before = memory;
    memory = NULL;
    new_ring(3, w.head);
    CHECK(w.view.base_seq == 9 && va_ring_of(&v)->base_seq == 9 && head() == 9 && w.gop == 0 && w.touched == 0);
    CHECK(!va_has_frames(&v));
    free(before);
}

static void a_new_ring_takes_the_backlog_along(void)
{
    retaining_world(4, 7);
    publish(0);
    for (uint64_t n = 9; n <= 11; n++) {
        va_info info = {.nbytes = 5, .meta_bytes = 3, .ndim = 1, .shape = {5}, .pts = (int64_t)n,
                        .flags = n == 9 ? VA_KEY : 0};
        int s = va_begin(&w, 5);
        memset(va_data_of(&v, (uint32_t)s), (int)n, 5);
        memset(va_meta_of(&v, (uint32_t)s), (int)n + 1, 3);
        va_commit(&w, s, &info);
    }
    CHECK(w.gop == 9);
    char *before = memory;
    va_plan(&v, 4, 256, 0, 2, 0, w.head, VA_LINE);
    memory = v.base = aligned_alloc(VA_LINE, v.total_bytes);
    memset(memory, 0, v.total_bytes);
    va_init(&v, "");
    va_next_ring(&w, &v, true);
    CHECK(w.depth == 3);
    free(before);
    CHECK(w.gop == 9 && w.head == 11 && head() == 11 && w.view.base_seq == 8 && va_ring_of(&v)->base_seq == 8);
    v.base_seq = w.view.base_seq;
    va_cursor c = reader(VA_ORDERED, 8, true);
    for (uint64_t n = 9; n <= 11; n++) {
        int s = claim(&c);
        CHECK(s >= 0 && got == n && va_slot_of(&v, (uint32_t)s)->info.pts == (int64_t)n);
        for (int i = 0; i < 5; i++)
            CHECK(va_data_of(&v, (uint32_t)s)[i] == (char)n);
        CHECK(va_meta_of(&v, (uint32_t)s)[2] == (char)(n + 1));
    }
    CHECK(claim(&c) == VA_EMPTY);
    va_unpin(&page[0], 0);
    CHECK(publish(0) == 3 && w.gop == 9);    /* it goes on */
    publish(0);
    CHECK(w.gop == 0 && w.outgrown);
}

static void a_lease_that_comes_after_the_first_look_is_found_by_the_second(void)
{
    world(3, 0);
    join(VA_LATEST, 0);
    join(VA_LATEST, 0);
    join(VA_LATEST, 0);
    plant(0, 1, 0);
    plant(1, 2, 0);
    plant(2, 3, 0);
    after_store = lease_it_when_its_number_is_gone;
    CHECK(va_begin(&w, 1) == 0);
    CHECK(seq_of(1) == 2 && w.note[1].seq == 2 && !w.note[1].writing); /* the frame is back */
    CHECK(va_pin(&v, &page[0], 0, 2) == 1);
}

static void when_the_last_slot_is_leased_in_the_meantime_there_is_none(void)
{
    world(3, 0);
    join(VA_LATEST, 0);
    join(VA_LATEST, 0);
    plant(0, 1, 0);
    plant(1, 2, 0);
    plant(2, 3, 0);
    lease(0, 0, 0);
    after_store = lease_it_when_its_number_is_gone;
    CHECK(va_begin(&w, 1) == -1);
    CHECK(seq_of(1) == 2 && seq_of(0) == 1 && seq_of(2) == 3);
}

static void frames_number_2_to_the_63_are_like_others(void)
{
    const uint64_t big = (UINT64_C(1) << 63) - 3;
    world(3, big);
    join(VA_ORDERED, big);
    va_cursor c = reader(VA_ORDERED, big, true);
    for (uint64_t n = 1; n <= 8; n++) {
        publish(VA_KEY);
        int s = claim(&c);
        CHECK(s >= 0 && got == big + n && seq_of(s) == big + n && atomic_load(&page[0].cursor) == big + n);
        va_unpin(&page[0], 0);
    }
    CHECK(head() == big + 8);
}

/* ------------------------------------------------------------------------------------ leasing */

static void a_frame_that_is_there_is_leased(void)
{
    world(3, 0);
    plant(2, 9, 0);
    CHECK(va_pin(&v, &page[0], 5, 9) == 2 && leased(0, 5) == VA_LEASE(1, 2));
    va_unpin(&page[0], 5);
    CHECK(leased(0, 5) == 0);
}

static void a_frame_that_is_gone_leaves_no_lease(void)
{
    world(4, 0);
    plant(2, 9, 0);
    CHECK(va_pin(&v, &page[0], 5, 5) == VA_GONE && leased(0, 5) == 0); /* same index entry as 9 */
    atomic_store(&va_slot_of(&v, 2)->seq, 0);                          /* being written */
    CHECK(va_pin(&v, &page[0], 5, 9) == VA_GONE && leased(0, 5) == 0);
}

static void an_index_that_points_outside_is_corrupt_and_leases_nothing(void)
{
    world(3, 0);
    plant(2, 9, 0);
    atomic_store(&va_ring_of(&v)->index[9 & v.index_mask], 3);
    CHECK(va_pin(&v, &page[0], 0, 9) == VA_CORRUPT && leased(0, 0) == 0);
    va_cursor c = reader(VA_LATEST, 0, false);
    CHECK(claim(&c) == VA_CORRUPT && c.seen == 0);
}

/* ------------------------------------------------------------------------------------ claiming */

static void an_empty_ring_has_nothing_to_claim(void)
{
    world(3, 40);
    va_cursor c = reader(VA_LATEST, 0, true); /* it has seen nothing, and this ring has nothing */
    CHECK(claim(&c) == VA_EMPTY);
    c = reader(VA_ORDERED, 40, false);
    CHECK(claim(&c) == VA_EMPTY && leased(0, 0) == 0);
}

static void who_has_seen_the_newest_gets_nothing(void)
{
    world(3, 0);
    plant(0, 1, VA_KEY);
    va_cursor c = reader(VA_LATEST, 1, false);
    CHECK(claim(&c) == VA_EMPTY);
    c.seen = UINT64_MAX;
    CHECK(claim(&c) == VA_EMPTY);
}

static void latest_gets_the_newest(void)
{
    world(4, 0);
    for (int i = 0; i < 4; i++)
        plant(i, 1 + (uint64_t)i, VA_KEY);
    va_cursor c = reader(VA_LATEST, 0, true);
    CHECK(claim(&c) == 3 && got == 4 && c.seen == 4 && !c.broken);
    CHECK(atomic_load(&page[0].cursor) == 4 && leased(0, 0) == VA_LEASE(1, 3));
}

static void ordered_gets_one_after_the_other(void)
{
    world(4, 0);
    for (int i = 0; i < 4; i++)
        plant(i, 1 + (uint64_t)i, VA_KEY);
    va_cursor c = reader(VA_ORDERED, 1, false);
    CHECK(claim(&c) == 1 && got == 2 && claim(&c) == 2 && got == 3 && claim(&c) == 3 && got == 4);
    CHECK(claim(&c) == VA_EMPTY && atomic_load(&page[0].cursor) == 4);
}

static void ordered_goes_on_behind_what_was_overwritten(void)
{
    world(4, 0);
    plant(0, 2, VA_KEY);
    plant(1, 5, VA_KEY);
    plant(2, 4, VA_KEY);
    va_cursor c = reader(VA_ORDERED, 0, false);
    CHECK(claim(&c) == 0 && got == 2); /* 1 is gone */
    CHECK(claim(&c) == 2 && got == 4); /* 3 is gone */
    CHECK(claim(&c) == 1 && got == 5);
}

static void ordered_skips_what_the_index_cannot_know(void)
{
    world(4, 0);
    plant(0, 1001, VA_KEY);
    plant(1, 1002, VA_KEY);
    va_cursor c = reader(VA_ORDERED, 3, false);
    CHECK(va_oldest(&v, &c, 1002) == 999);
    CHECK(claim(&c) == 0 && got == 1001);
}

static void the_oldest_is_never_of_another_ring_nor_already_seen(void)
{
    world(4, 100);
    va_cursor c = reader(VA_ORDERED, 0, false);
    CHECK(va_oldest(&v, &c, 102) == 101); /* 99 and 100 were published in earlier rings */
    c.seen = 101;
    CHECK(va_oldest(&v, &c, 102) == 102);
    world(4, 0);
    c.seen = 0;
    CHECK(va_oldest(&v, &c, 3) == 1 && va_oldest(&v, &c, 4) == 1 && va_oldest(&v, &c, 5) == 2);
}

static void an_old_number_in_the_memory_of_a_new_ring_is_not_claimed(void)
{
    world(4, 100);
    plant(0, 101, VA_KEY);
    va_cursor c = reader(VA_ORDERED, 98, false); /* 99 and 100 it missed */
    CHECK(claim(&c) == 0 && got == 101 && c.seen == 101);
}

static void lossless_gets_one_after_the_other(void)
{
    world(4, 0);
    join(VA_LOSSLESS, 0);
    va_cursor c = reader(VA_LOSSLESS, 0, true);
    for (uint64_t n = 1; n <= 20; n++) {
        publish(VA_KEY);
        if (n % 4 == 3)
            for (uint64_t i = n - 2; i <= n; i++) {
                CHECK(claim(&c) >= 0 && got == i);
                va_unpin(&page[0], 0);
            }
        else if (n % 4 == 0) {
            CHECK(claim(&c) >= 0 && got == n);
            va_unpin(&page[0], 0);
        }
    }
}

static void who_joins_a_delta_coded_stream_waits_for_a_key_frame(void)
{
    for (uint32_t policy = VA_LATEST; policy <= VA_LOSSLESS; policy++) {
        world(4, 0);
        plant(0, 1, 0);
        plant(1, 2, 0);
        va_cursor c = reader(policy, 0, true);
        CHECK(claim(&c) == VA_EMPTY && c.broken && c.seen == 2 && leased(0, 0) == 0);
        CHECK(atomic_load(&page[0].cursor) == 2);
        plant(2, 3, VA_KEY);
        CHECK(claim(&c) == 2 && got == 3 && !c.broken);
        va_unpin(&page[0], 0);
        plant(3, 4, 0);
        CHECK(claim(&c) == 3 && got == 4); /* nothing is missing before it */
    }
}

static void ordered_resumes_at_the_next_key_frame_after_a_loss(void)
{
    world(8, 0);
    plant(0, 2, 0);
    plant(1, 3, 0);
    plant(2, 4, VA_KEY);
    plant(3, 5, 0);
    va_cursor c = reader(VA_ORDERED, 0, false); /* 1 is lost; 2 and 3 are of no use without it */
    CHECK(claim(&c) == 2 && got == 4);
    CHECK(claim(&c) == 3 && got == 5);
}

static void latest_goes_back_to_the_newest_key_frame_over_a_gap(void)
{
    world(8, 0);
    plant(0, 3, VA_KEY);
    plant(1, 4, 0);
    plant(2, 5, VA_KEY);
    plant(3, 6, 0);
    plant(4, 7, 0);
    va_cursor c = reader(VA_LATEST, 1, false);
    CHECK(claim(&c) == 2 && got == 5 && !c.broken && leased(0, 0) == VA_LEASE(1, 2));
    va_unpin(&page[0], 0);
    CHECK(claim(&c) == 3 && got == 6); /* and from there one after the other */
    CHECK(claim(&c) == 4 && got == 7);
}

static void latest_takes_the_very_next_frame_while_nothing_is_missing(void)
{
    world(8, 0);
    plant(0, 3, 0);
    plant(1, 4, 0);
    plant(2, 5, 0);
    va_cursor c = reader(VA_LATEST, 2, false);
    CHECK(claim(&c) == 0 && got == 3);
    c = reader(VA_LATEST, 2, true); /* the same, but what is before 3 is missing */
    CHECK(claim(&c) == VA_EMPTY && c.broken && c.seen == 5);
}

static void latest_gives_up_what_has_no_key_frame(void)
{
    world(4, 0);
    plant(0, 4, 0);
    plant(1, 5, 0);
    plant(2, 6, 0);
    va_cursor c = reader(VA_LATEST, 2, false); /* 3 is gone */
    CHECK(claim(&c) == VA_EMPTY && c.broken && c.seen == 6 && leased(0, 0) == 0);
}

static void latest_looks_no_further_back_than_the_index(void)
{
    world(4, 0);
    plant(0, 1001, 0);
    plant(1, 1002, 0);
    va_cursor c = reader(VA_LATEST, 3, false);
    CHECK(claim(&c) == VA_EMPTY && c.broken && c.seen == 1002);
}

static void overtake(const volatile void *where)
{
    if (where == &va_ring_of(&v)->head) { /* behind the reader's look at head the writer moves on */
        hooks_off();
        atomic_store(&va_slot_of(&v, 0)->seq, 0);
        plant(1, 2, VA_KEY);
    }
}

static void latest_takes_the_newer_one_when_it_was_overtaken(void)
{
    world(2, 0);
    plant(0, 1, VA_KEY);
    va_cursor c = reader(VA_LATEST, 0, true);
    after_load = overtake;
    CHECK(claim(&c) == 1 && got == 2);
}

static void ordered_counts_the_frame_as_lost_when_it_was_overtaken(void)
{
    world(2, 0);
    plant(0, 1, VA_KEY);
    va_cursor c = reader(VA_ORDERED, 0, false);
    after_load = overtake;
    CHECK(claim(&c) == 1 && got == 2 && c.seen == 2);
}

static void a_ring_that_leads_in_circles_is_corrupt(void)
{
    world(2, 0);
    plant(0, 1, VA_KEY);
    atomic_store(&va_slot_of(&v, 0)->seq, 0); /* the newest frame is never gone in an honest ring */
    va_cursor c = reader(VA_LATEST, 0, true);
    CHECK(claim(&c) == VA_CORRUPT && leased(0, 0) == 0);
}

/* ----------------------------------------------------------------------------------- bell, room */

static void who_finds_nothing_new_may_sleep(void)
{
    world(2, 0);
    plant(0, 1, VA_KEY);
    va_cursor c = reader(VA_LATEST, 1, false);
    CHECK(va_arm(&c, &v, &page[0]) && atomic_load(&page[0].armed) == 1);
}

static void who_has_a_frame_to_see_may_not_sleep(void)
{
    world(2, 0);
    plant(0, 1, VA_KEY);
    va_cursor c = reader(VA_LATEST, 0, false);
    CHECK(!va_arm(&c, &v, &page[0]));
}

static void who_has_no_ring_yet_may_sleep(void)
{
    world(2, 0);
    va_cursor c = reader(VA_LATEST, 0, false);
    CHECK(va_arm(&c, NULL, &page[0]) && atomic_load(&page[0].armed) == 1);
}

static void publish_behind_the_bell(const volatile void *where)
{
    if (where == &page[0].armed) {
        hooks_off();
        plant(0, 1, VA_KEY);
    }
}

static void a_frame_that_comes_while_the_bell_is_armed_is_seen(void)
{
    world(2, 0);
    va_cursor c = reader(VA_LATEST, 0, false);
    after_store = publish_behind_the_bell;
    CHECK(!va_arm(&c, &v, &page[0]));
}

static void a_sleeper_is_rung_once(void)
{
    world(2, 0);
    va_peer *p = join(VA_LATEST, 0);
    CHECK(!va_must_ring(p));
    atomic_store(&page[0].armed, 1);
    CHECK(va_must_ring(p) && atomic_load(&page[0].armed) == 0 && !va_must_ring(p));
    atomic_store(&page[0].armed, 7); /* nonsense */
    CHECK(!va_must_ring(p) && atomic_load(&page[0].armed) == 7);
}

static void take_it_away(const volatile void *where)
{
    if (where == &page[0].armed || where == &page[0].waiting) {
        hooks_off();
        atomic_store(&page[0].armed, 0);
        atomic_store(&page[0].waiting, 0);
    }
}

static void of_two_who_see_the_same_flag_one_acts(void)
{
    world(2, 0);
    va_peer *p = join(VA_LATEST, 0);
    atomic_store(&page[0].armed, 1);
    after_load = take_it_away;
    CHECK(!va_must_ring(p));
    atomic_store(&page[0].waiting, 1);
    after_load = take_it_away;
    CHECK(!va_must_signal(&page[0]));
}

static void a_waiting_writer_is_signalled_once(void)
{
    world(2, 0);
    CHECK(!va_must_signal(&page[0]));
    atomic_store(&page[0].waiting, 1);
    CHECK(va_must_signal(&page[0]) && atomic_load(&page[0].waiting) == 0 && !va_must_signal(&page[0]));
}

static void asking_for_room_asks_every_reader_and_takes_nothing(void)
{
    world(2, 0);
    join(VA_LOSSLESS, 0);
    join(VA_LATEST, 0);
    plant(0, 1, 0);
    plant(1, 2, 0);
    CHECK(!va_has_room(&w) && atomic_load(&page[0].waiting) == 1 && atomic_load(&page[1].waiting) == 1);
    atomic_store(&page[0].cursor, 1);
    CHECK(va_has_room(&w) && seq_of(0) == 1 && !w.note[0].writing);
    lease(1, 1, 0);
    CHECK(!va_has_room(&w));
}

static void give_back(const volatile void *where)
{
    if (where == &page[0].waiting) {
        hooks_off();
        va_unpin(&page[0], 0);
    }
}

static void a_slot_that_comes_back_while_the_writer_asks_is_room(void)
{
    world(2, 0);
    join(VA_LATEST, 0);
    plant(0, 1, 0);
    plant(1, 2, 0);
    lease(0, 0, 0);
    after_store = give_back;
    CHECK(va_has_room(&w));
}

/* ------------------------------------------------------------------------------------- tally */

static void a_reader_is_taken_at_its_word_but_for_leases_beyond_those_granted(void)
{
    world(4, 0);
    va_peer *p = join(VA_LATEST, 0);
    CHECK(va_tally_of(p).received == 0 && va_tally_of(p).dropped == 0 && va_tally_of(p).leases == 0);
    va_tell(&page[0], 7, UINT64_MAX);
    lease(0, 1, 3);
    lease(0, 2, 2); /* two words were granted: 0 and 1 */
    va_tally t = va_tally_of(p);
    CHECK(t.received == 7 && t.dropped == UINT64_MAX && t.leases == 1);
}

static void what_a_reader_says_of_itself_decides_nothing(void)
{
    world(2, 0);
    join(VA_LOSSLESS, 1);
    plant(0, 1, 0);
    plant(1, 2, 0);
    va_tell(&page[0], UINT64_MAX, UINT64_MAX);
    CHECK(va_begin(&w, 1) == 0 && va_begin(&w, 1) == -1);
}

/* ------------------------------------------------------------------------------------------ */

#define TEST(name) {#name, name}
static const struct { const char *name; void (*run)(void); } tests[] = {
    TEST(the_parts_of_a_ring_lie_one_behind_the_other),
    TEST(the_index_is_a_power_of_two_and_holds_all_slots),
    TEST(the_meta_area_ends_where_the_slot_does),
    TEST(what_was_initialised_opens),
    TEST(memory_smaller_than_a_ring_header_is_not_looked_at),
    TEST(a_header_that_lies_is_refused),
    TEST(a_part_lies_within_whatever_the_sum_would_be),
    TEST(a_true_description_is_taken),
    TEST(every_dtype_has_a_size_and_no_other_number_is_one),
    TEST(a_description_that_leaves_its_slot_is_refused),
    TEST(a_description_without_sense_is_refused),
    TEST(sizes_whose_product_overflows_are_refused),
    TEST(an_unused_ring_gives_its_first_slot),
    TEST(what_is_being_written_is_not_given_twice),
    TEST(an_aborted_slot_holds_no_frame_and_comes_back),
    TEST(a_commit_numbers_indexes_and_describes_the_frame),
    TEST(of_free_slots_the_one_written_last_is_taken),
    TEST(a_slot_that_was_never_used_comes_before_an_unread_frame),
    TEST(slots_are_taken_into_use_one_by_one_whatever_a_lease_says_of_the_others),
    TEST(a_frame_that_nobody_wants_comes_before_a_slot_never_used),
    TEST(of_unread_frames_the_oldest_goes),
    TEST(the_slowest_ordered_reader_counts),
    TEST(latest_readers_keep_nothing),
    TEST(the_newest_frame_stays),
    TEST(a_leased_slot_stays),
    TEST(a_lease_beyond_those_granted_does_not_count),
    TEST(nonsense_in_a_lease_word_does_not_count),
    TEST(a_lease_of_an_older_ring_does_not_keep_the_slot_of_that_number),
    TEST(a_lossless_reader_keeps_what_it_has_not_read),
    TEST(a_reader_that_wants_no_more_keeps_nothing),
    TEST(a_reader_that_is_closed_wants_no_more),
    TEST(a_new_ring_knows_no_slot_of_the_old_one),
    TEST(a_key_frame_begins_a_backlog_of_all_that_follows),
    TEST(there_is_no_backlog_unless_it_was_asked_for),
    TEST(a_slot_never_used_comes_before_the_backlog),
    TEST(the_backlog_before_is_free_once_the_next_one_begins),
    TEST(a_backlog_that_outgrows_the_slots_is_given_up_as_a_whole),
    TEST(an_unread_frame_outlives_the_backlog),
    TEST(a_frame_that_is_dropped_ends_the_backlog),
    TEST(what_a_longer_gop_was_like_is_known_until_one_was_retained),
    TEST(without_one_key_frames_are_like_others),
    TEST(the_backlog_does_not_make_the_ring_grow_beyond_its_bytes),
    TEST(a_slot_that_has_its_pages_already_costs_nothing),
    TEST(of_free_slots_the_one_that_fits_best_is_taken),
    TEST(a_misfit_is_never_better_than_a_fit),
    TEST(a_new_ring_begins_behind_the_newest_frame),
    TEST(a_new_ring_takes_the_backlog_along),
    TEST(a_lease_that_comes_after_the_first_look_is_found_by_the_second),
    TEST(when_the_last_slot_is_leased_in_the_meantime_there_is_none),
    TEST(frames_number_2_to_the_63_are_like_others),
    TEST(a_frame_that_is_there_is_leased),
    TEST(a_frame_that_is_gone_leaves_no_lease),
    TEST(an_index_that_points_outside_is_corrupt_and_leases_nothing),
    TEST(an_empty_ring_has_nothing_to_claim),
    TEST(who_has_seen_the_newest_gets_nothing),
    TEST(latest_gets_the_newest),
    TEST(ordered_gets_one_after_the_other),
    TEST(ordered_goes_on_behind_what_was_overwritten),
    TEST(ordered_skips_what_the_index_cannot_know),
    TEST(the_oldest_is_never_of_another_ring_nor_already_seen),
    TEST(an_old_number_in_the_memory_of_a_new_ring_is_not_claimed),
    TEST(lossless_gets_one_after_the_other),
    TEST(who_joins_a_delta_coded_stream_waits_for_a_key_frame),
    TEST(ordered_resumes_at_the_next_key_frame_after_a_loss),
    TEST(latest_goes_back_to_the_newest_key_frame_over_a_gap),
    TEST(latest_takes_the_very_next_frame_while_nothing_is_missing),
    TEST(latest_gives_up_what_has_no_key_frame),
    TEST(latest_looks_no_further_back_than_the_index),
    TEST(latest_takes_the_newer_one_when_it_was_overtaken),
    TEST(ordered_counts_the_frame_as_lost_when_it_was_overtaken),
    TEST(a_ring_that_leads_in_circles_is_corrupt),
    TEST(who_finds_nothing_new_may_sleep),
    TEST(who_has_a_frame_to_see_may_not_sleep),
    TEST(who_has_no_ring_yet_may_sleep),
    TEST(a_frame_that_comes_while_the_bell_is_armed_is_seen),
    TEST(a_sleeper_is_rung_once),
    TEST(of_two_who_see_the_same_flag_one_acts),
    TEST(a_waiting_writer_is_signalled_once),
    TEST(asking_for_room_asks_every_reader_and_takes_nothing),
    TEST(a_slot_that_comes_back_while_the_writer_asks_is_room),
    TEST(a_reader_is_taken_at_its_word_but_for_leases_beyond_those_granted),
    TEST(what_a_reader_says_of_itself_decides_nothing),
};

int main(int argc, char **argv)
{
    int n = 0;
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        running = tests[i].name;
        if (argc > 1 && !strstr(running, argv[1]))
            continue;
        tests[i].run();
        n++;
    }
    free(memory);
    printf("%d tests passed\n", n);
    return n == 0;
}
