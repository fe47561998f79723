/* SPDX-License-Identifier: MIT
 *
 * Generations. At any moment, in the middle of a loan too, the server goes on in a new ring: it maps it,
 * sends it to the readers (RING, WINDOW unacknowledged at most with each), and then marks the old one
 * superseded. What must hold:
 *
 *   - nothing becomes claimable in a ring once its successor was sent: no number, no index, no head changes
 *     there. (A loan's bytes may: nobody can claim a slot that has no number.)
 *   - every reader gets to the newest ring and sees the newest frame there; none sleeps for ever before
 *   - frames come in order across rings; a "lossless" reader gets every one of the rings it is sent
 *   - a lease of an old ring does not keep the slot of the same number in the new one
 *   - a reader that comes late (LATE: reader 1) is sent the newest ring alone, and finds the backlog there,
 *     which the server took along (or not, if the new ring is for another stream)
 *   - a reader that stops for ever keeps neither the server nor the other reader waiting. Only if it is
 *     "lossless" does the server not go on, and the other reader still sees all that there is.
 *
 * Reader 0 is a plain one (reader.py): it looks at its socket in its turn, before it sleeps. Reader 1 has an
 * event loop (client.py), which looks at socket and bell whenever it gets to it, a frame in hand or not;
 * and reader 1 may stop for ever. What readers do to each other's leases is in lease.pml.
 *
 * Two readers all of whose steps mix are a great many states. FINE of them, reader 0 first, go step by step;
 * the others take a turn as one step: from being awake to having a frame, or to sleep. Between turns, and
 * with a frame in hand, they lag as long as they like. And what nobody can tell apart is one step for all:
 * what a process does with its own variables; what goes into a store buffer (it comes out in steps of its
 * own); to take in rings and to acknowledge them (a ring that comes in between could have come before).
 *
 * Sockets are reliable. Sending a ring is a full barrier (the kernel takes locks); an ACK need not be one.
 */
#ifndef READERS
#define READERS 2
#endif
#ifndef FINE
#define FINE 0
#endif
#ifndef GENERATIONS
#define GENERATIONS 2           /* 8 at most */
#endif
#ifndef FRAMES
#define FRAMES 2
#endif
#ifndef WINDOW
#define WINDOW 2                /* the server's; in peers.py it is 4 */
#endif
#ifndef KEPT
#define KEPT WINDOW             /* with more rings a reader does not acknowledge; in connection.py it is 4 */
#endif
#define SLOTS 2
#define SPAN 2

byte final_rings;               /* rings below this number are final */
#define IS_PAYLOAD(a)  ((a) % RING_WORDS >= LOW(0, 0) && (a) % RING_WORDS < INDEX(0, 0))
#define IS_MARK(a)     ((a) % RING_WORDS == SUPERSEDED(0))
#define CHECK_STORE(a) assert((a) >= final_rings * RING_WORDS || IS_PAYLOAD(a) || IS_MARK(a))
#include "ring.pml"

#ifdef LATE
bool joined;                                        /* is reader 1 there? */
#define IS_THERE(r) ((r) == 0 || joined)
#else
#define IS_THERE(r) true
#endif

bool bell[READERS];
byte ring_base[GENERATIONS];                        /* geometry: written before the ring is sent */
chan rings[READERS] = [WINDOW] of { byte };         /* RING, server to reader */
chan acks[READERS] = [WINDOW] of { byte };          /* ACK, reader to server */

byte published;                                     /* these two for the last assertions */
bool stopped;

#ifdef ONE_BELL_FOR_ALL
#define BELL(r) bell[0]
#else
#define BELL(r) bell[r]
#endif

/* ------------------------------------------------------------------------------------ server */

/* on_their_way[r]: a bit for each ring that reader r was sent and has not acknowledged */
#define UP_TO(g)      ((2 << (g)) - 1)
#define BIT(m, g)     ((m) >> (g) & 1)
#define FOUR(m, g)    (BIT(m, g) + BIT(m, g + 1) + BIT(m, g + 2) + BIT(m, g + 3))
#define UNANSWERED(r) (FOUR(on_their_way[r], 0) + FOUR(on_their_way[r], 4))

#if defined(NO_WINDOW)
#define MAY_SEND(r) true
#elif defined(ONE_WINDOW_FOR_ALL)
#define MAY_SEND(r) (UNANSWERED(0) + UNANSWERED(READERS - 1) < WINDOW)
#else
#define MAY_SEND(r) (UNANSWERED(r) < WINDOW)
#endif

