# SPDX-License-Identifier: MIT
"""After os.fork() the child drops what belongs to its parent, without telling anybody.

A child that kept an inherited socket open would keep a dead parent's connection alive; one that ran
the parent's clean-up would give back leases that the parent still holds. What the child could write of its
parent's memory goes first (``_shm.after_fork``), whatever becomes of the rest.

Descriptors are opened and closed under ``steady``: no fork falls between a descriptor and the place where it
is noted, so a child neither keeps one that nobody knows nor closes one that has become something else.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from valkka_async.ring import _shm

log = logging.getLogger("valkka_async")

T = TypeVar("T")

#: Held while descriptors are opened or closed; a fork waits for it. Nothing is waited for under it.
steady = threading.RLock()

_alive: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()


def in_child(thing: T, forget: Callable[[T], None]) -> None:
    """Have ``forget(thing)`` called in forked children, as long as the thing lives."""
    _alive[thing] = forget


def _in_child() -> None:
    try:
        _shm.after_fork()
        inherited = list(_alive.items())
        _alive.clear()
        for thing, forget in inherited:
            drop(forget, thing)
    finally:
        _go_on()


def drop(forget: Callable[..., object], *things: Any) -> None:
    """Call it in a child. Whatever it raises, what follows is dropped as well."""
    try:
        forget(*things)
    except Exception:
        log.debug("after a fork", exc_info=True)


def _go_on() -> None:
    try:
        steady.release()
    except RuntimeError:
        pass  # the fork did not wait: its thread was interrupted


os.register_at_fork(before=steady.acquire, after_in_child=_in_child, after_in_parent=_go_on)
