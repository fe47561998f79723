# SPDX-License-Identifier: MIT
"""Callbacks that do not keep their owner alive, so that forgetting to close can be noticed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any


def weakly(method: Callable[..., object], *args: Any) -> Callable[[], None]:
    """Call a bound method with ``args``, as long as its object lives."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        alive = reference()
        if alive is not None:
            alive(*args)

    return call
