# SPDX-License-Identifier: MIT
"""Callbacks that do not keep their owner alive, so that forgetting to close can be noticed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def weakly(method: Callable[..., T], *args: object) -> Callable[[], T | None]:
    """Call a bound method with ``args``; None once its object is gone."""
    reference = weakref.WeakMethod(method)

    def call() -> T | None:
        alive = reference()
        return alive(*args) if alive is not None else None

    return call
