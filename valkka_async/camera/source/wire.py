# SPDX-License-Identifier: MIT
"""Where frames end on their way through RTP: a look at each packet before FFmpeg takes it from the socket.

The last packet of a frame has the marker bit of RTP (RFC 6184, RFC 7798), which FFmpeg does not pass on: its
parser waits for the next frame instead. So packets are looked at (MSG_PEEK) while they wait in FFmpeg's
sockets, in the thread that is about to call FFmpeg, and FFmpeg then reads them as ever. What was seen is
believed of a packet only if its size and its time are those of what FFmpeg hands out.

FFmpeg does not say which sockets are its own; the kernel does, while FFmpeg waits (deadline.py). Nor does it
say which channel of the connection, or which socket, is that of the picture and which has the sound. Each is
a flow of its own here, and that of the picture is the one whose sizes and times are those of what FFmpeg
hands out.
"""

from __future__ import annotations

import re
import select
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeAlias

from valkka_async.camera.mp4 import nal
from valkka_async.camera.source._rtp import WINDOW, Flow, Window
from valkka_async.camera.source.deadline import Deadline
from valkka_async.camera.source.packet import AnyPacket, VideoPacket

_A_MOMENT = 1  # ms; and so often it is given to cameras whose headers come by themselves
_WAITS = 3
_GLANCE = 200  # ms between looks whether to go on, where no connection can be shut down
_TEXT = re.compile(rb"[A-Za-z]")
_BLANK_LINE = re.compile(rb"\n\r?\n")
_CONTENT_LENGTH = re.compile(rb"^content-length[ \t]*:[ \t]*([0-9]{1,6})", re.IGNORECASE | re.MULTILINE)

# What FFmpeg gave, whether that was marked as the end of a frame, and RTP's time of it (None: not known).
Read: TypeAlias = "tuple[AnyPacket | None, bool | None, int | None]"