/* A "lossless" reader would miss a ring that is replaced before it was sent. */
#if defined(SKIP_RINGS)
#define AWAITED(r) false
#elif defined(ANY_ACK_WILL_DO)
#define AWAITED(r) (POLICY(r) == LOSSLESS && acked[0] != gen && acked[READERS - 1] != gen)
#elif defined(WAIT_FOR_EVERYBODY)
#define AWAITED(r) (acked[r] != gen)
#else
#define AWAITED(r) (POLICY(r) == LOSSLESS && acked[r] != gen)
#endif
#define MAY_GO_ON (gen < GENERATIONS - 1 && !(IS_THERE(0) && AWAITED(0)) \
                   && !(IS_THERE(READERS - 1) && AWAITED(READERS - 1)))

inline offer_ring(r)
{
    if
    :: sent[r] < gen && MAY_SEND(r) && IS_THERE(r) ->
        assert(nfull(rings[r]));
        on_their_way[r] = on_their_way[r] | 1 << gen;
        sent[r] = gen;
        rings[r] ! gen
    :: else -> skip
    fi
}

/* The frame of slot x, into that of the new ring. (Its bytes hold its number, which the writer knows without
 * looking into its store buffer.) Nobody has seen the new ring, so nobody can tell in which order. */
inline carry(x)
{
    if
    :: IS_RETAINED(x) ->
#ifndef CARRY_NOTHING
        mem[LOW(gen, x)] = note_seq[x]; mem[HIGH(gen, x)] = note_seq[x];
        mem[SEQ(gen, x)] = note_seq[x]; mem[INDEX(gen, note_seq[x])] = x;
#endif
        here++
    :: else -> note_seq[x] = 0
    fi
}

inline next_ring()
{
    atomic {
        gen++;                                      /* va_next_ring: the notes are those of an empty ring */
#ifdef BACKLOG
        if
        :: skip
        :: gop = 0                                  /* another stream */
        fi;
#endif
#ifdef CARRIED_BEHIND_THE_BASE
        ring_base[gen] = newest;
#else
        ring_base[gen] = (gop != 0 -> gop - 1 : newest);
#endif
        here = 0;
        carry(0); carry(1);
        sc_store(WRITER, HEAD(gen), newest);
        final_rings = gen;
        offer_ring(0)
    };
    atomic {
#if READERS == 2 && !defined(OFFER_TO_ONE)
        offer_ring(1);
#endif
        store(WRITER, SUPERSEDED(gen - 1), 1)       /* va_supersede */
    }
}

inline take_ack(r)
{
    atomic {
        acks[r] ? acked[r] ->
            on_their_way[r] = on_their_way[r] & ~UP_TO(acked[r]);
#ifndef NO_OFFER_ON_ACK
            offer_ring(r);
#endif
#ifdef NEVER_APART
            assert(acked[0] != gen || sent[1] == gen);
#endif
            skip
    }
}

inline ring_bell(r)
{
    va_must_ring(r, must);
    if
    :: must -> atomic { BELL(r) = true; must = false }
    :: else -> skip
    fi
}

inline fill_slot()
{
    atomic {
        write_payload(newest + 1);
        note_leased[0] = false; note_leased[1] = false; ordered = 0; lossless = 0      /* the scan is over */
    }
}

proctype writer()
{
    WRITER_LOCALS;
    bool must;
    byte made, here;                                /* frames: tried, published in this ring */
    byte sent[READERS], acked[READERS], on_their_way[READERS];

end:
    do
#ifdef LATE
    :: atomic { !joined ->
        joined = true;
        sent[1] = gen; acked[1] = gen;
        sc_store(WRITER, CURSOR(1), START(1, ring_base[gen]));
        run reader(1, START(1, ring_base[gen]), gen) }
#endif
    :: made < FRAMES ->
        made++;
again:  va_begin();
        assert(s != NONE || here >= SLOTS);         /* a fresh ring has room */
        if
        :: s == NONE -> skip
        :: else ->
            fill_slot();
            if
            :: MAY_GO_ON ->                         /* while the slot is being written */
                next_ring();
#ifdef WRITE_SUPERSEDED
                store(WRITER, SEQ(gen - 1, s), newest + 1);
                store(WRITER, INDEX(gen - 1, newest + 1), s);
                sc_store(WRITER, HEAD(gen - 1), newest + 1);
#endif
                goto again                          /* copied to the new ring */
            :: skip
            fi;
            d_step { here++; published = newest + 1 }
            va_commit();
            ring_bell(0);
#if READERS == 2
            ring_bell(1)
#endif
        fi
    :: MAY_GO_ON -> next_ring()
    :: take_ack(0)
#if READERS == 2
    :: take_ack(1)
#endif
    od
}

