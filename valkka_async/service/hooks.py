# SPDX-License-Identifier: MIT
"""`on` of the config: events to programs and webhooks.

One task reads the events of this host. Each hook has a bounded queue and a task of its own, so one that hangs
holds up neither the cameras nor the others.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable

from valkka_async.backoff import Backoff
from valkka_async.ring.events import Event
from valkka_async.ring.listening import events
from valkka_async.service.config.hooks import Hook
from valkka_async.service.delivery import Receiver, Undelivered
from valkka_async.service.handler import Handler
from valkka_async.service.status import HookError, HookStatus
from valkka_async.service.webhook import Webhook

_QUEUE = 256  # events that wait; the oldest go
_RETRIES = 5
_PAUSES = (1.0, 60.0)  # s between attempts, growing
_AGAIN = 5.0  # s
_CLOSE_SECONDS = 1.0  # for what waits when the service ends
_EVERYTHING = ("*", "*/*")

log = logging.getLogger("valkka_async.service")


class Hooks:
    """All hooks of a service of this name. Belongs to an event loop; follow() begins it. `heard` is called
    with each event, whatever the hooks are."""

    def __init__(self, service: str, heard: Callable[[Event], None] | None = None) -> None:
        self._service = service
        self._heard = heard
        self._hooks: list[_Running] = []
        self._reader: asyncio.Task[None] | None = None
        self._listens = asyncio.Event()

    def status(self) -> tuple[HookStatus, ...]:
        """How each is, in the order of the config."""
        return tuple(hook.status() for hook in self._hooks)

    async def follow(self, hooks: tuple[Hook, ...]) -> None:
        """These are the hooks now. One that is the same goes on; what waits for others is dropped. Returns
        when the events of all rings that there are will be heard."""
        before, self._hooks = self._hooks, []
        for number, hook in enumerate(hooks, start=1):
            same = next((one for one in before if one.hook == hook), None)
            if same is not None:
                before.remove(same)
                same.name = hook.name or str(number)
            self._hooks.append(same or _Running(hook, hook.name or str(number), self._service))
        await _end(before, 0.0)
        wanted = bool(self._hooks or self._heard)
        if wanted and self._reader is None:
            self._reader = asyncio.create_task(self._read(), name="hooks")
            await self._listens.wait()
        elif not wanted:
            await self._stop_reading()

    async def _read(self) -> None:
        while True:
            try:
                async with events(*_EVERYTHING) as happening:
                    self._listens.set()
                    async for event in happening:
                        if self._heard is not None:
                            self._heard(event)
                        for hook in self._hooks:
                            hook.put(event)
            except Exception:  # nobody knows of any; without this task all hooks are deaf
                log.exception("events cannot be read; trying again")
            self._listens.set()
            await asyncio.sleep(_AGAIN)

    async def _stop_reading(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])
            self._listens.clear()

    async def aclose(self) -> None:
        """Deliver what waits, for a second, and end what is not done then. Idempotent. Cancelling ends it at
        once."""
        hooks = self._hooks
        try:
            await asyncio.sleep(0.05 if hooks else 0)  # for the newest events to come through their ring
        finally:
            await self._stop_reading()
            await _end(hooks, _CLOSE_SECONDS)
            self._hooks = []


class _Running:
    """One hook: its queue, and its task."""

    def __init__(self, hook: Hook, name: str, service: str) -> None:
        self.hook = hook
        self.name = name
        self._service = service
        self._queue: deque[Event] = deque()
        self._there = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self._delivered = self._failed = self._dropped = 0
        self._error: HookError | None = None
        self._said = ""
        self._full = False
        self._receiver: Receiver = (
            Handler(hook.run)
            if hook.run is not None
            else Webhook(
                hook.url.get_secret_value() if hook.url is not None else "",
                hook.secret.get_secret_value() if hook.secret is not None else None,
            )
        )
        retries = _RETRIES if hook.retries is None else hook.retries
        self._attempts = 1 if hook.run is not None else 1 + retries
        self.task = asyncio.create_task(self._run(), name=f"hook {name}")

    def status(self) -> HookStatus:
        return HookStatus(
            name=self.name,
            kind="url" if self.hook.run is None else "run",
            waiting=len(self._queue),
            delivered=self._delivered,
            failed=self._failed,
            dropped=self._dropped,
            error=self._error,
        )

    def put(self, event: Event) -> None:
        """Take it, if it is for this one. Never waits: the oldest one goes when there are too many."""
        self._dropped += event.missed  # which of them were for this one nobody knows
        if not event.is_one_of(self.hook.events, self.hook.cameras):
            return
        if len(self._queue) >= _QUEUE:
            self._queue.popleft()
            self._dropped += 1
            if not self._full:
                self._full = True
                log.warning("hook %s: %d events wait for it, and the oldest are dropped", self.name, _QUEUE)
        self._queue.append(event)
        self.idle.clear()
        self._there.set()

    async def _run(self) -> None:
        try:
            while True:
                await self._there.wait()
                self._there.clear()
                while self._queue:
                    await self._deliver(self._queue.popleft())
                self._full = False
                self.idle.set()
        finally:
            await self._receiver.aclose()

    async def _deliver(self, event: Event) -> None:
        content = event.to_json() | {"service": self._service}
        body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
        backoff = Backoff(*_PAUSES)
        for left in reversed(range(self._attempts)):
            try:
                async with asyncio.timeout(self.hook.timeout):
                    await self._receiver.deliver(body, str(event.code), event.camera)
            except TimeoutError:
                error = Undelivered(f"it takes longer than {self.hook.timeout:g} s", again=True)
            except Undelivered as e:
                error = e
            except Exception as e:  # must not end all that comes after it
                log.exception("hook %s failed", self.name)
                error = Undelivered(type(e).__name__, again=False)
            else:
                self._delivered += 1
                if self._error is not None:
                    self._error, self._said = None, ""
                    log.info("hook %s: works again", self.name)
                return
            self._fail(str(error))
            if not (left and error.again):
                break
            await asyncio.sleep(backoff.next())
        self._failed += 1

    def _fail(self, text: str) -> None:
        since_ns = time.time_ns() if self._error is None else self._error.since_ns
        self._error = HookError(text, since_ns)
        if text != self._said:
            self._said = text
            log.warning("hook %s: %s", self.name, text)


async def _end(hooks: list[_Running], patience: float) -> None:
    """End their tasks, after what waits was delivered, if that is done soon. Takes `patience`, and what
    programs need to end."""
    try:
        if hooks and patience:
            async with asyncio.timeout(patience):
                for hook in hooks:
                    await hook.idle.wait()
    except TimeoutError:
        pass
    finally:
        for hook in hooks:
            hook.task.cancel()
        if hooks:
            await asyncio.wait([hook.task for hook in hooks])
