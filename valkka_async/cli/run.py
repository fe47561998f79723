# SPDX-License-Identifier: MIT
"""`valkka-async run` and `reload`: a service from a config file."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import valkka_async.service.log as service_log
from valkka_async.cli.program import fail
from valkka_async.errors import ConnectError, ValkkaError
from valkka_async.service.config.config import Config, Web
from valkka_async.service.config.file import load
from valkka_async.service.config.problems import ConfigError
from valkka_async.service.control import Control, ask, services
from valkka_async.service.notify import notify, reloading, watchdog
from valkka_async.service.service import Service
from valkka_async.service.status import ServiceStatus
from valkka_async.service.web.app import serve

_RELOAD_SECONDS = 120.0  # for cameras that are slow to close

log = logging.getLogger("valkka_async.service")


def read(path: Path) -> Config:
    """The config, or the end of the program with a line for each thing that is wrong in it."""
    try:
        return load(path)
    except ConfigError as e:
        print(e, file=sys.stderr)
        count = len(e.problems)
        fail(f"{path}: {count} {'error' if count == 1 else 'errors'}; nothing was started", 1)


def check(path: Path) -> None:
    """Say whether the config is good."""
    cameras = len(read(path).specs())
    print(f"{path}: good, {cameras} {'camera' if cameras == 1 else 'cameras'}")


async def run(path: Path, config: Config) -> None:
    """Until cancelled. Raises ValkkaError (the name is taken, the page's port is taken), OSError."""
    journal = service_log.is_journal(sys.stderr)
    service_log.configure(config.log.level, config.log.format, journal=journal)
    await _Runner(path, config, journal).run()


class _Runner:
    def __init__(self, path: Path, config: Config, journal: bool) -> None:
        self._path = path
        self._journal = journal
        self._service = Service(config)
        self._web = config.web
        self._page: AsyncExitStack | None = None
        self._reloading = asyncio.Lock()
        self._over = asyncio.Event()
        self._terminal = os.isatty(0)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        ops = {"status": self._status, "reload": self.reload}
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(Control(self._service.name, ops))
            await stack.enter_async_context(self._service)
            stack.push_async_callback(self._close_page)
            if self._web is not None:
                self._page, url = await self._open_page(self._web)
                print(url, flush=True)
            async with asyncio.TaskGroup() as group:
                loop.add_signal_handler(signal.SIGHUP, lambda: group.create_task(self._on_hangup()))
                ready, dog = group.create_task(self._say_ready()), group.create_task(watchdog())
                try:
                    await self._over.wait()
                finally:
                    # Another SIGHUP must not kill us while we stop.
                    loop.add_signal_handler(signal.SIGHUP, lambda: None)
                    ready.cancel()
                    dog.cancel()
                    notify("STOPPING=1")

    async def reload(self) -> dict[str, Any]:
        """Read the file again, and do what it says now. Raises ConfigError, and then all is as before."""
        async with self._reloading:
            reloading()
            try:
                config = await asyncio.to_thread(load, self._path)
                await self._follow_web(config.web)
                changes = await self._service.apply(config)
                service_log.configure(config.log.level, config.log.format, journal=self._journal)
                log.info("%s: %s", self._path, changes)
                return asdict(changes) | {"text": str(changes)}
            finally:
                notify("READY=1")

    async def _status(self) -> ServiceStatus:
        return self._service.status()

    async def _on_hangup(self) -> None:
        if self._terminal and not os.isatty(0):  # nobody asks for a reload: the terminal was closed
            self._over.set()
            return
        try:
            await self.reload()
        except (ValkkaError, OSError) as e:
            for line in str(e).splitlines():
                log.error("%s", line)
            log.error("%s is not taken over; all goes on as before", self._path)

    async def _say_ready(self) -> None:
        await self._service.started()
        notify("READY=1", f"STATUS={len(self._service.status().cameras)} cameras")

    # ------------------------------------------------------------------------------- the page

    async def _open_page(self, web: Web) -> tuple[AsyncExitStack, str]:
        async with AsyncExitStack() as stack:
            page = await stack.enter_async_context(serve(self._service, web))
            return stack.pop_all(), page.url

    async def _close_page(self) -> None:
        page, self._page = self._page, None
        if page is not None:
            await page.aclose()

    async def _follow_web(self, web: Web | None) -> None:
        """The page by its new settings. Raises what serve() does, and then it is as before, if it can be."""
        before = self._web
        if web == before:
            return
        if before is None or web is None or (web.host, web.port) != (before.host, before.port):
            page = None if web is None else await self._open_page(web)  # before the old one is closed
            await self._close_page()
        else:
            await self._close_page()
            page = await self._open_page(web)
        self._web = web
        if page is not None:
            self._page, url = page
            log.info("the page is at %s", url)


def reload(name: str | None) -> None:
    """Have a running service read its config again. Raises ValkkaError with what is wrong in it."""
    names = [name] if name is not None else services()
    if len(names) > 1:
        # Those that were killed have left their sockets, and are not meant.
        names = [n for n in names if ask(n, "status", _RELOAD_SECONDS) is not None]
    if len(names) > 1:
        raise ValkkaError(f"several services are running: say which, --name {' or --name '.join(names)}")
    try:
        answer = ask(names[0], "reload", _RELOAD_SECONDS) if names else None
    except ConnectError:
        raise
    except ValkkaError as e:
        print(e, file=sys.stderr)  # a line for each error
        fail("that was not taken over; all goes on as before", 1)
    if answer is None:
        which = f"no service {name!r} is" if name is not None else "no service is"
        raise ValkkaError(f"{which} running; start one with: valkka-async run cameras.yaml")
    print(answer["text"])
