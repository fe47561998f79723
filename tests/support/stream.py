"""A port that sends bytes at a pace, to each who connects: an encoder over TCP, or a camera over HTTP."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, Self

import valkka_async as va


def patient(url: str, **options: Any) -> va.Camera:
    """A camera that connects once, however long it waits for what a gate holds back."""
    return va.Camera("cam", url, open_timeout=600, read_timeout=600, **options)


class Gate:
    """Lets so many pieces of each connection through, and more when told."""

    def __init__(self, first: float = math.inf) -> None:
        self._count, self._closed = first, False
        self._changed = threading.Condition()

    def let(self, more: int) -> None:
        with self._changed:
            self._count += more
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def passes(self, number: int) -> bool:
        """Wait until piece `number`, from 0, may go. False: none goes any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or number < self._count)
            return not self._closed


class ByteServer:
    """On 127.0.0.1, in threads. Each connection gets `head`, and then `pieces` at `fps`, again and again or
    `once`, as far as `gate` lets them; before that the first line of a request, if it is one of HTTP."""

    def __init__(
        self,
        pieces: Sequence[bytes],
        fps: float = 25,
        *,
        head: bytes = b"",
        http: bool = False,
        once: bool = False,
        start: int = 0,
        gate: Gate | None = None,
    ) -> None:
        self.connections = 0
        self._gate, self._counts = gate or Gate(), gate is not None
        self._stop = threading.Event()
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True
            timeout = 10

            def handle(self) -> None:
                outer.connections += 1
                try:
                    while http and self.rfile.readline().strip():
                        pass
                    self.wfile.write(head)
                    outer._send(self.wfile, pieces[start:] if once else _forever(pieces, start), fps)
                except OSError:
                    pass

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = False

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, scheme: str = "http", path: str = "") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def _send(self, out: Any, pieces: Iterable[bytes], fps: float) -> None:
        began = last = time.monotonic()
        for number, piece in enumerate(pieces):
            # What is counted out does not catch up: what comes at once tells a reader less.
            due = last + 1 / fps if number and self._counts else began + number / fps
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            if not self._gate.passes(number):
                return
            out.write(piece)
            last = time.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._gate.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _forever(pieces: Sequence[bytes], start: int) -> Iterable[bytes]:
    while True:
        yield from pieces[start:]
        start = 0


# Not of those that the kernel gives away, one of which somebody else may get before a program has bound it.
_PORTS = range(20_000, 32_000)
_places = itertools.count(os.getpid() * 7919)  # of another process's own, elsewhere


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that nobody has now, and that was not given to anybody before."""
    for place in itertools.islice(_places, len(_PORTS)):
        port = _PORTS[place % len(_PORTS)]
        with socket.socket(type=kind) as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")
