/* SPDX-License-Identifier: MIT
 *
 * The doorbell. The writer may stop after any frame, so each is the last in some run. What must hold:
 *
 *   - a reader never sleeps for ever while there is a frame that it has not seen
 *
 * Slots and leases are lease.pml's business: a frame is its number here. The bell is an eventfd, reduced to
 * "readable or not". Both ways in which the readers use it are here: reader 0 drains it when it finds
 * nothing, and looks again (reader.py); reader 1 drains it when it wakes, and then looks (client.py).
 */
#ifndef FRAMES
#define FRAMES 5
#endif
#include "ring.pml"

bool bell[READERS];

inline ring_bells()
{
    do
    :: i < READERS ->
        va_must_ring(i, must);
        if
        :: must -> bell[i] = true; must = false
        :: else -> skip
        fi;
        i++
    :: else -> i = 0; break
    od
}

proctype writer()
{
    byte at, what, gen, newest, i;
    bool must;

    do
    :: newest < FRAMES ->
#ifdef RING_BEFORE_HEAD
        newest++;
        ring_bells();
        HEAD_STORE(WRITER, HEAD(gen), newest)
#else
        newest++;
        HEAD_STORE(WRITER, HEAD(gen), newest);
        ring_bells()
#endif
    :: break
    od
}

proctype reader(byte r)
{
    byte at, what, gen, base, seen;
    bool may_sleep;

    do
    :: if
        :: mem[HEAD(gen)] > seen -> seen = mem[HEAD(gen)]        /* va_claim */
        :: else ->
#ifndef DRAIN_LATE
            if
            :: r == 0 -> bell[r] = false
            :: else -> skip
            fi;
#endif
            va_arm(r, may_sleep);
#ifdef DRAIN_LATE
            if
            :: r == 0 -> bell[r] = false
            :: else -> skip
            fi;
#endif
            if
            :: may_sleep ->
                may_sleep = false;
                if
                :: bell[r] ->
                    if
                    :: r == 1 -> bell[r] = false
                    :: else -> skip
                    fi
                :: timeout -> assert(mem[HEAD(gen)] <= seen); break   /* nothing will ever happen again */
                fi
            :: else -> skip
            fi
        fi
    od
}

init {
    atomic { run flush(0); run flush(1); run flush(WRITER); run writer(); run reader(0); run reader(1) }
}
