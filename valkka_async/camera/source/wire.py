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
import struct
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from valkka_async.camera.mp4 import nal
from valkka_async.camera.source.deadline import Deadline
from valkka_async.camera.source.packet import AnyPacket, VideoPacket

_WINDOW = 1 << 16
_RTP, _INTERLEAVED = 12, 4  # bytes of a header
_DOLLAR = 0x24  # which the latter begins with
# How a packet begins, as a rule: flags, marker and kind, sequence number, time; and the first byte of what it
# carries, with the one behind the unit's header. By the size of that.
_HEADS = {header: struct.Struct(f">BBHI4xB{header - 1}xB") for header in (1, 2)}
_LONGEST_HEAD = 16
# The same behind "$" with the channel, and the packet's size.
_FRAMED = {header: struct.Struct(f">HHBBHI4xB{header - 1}xB") for header in (1, 2)}
_PLAIN = 0x80  # its flags, where nothing lies between
_RTCP = range(192, 224)  # in the second byte of a packet (RFC 5761)
_A_MOMENT = 1  # ms; and so often it is given to cameras whose headers come by themselves
_WAITS = 3
_GLANCE = 200  # ms between looks whether to go on, where no connection can be shut down
_START = 4  # bytes of a start code
_ANY = -1
_MASK = 0xFFFFFFFF
_HALF = 1 << 15
_MOST = 4096  # packets of a flow that are remembered
_LONGEST_MESSAGE = 4096  # bytes of its header
_TEXT = re.compile(rb"[A-Za-z\r\n]")
_BLANK_LINE = re.compile(rb"\A\r?\n|\n\r?\n")
_CONTENT_LENGTH = re.compile(rb"^content-length[ \t]*:[ \t]*([0-9]{1,6})", re.IGNORECASE | re.MULTILINE)
_NUDGE = 450  # 5 ms, by which a report of the sender (RTCP) may move times; frames are further apart


# An RTP packet that FFmpeg has not handed out yet: sequence number, time, whether it is marked, the size of
# what FFmpeg makes of it (_ANY: not known), and whether it only goes on with a unit (NAL), and is not marked.
# There is one for each kilobyte, so it is a plain tuple.
_Seen = tuple[int, int, bool, int, bool]
# What FFmpeg gave, whether that was marked as the end of a frame, and RTP's time of it (None: not known).
Read: TypeAlias = "tuple[AnyPacket | None, bool | None, int | None]"


class _Flow:
    """The packets of one stream that were seen, and not handed out yet."""

    def __init__(self) -> None:
        self.seen: deque[_Seen] = deque()  # in the order in which FFmpeg hands them out
        self.base: int | None = None  # RTP's time of a packet whose pts is 0

    def note(self, seen: _Seen) -> None:
        """This one comes next, or where its number says."""
        there = self.seen
        place = len(there)
        while place and (there[place - 1][0] - seen[0]) & 0xFFFF < _HALF:
            place -= 1
        if place == len(there):
            there.append(seen)
        elif there[place][0] == seen[0]:
            return  # twice
        else:
            there.insert(place, seen)
        if len(there) > _MOST:
            there.popleft()  # of a flow that FFmpeg hands out no packets of

    def next(self, packet: AnyPacket) -> _Seen | None:
        """The one that was seen next, if it is this by its size and its time: as a rule it is. (match() says
        the same of it.)"""
        if not self.seen:
            return None
        seen, pts = self.seen[0], packet.pts
        if seen[3] != packet.size or pts is None or (seen[1] - pts) & _MASK != self.base:
            return None
        return self.seen.popleft()

    def match(self, packet: AnyPacket, *, ordered: bool) -> tuple[_Seen, bool] | None:
        """Which one this is, and whether its time says so, too. `ordered`: none was lost or missed."""
        if packet.pts is None or not packet.size:
            return None
        for place, seen in enumerate(self.seen):
            _, time, _, size, _ = seen
            base = (time - packet.pts) & _MASK
            moved = 0 if self.base is None else (base - self.base + _NUDGE) & _MASK
            right = self.base is not None and (moved == _NUDGE or (not place and moved <= 2 * _NUDGE))
            if size not in (packet.size, _ANY) or (not right and size == _ANY):
                continue
            if not right and place:
                continue
            # FFmpeg counts from the first packet, or from what RTCP says. With the next one it is known.
            self.base = base
            for _ in range(place + 1):
                self.seen.popleft()
            return seen, right
        if ordered or self.base is None:
            self.seen.clear()  # what FFmpeg has not taken will be looked at again
        else:
            # One that was not seen. Those that FFmpeg has thrown away are older.
            now = packet.pts + self.base
            while self.seen and 0 < (now - self.seen[0][1]) & _MASK < 1 << 31:
                self.seen.popleft()
        return None


