"""Run a program, or a test, in a network namespace of its own: nothing but loopback.

FFmpeg's RTSP client binds its UDP sockets to all interfaces. In a namespace without interfaces that
reaches nothing.

    @in_netns
    def test_udp(...): ...

This file is a program too, which enters the namespace and becomes the command on its line.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import functools
import inspect
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # <linux/sched.h>; os.unshare needs Python 3.12
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCADDRT = 0x8913, 0x8914, 0x890B  # <linux/sockios.h>
IFF_UP, IFF_MULTICAST, RTF_UP = 1, 0x1000, 1  # <linux/if.h>, <linux/route.h>
INSIDE = "VALKKA_TEST_NETNS"
F = TypeVar("F", bound=Callable[..., Any])


def enter() -> None:
    """Move this process to a new network namespace and bring its loopback up. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNET) != 0:
        # Not root. Where the kernel lets anybody make a user namespace, that gives the right to.
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "no network namespace: " + os.strerror(ctypes.get_errno()))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = fcntl.ioctl(s, SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
        (flags,) = struct.unpack_from("h", request, 16)
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP | IFF_MULTICAST))
        # Groups (224.0.0.0/4) are reached over it, too: a struct rtentry
        device = ctypes.create_string_buffer(b"lo")
        ends = [
            struct.pack("=H2x4s8x", socket.AF_INET, socket.inet_aton(address))
            for address in ("224.0.0.0", "0.0.0.0", "240.0.0.0")
        ]
        where = ctypes.addressof(device)
        fcntl.ioctl(
            s, SIOCADDRT, struct.pack("@L16s16s16sHhLPhPLLH", 0, *ends, RTF_UP, 0, 0, 0, 0, where, 0, 0, 0)
        )


def run_in_netns(argv: Sequence[str | Path], *, timeout: float = 170) -> subprocess.CompletedProcess[str]:
    """Run a command there; stdout and stderr come back together. Raises subprocess.TimeoutExpired."""
    return subprocess.run(
        [sys.executable, __file__, *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        env=os.environ | {INSIDE: "1", "PYTEST_ADDOPTS": ""},  # a report is the outer pytest's
    )


@functools.cache
def netns_available() -> str | None:
    """None, or why there can be no network namespace here."""
    done = run_in_netns([sys.executable, "-c", ""])
    return None if done.returncode == 0 else done.stdout.strip().splitlines()[-1]


def in_netns(test: F, *, seconds: float = 150) -> F:
    """Decorator: the test's body runs in a pytest of its own, in a network namespace, for `seconds` at most.

    The outer pytest sets up the same fixtures, so let a heavy one start its work only when asked.
    """

    def rerun() -> None:
        from .require import missing  # here: as a program this file belongs to no package

        if reason := netns_available():
            missing(reason)
        # "tests/test_x.py::test_y[a] (call)"; the path may be relative to another directory than ours
        node = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0].partition("::")[2]
        target = f"{inspect.getfile(test)}::{node}"
        options = ["-q", "-p", "no:cacheprovider", "-m", ""]  # a long one, too
        command = [sys.executable, "-m", "pytest", *options, target]
        done = run_in_netns(command, timeout=seconds)
        if done.returncode == 0 and "1 skipped" in done.stdout:
            missing(f"skipped in its namespace:\n{done.stdout}")
        assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout

    if inspect.iscoroutinefunction(test):

        @functools.wraps(test)
        async def outside_async(*args: Any, **kwargs: Any) -> None:
            if INSIDE in os.environ:
                await test(*args, **kwargs)
            else:
                with ThreadPoolExecutor(1) as pool:  # joined here: the loop's own would outlive the test
                    await asyncio.get_running_loop().run_in_executor(pool, rerun)

        return cast(F, outside_async)

    @functools.wraps(test)
    def outside(*args: Any, **kwargs: Any) -> None:
        if INSIDE in os.environ:
            test(*args, **kwargs)
        else:
            rerun()

    return cast(F, outside)


def main() -> NoReturn:
    try:
        enter()
    except OSError as e:
        sys.exit(e.strerror)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
