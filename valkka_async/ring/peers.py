# SPDX-License-Identifier: MIT
"""The readers as their server sees them: accepted, greeted, sent each new ring, and reported on."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from valkka_async.errors import ProtocolError
from valkka_async.foreign import pass_on
from valkka_async.ring import _memory, _shm, fork
from valkka_async.ring._room import RoomWaiters
from valkka_async.ring._watch import Watcher
from valkka_async.ring._weak import weakly
from valkka_async.ring.handshake import (
    MAX_BYTES,
    Ack,
    Busy,
    Bye,
    Hello,
    Message,
    Refused,
    Report,
    Ring,
    Room,
    Stats,
    Welcome,
    decode,
    encode,
)
from valkka_async.ring.policy import NAMES, Policy

log = logging.getLogger("valkka_async")

HELLO_SECONDS = 5.0  # a connection that has said nothing by then is closed
_NO_DESCRIPTORS_SECONDS = 0.5
_NO_MEMORY_SECONDS = 0.05
_STRANGERS = 16  # connections beyond the readers that are allowed: those that have yet to say what they want
# A reader that does not read its socket costs no more messages and descriptors than these.
_RINGS_ON_THEIR_WAY = 4
_CHANGES = 1000  # readers that have come and gone, and were not told of yet


@dataclass(frozen=True, slots=True)
class PeerStats:
    """A reader as its server sees it: its number ``id`` (no other reader of this server ever has it),
    process ``pid`` of user ``uid`` (0 and 65534 if it lives in another namespace), its ``policy``, and what
    it says of itself: frames ``received`` and ``dropped`` (published but missed) and ``leases`` it holds now.
    A broken reader may say anything: show these numbers, and decide nothing by them."""

    id: int
    pid: int
    uid: int
    policy: Policy
    received: int
    dropped: int
    leases: int


@dataclass(frozen=True, slots=True)
class PeerChange:
    """A reader has come, or gone: its last figures."""

    came: bool
    time_ns: int  # Unix
    reader: PeerStats


class _Peer:
    """A connection, from accept to its end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.id = self.pid = self.uid = 0
        self.policy: Policy = "latest"
        # We write to the second, and the reader reads from the first; ours stays open, so that a dead reader
        # raises no SIGPIPE.
        self.bells: list[int] = []
        self.place: object | None = None  # the writer's; None: has not said hello yet
        self.sent = 0  # generation of the last RING sent
        self.acked = 0
        self.on_their_way: list[int] = []  # generations sent and not yet acknowledged

    @property
    def lossless(self) -> bool:
        return self.place is not None and self.policy == "lossless"

    def close(self) -> None:
        with fork.steady():
            self.sock.close()
            _shm.close_all(self.bells)


