# SPDX-License-Identifier: MIT
"""Which frames a reader gets: what it asks for, as a name and as the ring's number."""

from __future__ import annotations

import operator
from typing import Literal

from valkka_async.ring import _shm

Policy = Literal["latest", "ordered", "lossless"]

NUMBERS: dict[Policy, int] = {"latest": _shm.LATEST, "ordered": _shm.ORDERED, "lossless": _shm.LOSSLESS}
NAMES: dict[int, Policy] = {number: name for name, number in NUMBERS.items()}


def check_policy(policy: Policy, max_leases: int) -> int:
    """The policy's number. Raises ValueError for a policy or a number of leases that cannot be, TypeError
    for no integer."""
    if policy not in NUMBERS:
        raise ValueError(f"policy is one of {', '.join(NUMBERS)}, not {policy!r}")
    if not 1 <= operator.index(max_leases) <= _shm.MAX_LEASES:
        raise ValueError(f"max_leases is a number from 1 to {_shm.MAX_LEASES}, not {max_leases}")
    return NUMBERS[policy]
