/* SPDX-License-Identifier: MIT
 *
 * Generations. At any moment, in the middle of a loan too, the server goes on in a new ring: it maps it,
 * sends it to the readers (RING, WINDOW unacknowledged at most), and then marks the old one superseded. What
 * must hold:
 *
 *   - nothing becomes claimable in a ring once its successor was sent: no number, no index, no head changes
 *     there. (A loan's bytes may: nobody can claim a slot that has no number.)
 *   - every reader gets to the newest ring and sees the newest frame there; none sleeps for ever before
 *   - frames come in order across rings; a "lossless" reader gets every one of the rings it is sent
 *   - a lease of an old ring does not keep the slot of the same number in the new one
 *
 * One reader: what readers do to each other is in lease.pml, and here they share nothing. Sockets are
 * reliable, and sending on them is a full barrier (the kernel takes locks).
 */
#define READERS 1
#ifndef GENERATIONS
#define GENERATIONS 2
#endif
#ifndef FRAMES
#define FRAMES 3
#endif
#ifndef WINDOW
#define WINDOW 2
#endif
#define SLOTS 2
#define SPAN 2

byte final_rings;               /* rings below this number are final */
#define IS_PAYLOAD(a)  ((a) % RING_WORDS >= LOW(0, 0) && (a) % RING_WORDS < INDEX(0, 0))
#define IS_MARK(a)     ((a) % RING_WORDS == SUPERSEDED(0))
#define CHECK_STORE(a) assert((a) >= final_rings * RING_WORDS || IS_PAYLOAD(a) || IS_MARK(a))
#include "ring.pml"

bool bell;
byte ring_base[GENERATIONS];                        /* geometry: written before the ring is sent */
chan rings[READERS] = [WINDOW] of { byte };         /* RING, server to reader */
chan acks[READERS] = [WINDOW] of { byte };          /* ACK, reader to server */
byte published;                                     /* for the last assertion */

/* A "lossless" reader would miss a ring that is replaced before it was sent. */
#ifdef SKIP_RINGS
#define MAY_GO_ON (gen < GENERATIONS - 1)
#else
#define MAY_GO_ON (gen < GENERATIONS - 1 && (POLICY(0) != LOSSLESS || acked[0] == gen))
#endif

inline offer_ring(r)
{
    atomic {
        if
        :: on_their_way[r] < WINDOW && sent[r] < gen ->
            assert(nfull(rings[r]));
            on_their_way[r]++;
            sent[r] = gen;
            rings[r] ! gen
        :: else -> skip
        fi
    }
}

inline drain_buffer(p) { sc_store(p, WORDS - 1, mem[WORDS - 1]) }

inline next_ring()
{
    atomic {
        gen++;                                      /* va_next_ring: the notes are those of an empty ring */
        ring_base[gen] = newest;
        sc_store(WRITER, HEAD(gen), newest);        /* va_init */
        note_seq[0] = 0; note_seq[1] = 0;
        here = 0
    }
    final_rings = gen;
    offer_ring(0);
    store(WRITER, SUPERSEDED(gen - 1), 1)           /* va_supersede */
}

proctype writer()
{
    WRITER_LOCALS;
    bool must;
    byte made, here;                                /* frames: tried, published in this ring */
    byte loaned;                                    /* generation of the slot that is being written */
    byte sent[READERS], acked[READERS], on_their_way[READERS];

end:
    do
    :: made < FRAMES ->
        made++;
        va_begin();
        assert(s != NONE || here >= SLOTS);         /* a fresh ring has room */
        if
        :: s == NONE -> skip
        :: else ->
            loaned = gen;
            write_payload(newest + 1);
            if
            :: MAY_GO_ON -> next_ring()             /* while the slot is being written */
            :: skip
            fi;
            if
            :: loaned == gen -> skip
            :: else ->
#ifdef WRITE_SUPERSEDED
                store(WRITER, SEQ(loaned, s), newest + 1);
                store(WRITER, INDEX(loaned, newest + 1), s);
                sc_store(WRITER, HEAD(loaned), newest + 1);
#endif
                va_begin();                         /* copied to the new ring */
                assert(s != NONE);
                write_payload(newest + 1)
            fi;
            va_commit();
            d_step { here++; published = newest; loaned = 0; i = 0 }
            va_must_ring(0, must);
            if
            :: must -> bell = true; must = false
            :: else -> skip
            fi
        fi
    :: MAY_GO_ON -> next_ring()
    :: atomic { acks[0] ? acked[0] -> on_their_way[0]-- };
#ifndef NO_OFFER_ON_ACK
        offer_ring(0)
#endif
    od
}

/* Take in what has arrived. */
inline pump()
{
    do
    :: atomic { rings[r] ? mapped -> queue ! mapped };
        drain_buffer(r);
        acks[r] ! mapped
    :: empty(rings[r]) -> break
    od
}

/* connection.claim, and _shm.Reader.claim: `gen` is the ring in use, `queue` those that come after it,
 * `mapped` the newest of all. */
inline claim()
{
    if
    :: mem[SUPERSEDED(mapped)] == 1 -> pump()       /* a hint */
    :: else -> skip
    fi;
    do
    :: s = NONE;
        if
        :: gen == mapped -> va_claim(r)
#ifdef LEAVE_EARLY
        :: gen != mapped -> skip
#else
        :: gen != mapped && (POLICY(r) != LATEST || mem[HEAD(mapped)] <= ring_base[mapped]) -> va_claim(r)
        :: gen != mapped && POLICY(r) == LATEST && mem[HEAD(mapped)] > ring_base[mapped] -> skip
#endif
        fi;
        if
        :: s != NONE || gen == mapped -> break
        :: else ->
            atomic { queue ? gen; base = ring_base[gen] }
            if
            :: base > seen ->
                assert(POLICY(r) != LOSSLESS);
                va_pass(r, base)
            :: else -> skip
            fi
        fi
    od
}

proctype reader(byte r)
{
    READER_LOCALS;
    byte last, mapped;
    bool may_sleep;
    chan queue = [GENERATIONS] of { byte };

    do
    :: claim();
        if
        :: s == NONE ->
            bell = false;
            pump();
            if
            :: gen != mapped ->
                may_sleep = false
#ifdef RETURN_UNARMED
                ; claim();                          /* and if there is nothing, sleep all the same */
                may_sleep = (s == NONE)
#endif
            :: else -> va_arm(r, may_sleep)
            fi;
            if
            :: may_sleep ->
                may_sleep = false;
                if
                :: bell
#ifndef DEAF_TO_THE_SOCKET
                :: nempty(rings[r])
#endif
                :: timeout ->                       /* nothing will ever happen again */
                    assert(seen == published && mapped == final_rings);
                    break
                fi
            :: !may_sleep && s == NONE
            :: !may_sleep && s != NONE -> goto take
            fi
        :: else ->
take:       assert(want > last && (POLICY(r) != LOSSLESS || want == last + 1));
            last = want;
            holds_frame();
            va_unpin(r);
            s = NONE
        fi
    od
}

init {
    atomic { run flush(0); run flush(WRITER); run writer(); run reader(0) }
}
