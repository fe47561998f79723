# SPDX-License-Identifier: MIT
"""Which recordings are to go: the oldest first, until what is kept is within its bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Keep:
    """Bounds; None: there is none."""

    age: float | None = None  # s since a file's last frame
    size: int | None = None  # bytes of all files
    free: int | None = None  # bytes of the file system that stay free

    def __bool__(self) -> bool:
        return (self.age, self.size, self.free) != (None, None, None)


@dataclass(frozen=True, slots=True)
class Held:
    """A file. `busy`: it is being written."""

    camera: str
    path: Path
    end_ns: int
    size: int
    busy: bool
    device: int | None  # of its file system; None: not known


def victims(
    held: Iterable[Held], now_ns: int, each: Mapping[str, Keep], total: Keep, free: Mapping[int, int]
) -> Iterator[Held]:
    """The files to delete, of those that are `held`, the oldest first. `each`: the bounds of cameras that
    have their own, `total`: those of all together; `free`: bytes that file systems have free, by device. A
    file that is being written counts, and stays."""
    files = list(held)
    of_camera: Counter[str] = Counter()
    for one in files:
        of_camera[one.camera] += one.size
    all_ = of_camera.total()
    left = dict(free)
    nothing = Keep()
    for one in files:
        if one.busy:
            continue
        own = each.get(one.camera, nothing)
        ages = [bound.age for bound in (own, total) if bound.age is not None]
        room = None if one.device is None else left.get(one.device)
        if (
            (ages and one.end_ns < now_ns - min(ages) * 1e9)
            or (own.size is not None and of_camera[one.camera] > own.size)
            or (total.size is not None and all_ > total.size)
            or (total.free is not None and room is not None and room < total.free)
        ):
            of_camera[one.camera] -= one.size
            all_ -= one.size
            if one.device is not None and room is not None:
                left[one.device] = room + one.size
            yield one
