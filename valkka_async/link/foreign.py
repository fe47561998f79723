# SPDX-License-Identifier: MIT
"""What another host has, here: the ring of what that host sends, which is asked for while somebody reads."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from valkka_async.errors import ValkkaError
from valkka_async.link.bus import Bus, Request
from valkka_async.link.clock import Difference
from valkka_async.link.faults import Fault
from valkka_async.link.keys import GOT, Content, Key
from valkka_async.link.messages import Failure
from valkka_async.link.receiver import STREAM_SLOTS, Receiver
from valkka_async.link.status import ImportStatus
from valkka_async.link.unit import number
from valkka_async.link.window import acknowledgement
from valkka_async.ring.events import EVENT_SLOTS
from valkka_async.ring.names import EVENTS, check_source
from valkka_async.ring.server import BACKLOG_BYTES, Server
from valkka_async.seldom import Seldom

_SLOTS = 16  # of metadata and raw frames
_LINGER = 2.0  # s without readers after which nothing is asked for any more
_SILENT = 3.0  # s
_AGAIN = 10.0  # s of silence after which the request is made again
_KEYS = 4  # by turns: until the other host goes Zenoh forgets none, which is 3 KB at both
_RETRY = 5.0  # s until a ring is made again whose name was taken
_COUNTED = 1 << 62  # failures, at most
_SOON = 1.0  # ... the first time: it may be that of the worker, for what had this name before

log = logging.getLogger("valkka_async.link")


class ForeignCamera:
    """Its ring is HOST/CAMERA/packets; the worker decodes that into HOST/CAMERA. `content`: it may be no
    camera, but a ring of metadata or of raw frames, which needs no worker: HOST/NAME."""

    def __init__(
        self,
        host: str,
        camera: str,
        me: str,
        bus: Bus,
        kick: Callable[[], None],
        content: Content,
        lines: Seldom,
    ) -> None:
        self.name = f"{host}/{camera}"
        self.camera = camera
        self.content = content
        self._host = host
        self._me = me
        self._bus = bus
        self._lines = lines
        self._failed = 0  # in the worker
        self._fault: tuple[float, Fault] | None = None  # when (monotonic), the newest of these
        self._kick = kick  # called from any thread when there is something to look for
        self._requests = 0
        self._receiver: Receiver | None = None
        self._request: Request | None = None
        self._epoch = ""  # of the request
        self._asked_at = 0.0
        self._read_at = -_LINGER
        self._retry_at = 0.0
        self._reason = ""
        self._told = False  # the reason has been logged

    @property
    def is_camera(self) -> bool:
        """Are they access units?"""
        return self.content is Content.CAMERA

    @property
    def up(self) -> bool:
        """Has it its ring?"""
        return self._receiver is not None

    def look(self, now: float, epoch: str, difference: Difference | None) -> None:
        """Ask for it if somebody reads it. `epoch`: of its host's life; "": it is not there."""
        receiver = self._receiver
        if receiver is None:
            if now >= self._retry_at:
                self._serve(now)
            return
        receiver.difference = difference or receiver.difference
        if receiver.server.readers:
            self._read_at = now
        wanted = now - self._read_at < _LINGER
        if self._request is not None:
            silence = now - max(self._asked_at, receiver.last_ns / 1e9)
            # (Others may be silent for long; asked for again, the newest would come twice.)
            lost = silence > _AGAIN and self.is_camera
            if not wanted or (epoch and (epoch != self._epoch or lost)):
                self._give_up()
        if wanted and epoch and self._request is None:
            self._ask(receiver, epoch, now)

    def _serve(self, now: float) -> None:
        try:
            server = Server(
                check_source(f"{self.name}/packets" if self.is_camera else self.name),
                slots=self._slots,
                max_clients=64,
                mode=0o600,
                group=None,
                backlog="gop" if self.is_camera else None,
                backlog_bytes=BACKLOG_BYTES,
                watch="thread",
            )
        except ValkkaError as e:  # its name is too long, or taken by another link of this user
            again, self._reason = bool(self._reason), str(e)
            self._retry_at = now + (_RETRY if again else _SOON)
            if again and not self._told and self._lines():  # its host may offer and withdraw it all the time
                self._told = True
                log.warning("%s: %s", self.name, e)
            return
        self._reason, self._told = "", False
        server.when_readers_change(self._kick)
        self._receiver = Receiver(self._host, server, self.content, self._lines)

    @property
    def _slots(self) -> int:
        if self.is_camera:
            return STREAM_SLOTS
        return EVENT_SLOTS if self.name.endswith(EVENTS) else _SLOTS

    def _ask(self, receiver: Receiver, epoch: str, now: float) -> None:
        self._requests = (self._requests + 1) % _KEYS
        key = Key(self._host, epoch, self.content.request, self._me, self.camera, str(self._requests))
        self._epoch, self._asked_at = epoch, now
        take: Callable[[bytes], None] = receiver.take
        if self.content is Content.RAW:
            take = _acknowledging(take, self._bus.newest_to(key.of_kind(GOT).text))
        self._request = self._bus.request(key.to.text, key.text, take)

    def _give_up(self) -> None:
        if self._request is not None:
            self._bus.give_up(self._request)
            self._request = None
        if self._receiver is not None:
            self._receiver.pause()

    def silent(self, now: float) -> bool:
        """Is it asked for, and does not come?"""
        receiver = self._receiver
        if receiver is None or self._request is None:
            return False
        return now - max(self._asked_at, receiver.last_ns / 1e9) > _SILENT

    def note_failure(self, failure: Failure) -> None:
        """Units of it could not be decoded or muxed."""
        self._failed = min(_COUNTED, self._failed + max(0, failure.count))
        self._fault = time.monotonic(), failure.fault

    def close(self) -> None:
        """Close its ring."""
        self._give_up()
        if self._receiver is not None:
            self._receiver.server.close()
            self._receiver = None

    def status(self) -> ImportStatus:
        receiver = self._receiver
        if receiver is None:
            return ImportStatus(self.name, "", False, 0, 0, 0, 0, 0, 0, 0, 0, None, self._reason)
        c = receiver.counts()
        return ImportStatus(
            self.name,
            receiver.format,
            self._request is not None,
            c.received,
            c.bytes,
            c.lost,
            c.left_out,
            c.limited,
            c.refused,
            c.restarts,
            self._failed,
            max(filter(None, (receiver.fault, self._fault)), default=(0.0, None))[1],
            "",
        )


def _acknowledging(take: Callable[[bytes], None], say: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Also of what is refused: it is no longer on the line."""

    def taking(payload: bytes) -> None:
        take(payload)
        if (numbers := number(payload)) is not None:
            say(acknowledgement(*numbers))

    return taking
