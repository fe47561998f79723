# SPDX-License-Identifier: MIT
"""After os.fork() the child drops what belongs to its parent, without telling anybody.

A child that kept an inherited socket open would keep a dead parent's connection alive; one that ran
the parent's clean-up would give back leases that the parent still holds.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_alive: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()


def in_child(thing: T, forget: Callable[[T], None]) -> None:
    """Have ``forget(thing)`` called in forked children, as long as the thing lives."""
    _alive[thing] = forget


def _in_child() -> None:
    inherited = list(_alive.items())
    _alive.clear()
    for thing, forget in inherited:
        forget(thing)


os.register_at_fork(after_in_child=_in_child)
