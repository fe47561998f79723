# SPDX-License-Identifier: MIT
"""Starting a worker process. No PyAV here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable

from valkka_async.camera.source.secrets import parse
from valkka_async.camera.spec import CameraSpec

MODULE = "valkka_async.camera.workers.worker"


def spawn(fd: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a worker that speaks on `fd`. Raises OSError.

    A new interpreter, not a fork, which would inherit the locks of threads that it does not have. The kernel
    ends it with the thread that calls this (prctl(2), PR_SET_PDEATHSIG), so this is no work for a pool of
    threads; it takes a millisecond or two.
    """
    if not sys.executable:
        raise FileNotFoundError("sys.executable is empty: this program embeds Python")
    # The terminal's Ctrl-C goes to the worker too, which will ignore it, but only when it has come to that.
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
    """For a worker: this process's, without variables that are credentials of these cameras, and such that
    it imports what this process imports."""
    urls, secrets = set(), set()
    for spec in specs:
        address = parse(spec.url)
        if address.secrets:
            urls |= {spec.url, address.url}
            secrets |= set(address.findable)
    left = {
        name: value
        for name, value in os.environ.items()
        if value not in secrets and not any(url in value for url in urls)
    }
    path = [entry or os.getcwd() for entry in sys.path if isinstance(entry, str)]
    return left | {"PYTHONPATH": os.pathsep.join(entry for entry in path if os.pathsep not in entry)}
