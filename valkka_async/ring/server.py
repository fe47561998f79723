# SPDX-License-Identifier: MIT
"""serve(): publish frames under a name, to any number of readers on this host."""

from __future__ import annotations

import grp
import logging
import operator
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from valkka_async.errors import ConnectError, ConnectionClosedOK, FrameError, NoFreeSlotError, ValkkaError
from valkka_async.foreign import pass_on
from valkka_async.ring import _memory, _shm, fork
from valkka_async.ring._room import RoomWaiters
from valkka_async.ring._shm import MAX_SLOTS, Frame, Kind, RingTooSmall, Slot
from valkka_async.ring._watch import Watch, watcher
from valkka_async.ring._weak import weakly
from valkka_async.ring.events import EVENT_SLOTS, Event, Opening
from valkka_async.ring.events import encode as encode_event
from valkka_async.ring.formats import FrameFormat, as_frame, as_meta, as_time_base, dtype_of, kind_of
from valkka_async.ring.names import EVENTS, check_name, check_source
from valkka_async.ring.peers import Peers, PeerStats, fits
from valkka_async.ring.readings import Readings
from valkka_async.ring.rendezvous import Claim
from valkka_async.ring.results import Box, encode

log = logging.getLogger("valkka_async")

_LAST_GID = (1 << 32) - 2  # the one after it stands for no group
_HEADER_SLOT_BYTES = 256 * 1024  # of a ring that is made for its header, before the first frame

Backlog = Literal["gop"]
BACKLOG_BYTES = 64 << 20

_READERS_SECONDS = 0.5  # between looks at which readers have come, gone or fallen behind

_TOO_LARGE = "timestamp_ns, pts, dts and duration are integers of at most 64 bits, with the sign"


@dataclass(frozen=True, slots=True)
class ServerStats:
    """``published`` and ``dropped`` frames, payload ``bytes`` published, ``readers`` connected,
    ``slots`` at most and ``slots_used`` (touched, so costing memory), ``last_published_ns``
    (CLOCK_MONOTONIC; 0: never). ``backlog``: frames that are retained now for readers that come late.
    ``backlog_outgrown``: the newest GOP, or the one before it, was too long to be retained: slots, or
    ``backlog_bytes``, did not reach."""

    published: int
    dropped: int
    bytes: int
    readers: int
    slots: int
    slots_used: int
    last_published_ns: int
    backlog: int
    backlog_outgrown: bool


