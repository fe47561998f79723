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
    begin_ns: int
    end_ns: int
    size: int
    busy: bool
    device: int | None  # of its file system; None: not known


def victims(
    held: Iterable[Held],
    sizes: Mapping[str, int],
    now_ns: int,
    latest_ns: int,
    each: Mapping[str, Keep],
    total: Keep,
    free: Mapping[int, int],
) -> Iterator[Held]:
    """The files to delete, of those that are `held`, of which no more are looked at than it takes. `held`: by
    when they begin, but before all others those that end later than `latest_ns`: a clock was wrong, and they
    are older than they say. No age is known of these. `sizes`: bytes of each camera's files. `each`:
    the bounds of cameras that have their own, `total`: those of all together; `free`: bytes that file systems
    have free, by device. A file that is being written counts, and stays."""
    of_camera, left, nothing = Counter(sizes), dict(free), Keep()
    all_ = of_camera.total()
    ages = [keep.age for keep in (*each.values(), total) if keep.age is not None]
    old_ns = now_ns - min(ages) * 1e9 if ages else 0

    def is_beyond() -> bool:
        """Is there too much of anything?"""
        return (
            (total.size is not None and all_ > total.size)
            or (total.free is not None and any(room < total.free for room in left.values()))
            or any(keep.size is not None and of_camera[name] > keep.size for name, keep in each.items())
        )

    for one in held:
        ahead = one.end_ns > latest_ns
        if not ahead and one.begin_ns >= old_ns and not is_beyond():
            return
        if one.busy:
            continue
        own = each.get(one.camera, nothing)
        bounds = [keep.age for keep in (own, total) if keep.age is not None]
        room = None if one.device is None else left.get(one.device)
        if (
            (not ahead and bounds and one.end_ns < now_ns - min(bounds) * 1e9)
            or (own.size is not None and of_camera[one.camera] > own.size)
            or (total.size is not None and all_ > total.size)
            or (total.free is not None and room is not None and room < total.free)
        ):
            of_camera[one.camera] -= one.size
            all_ -= one.size
            if one.device is not None and room is not None:
                left[one.device] = room + one.size
            yield one
