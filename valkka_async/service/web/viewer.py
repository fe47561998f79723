# SPDX-License-Identifier: MIT
"""What a browser is sent of one camera, and the queue in which that waits for it.

A message is text (JSON) or bytes: a head of 24 bytes, and what it announces. The bytes of a frame are made
once and shared by all viewers: a queue holds references.

The texts have a "type": "init" (codec, width, height and reset: the init segment comes next, and whether the
time axis begins again with it), "skipped" (frames: how many did not get here), "waiting" (code and reason:
there are no frames now; the code is a Trouble of hub.py, the reason is for people).
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

INIT, KEY, DELTA, JPEG = range(4)

# kind; 7 bytes of nothing; capture time in milliseconds of Unix time; when the frame is shown on the stream's
# time axis, in seconds (of fragments)
_HEAD = struct.Struct("<B7xdd")

QUEUE_BYTES = 4 << 20
CATCH_UP_BYTES = 16 << 20  # in addition, of frames that were old when they came
QUEUE_FRAMES = 1000
QUEUE_SECONDS = 5.0

Message = str | bytes


def pack(kind: int, timestamp_ns: int, payload: bytes | memoryview, shown: float = 0.0) -> bytes:
    """A message of bytes. Copies the payload."""
    return b"".join((_HEAD.pack(kind, timestamp_ns / 1e6, shown), payload))


def unpack(message: bytes) -> tuple[int, bytes]:
    """The capture time, in nanoseconds of Unix time, and the payload."""
    _, milliseconds, _ = _HEAD.unpack_from(message)
    return round(milliseconds * 1e6), message[_HEAD.size :]


class Ending(Exception):
    """A WebSocket is to be closed by us: with this code, for this reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True, eq=False)
class Init:
    """The init segment that the frames after it need, as a message, and the text before it."""

    data: bytes
    codec: str
    width: int
    height: int
    timeline: int  # frames of one timeline follow each other; another one begins at another time

    def announcement(self, reset: bool) -> str:
        """The text before it."""
        return json.dumps(
            {
                "type": "init",
                "codec": self.codec,
                "width": self.width,
                "height": self.height,
                "reset": reset,
            }
        )


@dataclass(frozen=True, slots=True)
class Notice:
    """There are no frames now."""

    code: str  # for the page
    reason: str  # for people

    def text(self) -> str:
        """The message."""
        return json.dumps({"type": "waiting", "code": self.code, "reason": self.reason})


class Media(NamedTuple):
    """One frame as a message."""

    init: Init | None  # what it needs; None: a JPEG, which needs nothing
    key: bool
    data: bytes


class Viewer:
    """The queue of one browser: bounded in bytes, frames and seconds.

    When it overflows it is emptied and goes on at the next key frame, and the browser is told how many frames
    it did not get. With `newest` it holds the newest frame alone, which is enough where frames need no
    others.

    The hub puts frames in; one task takes messages out.
    """

    def __init__(self, *, newest: bool = False) -> None:
        self._newest = newest
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._queue: deque[tuple[Media, float]] = deque()
        self._bytes = 0
        self._extra = 0  # bytes that it was given when it joined, and may hold until it has caught up
        self._begun = False
        self._wants_key = True
        self._sent: Init | None = None
        self._missed = 0  # frames that the browser has not been told of yet
        self._notice: Notice | None = None
        self._ending: Ending | None = None
        self.skipped = 0  # all the frames it did not get

    # ------------------------------------------------------------------------------- for the hub

    def begin(self, backlog: Iterable[Media]) -> None:
        """Give it the frames from the last key frame on, so that something is shown at once."""
        for media in backlog:
            self._push(media)
        self._extra = self._bytes

    def offer(self, media: Media, *, old: bool = False) -> None:
        """The next frame of the stream. One that is `old` came with others at once, when the camera got its
        first reader: there is room for all of them, or the browser would wait for the next key frame."""
        if self._newest:
            self._clear()
            self._push(media)
            return
        if old and self._extra < CATCH_UP_BYTES:
            self._extra += len(media.data)
        if self._full(len(media.data)):
            self.miss(self._clear())
            self._wants_key = True
        if self._wants_key and not media.key:
            self.miss(1)
            return
        self._push(media)

    def miss(self, frames: int) -> None:
        """So many frames did not get here. Those before the first that did are none that it missed."""
        if self._begun:
            self._missed += frames
            self.skipped += frames

    def say(self, notice: Notice) -> None:
        """There are no frames now; the notice is dropped if there are some before it is sent."""
        self._notice = notice
        self._wake.set()

    def end(self, ending: Ending) -> None:
        """Nothing more will come."""
        self._clear()
        self._ending = ending
        self._wake.set()

    # ------------------------------------------------------------------------------- for the browser

    async def next(self) -> list[Message]:
        """Wait for the next frame, with all that is to be said before it, or for a text. May be cancelled.

        Raises Ending.
        """
        while True:
            if self._ending is not None:
                raise Ending(self._ending.code, self._ending.reason)  # a copy: others raise it as well
            if self._queue:
                return self._take()
            if self._notice is not None:
                notice, self._notice = self._notice, None
                return [notice.text()]
            self._wake.clear()
            await self._wake.wait()

    def _take(self) -> list[Message]:
        media, _ = self._queue.popleft()
        self._bytes -= len(media.data)
        if not self._queue:
            self._extra = 0
        messages: list[Message] = []
        if self._missed:
            messages.append(json.dumps({"type": "skipped", "frames": self._missed}))
            self._missed = 0
        init = media.init
        if init is not None and init is not self._sent:
            reset = self._sent is None or self._sent.timeline != init.timeline
            messages += (init.announcement(reset), init.data)
            self._sent = init
        messages.append(media.data)
        return messages

    # ----------------------------------------------------------------------------------- the queue

    def _full(self, more: int) -> bool:
        if not self._queue:
            return False
        return (
            self._bytes + more > QUEUE_BYTES + self._extra
            or len(self._queue) >= QUEUE_FRAMES
            or self._loop.time() - self._queue[0][1] > QUEUE_SECONDS
        )

    def _push(self, media: Media) -> None:
        self._queue.append((media, self._loop.time()))
        self._bytes += len(media.data)
        self._begun, self._wants_key = True, False
        self._notice = None
        self._wake.set()

    def _clear(self) -> int:
        """How many frames that was."""
        frames = len(self._queue)
        self._queue.clear()
        self._bytes = self._extra = 0
        return frames
