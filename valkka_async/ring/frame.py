# SPDX-License-Identifier: MIT
"""Frames and slots, for all that is above the ring: only `ring/` imports the compiled module."""

from valkka_async.ring._shm import MAX_LEASES, MAX_SLOTS, Frame, Slot

__all__ = ["MAX_LEASES", "MAX_SLOTS", "Frame", "Slot"]
