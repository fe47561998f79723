# SPDX-License-Identifier: MIT
"""What the control groups of this process (a container's, a systemd unit's) let it have: versions 1 and 2."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from valkka_async.foreign import pass_on

_SPARE = 4 << 20  # bytes that must be left when a ring has grown: all else in the group needs some as well
_NO_LIMIT = 1 << 60  # bytes; version 1 writes "no limit" as a large number


class Cgroups:
    """`proc` is the folder of a process in /proc. Raises nothing: what cannot be read is no limit."""

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        self._proc = proc

    def memory(self) -> tuple[int, int] | None:
        """(limit, what is left of it) in bytes, of the group that has least left; None: no limit."""
        rooms = []
        for version, folder in self._folders("memory"):
            limit = _number(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
            used = _number(folder / ("memory.current" if version == 2 else "memory.usage_in_bytes")) or 0
            if limit is not None and limit < _NO_LIMIT:
                # Pages of files are given back when there is need, and others may go to the swap.
                cache = _fields(folder / "memory.stat", "inactive_file", "active_file")
                left = max(0, limit - max(0, used - cache))
                rooms.append((limit, left + self._swap(version, folder, limit, used)))
        return min(rooms, key=lambda room: room[1], default=None)

    def _swap(self, version: int, folder: Path, limit: int, used: int) -> int:
        """How many bytes of a group can still be swapped out."""
        free = 1024 * _fields(self._proc.parent / "meminfo", "SwapFree:")
        if version == 2:
            most = _number(folder / "memory.swap.max")
            return free if most is None else min(free, most - (_number(folder / "memory.swap.current") or 0))
        both = _number(folder / "memory.memsw.limit_in_bytes")  # memory and swap
        if both is None or both >= _NO_LIMIT:
            return free
        swapped = (_number(folder / "memory.memsw.usage_in_bytes") or used) - used
        return max(0, min(free, both - limit - swapped))

    def cores(self) -> float | None:
        """How many cores' time it may use; None: no limit."""
        quotas = []
        for version, folder in self._folders("cpu"):
            if version == 2:
                words = _read(folder / "cpu.max").split()
                quota, period = (words[0], words[1]) if len(words) == 2 else ("", "")
            else:
                quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
            if quota.isdecimal() and period.isdecimal() and int(period):
                quotas.append(int(quota) / int(period))
        least = min(quotas, default=math.inf)
        return None if math.isinf(least) else least

    def _folders(self, controller: str) -> Iterator[tuple[int, Path]]:
        """(version, folder) of the process's group and all those that it is in."""
        mounts = self._mounts(controller)
        for line in _read(self._proc / "cgroup").splitlines():
            number, controllers, path = (line.split(":", 2) + ["", ""])[:3]
            version = 2 if number == "0" and not controllers else 1
            if version == 1 and controller not in controllers.split(","):
                continue
            for top, root in mounts.get(version, []):
                # In a container what is mounted may be the group itself, or the path one of another view.
                inside = path.removeprefix(root) if root != "/" else path
                folder = top / inside.lstrip("/")
                if not folder.is_dir():
                    folder = top
                yield version, folder
                while folder != top:
                    folder = folder.parent
                    yield version, folder

    def _mounts(self, controller: str) -> dict[int, list[tuple[Path, str]]]:
        """version: [(where it is mounted, which group that is)]"""
        found: dict[int, list[tuple[Path, str]]] = {}
        for line in _read(self._proc / "mountinfo").splitlines():
            before, _, after = line.partition(" - ")
            fields, kind = before.split(), after.split()
            if len(fields) < 5 or not kind:
                continue
            if kind[0] == "cgroup2":
                found.setdefault(2, []).append((Path(fields[4]), fields[3]))
            elif kind[0] == "cgroup" and controller in kind[-1].split(","):
                found.setdefault(1, []).append((Path(fields[4]), fields[3]))
        return found


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as e:
        pass_on(e)
        return ""


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.isdecimal() else None


def _fields(path: Path, *names: str) -> int:
    """The sum of these lines of a file of names and numbers."""
    words = (line.split() for line in _read(path).splitlines())
    return sum(int(word[1]) for word in words if word[0] in names and word[1].isdecimal())


def has_room(nbytes: int, cgroups: Cgroups | None = None) -> bool:
    """May this process touch so much more memory? Where a group has reached its limit, the kernel kills."""
    room = (cgroups or Cgroups()).memory()
    return room is None or nbytes + _SPARE <= room[1]
