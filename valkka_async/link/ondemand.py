# SPDX-License-Identifier: MIT
"""A ring that a thread fills with what it makes of HOST/CAMERA/packets, while somebody reads."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod

from valkka_async.errors import ConnectError, ConnectionClosed
from valkka_async.foreign import start
from valkka_async.link.faults import Complaints, Fault, lines_of_a_host
from valkka_async.ring.frame import Frame
from valkka_async.ring.reader import Reader, attach
from valkka_async.ring.server import Server

LINGER = 2.0  # s without readers after which the work ends
_OPEN = 5.0
_SOON = 0.02

_LINES = lines_of_a_host()  # whose cameras are this process's


class OnDemand(ABC):
    """`server` is closed with it. `source`: what the thread reads. Raises OSError when the system has no room
    for a thread."""

    fault: Fault  # of what makes work() fail

    def __init__(self, server: Server, source: str) -> None:
        self.server = server
        self._source = source
        self._read_at = -LINGER  # when it last had readers
        self._wanted = threading.Event()
        self._stop = False
        self.complain = Complaints(server.name, _LINES)
        self.failed = 0  # units
        self.newest: Fault | None = None
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

    def fail(self, fault: Fault, why: object = None) -> None:
        """A unit could not be used. `why` is logged, if it is said."""
        self.failed, self.newest = self.failed + 1, fault
        if why is not None:
            self.complain(fault, why)

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
            except (TimeoutError, ConnectError) as e:  # it is not there
                self.complain(type(e), e)
                time.sleep(_OPEN / 10)
            except Exception as e:
                self.fail(self.fault, e)
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
