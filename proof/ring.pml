/* SPDX-License-Identifier: MIT
 *
 * _shm/ring.h in Promela: the same steps under the same names, for one writer and one or two readers.
 * Included by lease.pml, bell.pml, room.pml and generation.pml, which say who does what and what must hold.
 *
 * Memory is what x86 promises (TSO). Each process has a store buffer, first in, first out; `flush` moves
 * its oldest entry to memory at any moment. A release, relaxed or plain store goes into the buffer. A
 * sequentially consistent one is an xchg: it empties the buffer and writes to memory in one step. (That
 * buffers empty themselves in steps of their own before it is among the runs that Spin tries.) A load
 * looks into memory alone: no process in here loads a word that it stores itself.
 *
 * What x86 never reorders (two stores, two loads, a load and a later store) cannot go wrong in here;
 * ThreadSanitizer looks for that in stress.c.
 */
#ifndef READERS
#define READERS 2
#endif
#define WRITER READERS          /* its number among the store buffers */

#ifndef SLOTS
#define SLOTS 3
#endif
#ifndef SPAN
#define SPAN 4                  /* index entries, a power of two >= SLOTS */
#endif
#ifndef GENERATIONS
#define GENERATIONS 1
#endif
#ifndef FRAMES
#define FRAMES 4
#endif

#ifndef FIRST_KEY
#define FIRST_KEY 1             /* to "ordered" and "lossless" readers, earlier frames are useless */
#endif

/* BACKLOG: the writer retains what came since the newest key frame. Any frame may be one. */

#define LATEST   0
#define ORDERED  1
#define LOSSLESS 2
#ifndef POLICY0
#define POLICY0 LATEST
#endif
#ifndef POLICY1
#define POLICY1 LATEST
#endif
#define POLICY(r) ((r) == 0 -> POLICY0 : POLICY1)

#define NONE 255                /* no slot; also a cursor that wants nothing more */
#define GONE 254

/* Addresses. A frame's payload is two words, LOW and HIGH, both of which should hold its number. */
#define RING_WORDS   (3 * SLOTS + SPAN + 2)
#define SEQ(g, s)    ((g) * RING_WORDS + (s))
#define LOW(g, s)    ((g) * RING_WORDS + SLOTS + (s))
#define HIGH(g, s)   ((g) * RING_WORDS + 2 * SLOTS + (s))
#define INDEX(g, n)  ((g) * RING_WORDS + 3 * SLOTS + ((n) & (SPAN - 1)))
#define HEAD(g)      ((g) * RING_WORDS + 3 * SLOTS + SPAN)
#define SUPERSEDED(g) ((g) * RING_WORDS + 3 * SLOTS + SPAN + 1)
#define PAGE(r)      (GENERATIONS * RING_WORDS + 4 * (r))
#define LEASE(r)     (PAGE(r))
#define CURSOR(r)    (PAGE(r) + 1)
#define ARMED(r)     (PAGE(r) + 2)
#define WAITING(r)   (PAGE(r) + 3)
#define WORDS        (PAGE(READERS))

#ifdef LEASE_WITHOUT_GENERATION
#define LEASE_WORD(g, s) ((s) + 1)
#else
#define LEASE_WORD(g, s) ((g) * SLOTS + (s) + 1)
#endif

byte mem[WORDS];
chan buffer[READERS + 1] = [6] of { byte, byte };

#define store(p, a, v) buffer[p] ! a, v

/* What a model wants to check of every word that reaches memory. */
#ifndef CHECK_STORE
#define CHECK_STORE(a) skip
#endif

inline sc_store(p, a, v)
{
    d_step {
        do
        :: nempty(buffer[p]) -> buffer[p] ? at, what; CHECK_STORE(at); mem[at] = what
        :: empty(buffer[p]) -> break
        od;
        CHECK_STORE(a); mem[a] = v; at = 0; what = 0
    }
}

proctype flush(byte p)
{
    byte at, what;
end:
    do
    :: atomic { buffer[p] ? at, what -> CHECK_STORE(at); mem[at] = what; at = 0; what = 0 }
    od
}

/* What a broken twin stores into the buffer, and the real thing with xchg. */
#ifdef PLAIN_LEASE_STORE
#define LEASE_STORE(p, a, v) store(p, a, v)
#else
#define LEASE_STORE(p, a, v) sc_store(p, a, v)
#endif
#ifdef PLAIN_SEQ_STORE
#define SEQ_STORE(p, a, v) store(p, a, v)
#else
#define SEQ_STORE(p, a, v) sc_store(p, a, v)
#endif
#ifdef PLAIN_HEAD_STORE
#define HEAD_STORE(p, a, v) store(p, a, v)
#else
#define HEAD_STORE(p, a, v) sc_store(p, a, v)
#endif
#ifdef PLAIN_ARMED_STORE
#define ARMED_STORE(p, a, v) store(p, a, v)
#else
#define ARMED_STORE(p, a, v) sc_store(p, a, v)
#endif
#ifdef PLAIN_WAITING_STORE
#define WAITING_STORE(p, a, v) store(p, a, v)
#else
#define WAITING_STORE(p, a, v) sc_store(p, a, v)
#endif
#ifdef PLAIN_UNPIN_STORE
#define UNPIN_STORE(p, a, v) store(p, a, v)
#else
#define UNPIN_STORE(p, a, v) sc_store(p, a, v)
#endif

