/* SPDX-License-Identifier: MIT
 *
 * Leases. A reader may stop for ever with a lease in its hand. What must hold whatever it does:
 *
 *   - a frame does not change while it is leased, and it is the one that was asked for
 *   - the writer gets through all its publishing; a state in which it cannot go on is an error
 *   - the newest published frame is there: who does not find it finds a newer head (in va_claim)
 *   - frames come in order; a "lossless" reader gets every one (in va_claim)
 *
 * LATE: reader 1 comes at any moment, and starts at the backlog, if there is one. That is all there: being
 * "lossless", it gets every frame from the key frame on.
 */
#include "ring.pml"

proctype writer()
{
    WRITER_LOCALS;
    byte made;
#ifdef LATE
    byte start = NONE;
    bool joined;
#endif

    do
#ifdef LATE
#ifdef COUNTED_IN_LATER
    :: !joined && start == NONE -> start = START(1, 0)
    :: atomic { !joined && start != NONE ->
#else
    :: atomic { !joined -> start = START(1, 0);
#endif
        sc_store(WRITER, CURSOR(1), start);
        joined = true;
        run reader(1, start) }
#endif
    :: made < FRAMES ->
        made++;
        va_begin();
#ifdef WAIT_FOR_SLOT
        do
        :: s != NONE -> break
        :: s == NONE && (mem[LEASE(0)] == 0 || mem[LEASE(1)] == 0) -> va_begin()
        od;
#endif
        if
        :: s == NONE -> skip                    /* dropped and counted */
        :: else ->
#ifdef COMMIT_BEFORE_PAYLOAD
            i = s; va_commit(); s = i; i = 0;
            write_payload(newest);
            s = NONE
#else
            write_payload(newest + 1);
            va_commit()
#endif
        fi
    :: else -> break
    od
}

proctype reader(byte r; byte start)
{
    READER_LOCALS;
    byte last;

    d_step { seen = start; last = start };
end:
    do
    :: mem[HEAD(gen)] > seen ->                 /* not to look in vain keeps the states few */
        va_claim(r);
        if
        :: s == NONE -> skip
        :: else ->
            assert(want > last && (POLICY(r) != LOSSLESS || want == last + 1));
            last = want;
            holds_frame();
            if
            :: va_unpin(r); s = NONE
            :: break                            /* holds it for ever */
            fi
        fi
    od
}

init {
    atomic {
        run flush(0); run flush(1); run flush(WRITER); run writer(); run reader(0, 0);
#ifdef LATE
        mem[CURSOR(1)] = NONE
#else
        run reader(1, 0)
#endif
    }
}
