"""A TCP proxy before an RTSP server that changes what the server says before the stream plays."""

from __future__ import annotations

import re
import select
import socket
import threading
from typing import Self


class Proxy:
    """Forwards connections to a port on 127.0.0.1. Takes from the SDP whatever `remove` matches."""

    def __init__(self, port: int, remove: bytes) -> None:
        self.remove = re.compile(remove)
        self.removed = 0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stop, self._stopped = socket.socketpair()
        self._threads = [threading.Thread(target=self._accept)]
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.close()
        for thread in self._threads:
            thread.join()
        self._stopped.close()
        self._listener.close()

    def _accept(self) -> None:
        while self._stopped not in (ready := select.select([self._listener, self._stopped], [], [])[0]):
            assert ready
            client, _ = self._listener.accept()
            self._threads.append(threading.Thread(target=self._forward, args=(client,)))
            self._threads[-1].start()

    def _forward(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            while True:
                ready = select.select([client, server, self._stopped], [], [])[0]
                if self._stopped in ready:
                    return
                for source, target in ((client, server), (server, client)):
                    if source not in ready:
                        continue
                    try:
                        data = source.recv(1 << 16)
                        if not data:
                            return
                        target.sendall(self._changed(data) if source is server else data)
                    except OSError:
                        return

    def _changed(self, data: bytes) -> bytes:
        head, blank, sdp = data.partition(b"\r\n\r\n")
        if b"application/sdp" not in head:
            return data
        sdp, count = self.remove.subn(b"", sdp)
        self.removed += count
        return re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(sdp), head) + blank + sdp
