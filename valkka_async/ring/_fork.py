# SPDX-License-Identifier: MIT
"""After os.fork() the child drops what belongs to its parent, without telling anybody.

A child that kept an inherited socket open would keep a dead parent's connection alive; one that ran
the parent's clean-up would give back leases that the parent still holds.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Inherited(Protocol):
    def _after_fork(self) -> None: ...


_alive: weakref.WeakSet[Inherited] = weakref.WeakSet()


def register(thing: Inherited) -> None:
    """Have ``thing._after_fork()`` called in forked children, while it lives."""
    _alive.add(thing)


def _in_child() -> None:
    things = list(_alive)
    _alive.clear()
    for thing in things:
        thing._after_fork()


os.register_at_fork(after_in_child=_in_child)
