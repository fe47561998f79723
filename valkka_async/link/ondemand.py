# SPDX-License-Identifier: MIT
"""A ring that a thread fills with what it makes of HOST/CAMERA/packets, while somebody reads."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod

from valkka_async.errors import ConnectionClosed
from valkka_async.foreign import start
from valkka_async.ring.frame import Frame
from valkka_async.ring.reader import Reader, attach
from valkka_async.ring.server import Server

LINGER = 2.0  # s without readers after which the work ends
_OPEN = 5.0
_SOON = 0.02

log = logging.getLogger("valkka_async.link")


class OnDemand(ABC):
    """`server` is closed with it. `source`: what the thread reads. Raises OSError when the system has no room
    for a thread."""

    def __init__(self, server: Server, source: str) -> None:
        self.server = server
        self._source = source
        self._read_at = -LINGER  # when it last had readers
        self._wanted = threading.Event()
        self._stop = False
        self._said = ""
        self._thread = threading.Thread(target=self._run, name=server.name, daemon=True)
        try:
            start(self._thread)
        except OSError:
            server.close()
            raise
        server.when_readers_change(self._note_readers)

    def _note_readers(self) -> None:
        if self.server.readers:
            self._read_at = time.monotonic()
            self._wanted.set()

    def look(self, now: float) -> None:
        """Has it readers?"""
        self._note_readers()
        if now - self._read_at > LINGER and not self._stop:
            self._wanted.clear()

    def close(self) -> None:
        """Close the ring. The thread is left alone: it may hang in a library."""
        self._stop = True
        self._wanted.set()
        self.server.close()

    @property
    def going(self) -> bool:
        """Is it still wanted?"""
        return not self._stop and self._wanted.is_set()

    def complain(self, error: Exception) -> None:
        """Log it, unless it was the last that was logged."""
        if str(error) != self._said:
            self._said = str(error)
            log.warning("%s: %s", self.server.name, error)

    def _run(self) -> None:
        while not self._stop:
            self._wanted.wait()
            if self._stop:
                return
            try:
                with attach(self._source, policy="ordered", open_timeout=_OPEN) as reader:
                    self.work(reader)
            except ConnectionClosed:
                time.sleep(_SOON)  # one is closed and another served, or the link has ended
            except Exception as e:
                self.complain(e)
                time.sleep(_OPEN / 10)
            if not self.server.closed:
                self.server.expire()

    @abstractmethod
    def work(self, reader: Reader) -> None:
        """Until it is not wanted any more."""


def received(reader: Reader, seconds: float) -> Frame | None:
    """The next frame; None: not within so many seconds."""
    try:
        return reader.recv(seconds)
    except TimeoutError:
        return None
