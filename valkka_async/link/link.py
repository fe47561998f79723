# SPDX-License-Identifier: MIT
"""Link: this host's cameras for others, and theirs as rings of this host."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import time
from collections.abc import Collection, Coroutine
from types import TracebackType
from typing import Any, Self

from valkka_async.link.bus import Bus
from valkka_async.link.exporter import Catalogue
from valkka_async.link.keys import (
    OFFERS,
    REQUESTS,
    VERSION,
    Content,
    Live,
    parse,
    parse_live,
)
from valkka_async.link.peer import Peer
from valkka_async.link.places import Places
from valkka_async.link.probe import probe
from valkka_async.link.spec import LinkSpec
from valkka_async.link.status import LinkStatus, PeerState
from valkka_async.seldom import Seldom
from valkka_async.timeouts import timeout

_LOOK = 0.2  # s between looks at all, besides those for which there is a reason
_FIRST_PROBE = 1.0  # s until the first look, and
_PROBE = 5.0  # s between looks at the endpoints of hosts that are not there
_SAID = 10  # lines a minute of hosts with our name
_JOIN = 2.0  # s for threads that send

log = logging.getLogger("valkka_async.link")


class Link:
    """Runs while it is entered::

        async with Link(spec) as link:
            await link.failed()   # for ever, if all is well
            print(link.status())

    Raises ConnectError on entering: an endpoint is taken, or a certificate cannot be read. It belongs to the
    event loop in which it is entered.
    """

    def __init__(self, spec: LinkSpec) -> None:
        self._spec = spec
        self._epoch = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._peers: dict[str, Peer] = {}
        self._says = Seldom(_SAID)
        self._twins: set[str] = set()  # lives of other hosts with our name
        self._catalogue = Catalogue(self._offer, self._concerns, self._look_for)
        self._tasks: list[asyncio.Task[None]] = []
        self._bus: Bus | None = None
        self._kicked = asyncio.Event()  # look now

    async def __aenter__(self) -> Self:
        self._bus = bus = Bus()
        try:
            await bus.open(self._spec)
            self._start(bus)
        except BaseException:  # cancelled, maybe: the session would be open for ever
            await self.aclose()
            raise
        return self

    def _start(self, bus: Bus) -> None:
        loop = asyncio.get_running_loop()

        def kick() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._kicked.set)

        places = Places()
        for spec in self._spec.peers:
            self._peers[spec.name] = Peer(
                spec, self._spec.host, self._epoch, bus, lambda: next(self._numbers), kick, places
            )
        bus.show(Live(self._spec.host, VERSION, self._epoch).key)
        bus.follow_tokens("va/**", self._hear)
        work: list[Coroutine[Any, Any, None]] = [self._catalogue.follow(), self._look(), self._probe()]
        work += [peer.decoder.run() for peer in self._peers.values()]
        self._tasks = [asyncio.create_task(one) for one in work]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the rings, tell the other hosts, end the workers. Idempotent."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = []
        senders = [sender for peer in self._peers.values() for sender in peer.close()]
        await asyncio.gather(*(asyncio.to_thread(sender.join, _JOIN) for sender in senders))
        if self._bus is not None:
            await self._bus.aclose()

    async def failed(self) -> None:
        """Wait for an error that nobody foresaw, and raise it: a link must not run by half."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    # ------------------------------------------------------------------------------------ hearing

    def _hear(self, text: str, there: bool) -> None:
        """A token of whomever has come or gone."""
        self._kicked.set()
        if (live := parse_live(text)) is not None:
            if live.host == self._spec.host:
                self._hear_twin(live, there)
            elif (peer := self._peers.get(live.host)) is not None:
                peer.hear_live(live, there)
            return
        key = parse(text)
        if key is None:
            return
        me = self._spec.host
        if key.kind in OFFERS and key.reader == me and (peer := self._peers.get(key.host)) is not None:
            peer.hear_offer(key, there)
        elif key.kind in REQUESTS and key.host == me and key.epoch == self._epoch:
            if (peer := self._peers.get(key.reader)) is not None:
                peer.hear_want(key, there, self._catalogue)

    def _hear_twin(self, live: Live, there: bool) -> None:
        if live.epoch == self._epoch:
            return
        if there:
            self._twins.add(live.epoch)
            if self._says():
                log.warning("%s", self._twin_reason())
        else:
            self._twins.discard(live.epoch)

    def _twin_reason(self) -> str:
        if not self._twins:
            return ""
        return (
            f"another host is called {self._spec.host} too: hosts that know both read the one that was there "
            "first; rename one"
        )

    def _concerns(self, ring: str) -> bool:
        return any(peer.spec.may_read(ring, content) for peer in self._peers.values() for content in Content)

    def _look_for(self, rings: Collection[str] | None) -> None:
        for peer in self._peers.values():
            peer.look_for(rings)

    def _offer(self) -> None:
        for peer in self._peers.values():
            peer.offer(self._catalogue)

    # -------------------------------------------------------------------------------------- looking

    async def _look(self) -> None:
        while True:
            self._kicked.clear()
            now = time.monotonic()
            for peer in self._peers.values():
                peer.look(now)
            with contextlib.suppress(TimeoutError):
                async with timeout(_LOOK):
                    await self._kicked.wait()

    async def _probe(self) -> None:
        pause = _FIRST_PROBE
        while True:
            await asyncio.sleep(pause)
            pause = _PROBE
            for peer in self._peers.values():
                if peer.state is not PeerState.LIVE and peer.spec.connect:
                    peer.found(*await probe(peer.spec.connect[0]))

    def status(self) -> LinkStatus:
        """How all is now."""
        files = self._spec.certificates
        offered = {one for peer in self._peers.values() for one in peer.offered}
        return LinkStatus(
            self._spec.host,
            os.getpid(),
            files is not None,
            () if files is None else (files.certificate, files.key, files.authority),
            self._twin_reason(),
            tuple(sorted({one.name for one in offered})),
            tuple(sorted({one.name for one in offered if one.content is Content.RAW})),
            tuple(peer.status() for peer in self._peers.values()),
        )
