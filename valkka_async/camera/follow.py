# SPDX-License-Identifier: MIT
"""A decoder that is led from the last key frame to now, beside the thread that reads the camera."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterable

from av.video.frame import VideoFrame

from valkka_async.camera.decode import Decoder
from valkka_async.camera.source.packet import VideoPacket
from valkka_async.camera.source.sendertime import Stamp
from valkka_async.camera.turns import Turn
from valkka_async.foreign import start

_BEHIND_PACKETS, _BEHIND_BYTES = 3000, 64 << 20  # by which it may be late
_LOST = 15.0  # s in one call of a library, which does not return then
_NICE = 5
_LOOKS = 0.02  # s between looks whether it is its turn ...
_LONGEST = 30.0  # ... and for so long: those who have it may hang


class Follower:
    """Decodes `packets`, and those that it is fed with, until it is as far as they are: `caught_up`. Then
    take() gives the decoder, which goes on from there.

    Of all cameras of a machine as many catch up at once as it has cores; others wait for their turn.

    `idle`: nobody waits for it. It keeps up with a stream whose key frames are too far apart to be
    remembered, at a lower priority, and decodes no more than other frames need. `instead`: of a decoder that
    was at work until now, so it waits for no turn. `key_ns`: with intra refresh, when the key frame came for
    which the first frame stands, which comes later.

    Its methods are for the thread that reads the camera. It is `lost` when it could not keep up.
    """

    def __init__(
        self,
        decoder: Decoder[Stamp],
        packets: Iterable[tuple[VideoPacket, Stamp]],
        *,
        idle: bool,
        instead: bool = False,
        key_ns: int = 0,
    ) -> None:
        self.idle = idle
        self.lost = False
        self.given = 0  # frames that came out of the decoder
        self._decoder = decoder
        self._changed = threading.Condition()
        self._waiting = deque(packets)
        self._first = len(self._waiting)
        self._bytes = sum(packet.size for packet, _ in self._waiting)
        self._working = False
        self._since = time.monotonic()  # when it took the packet that it is at
        self._stop = False
        self._newest: list[tuple[VideoFrame, Stamp]] = []
        self._instead = instead
        self._key_ns = key_ns
        self._thread = threading.Thread(target=self._run, name="valkka-catch-up", daemon=True)
        try:
            start(self._thread)
        except OSError:  # there can be no more threads
            self.lost = True

    def feed(self, packet: VideoPacket, stamp: Stamp) -> None:
        """The next packet has come."""
        with self._changed:
            if self.lost:
                return
            self._waiting.append((packet, stamp))
            self._bytes += packet.size
            if len(self._waiting) > _BEHIND_PACKETS or self._bytes > _BEHIND_BYTES:
                self.lost = True
                self._waiting.clear()
            self._changed.notify_all()
        if self._working and time.monotonic() - self._since > _LOST:
            self._thread.join()  # whoever looks after this process will see that

    def caught_up(self, wait: float = 0.0) -> bool:
        """Has it decoded all? Waits so many seconds for that."""
        with self._changed:
            idle = self._changed.wait_for(lambda: not (self._working or self._waiting), wait)
            return idle and not self.lost

    def take(self) -> tuple[Decoder[Stamp], list[tuple[VideoFrame, Stamp]]]:
        """The decoder, and what newest() gives, once it has caught up. That ends this."""
        self.leave()
        self.join()
        self._decoder.hurry(False)
        return self._decoder, self.newest()

    def newest(self) -> list[tuple[VideoFrame, Stamp]]:
        """The newest frame, if there has been one since the last call. It stands for the newest key frame of
        these, if any was one."""
        with self._changed:
            newest, self._newest = self._newest, []
            if newest and self._key_ns:
                newest, self._key_ns = [(frame, at.as_key(self._key_ns)) for frame, at in newest], 0
        return newest

    @property
    def waiting(self) -> int:
        """So many packets wait to be decoded."""
        return len(self._waiting)

    @property
    def falls_back(self) -> bool:
        """Do more wait than in the beginning?"""
        return len(self._waiting) > self._first

    @property
    def alive(self) -> bool:
        """Is its thread there?"""
        return self._thread.is_alive()

    def leave(self) -> None:
        """It is not needed any more: let it end by itself, after the packet that it is at. Idempotent."""
        with self._changed:
            self._stop = True
            self._waiting.clear()
            self._changed.notify_all()

    def join(self) -> None:
        """Wait until it has ended, if it does."""
        if self._thread.ident is not None:
            self._thread.join(_LOST)

    def _run(self) -> None:
        if self.idle:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        turn = Turn()
        try:
            if not self._instead:
                self._wait_for(turn)
            while (following := self._next(turn)) is not None:
                packet, stamp, last = following
                self._decoder.hurry(self.idle or not last)
                if frames := self._decoder.decode(packet, stamp):
                    with self._changed:
                        self._newest = frames[-1:]
                        self._key_ns = max(at.key_ns for _, at in frames) or self._key_ns
                        self.given += len(frames)
        finally:
            turn.give()
            with self._changed:
                self.lost = self.lost or not self._stop
                self._working = False
                self._changed.notify_all()

    def _wait_for(self, turn: Turn) -> None:
        until = time.monotonic() + _LONGEST
        with self._changed:
            while self._waiting and not (turn.take(idle=self.idle) or time.monotonic() > until):
                self._changed.wait(_LOOKS)

    def _next(self, turn: Turn) -> tuple[VideoPacket, Stamp, bool] | None:
        with self._changed:
            self._working = False
            self._changed.notify_all()
            if not self._waiting:
                turn.give()
            self._changed.wait_for(lambda: self._waiting or self._stop)
            if self._stop:
                return None
            packet, stamp = self._waiting.popleft()
            self._bytes -= packet.size
            self._working, self._since = True, time.monotonic()
            return packet, stamp, not self._waiting
