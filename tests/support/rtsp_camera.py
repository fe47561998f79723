"""A camera that misbehaves as it is told: RTSP over TCP and UDP, in threads of the test, on 127.0.0.1.

GStreamer's server (rtsp.py) is a camera that does all right. This one refuses, redirects, is silent, stamps
its packets with any clock, and sends them as it likes.
"""

from __future__ import annotations

import re
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from .rtsp_sound import RtspSound

_MTU = 1300
GROUP, GROUP_PORT = "239.255.42.7", 32000  # for multicast
_SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=cam\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 {name}/90000\r\na=fmtp:96 {format}\r\na=control:track1\r\n"
)
_SOUND = "m=audio 0 RTP/AVP {type}\r\n{sdp}a=control:track2\r\n"
_NTP = 3_900_000_000  # seconds of NTP's time when a camera begins to play
_REPORT = 1.0  # s between reports
_FORMATS = {"H264": "packetization-mode=1", "H265": "sprop-max-don-diff=0"}


def access_units(path: Path) -> list[bytes]:
    """Those of a file of H.264, each as it is in the file."""
    units: list[bytes] = []
    begin = b""
    for nal in re.split(rb"\x00?\x00\x00\x01", path.read_bytes())[1:]:
        begin += b"\0\0\0\1" + nal
        if nal[0] & 31 in (1, 5):
            units.append(begin)
            begin = b""
    return units