def serve(
    name: str,
    *,
    slots: int = 16,
    max_clients: int = 64,
    mode: int = 0o600,
    group: str | int | None = None,
    backlog: Backlog | None = None,
    backlog_bytes: int = BACKLOG_BYTES,
    watch: Watch = "thread",
    events: bool = False,
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
    backlog
        For delta-coded streams (``publish(key=False)``). "gop": an "ordered" or "lossless" reader that comes
        late starts at the newest key frame and gets all since then, instead of waiting for the next one.
        These frames are retained as long as there are slots for them; new frames, leases and what other
        readers have not read come first. Once one of them is gone, so is the backlog, until the next key
        frame. Give ``slots`` for the longest GOP and a few more. None: such a reader starts with the newest
        frame, if that is a key frame.
    backlog_bytes
        No frame is retained if the ring's slots would come to more memory than this, in bytes of frames.
    watch
        What answers the readers that come, and looks for the server's files every second. "thread": a daemon
        thread, one for all servers of the process, whatever your code does meanwhile. "loop": the running
        event loop, as long as it runs and nothing blocks it; for processes that must not have a thread.
    events
        Tell of readers that come, go or fall behind, in the ring NAME.events, for
        :func:`valkka_async.events`; see emit(). Without, that ring is made by the first emit().

    Raises NameInUseError, InvalidNameError, ConnectError; ValueError and TypeError for other arguments
    that make no sense.

    ``publish`` and ``loan`` are plain calls, from any thread, in asyncio as elsewhere. So is ``close``; with
    ``watch="loop"`` another thread's takes effect as soon as the loop comes to it.
    """
    return Server(
        check_name(name),
        slots=slots,
        max_clients=max_clients,
        mode=mode,
        group=group,
        backlog=backlog,
        backlog_bytes=backlog_bytes,
        watch=watch,
        events=events,
    )


class Server:
    """Made by :func:`serve`. A context manager, plain and async; closing is idempotent."""

    _peers: Peers
    _over = True  # nothing is left to close
    _closed = True  # until there is something to close

    def __init__(
        self,
        name: str,
        *,
        slots: int,
        max_clients: int,
        mode: int,
        group: str | int | None,
        backlog: Backlog | None,
        backlog_bytes: int,
        watch: Watch,
        events: bool = False,
    ) -> None:
        self._said = ""
        self._name = check_source(name)
        slots, max_clients, mode, backlog_bytes = map(
            operator.index, (slots, max_clients, mode, backlog_bytes)
        )
        if not 2 <= slots <= MAX_SLOTS:
            raise ValueError(f"slots is a number from 2 to {MAX_SLOTS}, not {slots}")
        if max_clients < 1:
            raise ValueError(f"max_clients is at least 1, not {max_clients}")
        if backlog not in (None, "gop"):
            raise ValueError(f'backlog is "gop" or None, not {backlog!r}')
        if not 1 <= backlog_bytes < 1 << 63:
            raise ValueError(f"backlog_bytes is at least 1, not {backlog_bytes}")
        if not 0 <= mode <= 0o777:
            raise ValueError(f"mode is a number from 0 to 0o777, not {mode:#o}")
        try:
            gid = (
                grp.getgrnam(group).gr_gid
                if isinstance(group, str)
                else operator.index(-1 if group is None else group)
            )
        except KeyError:
            raise ValueError(f"there is no group {group!r} on this machine") from None
        if not (group is None or 0 <= gid <= _LAST_GID):
            raise ValueError(f"group is a name or a number from 0 to {_LAST_GID}, not {group!r}")
        self._watcher = watcher(watch)
        self._looking = weakly(self._look)
        self._slots = slots
        self._room = RoomWaiters()
        self._writer = _shm.Writer(backlog is not None, backlog_bytes, self._room.waiters)
        self._lent: tuple[object, Kind] | None = None  # what was asked of the last loan()
        self._header = b""
        self._header_serial = 0
        self._more: Callable[[], dict[str, Any]] | None = None
        self._events: Server | None = None  # the ring NAME.events
        self._readings: Readings | None = None
        self._opening = Opening()  # if this is a ring of events
        self._make_events: Callable[[], Server] = lambda: Server(
            check_name(f"{name}{EVENTS}"),
            slots=EVENT_SLOTS,
            max_clients=max_clients,
            mode=mode,
            group=group,
            backlog="gop",
            backlog_bytes=BACKLOG_BYTES,
            watch=watch,
        )
        self._claims: list[Claim] = []  # one, once it is served
        self._given_back: list[None] = []  # one, once that was closed
        try:
            with fork.steady():
                fork.in_child(self, Server._after_fork)
                queue = min(max_clients, 128)
                _shm.note(self._claims, Claim, self._name, mode=mode, group=gid, backlog=queue)
            self._peers = Peers(
                self._name,
                self._claim.listener,
                self._writer,
                self._room,
                weakly(self._values),
                max_readers=max_clients,
                private=not mode & 0o077,
                patient=not name.endswith(EVENTS),
            )
            self._peers.listen(self._watcher)
            self._watcher.look(self._claim.directory, self._looking)
        except BaseException as e:
            self._closed = True
            self._end()
            # no descriptor, or no thread
            if isinstance(e, OSError) and not isinstance(e, ValkkaError):
                pass_on(e)
                raise ConnectError(
                    e.errno,
                    f"cannot look after the server {name!r}: {e.strerror}; raise the limits (ulimit -n -u), "
                    'or do without the thread (watch="loop" in a coroutine)',
                ) from None
            raise
        self._over = self._closed = False
        if events:
            try:
                self._follow_readers()
            except BaseException:
                self.close()
                raise

    @property
    def _claim(self) -> Claim:
        return self._claims[0]

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
        return self._peers.lossless

    @property
    def readers(self) -> int:
        """Readers connected now."""
        return self._peers.readers

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
        all, or a "lossless" reader has not read them (see writable()). After a frame with ``key=False``
        that was dropped, go on with one that is a key frame, or try that one again. A signal handler that
        comes while this thread makes a ring gets False for a larger frame. Raises
        FrameError, RingMemoryError, ConnectionClosedOK after close().
        """
        data = None if meta is None else as_meta(meta)
        base = None if time_base is None else as_time_base(time_base)
        what: FrameFormat | Kind | None = format
        while True:
            try:
                done = self._writer.publish(image, what, timestamp_ns, pts, dts, duration, base, key, data)
            except RingTooSmall as e:
                needed: int = e.args[0]
            except OverflowError:
                raise FrameError(_TOO_LARGE) from None
            else:
                if done is not None:
                    return done
                image, what = as_frame(image, format)
                continue
            if not self._grow(needed, variable=np.ndim(image) == 1, key=key):
                return False

    def publish_result(
        self,
        frame: Frame,
        boxes: Iterable[Box] = (),
        *,
        text: str = "",
        data: Mapping[str, Any] | None = None,
        size: tuple[int, int] | None = None,
    ) -> bool:
        """Publish what was found in a frame, for :func:`valkka_async.join` and the service's page::

            boxes = va.serve("cam1.boxes")
            async for frame in camera:
                found = model(frame.array)
                boxes.publish_result(frame, [va.Box(*corners, name, score) for corners, name, score in found])

        One call for each frame, in their order, also where nothing was found: then nobody waits for it.

        Parameters
        ----------
        frame
            As it was read, whatever ring of the camera that was. It may be released already.
        boxes
            In that frame's pixels.
        text, data
            Anything else: a text, and an object as JSON has it.
        size
            (width, height) in pixels of a frame that does not say so itself, such as a JPEG.

        Returns False as publish() does. The result has the frame's ``timestamp_ns``, so its ``age`` is since
        the frame was captured. Raises FrameError, also for more than 256 KiB of JSON;
        ConnectionClosedOK after close().
        """
        payload, meta = encode(frame, boxes, text, data, size)
        return self.publish(payload, timestamp_ns=frame.timestamp_ns, meta=meta)

    def emit(
        self,
        code: str,
        text: str = "",
        /,
        *,
        camera: str | None = None,
        time_ns: int | None = None,
        **fields: Any,
    ) -> bool:
        """Tell that something has happened, to all who read :func:`valkka_async.events`, and so to the hooks
        of a service's config::

            cam1.emit("line.crossed", "somebody came in", line="door", track=17)

        From any thread; never blocks. It travels in a ring of its own, NAME.events, which the first call
        makes (or ``serve(events=True)``), and which is closed with this server. A server whose own name ends
        with ".events" has no other.

        Parameters
        ----------
        code
            1 to 64 of ``A-Z a-z 0-9 . _ -``. Those of :class:`EventCode` have a meaning already.
        text
            For people, at most 1000 characters; what is more is cut off.
        camera
            What it is about. By default the name of this server.
        time_ns
            When, nanoseconds since the Unix epoch; default now.
        fields
            Anything else, as JSON has it. All together have at most 16 KiB.

        Returns False if it was lost because no slot was free. Raises FrameError, InvalidNameError (a name
        with ".events" behind it is too long), ConnectError if there can be no such ring, RingMemoryError,
        ConnectionClosedOK after close(). With ``watch="loop"`` the first call is for that loop.
        """
        name = self._name.removesuffix(EVENTS)
        payload = encode_event(code, name if camera is None else camera, text, fields)
        return self._ring_of_events().publish_event(payload, time_ns)

    def publish_event(self, payload: bytes, time_ns: int | None) -> bool:
        """Publish what events.encode() has made, in this ring of events."""
        return self._opening.publish(lambda key: self.publish(payload, timestamp_ns=time_ns, key=key))

    def _ring_of_events(self) -> Server:
        if self._name.endswith(EVENTS):
            return self
        if (ring := self._events) is None:
            with fork.steady():
                self._check()
                if (ring := self._events) is None:
                    ring = self._events = self._make_events()
        return ring

    def reader_events(self) -> list[Event]:
        """What has become of the readers since the last call: EventCode.READER_JOINED, READER_LEFT and
        READER_BEHIND. For those that do not want ``serve(events=True)`` to publish it."""
        if self._readings is None:
            self._readings = Readings(self._name, self._peers)
        return self._readings.news()

    def _follow_readers(self) -> None:
        ring = self._ring_of_events()
        for event in self.reader_events():
            try:
                ring.publish_event(
                    encode_event(event.code, event.camera, event.text, event.fields), event.time_ns
                )
            except ValkkaError as e:  # there is no memory
                log.warning("%s: an event was lost: %s", self._name, str(e))
        self._watcher.later(_READERS_SECONDS, weakly(self._look_at_readers))

    def _look_at_readers(self) -> None:
        if not self._closed:
            self._follow_readers()

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
        Raises NoFreeSlotError (and counts a drop) when no slot is free, else as publish().
        """
        lent = self._lent  # frames of a stream are alike: it is checked once
        try:
            alike = lent is not None and type(shape) is tuple and lent[0] == (shape, format, dtype)
        except ValueError:  # an array among them
            alike = False
        if lent is None or not alike:
            shape = tuple(map(operator.index, shape))
            lent = self._lent = (shape, format, dtype), kind_of(shape, dtype_of(format, dtype), format)
        kind = lent[1]
        data = None if meta is None else as_meta(meta)
        base = None if time_base is None else as_time_base(time_base)
        slot = None
        while True:
            try:
                slot = self._writer.loan(kind, timestamp_ns, pts, dts, duration, base, key, data)
                break
            except RingTooSmall as e:
                needed: int = e.args[0]
            except OverflowError:
                raise FrameError(_TOO_LARGE) from None
            if not self._grow(needed, variable=len(shape) == 1, key=key):
                break
        if slot is None:
            raise NoFreeSlotError(
                f"{self._name}: all {self._slots} slots are in use; have readers hold fewer frames, "
                "or serve() with more slots"
            )
        return slot

    def set_header(self, data: bytes) -> None:
        """Set what a reader needs before the first frame, as ftyp+moov of fragmented MP4.

        It reaches every reader, however late, and a change of it starts a new ring. Frames published
        before belong to the header before. Raises NoFreeSlotError if a "lossless" reader would miss it,
        ConnectionClosedOK after close(), and TypeError for what is not bytes.
        """
        nested = fork.in_a_step()
        with fork.steady():
            self._check()
            if data == self._header and not nested:
                self._announce()
                return
            if nested or not self._peers.settled():
                raise NoFreeSlotError(
                    f"{self._name}: a lossless reader has not taken the ring in use yet; wait with writable()"
                )
            header, serial = bytes(memoryview(data)), self._header_serial + 1
            size = self._writer.slot_bytes or _HEADER_SLOT_BYTES
            self._new_ring(size, header, serial, carry=False)
            self._header, self._header_serial = header, serial
            self._announce()

    def expire(self) -> None:
        """The stream pauses here. Readers that connect from now on get the next frame, and neither the newest
        one, which will be old by then, nor a backlog; readers that are connected may still read what they
        have not read."""
        self._writer.expire()

    def describe(self, more: Callable[[], dict[str, Any]] | None) -> None:
        """Add ``more()`` to what this server answers when it is asked for its state (``top``, ``report``).

        It is called where the server is looked after (``watch``), and must not block: no other reader is
        answered meanwhile. What does not fit into a message is left out.
        """
        self._more = more

    def when_readers_change(self, told: Callable[[], None]) -> None:
        """Call ``told`` after each reader that has come or gone, where the server is looked after
        (``watch``), with its lock held: it must neither block nor raise."""
        self._peers.told = told

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
            backlog=writer.backlog,
            backlog_outgrown=writer.outgrown,
        )

    def reader_stats(self) -> list[PeerStats]:
        """The readers connected now, and how each keeps up. Those that drop most come first.

        From any thread. A reader counts its drops when it gets its next frame: one that has stopped reading
        shows in ``received``, which does not rise.
        """
        return self._peers.stats()

    def _values(self) -> dict[str, Any]:
        """What it answers when it is asked for its state."""
        format, shape = self._writer.made_of
        values: dict[str, Any] = asdict(self.stats())
        values |= {"pid": os.getpid(), "now_ns": time.monotonic_ns(), "format": format, "shape": shape}
        if self._more is not None:
            more = self._more() | values
            if fits(more):
                return more
        return values

    def _grow(self, nbytes: int, *, variable: bool, key: bool) -> bool:
        """Go on in a ring with larger slots. False: not now, and the frame is counted as dropped."""
        nested = fork.in_a_step()  # perhaps of this very one
        with fork.steady():
            self._check()
            if nested or (self._writer.slot_bytes < nbytes and not self._peers.settled()):
                self._writer.drop()
                return False
            if self._writer.slot_bytes < nbytes:  # else another thread was quicker
                # Streams vary in length: room to spare costs address space only, a new ring costs time.
                self._new_ring(
                    max(2 * nbytes, _HEADER_SLOT_BYTES) if variable else nbytes,
                    self._header,
                    self._header_serial,
                    carry=not key,  # a key frame begins a backlog of its own
                )
            self._announce()
            return True

    def _new_ring(self, slot_bytes: int, header: bytes, serial: int, *, carry: bool) -> None:
        """Go on in a new ring, or, whatever it raises, in the one before. _announce() must follow."""
        size = _shm.ring_bytes(self._slots, slot_bytes, len(header))
        fds: list[int] = []
        try:
            fd = _memory.make(f"valkka:{self._name}", size, fds)
            fresh = self._writer.map_ring(fd, self._slots, slot_bytes, header, serial)
            _memory.seal(fd, writable=False)  # after our own writable map of it
            self._writer.start_ring(fresh, fds, carry)
        finally:
            _shm.close_all(fds)

    def _announce(self) -> None:
        """Offer the ring in use to the readers, unless that was done. If that is interrupted, the next frame
        finds the ring too small, and so comes here again."""
        if not self._writer.announced:
            self._peers.offer()
            self._writer.announce()

    # ------------------------------------------------------------------------------ backpressure

    def _check(self) -> None:
        """Raises InheritedError in a forked child, ConnectionClosedOK after close()."""
        self._writer.check()
        if self._closed:
            raise ConnectionClosedOK(f"the server {self._name!r} was closed")

    def _has_room(self) -> bool:
        self._check()
        with fork.steady():
            return self._writer.has_room() and self._peers.settled()

    async def writable(self) -> None:
        """Wait until a frame can be published: until readers, "lossless" ones above all, have given a
        slot back. May be cancelled. Raises ConnectionClosedOK when the server is closed::

            while not server.publish(image):
                await server.writable()
        """
        await self._room.wait(self._has_room)

    def wait_writable(self, timeout: float | None = None) -> bool:
        """writable() for plain programs and threads: False if there is no room after ``timeout`` seconds
        (None: wait for ever). Raises as writable(), and ConcurrencyError in the event loop that looks after
        this server (``watch="loop"``), which it would block.
        """
        self._watcher.check_may_wait()
        return self._room.wait_for(self._has_room, timeout)

    # ------------------------------------------------------------------------------ its files

    def _look(self) -> bool:
        """Are its socket and lock still there? If not, make them again. False: that cannot be done now."""
        with fork.steady():
            if self._closed:
                return True
            whole = self._claim.whole() or self._restore()
            self._peers.listen_again(self._claim.listener)
            return whole

    def _restore(self) -> bool:
        try:
            with fork.steady():
                self._claim.restore()
        except ConnectError as e:
            if str(e) != self._said:
                self._said = str(e)
                log.warning("%s: its socket and lock are not in place: %s; trying again", self._name, str(e))
            return False
        self._said = ""
        log.warning("%s: its socket or lock was deleted; made again", self._name)
        return True

    # -------------------------------------------------------------------------------------- end

    def close(self) -> None:
        """Say goodbye to the readers and give the name back. They may finish reading what is there."""
        if not self._over:
            with fork.steady():
                self._closed = True
                self._writer.close()  # whoever looks after the server may not come to it soon
            self._watcher.call(self._end)
            self._watcher.join()

    def _end(self) -> None:
        """Close what there is. Each step may be done twice: after an interrupt, close() goes on here."""
        self._watcher.look_away(self._looking)
        if (events := self._events) is not None:
            events._closed = True
            events._end()
        if hasattr(self, "_peers"):
            self._peers.stop()
            self._writer.close()
            self._room.notify()
            self._peers.close()
        with fork.steady():
            for claim in self._claims:
                if not self._given_back:
                    _shm.note(self._given_back, claim.close)
        self._over = True

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

    @fork.quiet_at_end
    def __del__(self) -> None:
        if self._over:
            return
        try:
            if not self._closed:
                warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
        finally:  # the warning may be an error
            self._closed = True
            # The collector may have come in the middle of anything: no waiting for threads here.
            fork.collected(lambda: self._watcher.call(self._end))

    def __repr__(self) -> str:
        return f"<Server {self._name}{' [closed]' if self._closed else ''}>"

    def _after_fork(self) -> None:
        self._over = self._closed = True
        for claim in self._claims if not self._given_back else ():
            fork.drop(claim.after_fork)
        if hasattr(self, "_peers"):
            fork.drop(self._peers.after_fork)
        fork.drop(self._writer.close)
