# SPDX-License-Identifier: MIT
"""Frames and slots, for everything above the ring: nothing outside `ring/` imports the compiled module."""

from valkka_async.ring._shm import MAX_LEASES, MAX_SLOTS, Frame, Slot

__all__ = ["MAX_LEASES", "MAX_SLOTS", "Frame", "Slot"]
