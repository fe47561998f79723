"""A server of RTMP that plays the tags of an FLV file, at a pace. It knows what players ask for, no more."""

from __future__ import annotations

import socketserver
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self

from support.stream import Gate

_HANDSHAKE = 1536  # bytes
_CHUNK = 1 << 16


def _text(text: str) -> bytes:
    return b"\x02" + struct.pack(">H", len(text)) + text.encode()


def _number(value: float) -> bytes:
    return b"\0" + struct.pack(">d", value)


def _status(code: str) -> bytes:
    pairs = (("level", "status"), ("code", code), ("description", code))
    inside = b"".join(struct.pack(">H", len(key)) + key.encode() + _text(value) for key, value in pairs)
    return b"\x03" + inside + b"\0\0\x09"


class RtmpServer:
    """On 127.0.0.1, in threads. Plays `pieces`, which together are an FLV file, at `fps`, as far as
    `gate` lets them."""

    def __init__(self, pieces: Sequence[bytes], fps: float, gate: Gate | None = None) -> None:
        self._gate, self._counts = gate or Gate(), gate is not None
        self._stop = threading.Event()
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True

            def handle(self) -> None:
                try:
                    self._talk()
                except (OSError, struct.error):
                    pass

            def _talk(self) -> None:
                self.rfile.read(1 + _HANDSHAKE)
                self.wfile.write(b"\x03" + bytes(2 * _HANDSHAKE))
                self.rfile.read(_HANDSHAKE)
                self._send(1, struct.pack(">I", _CHUNK), csid=2)
                for kind, data in self._messages():
                    if kind != 20:
                        continue
                    size = struct.unpack_from(">H", data, 1)[0]
                    name, (number,) = data[3 : 3 + size].decode(), struct.unpack_from(">d", data, 4 + size)
                    if name == "connect":
                        reply = b"\x05" + _status("NetConnection.Connect.Success")
                        self._send(20, _text("_result") + _number(number) + reply)
                    elif name == "createStream":
                        self._send(20, _text("_result") + _number(number) + b"\x05" + _number(1))
                    elif name == "play":
                        start = b"\x05" + _status("NetStream.Play.Start")
                        self._send(20, _text("onStatus") + _number(0) + start)
                        return self._play()

            def _messages(self) -> Iterator[tuple[int, bytes]]:
                chunk, known = 128, {}  # type: ignore[var-annotated]
                while first := self.rfile.read(1):
                    csid, form = first[0] & 63, first[0] >> 6
                    head = self.rfile.read((11, 7, 3, 0)[form])
                    size, kind, data = known.get(csid, (0, 0, b""))
                    if form < 2:
                        size, kind = int.from_bytes(head[3:6], "big"), head[6]
                    data += self.rfile.read(min(chunk, size - len(data)))
                    if len(data) == size:
                        if kind == 1:
                            chunk = int.from_bytes(data, "big")
                        yield kind, data
                        data = b""
                    known[csid] = size, kind, data

            def _send(self, kind: int, data: bytes, csid: int = 3, when: int = 0) -> None:
                head = when.to_bytes(3, "big") + len(data).to_bytes(3, "big") + bytes([kind])
                message = bytes([csid]) + head + struct.pack("<I", kind in (8, 9, 18))
                for at in range(0, len(data), _CHUNK):
                    message += (bytes([0xC0 | csid]) if at else b"") + data[at : at + _CHUNK]
                self.wfile.write(message)

            def _play(self) -> None:
                began = last = time.monotonic()
                for number, piece in enumerate(pieces):
                    due = last + 1 / fps if number and outer._counts else began + number / fps
                    if outer._stop.wait(max(0.0, due - time.monotonic())):  # as ByteServer
                        return
                    if not outer._gate.passes(number):
                        return
                    at = 13 if piece.startswith(b"FLV") else 0
                    while at < len(piece):
                        size = int.from_bytes(piece[at + 1 : at + 4], "big")
                        when = int.from_bytes(piece[at + 4 : at + 7], "big")
                        self._send(piece[at], piece[at + 11 : at + 11 + size], 4, when)
                        at += 15 + size
                    last = time.monotonic()

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = False

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def url(self, scheme: str = "rtmp", path: str = "/live/cam") -> str:
        return f"{scheme}://127.0.0.1:{self._server.server_address[1]}{path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stop.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