/* ------------------------------------------------------------------------------------ reader */

/* Take in what has arrived, and acknowledge the newest. */
inline pump()
{
    atomic {
        do
        :: rings[r] ? mapped -> queue ! mapped; owed = mapped
        :: empty(rings[r]) -> break
        od;
        if
        :: owed != 0 && 1 + len(queue) <= KEPT ->
            assert(nfull(acks[r]));
            acks[r] ! owed;
            owed = 0
        :: else -> skip
        fi
    }
}

/* connection.claim, and _shm.Reader.claim: `gen` is the ring in use, `queue` those that come after it,
 * `mapped` the newest of all. */
inline claim()
{
    if
    :: mem[SUPERSEDED(mapped)] == 1 -> pump()       /* a hint */
    :: mem[SUPERSEDED(mapped)] == 0
    fi;
    do
    :: gen == mapped -> va_claim(r); break
    :: gen != mapped ->
        if
#ifdef LEAVE_EARLY
        :: skip
#else
        :: POLICY(r) == LATEST && mem[HEAD(mapped)] > ring_base[mapped]
        :: POLICY(r) != LATEST || mem[HEAD(mapped)] <= ring_base[mapped] -> va_claim(r)
#endif
        fi;
        if
        :: s != NONE -> break
        :: atomic { s == NONE ->                    /* the ring is read to its end */
            queue ? gen;
            base = ring_base[gen];
            moved = true;
            if
            :: base > seen ->
                assert(POLICY(r) != LOSSLESS);
                va_pass(r, base)
            :: else -> skip
            fi }
        fi
    od;
    if
    :: moved ->
        moved = false;
#ifndef NO_ACK_AFTER_MOVE
        pump()
#endif
    :: else -> skip
    fi
}

/* A frame (s), or may_sleep, or neither: then another turn comes. */
inline turn()
{
    claim();
    if
    :: s == NONE ->
        if
        :: r == 0 -> BELL(r) = false; pump()
        :: r == 1
        fi;
        if
        :: gen != mapped ->
#ifdef RETURN_UNARMED
            claim();                                /* and if there is nothing, sleep all the same */
            may_sleep = (s == NONE)
#endif
        :: gen == mapped -> va_arm(r, may_sleep)
        fi
    :: s != NONE
    fi
}

proctype reader(byte r; byte start; byte ring)
{
    READER_LOCALS;
    byte last, mapped;
    byte owed;                                      /* the ring to acknowledge; 0: none */
    bool may_sleep, moved;
    chan queue = [GENERATIONS] of { byte };

    d_step { seen = start; last = start; gen = ring; mapped = ring; base = ring_base[ring] };
    do
#if FINE > 0
    :: s == NONE && !may_sleep && r < FINE -> turn()
#endif
#if FINE < READERS
    :: d_step { s == NONE && !may_sleep && r >= FINE -> turn() }
#endif
    :: atomic { s != NONE ->
        assert(want > last && (POLICY(r) != LOSSLESS || want == last + 1));
        last = want;
        holds_frame();
        va_unpin(r);
        s = NONE }
    :: atomic { (may_sleep || r == 1) && BELL(r) ->
        may_sleep = false;
        if
        :: r == 1 -> BELL(r) = false
        :: else -> skip
        fi }
#ifndef DEAF_TO_THE_SOCKET
    :: atomic { (may_sleep || r == 1) && nempty(rings[r]) ->
        may_sleep = false;
        if
        :: r == 1 -> pump()
        :: else -> skip
        fi }
#endif
    :: atomic { r == 1 && (s != NONE || BELL(r) || nempty(rings[r])) ->
        stopped = true;                             /* for ever, with all that it has in hand */
        break }
    :: may_sleep && timeout ->                      /* nothing will ever happen again */
        assert(seen == published && mapped == final_rings);
        assert(final_rings == GENERATIONS - 1 || (stopped && POLICY1 == LOSSLESS));
        break
    od
}

init {
    atomic {
        run flush(0); run flush(WRITER); run writer(); run reader(0, 0, 0);
#if READERS == 2
        run flush(1);
#ifdef LATE
        mem[CURSOR(1)] = NONE
#else
        run reader(1, 0, 0)
#endif
#endif
    }
}
