# SPDX-License-Identifier: MIT
"""Messages between a supervisor and its nursery: packets of a SOCK_SEQPACKET pair. No PyAV here.

supervisor -> nursery   START     a worker is wanted; with its end of a channel, and a file for its last words
nursery -> supervisor   READY     everything is loaded
                        STARTED   it is there; with its pidfd
                        REFUSED   the system does not let it be
                        ENDED     it was there
"""

from __future__ import annotations

import array
import json
import os
import socket
from dataclasses import dataclass

from valkka_async import typed
from valkka_async.errors import DataError

_LONGEST = 1024  # bytes in a packet
_FDS = 2  # with it, at most


@dataclass(frozen=True, slots=True)
class Start:
    number: int  # STARTED or REFUSED repeats it
    thread: int  # the worker is to end with this thread (its kernel's number)


@dataclass(frozen=True, slots=True)
class Ready:
    pass


@dataclass(frozen=True, slots=True)
class Started:
    number: int
    pid: int
    threads: int  # that run in the nursery, so that this worker is a new interpreter and not a fork; 0: none


@dataclass(frozen=True, slots=True)
class Refused:
    number: int
    error: int  # errno


@dataclass(frozen=True, slots=True)
class Ended:
    pid: int
    status: int  # as Popen's: a signal is negative


Birth = Start | Ready | Started | Refused | Ended

_KINDS: dict[str, type[Birth]] = {
    "start": Start,
    "ready": Ready,
    "started": Started,
    "refused": Refused,
    "ended": Ended,
}
_OPS = {kind: op for op, kind in _KINDS.items()}


def send(sock: socket.socket, birth: Birth, *fds: int) -> None:
    """Send it, with descriptors. Raises OSError."""
    data = json.dumps({"op": _OPS[type(birth)]} | typed.encode(birth)).encode()
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])


def receive(sock: socket.socket) -> tuple[Birth, tuple[int, ...]] | None:
    """The next one, and its descriptors, which are the caller's. None: no more will come.

    Raises OSError, BlockingIOError among them, and DataError for what is no such message.
    """
    # Not socket.recv_fds(), which ignores its flags in Python up to 3.13.
    size = array.array("i").itemsize
    data, parts, _, _ = sock.recvmsg(_LONGEST, socket.CMSG_SPACE(_FDS * size), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, part in parts:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(part[: len(part) - len(part) % size])
    try:
        return (_decode(data), tuple(fds)) if data else None
    except DataError:
        for fd in fds:
            os.close(fd)
        raise


def _decode(packet: bytes) -> Birth:
    try:
        data = json.loads(packet)
    except (ValueError, RecursionError):
        data = None
    op = data.pop("op", None) if isinstance(data, dict) else None
    kind = _KINDS.get(op) if isinstance(op, str) else None
    if kind is None:
        raise DataError("not a message of a nursery")
    return typed.decode(kind, data)
