# SPDX-License-Identifier: MIT
"""What becomes of a server's readers, as events."""

from __future__ import annotations

import time

from valkka_async.ring.events import Event, EventCode
from valkka_async.ring.peers import Peers, PeerStats

_AGAIN = 10.0  # s after which it is told again that a reader has missed frames, while that goes on


class Readings:
    """Of one server. A "latest" reader takes the newest frame and leaves others out: it is never behind."""

    def __init__(self, name: str, peers: Peers) -> None:
        self._name = name
        self._peers = peers
        self._told: dict[
            int, tuple[int, float]
        ] = {}  # by reader: what it had missed when that was told, and when

    def news(self) -> list[Event]:
        """Since the last call."""
        events = []
        for change in self._peers.changes():
            reader = change.reader
            if change.came:
                events.append(self._event(EventCode.READER_JOINED, change.time_ns, reader))
            else:
                self._told.pop(reader.id, None)
                text = f"received {reader.received}, missed {reader.dropped}"
                events.append(
                    self._event(
                        EventCode.READER_LEFT,
                        change.time_ns,
                        reader,
                        text,
                        received=reader.received,
                        missed=reader.dropped,
                    )
                )
        now = time.monotonic()
        for reader in self._peers.stats():
            before, when = self._told.get(reader.id, (0, -_AGAIN))
            missed = reader.dropped - before
            if reader.policy == "ordered" and missed > 0 and now - when >= _AGAIN:
                self._told[reader.id] = reader.dropped, now
                text = f"missed {missed} frames"
                events.append(
                    self._event(EventCode.READER_BEHIND, time.time_ns(), reader, text, missed=missed)
                )
        return events

    def _event(self, code: EventCode, time_ns: int, reader: PeerStats, text: str = "", **more: int) -> Event:
        who = {"ring": self._name, "reader": reader.id, "pid": reader.pid, "policy": reader.policy}
        said = f"{self._name}: reader {reader.id} (pid {reader.pid})"
        return Event(code, self._name, time_ns, f"{said} {text}".rstrip(), who | more)