/* ------------------------------------------------------------------------------------ writer */

/* note_*: the writer's private notes. Which slot was used last is not among them: the choice below is
 * any slot that ring.h could choose, not one, so what holds here holds for every order of preference. */
#define WRITER_LOCALS \
    byte at, what, gen, newest, i, s = NONE, word, ordered, lossless; \
    byte gop; \
    byte tries; \
    byte note_seq[SLOTS]; \
    bool note_leased[SLOTS]

inline va_scan()
{
    d_step {
        i = 0;
        do
        :: i < SLOTS -> note_leased[i] = false; i++
        :: else -> break
        od;
        ordered = NONE; lossless = NONE; i = 0
    }
    do
    :: i < READERS ->
        if
        :: POLICY(i) == LATEST -> skip          /* its cursor tells the writer nothing */
        :: d_step { POLICY(i) == ORDERED ->
               ordered = (mem[CURSOR(i)] < ordered -> mem[CURSOR(i)] : ordered) }
        :: d_step { POLICY(i) == LOSSLESS ->
               lossless = (mem[CURSOR(i)] < lossless -> mem[CURSOR(i)] : lossless) }
        fi;
        d_step {
            word = mem[LEASE(i)];
            if
            :: word > LEASE_WORD(gen, 0) - 1 && word <= LEASE_WORD(gen, SLOTS - 1) ->
                note_leased[word - LEASE_WORD(gen, 0)] = true
            :: else -> skip
            fi;
            word = 0; i++
        }
    :: else -> i = 0; break
    od
}

#ifdef REUSE_NEWEST
#define IS_NEWEST(x) false
#else
#define IS_NEWEST(x) (note_seq[x] != 0 && note_seq[x] == newest)
#endif
#ifdef KEEP_NOTHING
#define IS_KEPT(x) false
#else
#define IS_KEPT(x) (note_seq[x] != 0 && note_seq[x] > lossless)
#endif
#define MAY_TAKE(x) (!note_leased[x] && !IS_NEWEST(x) && !IS_KEPT(x))
#define IS_RETAINED(x) (gop != 0 && note_seq[x] >= gop)
#define IS_FREE(x)  (MAY_TAKE(x) && note_seq[x] <= ordered && !IS_RETAINED(x))
#define ANY(what)   (what(0) || what(1) || (SLOTS > 2 && what(SLOTS - 1)))

/* s = the slot to take next, or NONE. Where nobody wants the frames of several slots, any of them; where
 * all are wanted, by "ordered" readers or for late ones, the oldest. */
inline va_pick()
{
    if
    :: ANY(IS_FREE) ->
        atomic {
            if
            :: IS_FREE(0) -> s = 0
            :: IS_FREE(1) -> s = 1
            :: SLOTS > 2 && IS_FREE(SLOTS - 1) -> s = SLOTS - 1
            fi
        }
    :: else ->
        d_step {
            s = NONE; i = 0;
            do
            :: i < SLOTS ->
                if
                :: MAY_TAKE(i) && (s == NONE || note_seq[i] < note_seq[s]) -> s = i
                :: else -> skip
                fi;
                i++
            :: else -> i = 0; break
            od
        }
    fi
}

inline va_begin()
{
    va_scan();
    do
    :: va_pick();
        if
        :: s == NONE -> gop = 0; break          /* the next frame will be missing */
        :: s != NONE && note_seq[s] == 0 -> break
#if defined(BACKLOG) && !defined(LOSE_ONE)
        :: s != NONE && IS_RETAINED(s) -> gop = 0
#define FREE_FOR_ALL !IS_RETAINED(s)
#else
#define FREE_FOR_ALL true
#endif
        :: s != NONE && note_seq[s] != 0 && FREE_FOR_ALL ->
            SEQ_STORE(WRITER, SEQ(gen, s), 0);
#ifndef NO_SECOND_SCAN
            i = 0;
            do
            :: i < READERS ->
                d_step {
                    note_leased[s] = note_leased[s] || mem[LEASE(i)] == LEASE_WORD(gen, s);
                    i++
                }
            :: else -> i = 0; break
            od;
#endif
            if
            :: note_leased[s] ->                /* somebody was quicker */
                tries++;
                assert(tries < SLOTS);          /* the writer does not go round for ever */
                store(WRITER, SEQ(gen, s), note_seq[s])
            :: else -> note_seq[s] = 0; break
            fi
        fi
    od;
    tries = 0
}

/* Between begin and commit: the payload, in two steps. */
inline write_payload(n)
{
    store(WRITER, LOW(gen, s), n);
    store(WRITER, HIGH(gen, s), n)
}

