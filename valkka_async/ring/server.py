# SPDX-License-Identifier: MIT
"""serve(): publish frames under a name, to any number of readers on this host."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import grp
import itertools
import logging
import os
import socket
import struct
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from valkka_async.errors import ConnectionClosedOK, NoFreeSlot, ProtocolError, RingMemoryError
from valkka_async.ring import _fork, _shm
from valkka_async.ring._shm import MAX_LEASES, MAX_SLOTS, Kind, RingTooSmall, Slot
from valkka_async.ring._watch import watcher
from valkka_async.ring._weak import weakly
from valkka_async.ring.formats import FrameFormat, as_frame, as_meta, as_time_base, dtype_of, kind_of
from valkka_async.ring.handshake import (
    MAX_BYTES,
    Ack,
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
from valkka_async.ring.rendezvous import Claim, check_name

log = logging.getLogger("valkka_async")

HELLO_SECONDS = 5.0  # a connection that has said nothing by then is closed
_NO_DESCRIPTORS_SECONDS = 0.5
_HEADER_SLOT_BYTES = 256 * 1024
# A reader that does not look at its socket costs so many messages and descriptors in its queue, no more.
_RINGS_ON_THEIR_WAY = 4

_POLICIES = {_shm.LATEST: "latest", _shm.ORDERED: "ordered", _shm.LOSSLESS: "lossless"}

# linux/fcntl.h; Python 3.11 does not name the second
_SEAL_LEASES = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_SEAL_RING = _SEAL_LEASES | 0x0010  # F_SEAL_FUTURE_WRITE


@dataclass(frozen=True, slots=True)
class ServerStats:
    """``published`` and ``dropped`` frames, payload ``bytes`` published, ``readers`` connected,
    ``slots`` at most and ``slots_used`` (touched, so costing memory), ``last_published_ns``
    (CLOCK_MONOTONIC; 0: never)."""

    published: int
    dropped: int
    bytes: int
    readers: int
    slots: int
    slots_used: int
    last_published_ns: int


@dataclass(frozen=True, slots=True)
class PeerStats:
    """A reader as its server sees it: its number ``id`` (no other reader of this server ever has it),
    process ``pid`` of user ``uid`` (0 and 65534 if it lives in another namespace), its ``policy``, and what
    it says of itself: frames ``received`` and ``dropped`` (published but missed) and ``leases`` it holds now.
    A broken reader may say anything: these are to be looked at, and nothing should be decided by them."""

    id: int
    pid: int
    uid: int
    policy: str
    received: int
    dropped: int
    leases: int


def serve(
    name: str, *, slots: int = 16, max_clients: int = 64, mode: int = 0o600, group: str | int | None = None
) -> Server:
    """Publish frames under ``name``. Returns at once; nothing is allocated before the first frame.

    Parameters
    ----------
    name
        1 to 64 of ``A-Z a-z 0-9 . _ -``, unused by any live server in the runtime directory.
    slots
        How many frames there may be at once, at least 2 and one more than readers hold together.
        A slot that is never needed costs no memory.
    max_clients
        Readers beyond this number are refused.
    mode, group
        Permissions of the socket: by default this user (and root) alone may read. To share, give
        0o660 and a group, and a VALKKA_RUNTIME_DIR that the group may enter.

    Raises NameInUseError, InvalidNameError, ConnectError.

    In asyncio the server's descriptors join the running loop and it must be closed there; in a plain
    program a daemon thread looks after them. ``publish`` and ``loan`` are the same plain calls in both,
    from any thread.
    """
    return Server(name, slots=slots, max_clients=max_clients, mode=mode, group=group)


class _Reader:
    """A connection, from accept to its end."""

    def __init__(self, sock: socket.socket, id: int, pid: int, uid: int) -> None:
        self.sock = sock
        self.id = id
        self.pid = pid
        self.uid = uid
        self.policy = ""
        self.bell = -1  # we write here
        self.bell_out = -1  # the reader reads there; kept, lest a dead reader make a write raise SIGPIPE
        self.peer: object | None = None  # the writer's; None: has not said hello yet
        self.sent = 0  # generation of the last RING sent
        self.acked = 0
        self.on_their_way: list[int] = []  # generations sent and not yet acknowledged

    @property
    def lossless(self) -> bool:
        return self.policy == "lossless"

    def close(self) -> None:
        self.sock.close()
        for fd in (self.bell, self.bell_out):
            if fd >= 0:
                os.close(fd)
        self.bell = self.bell_out = -1


class Server:
    """Made by :func:`serve`. A context manager, plain and async; closing is idempotent."""

    def __init__(
        self, name: str, *, slots: int, max_clients: int, mode: int, group: str | int | None
    ) -> None:
        self._closed = True  # until there is something to close
        self._name = check_name(name)
        if not 2 <= slots <= MAX_SLOTS:
            raise ValueError(f"slots is a number from 2 to {MAX_SLOTS}, not {slots}")
        if max_clients < 1:
            raise ValueError(f"max_clients is at least 1, not {max_clients}")
        try:
            gid = grp.getgrnam(group).gr_gid if isinstance(group, str) else -1 if group is None else group
        except KeyError:
            raise ValueError(f"there is no group {group!r} on this machine") from None
        self._slots = slots
        self._max_clients = max_clients
        self._open_to_others = bool(mode & 0o077)
        self._writer = _shm.Writer()
        self._readers: dict[int, _Reader] = {}
        self._ids = itertools.count(1)
        self._ring_fd = -1
        self._ring_size = 0
        self._header = b""
        self._header_serial = 0
        self._room_waiters: list[Callable[[], object]] = []
        self._more: Callable[[], dict[str, Any]] | None = None
        # Publishing takes no lock. This one orders new rings and connections, which may meet when a
        # thread publishes while the loop accepts.
        self._lock = threading.RLock()
        self._claim = Claim(self._name, mode=mode, group=gid, backlog=min(max_clients, 128))
        self._watcher = watcher()
        self._closed = False
        self._watcher.add(self._claim.listener.fileno(), weakly(self._accept))
        _fork.register(self)

    # ------------------------------------------------------------------------------- publishing

    @property
    def name(self) -> str:
        """The name it is served under."""
        return self._name

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._closed

    @property
    def lossless(self) -> bool:
        """True while a "lossless" reader is connected: publish() may have to be tried again."""
        return any(r.lossless for r in list(self._readers.values()))

    @property
    def readers(self) -> int:
        """Readers connected now."""
        return sum(r.peer is not None for r in list(self._readers.values()))

    def publish(
        self,
        image: Any,
        *,
        format: FrameFormat | None = None,
        timestamp_ns: int | None = None,
        pts: int | None = None,
        dts: int | None = None,
        duration: int | None = None,
        time_base: Fraction | tuple[int, int] | None = None,
        key: bool = True,
        meta: dict[str, Any] | None = None,
    ) -> bool:
        """Copy one frame into the ring and wake the readers that wait for it. Never blocks.

        Parameters
        ----------
        image
            A numpy array, strided or not, or bytes: see :mod:`valkka_async.ring.formats`.
        format
            By default from the shape: uint8 (H, W) gray8, (H, W, 3) rgb24, (H, W, 4) rgba, bytes ``bytes``;
            uint16 (H, W) gray16; anything else ``array``.
        timestamp_ns
            Capture time, nanoseconds since the Unix epoch; default now.
        pts, dts, duration, time_base
            Presentation time, decoding time and length of the frame, and seconds per unit of them.
        key
            False: of no use without the frames before it.
        meta
            A small JSON object, at most 4 KiB encoded.

        Returns False if the frame was dropped (and counted) because no slot was free: readers hold them
        all, or a "lossless" reader has not read them (see writable()). Raises
        FrameError, RingMemoryError, ConnectionClosedOK after close().
        """
        data = None if meta is None else as_meta(meta)
        base = None if time_base is None else as_time_base(time_base)
        publish = self._writer.publish
        what: FrameFormat | Kind | None = format
        while True:
            try:
                done = publish(image, what, timestamp_ns, pts, dts, duration, base, key, data)
            except RingTooSmall as e:
                needed: int = e.args[0]
            else:
                if done is not None:
                    return done
                image, what = as_frame(image, format)
                continue
            if not self._grow(needed, variable=np.ndim(image) == 1):
                return False

    def loan(
        self,
        shape: tuple[int, ...],
        format: FrameFormat = "rgb24",
        *,
        dtype: DTypeLike | None = None,
        timestamp_ns: int | None = None,
        pts: int | None = None,
        dts: int | None = None,
        duration: int | None = None,
        time_base: Fraction | tuple[int, int] | None = None,
        key: bool = True,
        meta: dict[str, Any] | None = None,
    ) -> Slot:
        """Borrow a slot and write the frame in place, without a copy::

            with server.loan((1080, 1920, 3)) as slot:
                camera.read_into(slot.array)

        Leaving the block publishes, an exception in it discards. ``dtype`` is for format ``array`` (by
        default uint8); every other format has its own. The other parameters are those of publish().
        Raises NoFreeSlot (and counts a drop) when no slot is free, else as publish().
        """
        shape = tuple(map(int, shape))
        kind = kind_of(shape, dtype_of(format, dtype), format)
        data = None if meta is None else as_meta(meta)
        base = None if time_base is None else as_time_base(time_base)
        slot = None
        while True:
            try:
                slot = self._writer.loan(kind, timestamp_ns, pts, dts, duration, base, key, data)
                break
            except RingTooSmall as e:
                needed: int = e.args[0]
            if not self._grow(needed, variable=len(shape) == 1):
                break
        if slot is None:
            raise NoFreeSlot(
                f"{self._name}: all {self._slots} slots are in use; have readers hold fewer frames, "
                "or serve() with more slots"
            )
        return slot

    def set_header(self, data: bytes) -> None:
        """Set what a reader needs before the first frame, as ftyp+moov of fragmented MP4.

        It reaches every reader, however late, and a change of it starts a new ring. Frames published
        before belong to the header before. Raises NoFreeSlot if a "lossless" reader would miss it.
        """
        with self._lock:
            if data == self._header:
                return
            if self._ring_awaited():
                raise NoFreeSlot(
                    f"{self._name}: a lossless reader has not taken the ring in use yet; wait with writable()"
                )
            self._header = bytes(data)
            self._header_serial += 1
            if not self._closed:
                self._new_ring(self._writer.slot_bytes or _HEADER_SLOT_BYTES)

    def expire(self) -> None:
        """The stream pauses here: who connects from now on gets the next frame, and not the newest one,
        which will be old by then. Readers that are there keep what they may still read."""
        self._writer.expire()

    def describe(self, more: Callable[[], dict[str, Any]] | None) -> None:
        """Add ``more()`` to what this server answers when it is asked for its state (``top``, ``report``).

        It is called in the thread that looks after the server, and must not block; what does not fit into
        a message is left out.
        """
        self._more = more

    def stats(self) -> ServerStats:
        """Counters since serve()."""
        writer = self._writer
        return ServerStats(
            published=writer.published,
            dropped=writer.dropped,
            bytes=writer.bytes,
            readers=self.readers,
            slots=self._slots,
            slots_used=writer.slots_used,
            last_published_ns=writer.last_published_ns,
        )

    def reader_stats(self) -> list[PeerStats]:
        """The readers connected now, and how each of them keeps up: who drops most comes first.

        From any thread. A reader counts its drops when it gets its next frame; one that has stopped reading
        is known by ``received``, which rises no more.
        """
        with self._lock:
            stats = [
                PeerStats(reader.id, reader.pid, reader.uid, reader.policy, *self._writer.tally(reader.peer))
                for reader in self._readers.values()
                if reader.peer is not None
            ]
        return sorted(stats, key=lambda one: -one.dropped)

    def _grow(self, nbytes: int, *, variable: bool) -> bool:
        """Go on in a ring with larger slots. False: not now, and the frame is counted as dropped."""
        with self._lock:
            if self._writer.slot_bytes < nbytes:  # else another thread was quicker
                if self._ring_awaited():
                    self._writer.drop()
                    return False
                # Streams vary in length: room to spare costs address space only, a new ring costs time.
                self._new_ring(max(2 * nbytes, _HEADER_SLOT_BYTES) if variable else nbytes)
            return True

    def _ring_awaited(self) -> bool:
        """Does a "lossless" reader still owe us the acknowledgement of the ring in use? It would miss it
        if another took its place now."""
        newest = self._writer.generation
        return any(
            r.lossless and r.acked < newest and self._writer.wants_more(r.peer)
            for r in self._readers.values()
        )

    def _new_ring(self, slot_bytes: int) -> None:
        size = _shm.ring_bytes(self._slots, slot_bytes, len(self._header))
        fd = _memfd(f"valkka:{self._name}", size)
        try:
            self._writer.start_ring(fd, self._slots, slot_bytes, self._header, self._header_serial)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEAL_RING)  # after our own writable map of it
        except BaseException:
            os.close(fd)
            raise
        if self._ring_fd >= 0:
            os.close(self._ring_fd)
        self._ring_fd, self._ring_size = fd, size
        for reader in list(self._readers.values()):
            self._offer_ring(reader)
        self._writer.retire_ring()

    # ------------------------------------------------------------------------------ backpressure

    def _has_room(self) -> bool:
        if self._closed:
            raise ConnectionClosedOK(f"the server {self._name!r} was closed")
        with self._lock:
            return self._writer.has_room() and not self._ring_awaited()

    def _notify_room(self) -> None:
        for wake in list(self._room_waiters):
            wake()

    async def writable(self) -> None:
        """Wait until a frame can be published: until readers, "lossless" ones above all, have given a
        slot back. May be cancelled. Raises ConnectionClosedOK when the server is closed::

            while not server.publish(image):
                await server.writable()
        """
        loop = asyncio.get_running_loop()
        while True:
            room = loop.create_future()
            wake = partial(_call_in, loop, room)
            self._room_waiters.append(wake)  # before looking: what comes after the look wakes us
            try:
                if self._has_room():
                    return
                await room
            finally:
                self._room_waiters.remove(wake)

    def wait_writable(self, timeout: float | None = None) -> bool:
        """writable() for plain programs and threads: False if there is no room after ``timeout`` seconds
        (None: wait for ever). Not for the thread of the event loop that looks after this server, which
        it would block.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        room = threading.Event()
        self._room_waiters.append(room.set)
        try:
            while not self._has_room():
                if not room.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    return False
                room.clear()
            return True
        finally:
            self._room_waiters.remove(room.set)

    # ------------------------------------------------------------------------------ connections

    def _accept(self) -> None:
        with self._lock:
            if self._closed:
                return
            try:
                sock, _ = self._claim.listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as e:
                # No descriptor left, most likely. The connection stays in the queue and the listener
                # readable: look away for a while instead of spinning.
                log.warning("%s: cannot accept a reader: %s", self._name, e.strerror)
                self._watcher.pause(self._claim.listener.fileno(), _NO_DESCRIPTORS_SECONDS)
                return
            sock.setblocking(False)
            pid, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            reader = _Reader(sock, next(self._ids), pid, uid)
            if not self._open_to_others and uid not in (0, os.geteuid()):
                self._send(reader, Refused(f"{self._name} serves its own user alone; see mode and group"))
                sock.close()
            elif len(self._readers) >= self._max_clients + 16:
                self._send(reader, Refused(f"{self._name} has too many connections"))
                sock.close()
            else:
                fd = sock.fileno()
                self._readers[fd] = reader
                self._watcher.add(fd, weakly(self._receive, reader))
                self._watcher.later(HELLO_SECONDS, weakly(self._hello_is_late, reader))

    def _hello_is_late(self, reader: _Reader) -> None:
        with self._lock:
            if reader.peer is None:
                self._drop(reader)

    def _receive(self, reader: _Reader) -> None:
        with self._lock:
            if self._closed or reader.sock.fileno() < 0:
                return
            try:
                # recv() and not recvmsg(): descriptors that a peer sends unasked are never received
                data = reader.sock.recv(MAX_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._drop(reader)
                return
            try:
                self._answer(reader, decode(data))
            except ProtocolError as e:
                log.info("%s: dropped a connection: %s", self._name, e)
                self._send(reader, Refused(str(e)))
                self._drop(reader)
            except OSError as e:
                log.warning("%s: dropped a reader: %s", self._name, e)
                self._send(reader, Refused(f"{self._name} cannot take another reader: {e.strerror or e}"))
                self._drop(reader)

    def _answer(self, reader: _Reader, message: Message) -> None:
        match message:
            case Hello() if reader.peer is None:
                self._welcome(reader, message)
            case Ack(generation) if reader.peer is not None:
                reader.acked = max(reader.acked, min(generation, reader.sent))
                reader.on_their_way = [g for g in reader.on_their_way if g > generation]
                self._offer_ring(reader)
                self._notify_room()
            case Room() if reader.peer is not None:
                self._notify_room()
            case Stats():
                self._send(reader, self._report())
            case _:
                raise ProtocolError(f"{type(message).__name__} was not expected here")

    def _report(self) -> Report:
        values = asdict(self.stats()) | {"pid": os.getpid(), "now_ns": time.monotonic_ns()}
        if self._more is not None:
            more = self._more() | values
            if _fits(more):
                values = more
        # What room is left is for readers, those that drop most. How many there are the message says anyway.
        clients = [
            {key: value for key, value in asdict(reader).items() if key != "uid"}
            for reader in self.reader_stats()
        ]
        while clients and not _fits(values | {"clients": clients}):
            del clients[len(clients) // 2 :]
        return Report(values | {"clients": clients} if _fits(values | {"clients": clients}) else values)

    def _welcome(self, reader: _Reader, hello: Hello) -> None:
        if hello.policy not in _POLICIES:
            raise ProtocolError(f"there is no policy {hello.policy}")
        if self.readers >= self._max_clients:
            self._send(reader, Refused(f"{self._name} has {self._max_clients} readers and takes no more"))
            self._drop(reader)
            return
        leases = max(1, min(hello.max_leases, MAX_LEASES))
        page = _memfd("valkka:leases", _shm.LEASE_PAGE_BYTES)
        try:
            fcntl.fcntl(page, fcntl.F_ADD_SEALS, _SEAL_LEASES)
            # A pipe and not an eventfd: the ends are files of their own, so whatever the reader does to
            # its end (an eventfd it could make blocking, and fill), writing to ours never blocks.
            reader.bell_out, reader.bell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            reader.policy = _POLICIES[hello.policy]
            reader.peer, start = self._writer.add_peer(page, reader.bell, leases, hello.policy)
            welcome = Welcome(os.getpid(), start, self._writer.generation)
            if self._send(reader, welcome, page, reader.bell_out):
                self._offer_ring(reader)
        finally:
            os.close(page)

    def _offer_ring(self, reader: _Reader) -> None:
        """Send the newest ring to a reader that lacks it, unless it has left too many where they are."""
        newest = self._writer.generation
        if (
            reader.peer is not None
            and reader.sent < newest
            and len(reader.on_their_way) < _RINGS_ON_THEIR_WAY
        ):
            if self._send(reader, Ring(newest, self._ring_size), self._ring_fd):
                reader.sent = newest
                reader.on_their_way.append(newest)

    def _send(self, reader: _Reader, message: Message, *fds: int) -> bool:
        try:
            socket.send_fds(reader.sock, [encode(message)], fds, socket.MSG_NOSIGNAL)
        except OSError:
            return False  # gone, or drowned in its own requests: its end of the socket will tell
        return True

    def _drop(self, reader: _Reader) -> None:
        """Forget a connection; its leases end here."""
        if self._readers.pop(reader.sock.fileno(), None) is None:
            return
        if reader.peer is not None:
            self._writer.remove_peer(reader.peer)
            self._notify_room()
        self._hang_up(reader)

    def _hang_up(self, reader: _Reader) -> None:
        self._watcher.remove(reader.sock.fileno())
        reader.close()
        reader.peer = None  # and with it the map of the lease page, whoever still refers to the reader

    # -------------------------------------------------------------------------------------- end

    def close(self) -> None:
        """Say goodbye to the readers and give the name back. They may finish reading what is there."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            readers = list(self._readers.values())
            self._readers.clear()
            self._writer.close()
        self._notify_room()
        # Unlocked: the watcher may wait for its thread to end, and that for our lock.
        for reader in readers:
            self._send(reader, Bye())
            self._hang_up(reader)
        self._watcher.remove(self._claim.listener.fileno())
        self._claim.close()
        if self._ring_fd >= 0:
            os.close(self._ring_fd)

    async def aclose(self) -> None:
        """close(), for symmetry with the clients; it does not wait for anything."""
        self.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"<Server {self._name}{' [closed]' if self._closed else ''}>"

    def _after_fork(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._lock = threading.RLock()  # a thread that the child does not have may have held it
        self._claim.after_fork()
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self._writer.close()
        if self._ring_fd >= 0:
            os.close(self._ring_fd)


def _fits(values: dict[str, Any]) -> bool:
    return len(encode(Report(values))) <= MAX_BYTES


def _call_in(loop: asyncio.AbstractEventLoop, room: asyncio.Future[None]) -> None:
    """Wake a task of any loop from any thread."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(_fulfil, room)


def _fulfil(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_result(None)


def _memfd(name: str, size: int) -> int:
    """Anonymous shared memory that can be sealed. Raises RingMemoryError, OSError."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
    except OSError as e:
        os.close(fd)
        if e.errno in (errno.EFBIG, errno.ENOMEM, errno.EINVAL):
            raise RingMemoryError(
                f"no memory for a ring of {size} bytes ({e.strerror}): use fewer slots or smaller frames, "
                "or raise the limit (ulimit -f)"
            ) from None
        raise
    return fd
