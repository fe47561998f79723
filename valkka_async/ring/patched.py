# SPDX-License-Identifier: MIT
"""gevent and eventlet replace the standard library's threads and sockets. The ring needs the real ones, so a
patched process is refused."""

from __future__ import annotations

import errno
import select
import socket
import sys
import threading
import time

from valkka_async.errors import ConnectError

_PATCHERS = ("gevent", "eventlet")


def reason() -> str:
    """What to say if the standard library is patched; "" if it is not."""
    if not any(patcher in sys.modules for patcher in _PATCHERS):
        return ""
    for thing in (socket.socket, select.select, time.sleep, threading.get_ident):
        patcher = (getattr(thing, "__module__", None) or "").partition(".")[0]
        if patcher in _PATCHERS:
            return (
                f"{patcher} has patched the standard library, but valkka-async needs the real one: "
                "use it in a process of its own, without monkey-patching"
            )
    return ""


def refuse() -> None:
    """Raises ConnectError if the standard library is patched."""
    if text := reason():
        raise ConnectError(errno.ENOTSUP, text)