class Wire:
    """Reads from FFmpeg, one packet of RTP after the other. Belongs to the thread of `deadline`; without one,
    nothing is looked at. `video`: the index of the picture's stream; packets of others are those of sound.
    `goes_on`: False when there is no time left to wait. `counted`: they come over the connection that
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
        self._codec = codec
        self._mask = codec.mask << codec.shift  # of a unit's kind in its first byte
        # The kinds of a packet that has a piece of a unit, or several units.
        self._pieces = tuple(kind << codec.shift for kind in ((28, 29) if codec is nal.H264 else (49,)))
        self._several = tuple(kind << codec.shift for kind in (range(24, 28) if codec is nal.H264 else (48,)))
        self._around = _RTP + codec.header + 1  # bytes of a packet with a piece, which is no unit's first
        self._video = video
        self._goes_on = goes_on
        self._stream: socket.socket | None = None  # the connection, if packets come over it
        self._rtp: list[socket.socket] = []  # else the sockets over which they come
        self._held: list[socket.socket] = []
        self._poll = select.poll()
        self._others = select.poll()  # over UDP, what is not the picture's
        self._buffer = bytearray(_WINDOW + _LONGEST_HEAD)
        self._head, self._framed = _HEADS[codec.header], _FRAMED[codec.header]
        self._odd: list[AnyPacket | None] = []  # what was read, and is another one than was seen
        self._flows: dict[int, _Flow] = {}  # by channel or descriptor: those that may be the picture's
        self._flow: int | None = None  # which of them it is
        self._picture: _Flow | None = None  # it itself
        self._waits = _WAITS
        self._waited = False
        self._tcp = tcp
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
        picture = self._picture
        if self._stream is not None:
            if not (self._seen if picture is None else picture.seen):
                self._look(self._stream)
        elif self._rtp:
            self._look_at_datagrams()
        packet = self._odd.pop() if self._odd else step()
        if packet is None or packet.stream_index != self._video:
            if self._flow is None:
                for flow in self._flows.values():  # one of them had it; what is left will be seen again
                    flow.seen.clear()
            return packet, None, None
        if picture is not None and (seen := picture.next(packet)) is not None:
            return packet, seen[2], seen[1]
        return self._match(packet)

    def pieces(self, step: Callable[[], AnyPacket | None], newest: VideoPacket) -> list[VideoPacket]:
        """Those that only go on with the unit (NAL) of the newest packet, as far as they were seen; none that
        is marked. Over TCP, where most are such."""
        pieces: list[VideoPacket] = []
        picture, pts = self._picture, newest.pts
        if picture is None or self._stream is None or pts is None:
            return pieces
        seen, video = picture.seen, self._video
        while seen:
            _, time, _, size, inner = seen[0]
            if not inner or (time - pts) & _MASK != picture.base:
                break
            packet: Any = step()
            if packet is None or packet.pts != pts or packet.size != size or packet.stream_index != video:
                self._odd.append(packet)
                break
            seen.popleft()
            pieces.append(packet)
        return pieces

    @property
    def _seen(self) -> bool:
        """Was there a packet that may be the picture's, and was not handed out yet?"""
        return any(flow.seen for flow in self._flows.values())

    def _match(self, packet: AnyPacket) -> Read:
        for key, flow in self._flows.items():
            if not flow.seen:
                continue
            found = flow.match(packet, ordered=self._stream is not None)
            if found is None:
                continue
            (_, time, marked, _, _), right = found
            if right and self._flow is None:
                self._settle(key)
            if right:
                return packet, marked, time
            # A connection keeps their order: it is this one, although its time was moved.
            return packet, None, time if self._flow is not None and self._stream is not None else None
        return packet, None, None

    def _settle(self, key: int) -> None:
        """This one is the picture's."""
        self._flow, self._flows = key, {key: self._flows[key]}
        self._picture = self._flows[key]
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
        there = -1  # bytes, at the last look; -1: none was made
        while True:
            size = self._peek(stream)
            piece = self._walk(size) if size > 0 else False
            # Without more after waiting for it, FFmpeg is to see what is the matter.
            if self._seen or piece is None or not size or size == _WINDOW or 0 <= there >= size:
                self._waits -= bool(piece)
                self._waited = self._waited or not (self._seen or size == _WINDOW)  # FFmpeg does, perhaps
                return
            there = max(0, size)
            self._waited = True
            if not there:
                self._poll.poll()
                continue
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

    def _peek(self, one: socket.socket) -> int:
        """How much a socket has, as far as the buffer can hold it. 0: it has ended, -1: nothing."""
        try:
            return one.recv_into(self._buffer, _WINDOW, socket.MSG_PEEK)
        except BlockingIOError:
            return -1
        except OSError:
            return 0

    def _walk(self, size: int) -> bool | None:
        """Note the packets among the first bytes of what is there. True: a header has only begun. None: there
        is what nobody knows."""
        data, at = self._buffer, 0
        picture = None if self._picture is None else self._picture.seen
        own = _DOLLAR << 8 | (self._flow or 0)
        unpack, mask, pieces, less = self._framed.unpack_from, self._mask, self._pieces, self._around
        last = size - _INTERLEAVED - less
        while at < size:
            if picture and at <= last:
                # Most go on with a unit, and have nothing else to say.
                framed, length, flags, kind, sequence, stamp, front, behind = unpack(data, at)
                if (
                    framed == own
                    and flags == _PLAIN
                    and behind < 0x80
                    and front & mask in pieces
                    and kind not in _RTCP
                    and (sequence - picture[-1][0]) & 0xFFFF == 1
                    and length >= less
                ):
                    picture.append((sequence, stamp, kind > 127, length - less, kind < 128))
                    at += _INTERLEAVED + length
                    continue
            if data[at] != _DOLLAR:  # answers of RTSP come between the packets, to what keeps it alive
                length = _message(bytes(data[at : min(at + _LONGEST_MESSAGE, size)]))
                if not length:
                    return False if length == 0 and size - at < _LONGEST_MESSAGE else None
                at += length
                continue
            if at + _INTERLEAVED + _RTP > size:
                return True
            length = data[at + 2] << 8 | data[at + 3]
            begin = at + _INTERLEAVED
            self._note(data[at + 1], begin, min(begin + length, size), length)
            at = begin + length
        return False

    # --------------------------------------------------------------------------------------- UDP

    def _look_at_datagrams(self) -> None:
        # Sound is taken as long as there is nothing else, which is just behind a frame: FFmpeg takes what it
        # finds on the first of its sockets, and would never come to another one.
        if self._flow is not None and self._others.poll(0) and not self._poll.poll(0):
            return
        # With some that were seen and not handed out, FFmpeg is putting packets in order: it may have
        # others to hand out at once, and a time after which it gives up waiting for what is missing.
        if not self._seen:
            while not self._poll.poll(_GLANCE) and self._goes_on():
                pass
        for one in self._rtp:
            if self._flow in (None, one.fileno()) and (size := self._peek(one)) > 0:
                self._note(one.fileno(), 0, size, size)

    # -------------------------------------------------------------------------------------- both

    def _note(self, key: int, at: int, end: int, size: int) -> None:
        """Note the packet at `at`, of `size` bytes, of which those before `end` are here."""
        if self._flow not in (None, key) or size < _RTP or end - at < _RTP:
            return
        flags, kind, sequence, stamp, front, behind = self._head.unpack_from(self._buffer, at)
        if flags >> 6 != 2 or kind in _RTCP:
            return
        header, payload = self._codec.header, at + _RTP
        if flags != _PLAIN:
            payload += 4 * (flags & 15)
            if flags & 0x10:  # an extension
                if payload + 4 > end:
                    return
                payload += 4 + 4 * (self._buffer[payload + 2] << 8 | self._buffer[payload + 3])
            if payload + header < end:
                front, behind = self._buffer[payload], self._buffer[payload + header]
        if payload + header >= end:
            return
        # The size of what FFmpeg makes of it.
        made, inner, unit = size + at - payload, False, front & self._mask
        if flags & 0x20:  # padded
            made = _ANY
        elif unit in self._pieces:
            inner = behind < 0x80 and kind < 128
            made += _START - 1 if behind & 0x80 else -1 - header
        elif unit in self._several:
            whole = payload + made
            made = self._together(payload + header, whole) if whole <= end else _ANY
        else:
            made += _START
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = _Flow()
        flow.note((sequence, stamp, kind > 127, made, inner))

    def _together(self, at: int, end: int) -> int:
        """That for several units, each behind its length."""
        made = 0
        while at + 2 < end:
            length = self._buffer[at] << 8 | self._buffer[at + 1]
            at += 2 + length
            if at > end:
                return _ANY
            made += _START + length
        return made


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