class RtspCamera:
    """Plays `units` at a real `fps`, in a loop, or `once`. `clock` gives the RTP timestamp of a packet from
    its number and the seconds that have passed; by default it is right.

    `refuse` maps a method to the status and headers that it is answered with. `silent`: no frame is sent.
    `payloads` makes a unit's; `marks` says of each of them, from its place, their number and itself, whether
    it has RTP's marker. `sending` gets the number of a unit and its packets, and gives those to send instead;
    it may take its time over each. `apart`: over TCP, lengths are sent by themselves, as some servers do, and
    the next packet when the kernel thinks fit (Nagle). `sound`: a second track. `forgets`: seconds in
    which it wants to hear that the reader is there; `says`: what comes with the answer.
    """

    def __init__(
        self,
        units: list[bytes],
        *,
        fps: float = 25,
        clock: Callable[[int, float], int] | None = None,
        refuse: dict[str, tuple[str, list[str]]] | None = None,
        silent: bool = False,
        once: bool = False,
        apart: bool = False,
        codec: str = "h264",
        payloads: Callable[[bytes], list[bytes]] | None = None,
        marks: Callable[[int, int, bytes], bool] = lambda place, count, _: place == count - 1,
        sending: Callable[[int, list[bytes]], Iterable[bytes]] = lambda _, packets: packets,
        sound: RtspSound | None = None,
        forgets: int = 60,
        says: str = "",
    ) -> None:
        self.units, self.fps, self.silent, self.once = units, fps, silent, once
        self.payloads = payloads or {"h264": h264, "h265": h265}[codec]
        self.marks, self.sending, self.apart = marks, sending, apart
        self.sound = sound
        self.forgets, self.says = forgets, says
        name = codec.upper()
        self.sdp = _SDP.format(name=name, format=_FORMATS[name])
        self.clock = clock or (lambda number, _: round(number * 90000 / fps))
        self.refuse = refuse or {}
        self.requests: list[tuple[float, str, dict[str, str]]] = []  # monotonic time, method, headers
        self.connections = 0
        self.thinks = 0.0  # s before each answer
        self.go = threading.Event()  # cleared, it makes readers wait for the first frame
        self.go.set()
        self._stop = threading.Event()
        self._open: set[socket.socket] = set()
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                outer.connections += 1
                outer._open.add(self.request)
                try:
                    outer._serve(self)
                except (OSError, ValueError):
                    pass
                finally:
                    outer._open.discard(self.request)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            request_queue_size = 128  # cameras that connect at once
            daemon_threads = False

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._server.shutdown()
        self._thread.join()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._server.server_close()

    def url(self, path: str = "/live", login: str = "") -> str:
        return f"rtsp://{login}127.0.0.1:{self._server.server_address[1]}{path}"

    def drop(self) -> None:
        """Close the connections that there are."""
        for connection in list(self._open):
            connection.shutdown(socket.SHUT_RDWR)

    def asked(self, method: str) -> list[float]:
        """When this was asked for."""
        return [at for at, name, _ in self.requests if name == method]

    def _serve(self, handler: Any) -> None:
        over = threading.Event()
        player: threading.Thread | None = None
        pairs: list[list[socket.socket]] = []  # of RTP and RTCP, for each track
        listens = False
        try:
            while line := handler.rfile.readline().decode("latin-1"):
                if line.startswith("$"):  # a report of the receiver's, of RTCP
                    continue
                words = line.split()
                if len(words) != 3 or not words[2].startswith("RTSP/"):
                    continue
                headers = {}
                while (line := handler.rfile.readline().decode("latin-1").strip()) != "":
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                method = words[0]
                self.requests.append((time.monotonic(), method, headers))
                time.sleep(self.thinks)
                track = words[1].rpartition("/")[2]
                answer = self.refuse.get(method, ("200 OK", []))
                status, more = self.refuse.get(f"{method} {track}", answer)
                body = ""
                if status.startswith("200"):
                    more, body = self._answer(method, words[1], more)
                listens = listens or (method == "SETUP" and track == "track2" and status.startswith("200"))
                if method == "SETUP" and "multicast" in headers["transport"]:
                    pair = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(2)]
                    port = GROUP_PORT + 2 * len(pairs)
                    pairs.append(pair)
                    for more_than, one in enumerate(pair):
                        home = socket.inet_aton("127.0.0.1")
                        one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, home)
                        one.connect((GROUP, port + more_than))
                    where = f"destination={GROUP};port={port}-{port + 1};ttl=1"
                    more = [f"Transport: RTP/AVP;multicast;{where};ssrc=0000002A", "Session: 1"]
                elif method == "SETUP" and (ports := re.search(r"client_port=(\d+)-", headers["transport"])):
                    pair = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(2)]
                    pairs.append(pair)
                    for more_than, one in enumerate(pair):
                        one.bind(("127.0.0.1", 0))
                        one.connect(("127.0.0.1", int(ports[1]) + more_than))
                    own = "-".join(str(one.getsockname()[1]) for one in pair)
                    more = [
                        f"Transport: {headers['transport']};server_port={own};ssrc=0000002A",
                        "Session: 1",
                    ]
                lines = [f"RTSP/1.0 {status}", f"CSeq: {headers.get('cseq', '0')}", *more]
                if body:
                    lines.append(f"Content-Length: {len(body)}")
                handler.wfile.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
                if method == "TEARDOWN":
                    return
                if method == "PLAY" and status.startswith("200") and not self.silent and player is None:
                    player = threading.Thread(target=self._play, args=(handler.request, pairs, listens, over))
                    player.start()
        finally:
            over.set()
            if player is not None:
                player.join()
            for pair in pairs:
                for one in pair:
                    one.close()

    def _told(self) -> str:
        if self.sound is None:
            return self.sdp
        return self.sdp + _SOUND.format(type=self.sound.type, sdp=self.sound.sdp)

    def _answer(self, method: str, url: str, more: list[str]) -> tuple[list[str], str]:
        match method:
            case "OPTIONS":
                return [*more, "Public: OPTIONS, DESCRIBE, SETUP, TEARDOWN, PLAY, GET_PARAMETER"], ""
            case "DESCRIBE":
                return [*more, "Content-Type: application/sdp", f"Content-Base: {url}/"], self._told()
            case "SETUP":
                channels = "2-3" if url.endswith("track2") else "0-1"
                transport = f"Transport: RTP/AVP/TCP;unicast;interleaved={channels};ssrc=0000002A"
                return [*more, f"Session: 1;timeout={self.forgets}", transport], ""
            case "GET_PARAMETER":
                return [*more, "Session: 1"], self.says
        return [*more, "Session: 1"], ""

    def _play(
        self,
        connection: socket.socket,
        pairs: list[list[socket.socket]],
        listens: bool,
        over: threading.Event,
    ) -> None:
        while not self.go.wait(0.05):
            if over.is_set() or self._stop.is_set():
                return
        began, number, sequence = time.monotonic(), 0, 0
        if not pairs and not self.apart:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def send(channel: int, packet: bytes) -> None:
            if pairs:
                pairs[channel // 2][channel % 2].send(packet)
                return
            packet = struct.pack(">cBH", b"$", channel, len(packet)) + packet
            if self.apart:
                connection.sendall(packet[:4])
                packet = packet[4:]
            connection.sendall(packet)

        sound = self.sound if listens else None
        said, heard, reported = 0, 0, _REPORT
        try:
            while not (self.once and number == len(self.units)):
                due = number / self.fps
                if sound is not None:
                    due = min(due, sound.due(heard))
                if over.wait(max(0.0, began + due - time.monotonic())) or self._stop.is_set():
                    return
                if sound is not None and sound.due(heard) <= number / self.fps:
                    if sound.sent(heard, sound.begins(heard) / sound.rate):
                        head = struct.pack(
                            ">BBHII", 0x80, 0x80 | sound.type, said & 0xFFFF, sound.time(heard), 0x2B
                        )
                        send(2, head + sound.payload(heard))
                        said += 1
                    heard += 1
                    continue
                stamp = self.clock(number, time.monotonic() - began) & 0xFFFFFFFF
                reports = []
                if sound is not None and sound.report and number / self.fps >= reported:
                    reported += _REPORT
                    at = sound.begins(heard) / sound.rate
                    reports.append((3, _report(0x2B, at, sound.time(heard))))
                    reports.append((1, _report(0x2A, number / self.fps, stamp)))
                payloads = self.payloads(self.units[number % len(self.units)])
                packets = []
                for place, payload in enumerate(payloads):
                    marker = 0x80 if self.marks(place, len(payloads), payload) else 0
                    head = struct.pack(">BBHII", 0x80, marker | 96, sequence & 0xFFFF, stamp, 0x2A)
                    packets.append(head + payload)
                    sequence += 1
                for packet in self.sending(number, packets):
                    send(0, packet)
                    for channel, report in reports:  # behind the first packet of a frame: the worst place
                        send(channel, report)
                    reports = []
                number += 1
        except OSError:  # the reader has left
            pass


def _report(ssrc: int, seconds: float, stamp: int) -> bytes:
    """A sender report of RTCP (RFC 3550, 6.4.1): what RTP's clock says at a time."""
    ntp = round((_NTP + seconds) * (1 << 32))
    return struct.pack(">BBHIQIII", 0x80, 200, 6, ssrc, ntp, stamp, 0, 0)


def nals(unit: bytes) -> list[bytes]:
    """The codec's own units that an access unit is made of."""
    return re.split(rb"\x00?\x00\x00\x01", unit)[1:]


def _pieces(nal: bytes, header: int) -> Iterator[tuple[int, bytes]]:
    """A unit too large for a packet, without its header: (the flags of first and last, piece)."""
    starts = range(header, len(nal), _MTU)
    for at in starts:
        yield (0x80 if at == starts[0] else 0) | (0x40 if at == starts[-1] else 0), nal[at : at + _MTU]


def h264(unit: bytes) -> list[bytes]:
    """The RTP payloads of an access unit (RFC 6184)."""
    payloads = []
    for nal in nals(unit):
        if len(nal) <= _MTU:
            payloads.append(nal)
            continue
        for flags, piece in _pieces(nal, 1):
            payloads.append(bytes([nal[0] & 0xE0 | 28, flags | nal[0] & 0x1F]) + piece)
    return payloads


def h264_together(unit: bytes) -> list[bytes]:
    """The same with all that is small in one payload (STAP-A): parameter sets and slices."""
    whole = [nal for nal in nals(unit) if len(nal) <= _MTU]
    rest = b"".join(b"\0\0\0\1" + nal for nal in nals(unit) if len(nal) > _MTU)
    if len(whole) < 2 or sum(map(len, whole)) > 2 * _MTU:
        return h264(unit)
    return [b"\x78" + b"".join(struct.pack(">H", len(nal)) + nal for nal in whole), *h264(rest)]


def h265(unit: bytes) -> list[bytes]:
    """The RTP payloads of an access unit (RFC 7798)."""
    payloads = []
    for nal in nals(unit):
        if len(nal) <= _MTU:
            payloads.append(nal)
            continue
        for flags, piece in _pieces(nal, 2):
            payloads.append(bytes([nal[0] & 0x81 | 98, nal[1], flags | nal[0] >> 1 & 0x3F]) + piece)
    return payloads
