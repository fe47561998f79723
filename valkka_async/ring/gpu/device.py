# SPDX-License-Identifier: MIT
"""What batches need of a GPU."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from valkka_async.errors import InheritedError


@dataclass(frozen=True, slots=True)
class Target:
    """What all rows of a launch have in common: the addresses of the batch and of the table of values,
    (width, height) of a row, and how its elements lie; see kernel.py."""

    out: int
    table: int
    size: tuple[int, int]
    planes: bool
    itemsize: int
    pad: int


class Device(Protocol):
    """One GPU and one stream of it: what is asked for is done in this order, later. Addresses are numbers.

    Each method may be called in any thread, and raises GpuError; InheritedError in a forked child.
    """

    name: str  # "cuda:0"
    dlpack: tuple[int, int]  # type and number, as of DLPack
    pid: int  # the process that it belongs to
    hangs: bool  # it did not do in time what it was asked for; what waits for it fails at once from then on

    def register(self, address: int, nbytes: int) -> None:
        """Make read-only memory of the host, whole pages, readable for copies. It stays mapped until
        ``unregister()``."""

    def unregister(self, address: int) -> None:
        """Undo it; no copy from there is under way."""

    def allocate(self, nbytes: int) -> int:
        """Memory of the device, aligned to 256 bytes."""

    def free(self, address: int) -> None:
        """Wait for what uses it, in all streams, within bounds, and give it back."""

    def copy_in(self, to: int, source: int, nbytes: int) -> None:
        """From memory of the host to the device. What is not registered may be used again when this returns;
        what is, when an event that is recorded later is done."""

    def copy_out(self, to: NDArray[Any], source: int) -> None:
        """From the device to an array, at once, within bounds: the caller knows that it is written."""

    def launch(self, rows: int, count: int, target: Target) -> None:
        """Start the kernel: ``count`` rows, described by kernel.ROW in the device's memory at ``rows``."""

    def record(self) -> int:
        """An event that is done when all that was asked for before it is."""

    def done(self, event: int) -> bool:
        """Is it? Never waits."""

    def idle(self) -> bool:
        """Is all done that was asked for? Never waits."""

    def forget(self, event: int) -> None:
        """The event may be used again."""

    def wait_for(self, stream: int | None) -> None:
        """What is asked for from here on begins when another library's stream has done what it was asked for
        up to now. ``stream`` is as of DLPack: 1 or None is the default stream, -1 all of them."""

    def close(self) -> None:
        """Give up the stream and its events; what it was asked for is done, or will never be."""


def check_owner(device: Device) -> None:
    """Raise InheritedError in a forked child."""
    if device.pid != os.getpid():
        raise InheritedError(
            f"{device.name} belongs to the parent process, as CUDA does not survive a fork: start processes "
            'that use the GPU with multiprocessing\'s "spawn", or fork before the GPU is used'
        )
