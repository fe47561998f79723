/* SPDX-License-Identifier: MIT
 *
 * Waiting for room. A writer with a "lossless" reader does not drop a frame that finds no slot: it asks to
 * be told (va_has_room), sleeps until a reader signals, and tries again. Readers give back all that they
 * take; a "latest" one may then be busy elsewhere for ever. The "lossless" one joins a delta-coded stream:
 * what comes before the key frame it passes over. What must hold:
 *
 *   - the writer gets through all its publishing: it never sleeps for ever while there is a slot for it
 *   - and what lease.pml asks of the leases
 *
 * How a reader sleeps is bell.pml's business. The signal is an eventfd, reduced to "readable or not".
 */
#ifndef POLICY0
#define POLICY0 LOSSLESS
#endif
#define FIRST_KEY 3
#define SLOTS 2
#define SPAN 2
#include "ring.pml"

bool signal;

proctype writer()
{
    WRITER_LOCALS;
    bool room;

    do
    :: newest < FRAMES ->
        va_begin();
        if
        :: s != NONE ->
            write_payload(newest + 1);
            va_commit()
        :: else ->
#ifndef SIGNAL_DRAINED_LATE
            signal = false;
#endif
            va_has_room(room);
#ifdef SIGNAL_DRAINED_LATE
            signal = false;
#endif
            if
            :: room -> room = false
            :: !room && signal
            fi
        fi
    :: else -> break
    od
}

inline signal_writer()
{
    va_must_signal(r, must);
    if
    :: must -> signal = true; must = false
    :: else -> skip
    fi
}

proctype reader(byte r)
{
    READER_LOCALS;
    bool must;
    byte last;

    do
    :: va_claim(r);
        if
        :: s == NONE ->
#ifndef NO_SIGNAL_BEFORE_SLEEP
            signal_writer();
#endif
end:        mem[HEAD(gen)] > seen               /* asleep */
        :: else ->
            assert(want > last && (POLICY(r) != LOSSLESS || want == last + 1 || want == FIRST_KEY));
            last = want;
            holds_frame();
            va_unpin(r);
            s = NONE;
#ifndef NO_SIGNAL_AFTER_UNPIN
            signal_writer();
#endif
            if
            :: POLICY(r) == LATEST -> break
            :: skip
            fi
        fi
    od
}

init {
    atomic { run flush(0); run flush(1); run flush(WRITER); run writer(); run reader(0); run reader(1) }
}
