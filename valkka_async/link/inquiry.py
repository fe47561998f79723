# SPDX-License-Identifier: MIT
"""Questions to the servers of this host's rings: what is in them? Many at a time, and none waits for another.

A server that hangs is asked once and waited for, so that its ring is known as soon as it goes on. It costs a
descriptor, and where these are scarce it is let go for one that was not asked yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import time
from collections.abc import Callable
from typing import NamedTuple

from valkka_async.errors import ValkkaError
from valkka_async.ring.asking import ask
from valkka_async.timeouts import timeout

_MOST = 512  # questions at a time, and
_SHARE = 4  # a descriptor in so many, at most
_PATIENCE = 0.25  # s for an answer while others wait to be asked
_LATER = 10.0  # s until one is asked again that was let go

log = logging.getLogger("valkka_async.link")

Told = Callable[[str, dict[str, object] | None], float]


class _Question(NamedTuple):
    task: asyncio.Task[None]
    since: float  # CLOCK_MONOTONIC


class Inquiry:
    """Runs while run() does. `told` hears what a server says of itself, or None: it says nothing now; and
    returns for how many seconds it is not to be asked."""

    def __init__(self, told: Told, most: int = _MOST) -> None:
        self._told = told
        self._most = max(1, min(most, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE))
        self._due: dict[str, float] = {}  # when each is to be asked; it is not being asked now
        self._asked: dict[str, _Question] = {}  # the longest first
        self._silent: set[str] = set()  # that were let go: they come last
        self._kicked = asyncio.Event()

    @property
    def names(self) -> set[str]:
        """Of all that are asked now and then."""
        return {*self._due, *self._asked}

    def soon(self, name: str) -> None:
        """Ask now, also if it is being asked already: it may be another server of that name."""
        self.forget(name)
        self._due[name] = 0.0
        self._kicked.set()

    def not_before(self, name: str, at: float) -> None:
        """Ask then at the latest, if it is to be asked."""
        if self._due.get(name, at) > at:
            self._due[name] = at
            self._kicked.set()

    def forget(self, name: str) -> None:
        """It is not there any more."""
        self._due.pop(name, None)
        self._silent.discard(name)
        if (question := self._asked.pop(name, None)) is not None:
            question.task.cancel()

    def waits(self, name: str, seconds: float) -> bool:
        """Is it to be asked, or was it for less than so long?"""
        question = self._asked.get(name)
        if question is not None:
            return time.monotonic() - question.since < seconds
        return name not in self._silent and self._due.get(name, 1.0) == 0.0

    async def run(self) -> None:
        """For ever; cancel it."""
        try:
            while True:
                self._kicked.clear()
                pause = self._turn(time.monotonic())
                with contextlib.suppress(TimeoutError):
                    async with timeout(pause):
                        await self._kicked.wait()
        finally:
            for name in [*self._asked]:
                self.forget(name)

    def _turn(self, now: float) -> float | None:
        """Ask whom it is time for. In how many seconds to look again."""
        due = sorted((name in self._silent, at, name) for name, at in self._due.items() if at <= now)
        while due and len(self._asked) >= self._most:
            name, question = next(iter(self._asked.items()))
            if (left := question.since + _PATIENCE - now) > 0:
                return left
            self.forget(name)
            self._silent.add(name)
            self._due[name] = now + _LATER
            self._begin(due.pop(0)[-1], now)
        while due and len(self._asked) < self._most:
            self._begin(due.pop(0)[-1], now)
        return max(0.0, min(self._due.values()) - now) if self._due else None

    def _begin(self, name: str, now: float) -> None:
        del self._due[name]
        task = asyncio.create_task(self._ask(name))
        self._asked[name] = _Question(task, now)

    async def _ask(self, name: str) -> None:
        try:
            answer = await ask(name)
        except (ValkkaError, ValueError):  # it speaks something else; no descriptor is left
            answer = None
        except Exception:
            log.exception("%s: it could not be asked what is in it", name)
            answer = None
        now, question = time.monotonic(), self._asked.pop(name)
        if answer is not None:
            self._silent.discard(name)
            if now - question.since > _PATIENCE:  # what hung goes on, and others with it, most likely
                self._due |= dict.fromkeys(self._silent & self._due.keys(), now)
        self._due[name] = now + self._told(name, answer)
        self._kicked.set()