class Peers:
    """All connections of a server. Connections and new rings, which meet when one thread publishes while
    another accepts, are ordered by ``fork.steady``."""

    def __init__(
        self,
        name: str,
        listener: socket.socket,
        writer: _shm.Writer,
        room: RoomWaiters,
        values: Callable[[], dict[str, Any] | None],
        *,
        max_readers: int,
        private: bool,
        patient: bool = True,
    ) -> None:
        self._name = name
        self._listener = listener
        self._writer = writer
        self._room = room
        self._values = values  # what the server says of itself
        self._max_readers = max_readers
        self._private = private  # for the server's own user alone
        self._patient = patient  # takes "lossless" readers, and waits for them
        self._peers: dict[int, _Peer] = {}  # by the socket's descriptor
        self._arrived: set[_Peer] = set()  # accepted, and on their way there
        self._ids = itertools.count(1)
        self._closed = False
        self.told: Callable[[], None] | None = None  # called when a reader has come or gone
        self._changes: deque[PeerChange] | None = None  # None: nobody wants to know

    def listen(self, watcher: Watcher) -> None:
        """Accept readers from now on."""
        self._watcher = watcher
        watcher.add(self._listener.fileno(), weakly(self._accept))

    def listen_again(self, listener: socket.socket) -> None:
        """Accept readers at this socket from now on, if it is another, and close the one before."""
        if listener is self._listener:
            return
        self._watcher.add(listener.fileno(), weakly(self._accept))
        self._watcher.remove(self._listener.fileno())
        self._listener.close()
        self._listener = listener

    @property
    def readers(self) -> int:
        """Readers connected now."""
        return sum([p.place is not None for p in list(self._peers.values())])

    @property
    def lossless(self) -> bool:
        """Is one of them "lossless"?"""
        return any(p.lossless for p in list(self._peers.values()))

    def stats(self) -> list[PeerStats]:
        """Of each reader; those that drop most come first."""
        with fork.steady():
            stats = [one for p in list(self._peers.values()) if (one := self._stats_of(p)) is not None]
        return sorted(stats, key=lambda one: -one.dropped)

    def _stats_of(self, peer: _Peer) -> PeerStats | None:
        if peer.place is None or (tally := self._writer.tally(peer.place)) is None:
            return None
        return PeerStats(peer.id, peer.pid, peer.uid, peer.policy, *tally)

    def changes(self) -> list[PeerChange]:
        """The readers that have come and gone since the last call; with the first, all that are there have
        come."""
        with fork.steady():
            if self._changes is None:
                self._changes = deque(maxlen=_CHANGES)
                for peer in list(self._peers.values()):
                    self._note(peer, came=True)
            changes = list(self._changes)
            self._changes.clear()
        return changes

    def _note(self, peer: _Peer, *, came: bool) -> None:
        if self._changes is not None and (stats := self._stats_of(peer)) is not None:
            self._changes.append(PeerChange(came, time.time_ns(), stats))

    # ------------------------------------------------------------------------------------ rings

    def offer(self) -> None:
        """Send the writer's ring to all readers that lack it. Those that come later get it as they come."""
        for peer in list(self._peers.values()):
            self._offer(peer)

    def settled(self) -> bool:
        """Have all "lossless" readers acknowledged the ring in use? The others would miss it if another took
        its place now."""
        newest = self._writer.generation
        return not any(
            p.lossless and p.acked < newest and self._writer.wants_more(p.place)
            for p in list(self._peers.values())
        )

    def _offer(self, peer: _Peer) -> None:
        """Send the newest ring to a reader that lacks it, unless too many are on their way to it."""
        newest = self._writer.generation
        if peer.place is not None and peer.sent < newest and len(peer.on_their_way) < _RINGS_ON_THEIR_WAY:
            if self._send(peer, Ring(newest, self._writer.ring_size), self._writer.ring_fd):
                # Interrupted here, it is sent once more, and the reader takes it once.
                peer.on_their_way.append(newest)
                peer.sent = newest

    # ------------------------------------------------------------------------------ connections

    def _accept(self) -> None:
        with fork.steady():
            if self._closed:
                return
            try:
                sock, _ = self._listener.accept()
                peer = _Peer(sock)
                self._arrived.add(peer)
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as e:
                pass_on(e)
                # No descriptor left, most likely. The connection stays in the queue and the listener
                # readable: look away for a while instead of spinning.
                log.warning("%s: cannot accept a reader: %s", self._name, e.strerror)
                self._watcher.pause(self._listener.fileno(), _NO_DESCRIPTORS_SECONDS)
                return
            try:
                taken = self._take(peer)
            except BaseException:
                self._drop(peer)
                raise
            finally:
                self._arrived.discard(peer)
            if not taken:
                peer.close()

    def _take(self, peer: _Peer) -> bool:
        """Look after a connection; False if it was refused."""
        sock = peer.sock
        sock.setblocking(False)
        peer.pid, peer.uid, _ = struct.unpack(
            "iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
        peer.id = next(self._ids)
        if self._private and peer.uid not in (0, os.geteuid()):
            self._send(peer, Refused(f"{self._name} serves its own user alone; see mode and group"))
            return False
        if len(self._peers) >= self._max_readers + _STRANGERS:
            self._send(peer, Busy(f"{self._name} has too many connections that say nothing yet"))
            return False
        fd = sock.fileno()
        self._peers[fd] = peer
        self._watcher.add(fd, weakly(self._receive, peer))
        self._watcher.later(HELLO_SECONDS, weakly(self._hello_is_late, peer))
        return True

    def _hello_is_late(self, peer: _Peer) -> None:
        with fork.steady():
            if peer.place is None:
                self._drop(peer)

    def _receive(self, peer: _Peer) -> None:
        if self._hear(peer):
            # Without the lock: what describe() gave may take its time, and publishers are not to wait for it.
            try:
                report = self._report()
            except BaseException:
                with fork.steady():
                    self._drop(peer)
                raise
            with fork.steady():
                self._send(peer, report)

    def _hear(self, peer: _Peer) -> bool:
        """Read a message and obey it. True: it asks what the server says of itself."""
        with fork.steady():
            if self._closed or peer.sock.fileno() < 0:
                return False
            admitted = peer.place is not None  # what it sends then may be obeyed twice
            try:
                # recv() and not recvmsg(): descriptors that a peer sends unasked are never received
                data = peer.sock.recv(MAX_BYTES, socket.MSG_PEEK if admitted else 0)
            except BlockingIOError:
                return False
            except OSError as e:
                pass_on(e)
                data = b""
            if not data:
                self._drop(peer)
                return False
            try:
                message = decode(data)
                if not isinstance(message, Stats):
                    self._answer(peer, message)
                self._take_out(peer, admitted)
                return isinstance(message, Stats)
            except ProtocolError as e:
                log.info("%s: dropped a connection: %s", self._name, str(e))
                self._take_out(peer, admitted)
                self._send(peer, Refused(str(e)))
                self._drop(peer)
            except (OSError, MemoryError) as e:
                if admitted and isinstance(e, MemoryError):  # it lies there until there is some again
                    self._watcher.pause(peer.sock.fileno(), _NO_MEMORY_SECONDS)
                    return False
                if isinstance(e, OSError) and e.errno is None:
                    self._drop(peer)
                    raise
                log.warning("%s: dropped a reader: %s", self._name, str(e))
                self._take_out(peer, admitted)
                why = e.strerror if isinstance(e, OSError) else str(e)
                self._send(peer, Refused(f"{self._name} cannot take another reader: {why or e}"))
                self._drop(peer)
            except BaseException:
                self._drop(peer)  # interrupted; it comes again, and does not wait for what was lost
                raise
            return False

    @staticmethod
    def _take_out(peer: _Peer, peeked: bool) -> None:
        """The message is done with. (One that lay unread while its socket is closed would take back what was
        sent last.)"""
        if peeked and peer.sock.fileno() >= 0:
            peer.sock.recv(1)

    def _answer(self, peer: _Peer, message: Message) -> None:
        match message:
            case Hello() if peer.place is None:
                self._welcome(peer, message)
            case Ack(generation) if peer.place is not None:
                peer.acked = max(peer.acked, min(generation, peer.sent))
                peer.on_their_way = [g for g in peer.on_their_way if g > generation]
                self._offer(peer)
                self._room.notify()
            case Room() if peer.place is not None:
                self._room.notify()
            case _:
                raise ProtocolError(f"{type(message).__name__} was not expected here")

    def _welcome(self, peer: _Peer, hello: Hello) -> None:
        if hello.policy not in NAMES:
            raise ProtocolError(f"there is no policy {hello.policy}")
        if NAMES[hello.policy] == "lossless" and not self._patient:
            self._send(peer, Refused(f'{self._name} waits for nobody: read it with policy="ordered"'))
            self._drop(peer)
            return
        if self.readers >= self._max_readers:
            self._send(peer, Refused(f"{self._name} has {self._max_readers} readers and takes no more"))
            self._drop(peer)
            return
        leases = max(1, min(hello.max_leases, _shm.MAX_LEASES))
        fds: list[int] = []
        try:
            page = _memory.make("valkka:leases", _shm.LEASE_PAGE_BYTES, fds)
            _memory.seal(page, writable=True)
            # A pipe and not an eventfd: the ends are files of their own, so whatever the reader does to
            # its end (an eventfd it could make blocking, and fill), writing to ours never blocks.
            _shm.note(peer.bells, os.pipe2, os.O_NONBLOCK | os.O_CLOEXEC)
            bell_out, bell = peer.bells
            peer.policy = NAMES[hello.policy]
            start = self._writer.add_peer(peer, page, bell, leases, hello.policy)
            welcome = Welcome(os.getpid(), start, self._writer.generation)
            if self._send(peer, welcome, page, bell_out):
                self._offer(peer)
        finally:
            _shm.close_all(fds)
        self._note(peer, came=True)
        self._tell()

    def _report(self) -> Report:
        """What the server says of itself, and as many of its readers as fit, those that drop most first."""
        values = self._values() or {}
        clients = [
            {key: value for key, value in asdict(reader).items() if key != "uid"} for reader in self.stats()
        ]
        while clients and not fits(values | {"clients": clients}):
            del clients[len(clients) // 2 :]
        return Report(values | {"clients": clients} if fits(values | {"clients": clients}) else values)

    def _send(self, peer: _Peer, message: Message, *fds: int) -> bool:
        # Not socket.send_fds(), which imports a module: the interpreter may be on its way out.
        rights = struct.pack(f"{len(fds)}i", *fds)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if fds else []
        try:
            peer.sock.sendmsg([encode(message)], ancillary, socket.MSG_NOSIGNAL)
        except OSError as e:
            pass_on(e)
            return False  # gone, or drowned in its own requests: its end of the socket will tell
        return True

    def _drop(self, peer: _Peer) -> None:
        """Forget a connection; its leases end here."""
        if peer.place is not None:
            self._note(peer, came=False)
            self._writer.remove_peer(peer.place)
            peer.place = None
            self._room.notify()
            self._tell()
        self._hang_up(peer)

    def _tell(self) -> None:
        if self.told is not None:
            self.told()

    def _hang_up(self, peer: _Peer) -> None:
        """Each step may be done twice; the entry goes last."""
        fd = peer.sock.fileno()
        if fd >= 0 and self._peers.get(fd) is peer:
            self._watcher.remove(fd)
        peer.close()
        peer.place = None  # unmaps the lease page, whatever still refers to the peer
        for fd in [fd for fd, other in list(self._peers.items()) if other is peer]:
            del self._peers[fd]

    # -------------------------------------------------------------------------------------- end

    def stop(self) -> None:
        """Answer no more messages. Then close()."""
        self._closed = True

    def close(self) -> None:
        """Say goodbye to all; they may finish reading the ring. It may be called again."""
        with fork.steady():
            for peer in list(self._peers.values()):
                if peer.sock.fileno() >= 0:
                    self._send(peer, Bye())
                self._hang_up(peer)
            if hasattr(self, "_watcher") and self._listener.fileno() >= 0:
                self._watcher.remove(self._listener.fileno())

    def after_fork(self) -> None:
        """In a forked child: close the descriptors without a word."""
        self._closed = True
        for peer in [*self._peers.values(), *self._arrived]:
            fork.drop(peer.close)
        self._peers.clear()


def fits(values: dict[str, Any]) -> bool:
    """Is there room for them in a REPORT?"""
    return len(encode(Report(values))) <= MAX_BYTES
