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

from valkka_async.backoff import Backoff
from valkka_async.ring.events import Event
from valkka_async.service.config.hooks import Hook
from valkka_async.service.delivery import Receiver, Undelivered
from valkka_async.service.handler import Handler
from valkka_async.service.hearing import Hearing
from valkka_async.service.status import HookError, HookStatus
from valkka_async.service.waiting import WAITING, Waiting
from valkka_async.service.webhook import Webhook
from valkka_async.timeouts import timeout

_RETRIES = 5
_PAUSES = (1.0, 60.0)  # s between attempts, growing
_LONGEST = 300.0  # s that the other side may ask us to wait
_CLOSE_SECONDS = 1.0  # for what waits when the service ends

log = logging.getLogger("valkka_async.service")


class Hooks:
    """All hooks of a service of this name, for what is heard. Belongs to an event loop; follow() begins."""

    def __init__(self, service: str, hearing: Hearing) -> None:
        self._service = service
        self._hooks: list[_Running] = []
        self._hearing = hearing

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
        if self._hooks:
            await self._hearing.join(self._hear)
        else:
            self._hearing.leave(self._hear)

    def _hear(self, event: Event) -> None:
        for hook in self._hooks:
            hook.put(event)

    async def aclose(self) -> None:
        """Deliver what waits, for a second, and end what is not done then. Idempotent. Cancelling ends it at
        once."""
        hooks = self._hooks
        try:
            await asyncio.sleep(0.05 if hooks else 0)  # for the newest events to come through their ring
        finally:
            self._hearing.leave(self._hear)
            await _end(hooks, _CLOSE_SECONDS)
            self._hooks = []


class _Running:
    """One hook: its queue, and its task."""

    def __init__(self, hook: Hook, name: str, service: str) -> None:
        self.hook = hook
        self.name = name
        self._service = service
        self._queue = Waiting(hook.events, hook.cameras)
        self._there = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self._delivered = self._failed = 0
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
            dropped=self._queue.dropped,
            error=self._error,
        )

    def put(self, event: Event) -> None:
        """Take it, if it is for this one. Never waits: the oldest one goes when there are too many."""
        was_full = self._queue.full
        if not self._queue.put(event):
            return
        if was_full and not self._full:
            self._full = True
            log.warning("hook %s: %d events wait for it, and the oldest are dropped", self.name, WAITING)
        self.idle.clear()
        self._there.set()

    async def _run(self) -> None:
        try:
            while True:
                await self._there.wait()
                self._there.clear()
                while self._queue:
                    await self._deliver(self._queue.take())
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
                async with timeout(self.hook.timeout):
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
            self._fail(error)
            if not (left and error.again):
                break
            await asyncio.sleep(max(backoff.next(), min(error.after, _LONGEST)))
        self._failed += 1

    def _fail(self, error: Undelivered) -> None:
        since_ns = time.time_ns() if self._error is None else self._error.since_ns
        self._error = HookError(str(error), since_ns)
        if error.text != self._said:  # what the program says may be different each time
            self._said = error.text
            log.warning("hook %s: %s", self.name, error)


async def _end(hooks: list[_Running], patience: float) -> None:
    """End their tasks, after what waits was delivered, if that is done soon. Takes `patience`, and what
    programs need to end."""
    try:
        if hooks and patience:
            async with timeout(patience):
                for hook in hooks:
                    await hook.idle.wait()
    except TimeoutError:
        pass
    finally:
        for hook in hooks:
            hook.task.cancel()
        if hooks:
            await asyncio.wait([hook.task for hook in hooks])
