# SPDX-License-Identifier: MIT
"""Starting a nursery, and what it would inherit. No PyAV here."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable

from valkka_async.camera.source.secrets import parse
from valkka_async.camera.spec import CameraSpec

MODULE = "valkka_async.camera.workers.nursery"
_INHERITED = ("Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Cap")  # of /proc/PID/status
_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]


def spawn(fd: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a nursery that speaks on `fd`. Raises OSError.

    A new interpreter, not a fork, which would inherit the locks of threads that it does not have. The kernel
    ends it with the thread that calls this (prctl(2), PR_SET_PDEATHSIG), so this is no work for a pool of
    threads; it takes a millisecond or two.
    """
    if not sys.executable:
        raise FileNotFoundError("sys.executable is empty: this program embeds Python")
    # The terminal's Ctrl-C goes to it too, which will ignore it, but only when it has come to that.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(
            # -P: no module in the current directory may pass for one of ours.
            [sys.executable, "-P", "-m", MODULE, str(fd)],
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def environment(specs: Iterable[CameraSpec]) -> dict[str, str]:
    """For workers: this process's, without variables that are credentials of these cameras, and such that
    they import what this process imports."""
    urls, secrets = set(), set()
    for spec in specs:
        for url in spec.urls.values():
            address = parse(url)
            if address.secrets:
                urls |= {url, address.url}
                secrets |= set(address.findable)
    left = {
        name: value
        for name, value in os.environ.items()
        if value not in secrets and not any(one in value for one in urls)
    }
    path = [entry or os.getcwd() for entry in sys.path if isinstance(entry, str)]
    return left | {
        "PYTHONPATH": os.pathsep.join(entry for entry in path if os.pathsep not in entry),
        "OPENBLAS_NUM_THREADS": "1",  # numpy's would have threads, which nobody needs and no fork has
    }


def surroundings() -> tuple[object, ...]:
    """What a process inherits from this thread, beside its environment: equal as long as that is the same."""
    return (
        sys.executable,
        _link("cwd"),
        _link("fd/2"),  # standard error
        os.getpriority(os.PRIO_PROCESS, 0),
        os.sched_getscheduler(0),
        os.sched_getaffinity(0),
        [resource.getrlimit(limit) for limit in _LIMITS],
        [line for line in _read("status").splitlines() if line.startswith(_INHERITED)],
        _read("oom_score_adj"),
        _read("cgroup"),
    )


def _link(name: str) -> str:
    """What one that the kernel has of this thread points to; "": it does not."""
    try:
        return os.readlink(f"/proc/thread-self/{name}")
    except OSError:
        return ""


def _read(name: str) -> str:
    """A file that the kernel has of this thread; "": it does not."""
    try:
        with open(f"/proc/thread-self/{name}") as file:
            return file.read()
    except OSError:
        return ""
