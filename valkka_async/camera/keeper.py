# SPDX-License-Identifier: MIT
"""Keeps a source connected and its rings fed: states, back-off, reconnection."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from valkka_async.backoff import Backoff
from valkka_async.camera.outputs import FragmentRing, PacketRing, PixelRing, make_ring
from valkka_async.camera.session import Session
from valkka_async.camera.spec import CameraSpec
from valkka_async.camera.status import CameraState, CameraWarning, Cause, OutputStatus, StreamStatus, cause_of
from valkka_async.camera.thread import SourceThread
from valkka_async.errors import (
    CameraAuthError,
    CameraFormatError,
    CameraNotFoundError,
    CameraRefusedError,
    ValkkaError,
)
from valkka_async.ring.events import Event

_STALLED = 2.0  # s without a packet, or so many frames' time, after which a live camera is called stalled
_STALLED_FRAMES = 5
_LINGER = 3.0  # s that a connection on demand outlives its last reader, in case there is another one soon
_LOOK = 0.2  # s between looks for the first one
_STUCK = 15.0  # s beyond its deadlines after which a thread is thought to be lost in a library

attempts = logging.getLogger("valkka_async.camera.attempts")  # a service leaves it out: it tells outages


class Keeper:
    """One stream of a camera: its thread, its connections one after the other, and its rings.

    `spec` has this stream alone, whose name is `stream`; "" if the camera has no other. Serves the rings, all
    or nothing; start() starts the thread. Raises as Camera does.
    """

    def __init__(self, spec: CameraSpec, stream: str) -> None:
        self.spec = spec
        self.stream = stream
        self._title = f"{spec.name} ({stream})" if stream else spec.name
        self.thread = SourceThread(
            f"valkka-camera {self._title}",
            self._run,
            max(spec.open_timeout, spec.read_timeout),
            after=self.close_rings,
        )
        self._session = Session(spec, self.thread, self._alive, on_live=self._on_live)
        self._attempts = self._successes = 0
        self._cause: Cause | None = None
        self._reason = ""
        self._state, self._since_ns = CameraState.CONNECTING, time.time_ns()
        self._retry_at = 0.0
        self._expected = math.inf  # when the thread will have shown that it lives
        self._wanted_at = -math.inf  # when an output had a reader
        self._rings: list[PixelRing | PacketRing | FragmentRing] = []
        try:
            for output in spec.outputs:
                self._rings.append(make_ring(output))
        except BaseException:
            self.close_rings()
            raise

    def start(self, describe: Callable[[], dict[str, Any]]) -> None:
        """Start the thread. `describe` says how the camera is, for all who ask its rings."""
        for ring in self._rings:
            ring.server.describe(describe)
        self._expected = time.monotonic() + _STUCK
        self.thread.start()

    def status(self) -> StreamStatus:
        """How it is, at this moment. From any thread; never blocks."""
        m = self._session.meter
        state, since, cause, reason = self._state, self._since_ns, self._cause, self._reason
        if state == CameraState.LIVE:
            fps = m.fps
            quiet = time.monotonic() - m.last_packet
            if quiet > max(_STALLED + m.pause, _STALLED_FRAMES / fps if fps else 0.0):
                state, since = CameraState.STALLED, m.last_packet_ns
                cause, reason = Cause.TIMEOUT, f"no frame for {quiet:.0f} s"
        return StreamStatus(
            name=self.stream,
            url=self._session.address.shown,
            state=state,
            cause=cause,
            reason=reason,
            since_ns=since,
            retry_in=max(0.0, self._retry_at - time.monotonic())
            if state in (CameraState.WAITING, CameraState.FAILED)
            else None,
            attempts=self._attempts,
            reconnects=max(0, self._successes - 1),
            codec=m.codec,
            width=m.size[0],
            height=m.size[1],
            fps=round(m.fps, 2) if state == CameraState.LIVE else 0.0,
            key_interval=round(m.key_interval, 3),
            clock_disagrees=m.clock_disagrees,
            early=m.early,
            packets=m.packets,
            decoded=m.decoded,
            errors=m.errors,
            last_packet_ns=m.last_packet_ns,
            cpu_s=self.thread.cpu_s,
            sound=self._session.sound.status(),
        )

    def outputs(self) -> list[OutputStatus]:
        """How its rings are. As status()."""
        return [replace(ring.status(), stream=self.stream) for ring in self._rings]

    def reader_events(self) -> list[Event]:
        """What has become of its rings' readers since the last call."""
        return [event for ring in self._rings for event in ring.server.reader_events()]

    def warnings(self) -> Iterator[CameraWarning]:
        """What could be better with it, now."""
        if any(isinstance(ring, PixelRing) and ring.slow for ring in self._rings):
            yield CameraWarning.SLOW_PIXELS
        if self._session.meter.keyless:
            yield CameraWarning.NO_KEY_FRAME
        if self._session.meter.behind:
            yield CameraWarning.BEHIND

    def stuck(self) -> bool:
        """Is its thread lost in a library, long after its deadlines, or has it ended unasked?"""
        if not self.thread.alive:
            return not self.thread.stopping
        return time.monotonic() > self._expected

    def close_rings(self) -> None:
        """Close its rings. For a keeper that was not started; the thread does it at its end."""
        for ring in self._rings:
            ring.server.describe(None)
            ring.server.close()

    # ------------------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        s = self.spec
        soon = Backoff(last=s.retry_max)
        seldom = Backoff(first=min(2.0, s.retry_refused), last=s.retry_refused)
        while not self.thread.stopping:
            if not self._wanted():
                self._rest()
                continue
            self._attempts += 1
            before = self._successes
            began = time.monotonic()
            self._become(CameraState.CONNECTING, self._cause, self._reason)
            error = self._session.run(self._rings)
            lived = time.monotonic() - began if self._successes > before else 0.0
            soon.lived(lived)
            seldom.lived(lived)
            if self.thread.stopping:
                break
            if error is not None:  # else a file has ended, and begins again
                self._wait(error, soon, seldom)
        self._become(CameraState.STOPPED)

    def _wanted(self) -> bool:
        """Is it to be connected?"""
        if self.spec.connect == "always":
            return True
        now = time.monotonic()
        if any(ring.server.readers for ring in self._rings):
            self._wanted_at = now
            return True
        return now - self._wanted_at < _LINGER

    def _rest(self) -> None:
        """Until it is to be connected."""
        self._become(CameraState.IDLE)
        while self._alive(_LOOK, wanted=False) and not self._wanted():
            self.thread.sleep(_LOOK)

    def _wait(self, error: ValkkaError, soon: Backoff, seldom: Backoff) -> None:
        """Until the next attempt."""
        refused = True
        if isinstance(error, CameraAuthError):
            # Never quickly: cameras lock accounts after a few wrong passwords.
            delay = self.spec.retry_refused * random.uniform(0.5, 1.0)
        elif isinstance(error, CameraNotFoundError | CameraFormatError | CameraRefusedError):
            delay = seldom.next()
        else:
            delay, refused = soon.next(), False
        text = str(error)
        if text != self._reason:
            extra = {"camera": self.spec.name}
            attempts.warning("%s: %s; trying again in %.1f s", self._title, text, delay, extra=extra)
        self._retry_at = time.monotonic() + delay
        self._alive(delay)
        self._become(CameraState.FAILED if refused else CameraState.WAITING, cause_of(error), text)
        self.thread.sleep(delay)

    def _alive(self, seconds: float, wanted: bool = True) -> bool:
        """Is it to go on? It will ask again within so many seconds, unless it is lost in a library. `wanted`:
        not without readers, if it is connected on demand."""
        self._expected = time.monotonic() + seconds + _STUCK
        return not self.thread.stopping and (not wanted or self._wanted())

    def _on_live(self) -> None:
        self._successes += 1
        self._become(CameraState.LIVE)

    def _become(self, state: CameraState, cause: Cause | None = None, reason: str = "") -> None:
        if state != self._state:
            self._state, self._since_ns = state, time.time_ns()
        self._cause, self._reason = cause, reason
