# SPDX-License-Identifier: MIT
"""Another host: whether it is there, what it has for us, how its clock goes, and what it reads of ours."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from valkka_async.camera.status import CameraState, Cause
from valkka_async.link.budget import Budget
from valkka_async.link.bus import Bus
from valkka_async.link.clock import Difference, PeerClock
from valkka_async.link.exporter import Catalogue
from valkka_async.link.faults import lines_of_a_host
from valkka_async.link.foreign import ForeignCamera
from valkka_async.link.keys import GOT, VERSION, Content, Key, Live, parse
from valkka_async.link.messages import Failure, Import, Work
from valkka_async.link.places import Places
from valkka_async.link.sender import Sender, Stream
from valkka_async.link.spec import PeerSpec
from valkka_async.link.status import ExportStatus, PeerCause, PeerState, PeerStatus
from valkka_async.link.worker import DecoderProcess
from valkka_async.seldom import Seldom

_MOST = 1024  # cameras of one host, and requests of one
_AT_ONCE = 32  # rings that are made before anything else has its turn
_LIVES = 16  # of hosts with one name
_WITHDRAWN = 1.0  # s: when a host goes, its cameras' tokens may go first
_DYING = 1.0  # s
_ASK = 1.0  # s between questions for the time
_SOON = 0.1  # between the first ones
_FIRST = 5
_SAID = 30  # lines a minute: it may come and go as often as it likes
_CLOCK = 1 << 62  # ns, year 2116

log = logging.getLogger("valkka_async.link")


class _Name(NamedTuple):
    """A camera, or a ring of metadata or raw frames."""

    name: str
    content: Content


class Peer:
    """Lives in the event loop. `me` is this host's name, `epoch` the life of its link. `kick`, which may be
    called from any thread, has look() called soon."""

    def __init__(
        self,
        spec: PeerSpec,
        me: str,
        epoch: str,
        bus: Bus,
        number: Callable[[], int],
        kick: Callable[[], None],
        places: Places | None = None,
    ) -> None:
        self.spec = spec
        self.state = PeerState.CONNECTING
        self.cause: PeerCause | None = PeerCause.UNREACHABLE
        self.reason = self._waited_for()
        self.decoder = DecoderProcess(spec.name, self._hear_failure)
        self._me = me
        self._epoch = epoch
        self._bus = bus
        self._number = number
        self._kick = kick
        self._places = places or Places()  # of all peers
        self._since_ns, self._changed = time.time_ns(), time.monotonic()
        self._found = self.cause, self.reason  # by the last look at its endpoint
        self._was_there = False
        self._lives: dict[str, str] = {}  # epoch: version, in the order in which they came
        self._current = ""  # the epoch that we read
        self._has: dict[str, set[_Name]] = {}  # epoch: what we may read
        self._cameras: dict[_Name, ForeignCamera] = {}
        self._missing: dict[_Name, float] = {}  # since when it is withdrawn
        self._clock = PeerClock()
        self._way = 0.0  # s there and back, the quickest of this life; 0: not known
        self._asked = 0
        self._ask_at = 0.0
        self._budget = Budget(spec.max_rate)
        self.offered: set[_Name] = set()  # what it may read of what there is
        self._wants: dict[_Name, Key] = {}  # the newest request
        # Once it has wanted something: for raw frames one, which nothing else has to wait for.
        self._senders: dict[bool, Sender] = {}
        self._said: set[str] = set()
        self._lines = lines_of_a_host()  # of its cameras
        self._says = Seldom(_SAID)  # of itself
        self._streams: dict[Key, Stream] = {}
        self._too_many = False
        bus.answer_time(Key(me, epoch, "clock", spec.name).text)
        if spec.raw:
            bus.hear_puts(f"{Key(me, epoch, GOT, spec.name).text}/**", self._hear_got)

    def _waited_for(self) -> str:
        if self.spec.connect:
            return f"{self.spec.name} has not answered yet at {', '.join(self.spec.connect)}"
        return f"{self.spec.name} has not connected to this host yet"

    def _gone(self) -> str:
        if self.spec.connect:
            return f"{self.spec.name} was there and is gone; this host connects again when it is back"
        return f"{self.spec.name} was there and is gone; it connects to this host when it is back"

    # ------------------------------------------------------------------------------- is it there?

    def hear_live(self, live: Live, there: bool) -> None:
        """A life of that host has come or gone."""
        if there:
            if len(self._lives) >= _LIVES:
                return
            self._lives[live.epoch] = live.version
            self._found = (PeerCause.SILENT, self._gone())  # what is so when it goes
        else:
            self._lives.pop(live.epoch, None)
            self._has.pop(live.epoch, None)
        self.judge()

    def found(self, cause: PeerCause, reason: str) -> None:
        """What there is at its endpoint, while it does not answer as it should. (Not while it dies: its
        endpoint may still accept.)"""
        if self.state is PeerState.AWAY and time.monotonic() - self._changed < _DYING:
            return
        self._found = cause, reason
        self.judge()

    def judge(self) -> None:
        """Its state, from all that is known."""
        name = self.spec.name
        ours = [epoch for epoch, version in self._lives.items() if version == VERSION]
        others = sorted({version for version in self._lives.values() if version != VERSION})
        before = self.state, self.cause
        current = self._current if self._current in ours else ours[0] if ours else ""
        if current and current != self._current:
            self._current = current
            self._clock, self._way, self._asked, self._ask_at = PeerClock(), 0.0, 0, 0.0
        if ours:
            self._was_there = True
            self.state, self.cause, self.reason = PeerState.LIVE, None, ""
            if len(ours) > 1:
                self.cause = PeerCause.TWICE
                self.reason = (
                    f"{len(ours)} hosts are called {name}: the one that came first is read; rename one"
                )
        else:
            self.state = PeerState.AWAY if self._was_there else PeerState.CONNECTING
            self.cause, self.reason = self._found
            if others:
                self.cause = PeerCause.VERSION
                self.reason = (
                    f"{name} speaks version {', '.join(others)} of the link, and this host {VERSION}: "
                    "update the older one"
                )
        if (self.state, self.cause) != before:
            self._since_ns, self._changed = time.time_ns(), time.monotonic()
            good = self.state is PeerState.LIVE and self.cause is None
            if self._says():
                log.log(
                    logging.INFO if good else logging.WARNING,
                    "%s: %s%s",
                    name,
                    self.state,
                    f": {self.reason}" if self.reason else "",
                )

    # ------------------------------------------------------------------------- what it has for us

    def hear_offer(self, key: Key, there: bool) -> None:
        """We may, or may no longer, read this camera, or this ring, of that life."""
        name = _Name(key.camera, key.content)
        if not there:
            if (others := self._has.get(key.epoch)) is not None:
                others.discard(name)
                if not others:  # lives that were never seen must not take the places of others
                    del self._has[key.epoch]
            return
        if key.epoch not in self._has and len(self._has) >= _LIVES:
            return
        cameras = self._has.setdefault(key.epoch, set())
        if len(cameras) < _MOST:
            cameras.add(name)
        elif not self._too_many:
            self._too_many = True
            log.warning("%s: it has more than %d cameras; the others are left out", self.spec.name, _MOST)

    def look(self, now: float) -> None:
        """What is to be done, a few times a second."""
        live = self.state is PeerState.LIVE
        if live:
            self._ask(now)
            self._follow_cameras(now)
        else:
            self._missing.clear()
        difference = self._clock.difference(time.time_ns()) if live else None
        epoch = self._current if live and difference is not None else ""
        for camera in self._cameras.values():
            camera.look(now, epoch, difference)
        self.decoder.tell(
            Work(
                tuple(
                    self._import(camera, now)
                    for camera in self._cameras.values()
                    if camera.up and camera.is_camera
                )
            )
        )

    def _follow_cameras(self, now: float) -> None:
        has = self._has.get(self._current, set())
        host = self.spec.name
        going = {one.name for one in self._cameras.keys() - has}  # their rings are there for a moment yet
        new = [one for one in has - self._cameras.keys() if self.spec.imported(one.name)]
        new = [one for one in new if one.name not in going]
        for one in new[:_AT_ONCE]:
            self._cameras[one] = ForeignCamera(
                host, one.name, self._me, self._bus, self._kick, one.content, self._lines
            )
        if len(new) > _AT_ONCE:
            self._kick()
        for camera in [*self._cameras]:
            if camera in has:
                self._missing.pop(camera, None)
            elif now - self._missing.setdefault(camera, now) > _WITHDRAWN:
                del self._missing[camera]
                self._cameras.pop(camera).close()

    def _import(self, camera: ForeignCamera, now: float) -> Import:
        state, cause, reason = CameraState.LIVE, None, ""
        if self.state is not PeerState.LIVE:
            state, cause, reason = CameraState.WAITING, Cause.UNREACHABLE, self.reason
        elif camera.silent(now):
            state, cause = CameraState.STALLED, Cause.TIMEOUT
            reason = f"{self.spec.name} is there, but sends nothing of {camera.camera}"
        return Import(camera.name, self.spec.format, state, cause, reason)

    def _hear_failure(self, failure: Failure) -> None:
        """In the worker."""
        name = failure.name.removeprefix(f"{self.spec.name}/")
        if (camera := self._cameras.get(_Name(name, Content.CAMERA))) is not None:
            camera.note_failure(failure)

    def _ask(self, now: float) -> None:
        """What does its clock show?"""
        if now >= self._ask_at:
            self._asked += 1
            self._ask_at = now + (_SOON if self._asked < _FIRST else _ASK)
            clock = self._clock  # of this life

            def take(asked: int, theirs: int, answered: int) -> None:
                if theirs > _CLOCK:
                    return
                if clock.difference(answered) is None:
                    self._kick()
                clock.take(asked, theirs, answered)
                if clock is self._clock and answered > asked:
                    way = (answered - asked) / 1e9
                    self._way = min(way, self._way or way)

            self._bus.ask_time(Key(self.spec.name, self._current, "clock", self._me).text, take)

    def difference(self) -> Difference | None:
        """Of its clock and ours."""
        return self._clock.difference(time.time_ns())

    # ------------------------------------------------------------------------ what it reads of ours

    def offer(self, has: Catalogue) -> None:
        """These are the cameras, metadata and raw frames that there are here, and their rings."""
        every = [_Name(camera, Content.CAMERA) for camera in has.rings]
        every += [_Name(ring, Content.METADATA) for ring in has.metadata]
        every += [_Name(ring, Content.RAW) for ring in has.raw]
        wanted = {one for one in every if self.spec.may_read(one.name, one.content)}
        for ring in sorted(has.raw):
            if _Name(ring, Content.CAMERA) in wanted and _Name(ring, Content.RAW) in wanted:
                wanted.discard(_Name(ring, Content.RAW))
                self._say(
                    f"{ring}: {self.spec.name} gets the camera of this name, encoded, and not the raw "
                    "frames: give their ring another name, or take the camera out of `export`"
                )
            elif ring in self.spec.export and ring not in has.rings and ring not in self.spec.raw:
                self._say(
                    f"{ring}: these are raw frames, and `export` does not send them to {self.spec.name}, as "
                    "1080p at 10 frames a second is 62 MB/s: name the ring in `raw` if that is meant"
                )
        for name in self.offered - wanted:  # first: the name may be that of another kind of ring now
            self._bus.hide(self._key(name))
        for name in wanted - self.offered:
            self._bus.show(self._key(name))
        self.offered = wanted
        self._serve(has)

    def _say(self, text: str) -> None:
        """Log it, once."""
        if text not in self._said:
            self._said.add(text)
            log.warning("%s", text)

    def _key(self, name: _Name) -> str:
        return Key(self._me, self._epoch, name.content.offer, self.spec.name, name.name).text

    def hear_want(self, key: Key, there: bool, has: Catalogue) -> None:
        """It wants a camera, metadata or raw frames, or does not any more. Of several requests for one the
        newest counts."""
        name = _Name(key.camera, key.content)
        if there:
            may = self.spec.may_read(*name)
            if may and (name in self._wants or len(self._wants) < _MOST):
                self._wants[name] = key
        elif self._wants.get(name) == key:
            del self._wants[name]
        self._serve(has)

    def look_for(self, rings: Collection[str] | None) -> None:
        """Sockets of these names have come or gone; None: of any."""
        for sender in self._senders.values():
            sender.look_for(rings)

    def _hear_got(self, text: str, data: bytes) -> None:
        """It has got a raw frame. In a thread of Zenoh's."""
        if (key := parse(text)) is None:
            return
        stream, sender = self._streams.get(key.of_kind(Content.RAW.request)), self._senders.get(True)
        if stream is not None and sender is not None:
            sender.acknowledge(stream, data)

    def _serve(self, has: Catalogue) -> None:
        """A stream for each request that can be served."""
        due: dict[Key, tuple[str, str | None]] = {}
        for name, key in self._wants.items():
            if (rings := has.ring(*name)) is not None:
                due[key] = rings
        for key, stream in [*self._streams.items()]:
            if due.get(key) != (stream.full, stream.smaller):
                self._senders[stream.content is Content.RAW].discard(self._streams.pop(key))
        for key, (ring, smaller) in due.items():
            if key not in self._streams:
                raw = key.content is Content.RAW
                try:
                    sender = self._senders.get(raw) or Sender(
                        *(self.spec.name, self._budget, self._number, has.doubt, self._places),
                        lambda: self._way,
                    )
                except OSError as e:  # no room for another thread
                    log.error("nothing is sent to %s: %s", self.spec.name, e)
                    return
                self._senders[raw] = sender
                put = self._bus.put_to(key.to.text, last=raw)
                self._streams[key] = sender.add(ring, put, smaller, key.content)

    # ----------------------------------------------------------------------------------------- end

    def close(self) -> list[Sender]:
        """Close its rings here, and stop sending. The threads that are to end."""
        for camera in self._cameras.values():
            camera.close()
        for sender in self._senders.values():
            sender.stop()
        return [*self._senders.values()]

    def status(self) -> PeerStatus:
        difference = self.difference()
        return PeerStatus(
            self.spec.name,
            self.spec.connect,
            self.state,
            self.cause,
            self.reason,
            self._since_ns,
            self._current,
            None if difference is None else difference.offset_ns,
            None if difference is None else difference.error_ns,
            self._budget.level,
            self.decoder.pid,
            self.decoder.restarts,
            tuple(camera.status() for camera in self._cameras.values()),
            tuple(
                ExportStatus(
                    key.camera,
                    stream.ring,
                    stream.sent,
                    stream.bytes,
                    stream.skipped,
                    key.content is Content.RAW,
                    stream.acknowledged,
                    stream.rate(),
                )
                for key, stream in self._streams.items()
            ),
        )
