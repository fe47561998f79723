# SPDX-License-Identifier: MIT
"""What one other host reads of ours, on its way: a reader of the local ring for each request, and a thread
for all of them. (Raw frames have a thread of their own, as each may take long.)

The rings are the only queues. A ring's backlog is what a host that comes late gets first, and what a slow
host falls behind in: that host alone loses frames, and goes on at a key frame.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Collection

from valkka_async.backoff import Backoff
from valkka_async.errors import ConnectionClosed, ValkkaError
from valkka_async.foreign import pass_on, start
from valkka_async.link import geometry
from valkka_async.link.budget import Budget
from valkka_async.link.faults import Complaints, lines_of_a_host
from valkka_async.link.keys import Content
from valkka_async.link.places import Places
from valkka_async.link.status import Level
from valkka_async.link.unit import FORMATS, MAX_DATA, METADATA_BYTES, Unit, encode
from valkka_async.link.window import Window
from valkka_async.rates import EventRate
from valkka_async.ring.frame import Frame
from valkka_async.ring.reader import Reader, begin

_RETRY = 0.5  # s until a ring is looked for again, at first; later on
_LAST_RETRY = 5.0  # besides when its socket comes
_LIVED = 1.0  # s of a connection that was a good one
_PATIENCE = 0.25  # s for a server's answer when no place is left for others,
_LOOK = 1.0  # between looks whether that is so
_PASSED = 1024  # frames, at most, on the way to the newest
_FRAMES = 4  # of a ring before the others have their turn

log = logging.getLogger("valkka_async.link")

_COUNTED = 10  # raw frames after which their rate is logged
_MESSAGES = 100.0  # of metadata in a second, of one ring, at most, and as many at once

Put = Callable[[bytes], None]


class Stream:
    """A ring that is sent by `put`, or that of the camera's `smaller` stream, if there is one. Counts are of
    units; the sender's thread alone changes it."""

    def __init__(
        self, ring: str, put: Put, smaller: str | None, content: Content, complain: Complaints
    ) -> None:
        self.ring = ring  # that is read now
        self.full = ring
        self.smaller = smaller
        self.content = content
        self.full_at = 0.0  # when so many messages of metadata were sent as may be at once
        self.sent = 0
        self.bytes = 0
        self.skipped = 0  # left out for the limit of the link, or as the line is slow
        self.put = put
        self.over = False
        self.reader: Reader | None = None
        self.retry_at = 0.0
        self.pauses = Backoff(_RETRY, _LAST_RETRY, _LIVED, shortest=_RETRY)
        self.opened_at = 0.0
        self.waits_for_server = False  # it has a place, as its server has not answered yet
        self.let_go = False  # as it did not for long
        self.number = 0  # of this reading of the ring
        self.left_out = 0  # in it
        self.waits = True  # for a key frame
        self.limited = False  # ... as frames were left out for the limit
        self.window: Window | None = None  # of raw frames
        self.acknowledged = 0
        self.held = False  # until the window opens; then the newest goes
        self.passes = False  # over to the newest frame
        self.complain = complain
        self.large = False  # it has been said that a frame is too large
        self.size = 0  # of a raw frame
        self._frames = EventRate()  # raw ones, also those that are left out
        self._counted = 0

    def note(self, size: int, now: float) -> bool:
        """There is a raw frame. True, once: their rate is known now."""
        self.size = size
        self._frames.note(now)
        self._counted += 1
        return self._counted == _COUNTED

    def pass_over(self, count: int, now: float) -> None:
        """So many raw frames are left out, as the line is too slow for them."""
        self.left_out += count
        self.skipped += count
        for _ in range(count):
            self._frames.note(now)

    def rate(self) -> float | None:
        """Bytes per second of raw frames. None: not known."""
        frames = self._frames.rate(time.monotonic())
        return None if frames is None else frames * self.size


