# SPDX-License-Identifier: MIT
"""The kernel, and the limits of a process."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import resource
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from valkka_async.cgroups import Cgroups
from valkka_async.cli.doctor.check import OK, PROBLEM, WARNING, Check

# linux/fcntl.h, linux/mman.h, linux/timex.h: Python does not name them all
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_SEAL_FUTURE_WRITE = 0x0010
_MADV_POPULATE_WRITE = 23
_TIME_ERROR = 5
_TIMEX_BYTES = 512  # more than struct timex has anywhere

# Descriptors of a camera with three rings that four readers read, readers included: counted.
_PER_CAMERA = 40
_OTHERS = 64  # that a process has anyway
_USUAL = 1024
_MB = 1_000_000
_LITTLE_MEMORY, _TOO_LITTLE = 500 * _MB, 100 * _MB
_UDP_BUFFER = 1 << 20  # bytes that camera/source.py asks for


def python() -> Check:
    """The interpreter. One that is too old does not get here."""
    return Check("Python", OK, f"{platform.python_version()} ({sys.executable})")


def kernel() -> Iterator[Check]:
    """Sealed memory, which rings need, and what makes them faster."""
    found = f"Linux {platform.release()}, {platform.machine()}"
    reason = sealing()
    if reason:
        fix = "use Linux 5.1 or newer, and no sandbox without sealed memory (gVisor)"
        yield Check("kernel", PROBLEM, f"{found}: {reason}", fix)
        return
    yield Check("kernel", OK, f"{found}; memory can be sealed")
    if not _populates():
        fix = "use Linux 5.14 or newer"
        yield Check("populate", WARNING, "no MADV_POPULATE_WRITE: the first frames of a ring are slower", fix)
    if not os.access("/proc/self/task", os.R_OK) or not _syscall_is_shown():
        fix = (
            "let this process read its own /proc/self/task/*/syscall (seccomp, hidepid, a kernel without it)"
        )
        yield Check("hangs", WARNING, "a camera that hangs is noticed late", fix)


def sealing() -> str:
    """Try to seal memory as a ring needs it: why that fails, "" if it works."""
    try:
        fd = os.memfd_create("valkka-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (OSError, AttributeError) as e:
        return f"memfd_create fails ({_reason(e)})"
    try:
        os.ftruncate(fd, mmap.PAGESIZE)
        with mmap.mmap(fd, mmap.PAGESIZE) as ours:
            try:
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS | _SEAL_FUTURE_WRITE)
            except OSError as e:
                return f"F_SEAL_FUTURE_WRITE fails ({_reason(e)})"
            ours[0] = 1  # our own map goes on working
            try:
                mmap.mmap(fd, mmap.PAGESIZE).close()
            except OSError:
                return ""
            return "F_SEAL_FUTURE_WRITE does not keep others from writing"
    except OSError as e:
        return f"a memfd cannot be used ({_reason(e)})"
    finally:
        os.close(fd)


def _populates() -> bool:
    try:
        with mmap.mmap(-1, mmap.PAGESIZE) as some:
            some.madvise(_MADV_POPULATE_WRITE)
    except OSError:
        return False
    return True


def _syscall_is_shown() -> bool:
    try:
        return bool(Path("/proc/thread-self/syscall").read_text())
    except OSError:
        return False


def descriptors() -> Check:
    """RLIMIT_NOFILE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Check("descriptors", OK, "no limit")
    cameras = max(0, (soft - _OTHERS) // _PER_CAMERA)
    found = f"{soft} per process: enough for about {cameras} cameras in one"
    if soft >= _USUAL:
        return Check("descriptors", OK, found)
    most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    fix = f"ulimit -n {most}, or LimitNOFILE={most} in the systemd unit"
    if most < _USUAL:
        fix = (
            "raise the hard limit: LimitNOFILE=65536 in a systemd unit, --ulimit nofile=65536 for a container"
        )
    return Check("descriptors", PROBLEM if cameras < 1 else WARNING, found, fix)


class Room(NamedTuple):
    """Memory in bytes: of the machine, and of the control group if that has less."""

    total: int
    free: int
    limit: tuple[int, int] | None  # and what is left of it

    @property
    def left(self) -> int:
        return self.free if self.limit is None else min(self.free, self.limit[1])


def room(cgroups: Cgroups | None = None, meminfo: Path = Path("/proc/meminfo")) -> Room:
    """How much memory there is."""
    values = {
        key: int(rest.split()[0]) * 1024
        for key, _, rest in (line.partition(":") for line in meminfo.read_text().splitlines())
        if rest.split() and rest.split()[0].isdecimal()
    }
    total, free = values["MemTotal"], values.get("MemAvailable", values.get("MemFree", 0))
    limit = (cgroups or Cgroups()).memory()
    return Room(total, free, limit if limit is not None and limit[0] < total else None)


def memory(cgroups: Cgroups | None = None, meminfo: Path = Path("/proc/meminfo")) -> Check:
    """What is left of the memory of the machine and of the container."""
    there = room(cgroups, meminfo)
    found = f"{there.free / 1e9:.1f} of {there.total / 1e9:.1f} GB are free"
    fix = "run less beside it; scale outputs down (size=), or give them fewer slots"
    if there.limit is not None:
        found += f"; this control group has {there.limit[1] / 1e9:.1f} of {there.limit[0] / 1e9:.1f} GB left"
        if there.limit[1] < there.free:
            fix = "raise the limit (--memory of the container, MemoryMax= of the unit): rings count there"
    if there.left < _LITTLE_MEMORY:
        return Check("memory", PROBLEM if there.left < _TOO_LITTLE else WARNING, found, fix)
    return Check("memory", OK, found)


def cores(cgroups: Cgroups | None = None) -> Check:
    """How many there are, by affinity and by quota."""
    here = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0))
    found = f"{usable}" if usable == here else f"{usable} of {here}"
    quota = (cgroups or Cgroups()).cores()
    if quota is not None and quota < usable:
        found += f", of which this control group may use {quota:.1f}"
        if quota < 1:
            fix = "raise the quota (--cpus of the container, CPUQuota= of the unit)"
            return Check("cores", WARNING, found, fix)
    return Check("cores", OK, found)


def udp() -> Check:
    """The receive buffer that a camera over UDP gets."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UDP_BUFFER)
        # The kernel doubles what is asked for, and tells that.
        got = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    found = f"{got // 1024} kB receive buffer, for transport=udp"
    if got < _UDP_BUFFER:
        fix = f"sysctl -w net.core.rmem_max={4 * _UDP_BUFFER} (and in /etc/sysctl.d/), or use TCP"
        return Check("UDP", WARNING, f"{found}: key frames will lose packets", fix)
    return Check("UDP", OK, found)


def clock() -> Check:
    """Whether the clock is synchronised."""
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))  # no modes: it only asks
    if state < 0:
        return Check("clock", OK, "the kernel does not say whether it is synchronised")
    if state == _TIME_ERROR:
        fix = "install chrony, or timedatectl set-ntp true (a container has the clock of its host)"
        return Check("clock", WARNING, "not synchronised: recordings and capture times may be off", fix)
    return Check("clock", OK, "synchronised")


def _reason(e: Exception) -> str:
    return getattr(e, "strerror", None) or type(e).__name__