class Wire:
    """Reads from FFmpeg, one packet of RTP after the other. Belongs to the thread of `deadline`; without one,
    nothing is looked at. `video`: the index of the picture's stream; packets of others are those of sound.
    `goes_on`: False when there is no time left. `counted`: they come over the connection that
    `deadline` has counted, and are seen from the first on. `tcp`: they come over a connection."""

    def __init__(
        self,
        deadline: Deadline | None,
        codec: nal.Codec,
        video: int = 0,
        goes_on: Callable[[], bool] = lambda: True,
        *,
        counted: bool = False,
        tcp: bool = False,
    ) -> None:
        self._deadline = deadline
        # The kinds of a packet that has a piece of a unit, or several, or of which FFmpeg makes nothing.
        kinds: tuple[Iterable[int], ...] = (49,), (48,), range(50, 64)
        if codec is nal.H264:
            kinds = (28,), (24,), (25, 26, 27, 29, 30, 31)
        pieces, several, nothing = ([kind << codec.shift for kind in those] for those in kinds)
        self._window = Window(codec.mask << codec.shift, codec.header, pieces, several, nothing, _message)
        self._video = video
        self._goes_on = goes_on
        self._stream: socket.socket | None = None  # the connection, if packets come over it
        self._rtp: list[socket.socket] = []  # else the sockets over which they come
        self._held: list[socket.socket] = []
        self._poll = select.poll()
        self._others = select.poll()  # over UDP, what is not the picture's
        self._odd: list[AnyPacket | None] = []  # what was read, and is another one than was seen
        self._picture: Flow | None = None  # which of the flows seen it is
        self._newest: AnyPacket | None = None  # of the picture, over UDP
        self._waits = _WAITS
        self._waited = False
        self._tcp = tcp
        self._loose = not tcp and deadline is not None
        if deadline is not None:
            deadline.find(counted=counted)

    def close(self) -> None:
        """Let go of the sockets."""
        if self._deadline is not None:
            self._held += self._deadline.found()
        for one in self._held:
            one.close()
        self._held, self._rtp, self._stream = [], [], None

    def has_waited(self) -> bool | None:
        """Had it to wait for a packet since this was asked last, or may have? None: that is not seen."""
        waited, self._waited = self._waited, False
        if self._stream is None and not (self._tcp and self._deadline and self._deadline.finding):
            return None
        return waited

    def read(self, step: Callable[[], AnyPacket | None]) -> Read:
        """What `step`, a call into FFmpeg, returns. Waits where FFmpeg would; but packets of sound may lie
        until there is one of the picture: taking one, FFmpeg might go on waiting where we could not look."""
        if not self._held and self._deadline is not None:
            self._adopt(self._deadline.found())
        window = self._window
        while True:
            picture = self._picture
            if self._stream is not None:
                if not window.seen:
                    self._look(self._stream)
            elif self._rtp:
                if not self._goes_on():  # FFmpeg would, as long as there are any
                    return None, None, None
                self._look_at_datagrams()
            packet = self._odd.pop() if self._odd else step()
            if packet is None or packet.stream_index != self._video:
                if picture is None:
                    for flow in window.flows.values():  # one of them had it; what is left will be seen again
                        flow.clear()
                return packet, None, None
            if picture is not None and (seen := picture.next(packet)) is not None:
                read: Read = packet, *seen
            elif picture is None or not picture.twice(packet):
                read = self._match(packet)
                if (picture is None or read[1] is None) and self._doubles(packet):
                    continue
            elif self._doubles(packet):
                continue
            else:  # a camera that does not count
                read = packet, None, None
            if self._loose:
                self._newest = packet
            return read

    def _doubles(self, packet: AnyPacket) -> bool:
        """Is this the one before once more? The network can double datagrams, and FFmpeg hands out both."""
        newest = self._newest
        if newest is None or newest.size != packet.size or newest.pts != packet.pts:
            return False
        return bytes(newest) == bytes(packet)

    def pieces(
        self, step: Callable[[], AnyPacket | None], newest: VideoPacket, into: list[VideoPacket]
    ) -> bool:
        """Put those into a list that only go on with the unit (NAL) of the newest packet, as far as they were
        seen. Was the last of them marked? Over TCP, where most are such."""
        if self._picture is None or self._stream is None:
            return False
        marked = self._picture.pieces(step, newest, into)
        if not isinstance(marked, bool):
            self._odd.extend(marked)
            return False
        return marked

    def _match(self, packet: AnyPacket) -> Read:
        for key, flow in self._window.flows.items():
            found = flow.match(packet)
            if found is None:
                continue
            marked, time, right = found
            if right and self._picture is None:
                self._settle(key)
            if right:
                return packet, marked, time
            # A connection keeps their order: it is this one, although its time was moved.
            return packet, None, time if self._picture is not None and self._stream is not None else None
        return packet, None, None

    def _settle(self, key: int) -> None:
        """This one is the picture's."""
        self._picture = self._window.flows[key]
        self._window.settle(key)
        for one in self._rtp:
            if one.fileno() != key:
                self._poll.unregister(one)
                self._others.register(one, select.POLLIN)

    def _adopt(self, sockets: list[socket.socket]) -> None:
        self._held = sockets
        streams = [one for one in sockets if one.type == socket.SOCK_STREAM]
        self._rtp = _without_reports(one for one in sockets if one.type == socket.SOCK_DGRAM)
        self._stream = streams[0] if len(streams) == len(sockets) == 1 else None
        for one in (*streams, *self._rtp):
            one.setblocking(False)  # as FFmpeg has it; else Python would wait for a default timeout
            self._poll.register(one, select.POLLIN)

    # --------------------------------------------------------------------------------------- TCP

    def _look(self, stream: socket.socket) -> None:
        """Wait for the next packets of RTP, and note what they are."""
        window, there = self._window, -1  # bytes, at the last look; -1: none was made
        while True:
            seen = window.look(stream.fileno())
            size, piece = window.size, window.piece
            self._waited = self._waited or window.waited
            # Without more after waiting for it, FFmpeg is to see what is the matter.
            if seen or piece is None or size <= 0 or size == WINDOW or there >= size:
                self._waits -= bool(piece)
                self._waited = self._waited or not (seen or size == WINDOW)  # FFmpeg does, perhaps
                return
            there = size
            self._waited = True
            if piece and self._waits <= 0:
                return
            # Something else, which FFmpeg would take, and then wait: it has to lie there until more comes.
            # (Sound, too: of some of its packets FFmpeg makes nothing.)
            # But a camera that sends headers by themselves may wait for an acknowledgement (Nagle), and our
            # kernel, with that, for the header to be taken: then such packets cannot be seen.
            try:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, there + 1)
                self._poll.poll(_A_MOMENT if piece else None)
            finally:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    # --------------------------------------------------------------------------------------- UDP

    def _look_at_datagrams(self) -> None:
        # Sound is taken as long as there is nothing else, which is just behind a frame: FFmpeg takes what it
        # finds on the first of its sockets, and would never come to another one.
        if self._picture is not None and self._others.poll(0) and not self._poll.poll(0):
            return
        # With some that were seen and not handed out, FFmpeg is putting packets in order: it may have
        # others to hand out at once, and a time after which it gives up waiting for what is missing.
        if not self._window.seen:
            while not self._poll.poll(_GLANCE) and self._goes_on():
                pass
        for one in self._rtp:
            self._window.take(one.fileno())


def _message(data: bytes) -> int | None:
    """The length of the message of RTSP that this begins with. 0: its end has not come. None: it is none."""
    if not _TEXT.match(data):
        return None
    end = _BLANK_LINE.search(data)
    if end is None:
        return 0
    told = _CONTENT_LENGTH.search(data, 0, end.end())
    return end.end() + (int(told[1]) if told else 0)


def _without_reports(sockets: Iterable[socket.socket]) -> list[socket.socket]:
    """Those of RTP. Each may have one of RTCP on the next port. It need not be an even one (RFC 3550, 11)."""
    rtp: list[socket.socket] = []
    expected: Counter[tuple[str, int]] = Counter()  # addresses of RTCP
    for host, port, one in sorted(((*one.getsockname()[:2], one) for one in sockets), key=lambda at: at[:2]):
        if expected[host, port]:
            expected[host, port] -= 1
        else:
            rtp.append(one)
            expected[host, port + 1] += 1
    return rtp
