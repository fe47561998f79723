# SPDX-License-Identifier: MIT
"""After os.fork() the child drops what belongs to its parent, without telling anybody.

A child that kept an inherited socket open would keep a dead parent's connection alive; one that ran
the parent's clean-up would give back leases that the parent still holds. What the child could write of its
parent's memory went first (_shm, within fork(2)), whatever becomes of the rest.

Descriptors are opened and closed under ``steady``: no fork falls between a descriptor and the place where it
is noted, so a child neither keeps one that nobody knows nor closes one that has become something else. It is
the only lock of the ring's: signal handlers and the collector come in the middle of anything, and whoever
waited for a second lock there could wait for ever.
"""

from __future__ import annotations

import _thread
import functools
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from valkka_async.ring import _shm

log = logging.getLogger("valkka_async")

T = TypeVar("T")

#: ``with steady():`` while descriptors are opened or closed, and while connections and new rings are; a fork
#: waits for it. Nothing is waited for under it.
steady = _shm.Held
_lock = _shm.lock
_holding = threading.Condition(_lock)
_COLLECTOR_SECONDS = 0.1  # for which the collector waits for it

_alive: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()


def in_a_step() -> bool:
    """Does this thread hold ``steady`` already? Then a signal handler or the collector came in the middle of
    a step, which must not be begun once more before it is done."""
    try:
        _holding.notify(0)
    except RuntimeError:
        return False
    return True


def in_child(thing: T, forget: Callable[[T], None]) -> None:
    """Have ``forget(thing)`` called in forked children, as long as the thing lives."""
    _alive[thing] = forget


def _in_child() -> None:
    if not in_a_step():  # the fork did not wait, as its thread was interrupted; who has the lock is not here
        _shm.take_over()
    try:
        inherited = list(_alive.items())
        _alive.clear()
        for thing, forget in inherited:
            drop(forget, thing)
    finally:
        _lock.release()


def drop(forget: Callable[..., object], *things: Any) -> None:
    """Call it in a child. Whatever it raises, what follows is dropped as well."""
    try:
        forget(*things)
    except Exception:
        log.debug("after a fork", exc_info=True)


def collected(close: Callable[[], object]) -> None:
    """Close what was forgotten, for ``__del__``: at once, or in a thread of its own.

    The collector comes in the middle of anything, under any lock. If it waited for ``steady`` there, and who
    has that for the lock, neither would go on. (Who has it is done in a moment, mostly.)
    """
    if not _shm.hold(_COLLECTOR_SECONDS, close):
        try:
            _thread.start_new_thread(close, ())
        except RuntimeError:
            pass  # no thread; or the interpreter ends, and all descriptors with it


def quiet_at_end(delete: Callable[[Any], None]) -> Callable[[Any], None]:
    """A ``__del__`` that says nothing at the interpreter's end, where modules lose what they have."""
    ending = sys.is_finalizing  # in this function, as the module loses it as well

    @functools.wraps(delete)
    def __del__(self: Any) -> None:
        try:
            delete(self)
        except Exception:
            if not ending():
                raise

    return __del__


def _in_parent() -> None:
    try:
        _lock.release()
    except RuntimeError:
        pass  # the fork did not wait: its thread was interrupted


os.register_at_fork(before=_lock.acquire, after_in_child=_in_child, after_in_parent=_in_parent)
