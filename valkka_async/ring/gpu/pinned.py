# SPDX-License-Identifier: MIT
"""Slots of rings that are registered for copies to a GPU, so that they need no copy on the host before.

A slot is registered whole when a frame in it is first copied, and remembered by its map, which is one
generation of one ring. Memory can be registered once in a process, so all that copy from a slot share this.
"""

from __future__ import annotations

import logging
import threading
import time

from valkka_async.errors import GpuError, InheritedError
from valkka_async.ring.gpu.device import Device

log = logging.getLogger("valkka_async")

_IDLE = 60.0  # s after which a ring that gives no frames is let go

_lock = threading.Lock()
_users: dict[int, int] = {}  # address of a registered slot: how many have it


def registered() -> int:
    """How many slots are."""
    return len(_users)


class _Ring:
    def __init__(self, map: object) -> None:
        self.map = map  # stays mapped as long as this lives
        self.slots: set[int] = set()
        self.used = 0.0


class Pinned:
    """Those of one batches(). Used by one thread, in which no copy is under way when it forgets any."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._rings: dict[str, _Ring] = {}  # of each source: the one its newest frame was in
        self._refused = False

    def want(self, source: str, map: object, address: int, nbytes: int) -> None:
        """Register a slot, unless it is already. The first time that this fails is logged; from then on
        copies are of pageable memory, which is slower and blocks this thread."""
        ring = self._rings.get(source)
        if ring is None or ring.map is not map:
            if ring is not None:
                self._forget(source)
            ring = self._rings[source] = _Ring(map)
        ring.used = time.monotonic()
        if self._refused or address in ring.slots:
            return
        try:
            with _lock:
                if not _users.get(address):
                    self._device.register(address, nbytes)
                _users[address] = _users.get(address, 0) + 1
            ring.slots.add(address)
        except GpuError as e:
            self._refused = True
            log.warning(
                "batches: frames are copied to %s without pinned memory: %s", self._device.name, str(e)
            )

    def forget_idle(self) -> None:
        """Let rings go that have given no frame for a minute."""
        before = time.monotonic() - _IDLE
        for source in [source for source, ring in self._rings.items() if ring.used < before]:
            self._forget(source)

    def close(self) -> None:
        """Let all go."""
        for source in list(self._rings):
            self._forget(source)

    def _forget(self, source: str) -> None:
        ring = self._rings.pop(source)  # the map stays until the last slot is unregistered
        for address in ring.slots:
            with _lock:
                _users[address] -= 1
                if not _users[address]:
                    del _users[address]
                    try:
                        self._device.unregister(address)
                    except (GpuError, InheritedError) as e:
                        log.debug("batches: %s", str(e))
