# SPDX-License-Identifier: MIT
"""Messages (messages.py) over a pair of stream sockets.

Neither side waits for the other: what the socket does not take at once stays here and is sent later. An
optional message is not even queued while much is waiting, so that a peer which does not read costs a bounded
amount of memory.
"""

from __future__ import annotations

import asyncio
import enum
import socket
from collections.abc import Callable

from valkka_async.camera.workers.messages import LONGEST, Message, decode, encode
from valkka_async.errors import DataError
from valkka_async.foreign import pass_on

_CHUNK = 1 << 16
_ENOUGH = 1 << 18  # bytes waiting to be sent, beyond which optional messages are dropped


class Ending(enum.Enum):
    """Why no more messages come."""

    CLOSED = enum.auto()  # the other side closed its end, or died
    GARBLED = enum.auto()  # it sent something that is no message


class Channel:
    """One end. It owns the socket, which joins the running loop, and belongs to that loop's thread.

    ``on_message`` is called with each message. ``on_end`` is called once, with the ending and a text for
    people ("" if there is nothing to add), when no more will come because of the other side. Neither is
    called after close().
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[Message], object],
        on_end: Callable[[Ending, str], object],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._fd = sock.fileno()
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._begun = bytearray()  # of the line that is being received
        self._unsent = bytearray()
        self._reading = True
        self._closed = False
        self._loop.add_reader(self._fd, self._receive)

    def send(self, message: Message, *, optional: bool = False) -> bool:
        """Send, now or as soon as the other side takes it. Raises DataError for a message that is too long.

        False: not sent, because this is closed, or because it is `optional` and too much is waiting.
        """
        if self._closed or (optional and len(self._unsent) > _ENOUGH):
            return False
        line = encode(message)
        waiting = bool(self._unsent)
        self._unsent += line
        if not waiting:
            self._writable()
        return True

    def drain(self) -> None:
        """Take what has arrived. For the last words of a peer that is gone."""
        while self._reading and self._receive():
            pass

    def close(self) -> None:
        """Close the socket; what was not sent is lost. Idempotent."""
        self._closed = True
        if self._sock.fileno() < 0:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
        self._sock.close()

    def after_fork(self) -> None:
        """In a forked child: the loop's descriptors are the parent's, so only close the copy."""
        self._closed = True
        self._sock.close()

    def _receive(self) -> bool:
        """Take once from the socket; False: there is nothing."""
        try:
            data = self._sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as e:  # reset: it closed with something of ours unread
            pass_on(e)
            data = b""
        if not data:
            self._end(Ending.CLOSED, "")
            return False
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._begun += line
            self._take(bytes(self._begun))
            self._begun.clear()
            if not self._reading:
                return False
        self._begun += rest
        if len(self._begun) > LONGEST:
            self._end(Ending.GARBLED, "a line without end")
            return False
        return True

    def _take(self, line: bytes) -> None:
        if self._closed:
            return
        try:
            message = decode(line)
        except DataError as e:  # its text has no values of the message
            self._end(Ending.GARBLED, str(e))
        else:
            self._on_message(message)

    def _end(self, ending: Ending, text: str) -> None:
        if self._reading:
            self._reading = False
            if not self._closed:
                self._loop.remove_reader(self._fd)  # readable for ever after
                self._on_end(ending, text)

    def _writable(self) -> None:
        try:
            count = self._sock.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            count = 0
        except OSError as e:  # nobody reads any more: receiving says so
            pass_on(e)
            count = len(self._unsent)
        del self._unsent[:count]
        if self._unsent:
            self._loop.add_writer(self._fd, self._writable)
        else:
            self._loop.remove_writer(self._fd)
