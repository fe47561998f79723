"""Readers and servers that speak the ring's protocol by hand, and say what they like."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import valkka_async as va
from valkka_async.ring import _shm, handshake


class Raw:
    """A reader that speaks the protocol by hand."""

    def __init__(self, runtime_dir: Path, policy: int = _shm.LATEST, leases: int = 4) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(5)
        self.sock.connect(str(runtime_dir / "s.sock"))
        self.sock.send(handshake.encode(handshake.Hello(policy, leases)))
        _, fds, _, _ = socket.recv_fds(self.sock, 4096, 4)
        self.page = mmap.mmap(fds[0], _shm.LEASE_PAGE_BYTES)
        self.bell = fds[1]
        os.close(fds[0])
        _, rings, _, _ = socket.recv_fds(self.sock, 4096, 4)
        for fd in rings:
            os.close(fd)

    def close(self) -> None:
        self.page.close()
        os.close(self.bell)
        self.sock.close()


Script = list[tuple[bytes, list[int]]]  # what to send, with which descriptors


class Liar(threading.Thread):
    """A server that answers with whatever ``script`` says: a list of (message bytes, descriptors). It hangs
    up when it has heard a word; ``deaf``: at once; ``patient``: with close(). ``first``: so many messages
    go at once, and the others when `enough` is set."""

    def __init__(
        self,
        path: Path,
        script: Script,
        *,
        deaf: bool = False,
        patient: bool = False,
        first: int | None = None,
    ) -> None:
        super().__init__(daemon=True)
        self.deaf = deaf
        self.first = first
        self.enough = threading.Event()
        self.hung_up = threading.Event()
        if not patient and first is None:
            self.enough.set()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.path = path
        self.listener.bind(str(path))
        self.listener.listen()
        self.script = script
        self.start()

    def run(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            try:
                for number, (data, fds) in enumerate(self.script):
                    if number == self.first:
                        self.enough.wait()
                    socket.send_fds(sock, [data], fds)
                if not self.deaf:
                    sock.recv(1)
            except OSError:
                pass
            self.enough.wait()
            sock.close()
            self.hung_up.set()

    def close(self) -> None:
        self.enough.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.join()
        self.path.unlink()
        for _, fds in self.script:
            for fd in fds:
                os.close(fd)


def memory(size: int, seals: int = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | 0x10, data: bytes = b"") -> int:
    fd = os.memfd_create("liar", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    os.pwrite(fd, data, 0)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


PAGE = _shm.LEASE_PAGE_BYTES
SHRINK = fcntl.F_SEAL_SHRINK
WRITE = 0x10  # F_SEAL_FUTURE_WRITE


def nowhere() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def pipe() -> int:
    """An end that is readable for ever: the other is closed."""
    reading, writing = os.pipe()
    os.close(writing)
    return reading


def welcome(page: int, generation: int = 1, bell: Callable[[], int] = pipe) -> tuple[bytes, list[int]]:
    return handshake.encode(handshake.Welcome(1, 0, generation)), [page, bell()]


def ring(size: int, fd: int, generation: int = 1) -> tuple[bytes, list[int]]:
    return handshake.encode(handshake.Ring(generation, size)), [fd]


def real_ring(seals: int) -> Script:
    """Nothing is wrong with it but its seals."""
    with va.serve("real", slots=3) as server:
        server.publish(b"x")
        size = server._writer.ring_size
        data = os.pread(server._writer.ring_fd, size, 0)
    return [welcome(memory(PAGE, SHRINK)), ring(size, memory(size, seals, data))]