inline va_commit()
{
#ifdef LATE_INDEX
    store(WRITER, SEQ(gen, s), newest + 1);
    HEAD_STORE(WRITER, HEAD(gen), newest + 1);
    store(WRITER, INDEX(gen, newest + 1), s);
#else
    store(WRITER, SEQ(gen, s), newest + 1);
    store(WRITER, INDEX(gen, newest + 1), s);
    HEAD_STORE(WRITER, HEAD(gen), newest + 1);
#endif
    d_step { newest++; note_seq[s] = newest; s = NONE };
#ifdef BACKLOG
    if
    :: gop = newest                             /* a key frame */
    :: skip
    fi
#endif
}

/* Behind which frame a reader starts that comes now: Writer.start_of. `first`: of the ring in use. */
#define START(r, first) (gop != 0 && POLICY(r) != LATEST -> gop - 1 : (newest > (first) -> newest - 1 : newest))

/* must = reader r sleeps, and its bell is to be rung. */
inline va_must_ring(r, must)
{
    if
    :: mem[ARMED(r)] == 1 ->
        atomic {                                /* the exchange */
            must = mem[ARMED(r)];
            sc_store(WRITER, ARMED(r), 0)
        }
    :: else -> must = false
    fi
}

/* room = would va_begin find a slot? */
inline va_has_room(room)
{
#ifndef WAITING_AFTER_SCAN
    WAITING_STORE(WRITER, WAITING(0), 1);
    WAITING_STORE(WRITER, WAITING(READERS - 1), 1);
#endif
    va_scan();
    room = ANY(MAY_TAKE);
#ifdef WAITING_AFTER_SCAN
    WAITING_STORE(WRITER, WAITING(0), 1);
    WAITING_STORE(WRITER, WAITING(READERS - 1), 1);
#endif
}

/* ------------------------------------------------------------------------------------ reader */

#define READER_LOCALS \
    byte at, what, gen, base, seen, head, want, s = NONE

/* s = the slot of frame want, leased; or GONE. */
inline va_pin(r)
{
    s = mem[INDEX(gen, want)];
    LEASE_STORE(r, LEASE(r), LEASE_WORD(gen, s));
#ifndef NO_READER_CHECK
    if
    :: mem[SEQ(gen, s)] == want -> skip
    :: else ->
        store(r, LEASE(r), 0);
        s = GONE
    fi
#endif
}

inline va_unpin(r)
{
    UNPIN_STORE(r, LEASE(r), 0)
}

inline va_pass(r, n)
{
    seen = n;
    sc_store(r, CURSOR(r), seen)
}

#define va_oldest(h) \
    ((h) > SPAN && (h) - SPAN > seen && (h) - SPAN > base -> (h) - SPAN + 1 : (seen > base -> seen : base) + 1)

/* s = the slot of the next frame for this reader, leased, and want its number; or s = NONE. */
inline va_claim(r)
{
    do
    :: d_step { head = mem[HEAD(gen)]; s = NONE }
        if
        :: head <= seen || head <= base -> break
        :: else -> skip
        fi;
        /* A pin fails only after the writer has moved on: the tries cannot be used up. */
        assert(POLICY(r) != LATEST || head > want);
        want = (POLICY(r) == LATEST -> head : va_oldest(head));
        assert(POLICY(r) != LOSSLESS || want == (seen > base -> seen : base) + 1);
#ifdef PASS_BEFORE_PIN
        va_pass(r, want);
#endif
        va_pin(r);
        if
        :: s != GONE && POLICY(r) != LATEST && want < FIRST_KEY ->
            va_unpin(r);
            va_pass(r, want)
        :: s != GONE && (POLICY(r) == LATEST || want >= FIRST_KEY) ->
#ifndef PASS_BEFORE_PIN
            va_pass(r, want);
#endif
            break
        :: s == GONE && POLICY(r) == LATEST -> skip
        :: else ->
            assert(POLICY(r) != LOSSLESS);
            va_pass(r, want)
        fi
    od;
    head = 0
}

/* Under a lease. One look is enough: Spin tries every moment for it. */
inline holds_frame()
{
    d_step { assert(mem[LOW(gen, s)] == want); assert(mem[HIGH(gen, s)] == want) }
}

/* may_sleep = it is safe to sleep on the bell. */
inline va_arm(r, may_sleep)
{
    ARMED_STORE(r, ARMED(r), 1);
#ifdef NO_REARM_CHECK
    may_sleep = true
#else
    may_sleep = (mem[HEAD(gen)] <= seen || mem[HEAD(gen)] <= base)
#endif
}

/* must = the writer waits for a slot, and is to be signalled. */
inline va_must_signal(r, must)
{
    if
    :: mem[WAITING(r)] == 1 ->
        atomic {                                /* the exchange */
            must = mem[WAITING(r)];
            sc_store(r, WAITING(r), 0)
        }
    :: else -> must = false
    fi
}
