# SPDX-License-Identifier: MIT
"""Frames and slots, for everything above the ring: the compiled module itself is imported in `ring/` alone."""

from valkka_async.ring._shm import MAX_LEASES, MAX_SLOTS, Frame, Slot

__all__ = ["MAX_LEASES", "MAX_SLOTS", "Frame", "Slot"]