class Sender:
    """Sends until stop(). `put` may block for a while, if the host is slow. `number` gives each reading of a
    ring a number of its own; `doubt` hears of rings with something else in them than they were added for.
    `places` are shared by all senders. `way`: seconds of the quickest way there and back so far. Raises
    OSError when the system has no room for its thread."""

    def __init__(
        self,
        host: str,
        budget: Budget,
        number: Callable[[], int],
        doubt: Callable[[str], None] = lambda ring: None,
        places: Places | None = None,
        way: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._host = host
        self._way = way
        self._places = places or Places()
        self._budget = budget
        self._number = number
        self._doubt = doubt
        self._lines = lines_of_a_host()  # it may ask as often as it likes, and each time there is a stream
        self._streams: list[Stream] = []
        self._new: deque[Stream] = deque()
        self._moved: deque[Collection[str] | None] = deque()
        self._placeless: deque[Stream] = deque()  # that found no place
        self._stop = False
        self._epoll = select.epoll()
        self._ready: dict[int, Stream] = {}  # by descriptor
        self._changed = False  # streams are new, or over
        self._smaller = False  # smaller streams are sent
        self._due: float | None = None  # when a ring is to be looked for
        self._wake = -1
        self._waking = threading.Lock()  # it is not closed meanwhile: another file could have its number
        try:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._epoll.register(self._wake, select.EPOLLIN)
            self._thread = threading.Thread(target=self._run, name=f"to {host}", daemon=True)
            start(self._thread)
        except BaseException:
            self._close_descriptors()
            raise

    def add(
        self, ring: str, put: Put, smaller: str | None = None, content: Content = Content.CAMERA
    ) -> Stream:
        """Send this ring from its newest key frame on, or the smaller one, while the limit does not reach."""
        stream = Stream(ring, put, smaller, content, Complaints(ring, self._lines))
        self._new.append(stream)
        self._ring()
        return stream

    def acknowledge(self, stream: Stream, data: bytes) -> None:
        """The host has got a raw frame. From any thread."""
        window = stream.window
        if window is not None and (count := window.acknowledge(data, time.monotonic())):
            stream.acknowledged += count
            if stream.held:
                self._ring()

    def look_for(self, rings: Collection[str] | None) -> None:
        """Sockets of these names have come or gone; None: of any. From any thread."""
        self._moved.append(rings)
        self._ring()

    def discard(self, stream: Stream) -> None:
        """Soon nothing more of it is sent."""
        stream.over = True
        self._ring()

    def stop(self) -> None:
        """Soon nothing more is sent at all."""
        self._stop = True
        self._ring()

    def join(self, seconds: float) -> bool:
        """Wait for its end. False: it has not come."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _ring(self) -> None:
        self._changed = True
        with self._waking:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    # ---------------------------------------------------------------------------- in its thread

    def _run(self) -> None:
        try:
            while not self._stop:
                try:
                    self._turn()
                except Exception:  # a thread that dies must not look like cameras without frames
                    log.exception("what goes to %s is held up; trying again", self._host)
                    time.sleep(_RETRY)
        finally:
            for stream in self._streams:
                self._close(stream)
            self._stop = True
            self._close_descriptors()

    def _close_descriptors(self) -> None:
        self._epoll.close()
        with self._waking:
            wake, self._wake = self._wake, -1
            if wake >= 0:
                os.close(wake)

    def _turn(self) -> None:
        pause = None if self._due is None else self._due - time.monotonic()
        if (self._budget.level is Level.SMALLER) is not self._smaller:
            self._smaller = not self._smaller
            self._switch()
        if self._changed or (pause is not None and pause <= 0):
            self._changed = False
            self._follow()
            pause = None if self._due is None else max(0.0, self._due - time.monotonic())
        for fd, _ in self._epoll.poll(pause):
            if fd == self._wake:
                os.eventfd_read(fd)
            elif (stream := self._ready.get(fd)) is not None and not stream.over:
                self._send_some(stream)

    def _follow(self) -> None:
        """Streams that are new, over, or without their ring."""
        while self._new:
            stream = self._new.popleft()
            if self._smaller and stream.smaller:
                stream.ring = stream.smaller
            self._streams.append(stream)
        for stream in self._streams:
            if stream.over:
                self._close(stream)
        self._streams = [stream for stream in self._streams if not stream.over]
        now = time.monotonic()
        while self._moved:
            moved, soon = self._moved.popleft(), now + _RETRY
            for stream in self._streams:
                if moved is None or stream.ring in moved:
                    stream.retry_at = min(stream.retry_at, soon if moved is None else now)
        short = self._places.short(now)
        for stream in self._streams:
            if short and stream.waits_for_server and now - stream.opened_at >= _PATIENCE:
                self._close(stream)
                stream.let_go = True
                self._places.tell()
        self._placeless.clear()
        for stream in self._streams:
            if stream.reader is None and now >= stream.retry_at:
                self._open(stream)
        due = []
        if any(stream.reader is None for stream in self._streams):
            due.append(now + _RETRY)  # all together whose time has come by then
        if any(stream.waits_for_server for stream in self._streams):
            due.append(now + (_PATIENCE if short else _LOOK))
        self._due = min(due, default=None)
        self._release()

    def _release(self) -> None:
        """Streams whose windows have opened."""
        now = time.monotonic()
        for stream in self._streams:
            if stream.held and stream.reader is not None and stream.window is not None:
                due = stream.window.due()
                if stream.window.admits(stream.size, now) or due is None:
                    stream.held, stream.passes = False, True
                    self._epoll.modify(stream.reader.fileno(), select.EPOLLIN)
                else:
                    self._due = due if self._due is None else min(self._due, due)

    def _switch(self) -> None:
        """From full streams to smaller ones, or back."""
        for stream in self._streams:
            ring = stream.smaller if self._smaller and stream.smaller else stream.full
            if ring != stream.ring:
                self._close(stream)
                stream.ring, stream.retry_at = ring, 0.0

    def _open(self, stream: Stream) -> None:
        stream.opened_at = time.monotonic()
        if not self._places.take(stream.opened_at, again=stream.let_go):
            stream.retry_at = stream.opened_at + _RETRY
            self._placeless.append(stream)
            return
        stream.waits_for_server = True
        stream.retry_at = stream.opened_at + stream.pauses.next()
        try:
            self._begin(stream)
        except TimeoutError:  # it is not there now
            pass
        except Exception as e:  # a ConnectError; no descriptor; or what must not hold up other rings
            if isinstance(e, OSError):
                pass_on(e)
            self._complain(stream, e)
        finally:
            self._settle(stream)

    def _settle(self, stream: Stream) -> None:
        """It gives its place back, if its server has answered, or is not there."""
        if stream.waits_for_server and (stream.reader is None or stream.reader.connected):
            stream.waits_for_server = False
            stream.let_go = stream.let_go and stream.reader is None
            self._places.give()
            if self._placeless:
                self._placeless.popleft().retry_at = 0.0
                self._changed = True

    def _begin(self, stream: Stream) -> None:
        reader = begin(stream.ring, policy="ordered", max_leases=2)  # its server may hang
        try:
            fd = reader.fileno()
            self._epoll.register(fd, select.EPOLLIN)
        except BaseException:
            reader.close()
            raise
        stream.reader, self._ready[fd] = reader, stream
        stream.number = self._number()
        stream.left_out, stream.waits, stream.limited = 0, True, False
        stream.window = Window(stream.number, self._way) if stream.content is Content.RAW else None
        stream.held = stream.passes = False

    def _close(self, stream: Stream) -> None:
        reader, stream.reader = stream.reader, None
        self._changed = True
        if reader is not None:
            if not reader.closed:
                self._ready.pop(reader.fileno(), None)
            if not stream.waits_for_server:
                stream.pauses.lived(time.monotonic() - stream.opened_at)
            reader.close()  # and so it leaves the set
        self._settle(stream)

    def _send_some(self, stream: Stream) -> None:
        reader = stream.reader
        if reader is None:
            return
        try:
            for _ in range(_FRAMES):
                if self._holds(stream, reader) or (frame := self._next(stream, reader)) is None:
                    return
                with frame:
                    self._send(stream, frame, reader)
        except ConnectionClosed:  # the camera's process went, or its ring was closed
            self._close(stream)
        except Exception as e:
            self._complain(stream, e)
            self._close(stream)
        finally:
            self._settle(stream)

    def _holds(self, stream: Stream, reader: Reader) -> bool:
        """Is nothing to be read now, as enough is under way?"""
        window = stream.window
        if window is not None and not stream.held and not window.admits(stream.size, time.monotonic()):
            stream.held = True
            self._epoll.modify(reader.fileno(), 0)
            self._changed = True  # look whether it has opened meanwhile, or when it will
        return stream.held

    def _next(self, stream: Stream, reader: Reader) -> Frame | None:
        """The next frame; the newest, if the others had to wait for so long. These are left out."""
        frame = reader.recv_nowait()
        if frame is None or not stream.passes:
            return frame
        passed = frame.dropped
        for _ in range(_PASSED):
            if (newer := reader.recv_nowait()) is None:
                break
            frame.release()
            passed += 1 + newer.dropped
            frame = newer
        stream.passes = False
        stream.pass_over(passed, time.monotonic())
        return frame

    def _send(self, stream: Stream, frame: Frame, reader: Reader) -> None:
        if frame.format not in FORMATS[stream.content]:
            self._doubt(stream.ring)
            raise ValkkaError(f"{frame.format} is not what was asked for")
        key, raw = frame.key, stream.content is Content.RAW
        size = frame.nbytes
        stream.waits = (stream.waits or frame.dropped > 0) and not key and not raw
        if not stream.waits:
            stream.limited = stream.waits = not self._fits(stream, size, key)
        if stream.waits:
            stream.left_out += stream.limited
            stream.skipped += stream.limited
            return
        if raw:
            header = geometry.encode(frame.shape, frame.dtype)
        else:
            header = reader.header if key else b""
        payload = encode(
            Unit(
                stream.number,
                frame.seq,
                frame.format,
                key,
                frame.timestamp_ns,
                frame.pts,
                frame.dts,
                frame.duration,
                frame.time_base,
                stream.left_out,
                frame.meta,
            ),
            header,
            frame.data,
        )
        if stream.window is not None:
            stream.window.note(frame.seq, len(payload), time.monotonic())
        stream.put(payload)
        if stream.window is not None:
            stream.window.touch(time.monotonic())
        stream.sent += 1
        stream.bytes += len(payload)

    def _fits(self, stream: Stream, size: int, key: bool) -> bool:
        """May a unit of so many bytes be sent now?"""
        now = time.monotonic()
        if size > MAX_DATA:
            if not stream.large and self._lines():  # once: each may have another size
                stream.large = True
                log.warning(
                    "%s: a frame of %d bytes is not sent: %d is the most", stream.ring, size, MAX_DATA
                )
            return False
        if stream.content is Content.RAW:
            if stream.note(size, now) and (rate := stream.rate()) and self._lines():
                log.info("%s goes to %s as raw frames: %.1f MB/s", stream.ring, self._host, rate / 1e6)
            return self._budget.admit_raw(size, now)
        small = stream.content is Content.METADATA
        if small and not _bounded(stream, size, now):
            return False
        return self._budget.admit(size, key, now, smaller=small or stream.ring == stream.smaller)

    def _complain(self, stream: Stream, error: Exception) -> None:
        stream.complain(type(error), f"not sent: {error}; trying again")


def _bounded(stream: Stream, size: int, now: float) -> bool:
    """May this message of metadata be sent? They are small results, and no way around what cameras cost."""
    at = max(stream.full_at, now - 1.0) + 1 / _MESSAGES
    if size > METADATA_BYTES or at > now:
        return False
    stream.full_at = at
    return True
