# SPDX-License-Identifier: MIT
"""`valkka-async run` and `reload`: a service from a config file."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import valkka_async.service.log as service_log
import valkka_async.service.tls as tls
from valkka_async.camera.spec import CameraSpec
from valkka_async.cli import program
from valkka_async.cli.bandwidth import raw_frames
from valkka_async.cli.linked import Linked
from valkka_async.cli.program import fail
from valkka_async.errors import ConnectError, InvalidNameError, ValkkaError
from valkka_async.service.config.config import Config, Web
from valkka_async.service.config.file import load
from valkka_async.service.config.problems import ConfigError
from valkka_async.service.control import Control, ask, services
from valkka_async.service.notify import Manager
from valkka_async.service.outages import ATTEMPTS
from valkka_async.service.service import Service
from valkka_async.service.state import State, directory
from valkka_async.service.status import ServiceStatus
from valkka_async.service.web.app import Page, serve

_RELOAD_SECONDS = 120.0  # for cameras that are slow to close

log = logging.getLogger("valkka_async.service")


def read(
    path: Path, lacks: Callable[[CameraSpec], tuple[tuple[str, ...], str] | None] = lambda _: None
) -> Config:
    """The config. Ends the program with a line for each of its errors, if it has any."""
    try:
        return load(path, lacks=lacks, certificate=tls.load)
    except ConfigError as e:
        print(e, file=sys.stderr)
        count = len(e.problems)
        fail(f"{path}: {count} {'error' if count == 1 else 'errors'}; nothing was started", 1)


def check(path: Path) -> None:
    """Say whether the config is good, and whether this machine can do what it says."""
    from valkka_async.camera.source.ffmpeg import lacks  # a service itself does without FFmpeg

    config = read(path, lacks)
    cameras = len(config.specs())
    if config.web is not None and (files := config.web.tls) is not None:
        for doubt in tls.load(files.cert, files.key).doubts():
            print(f"{path}: web.tls.cert: {doubt}", file=sys.stderr)
    for line in raw_frames(config):
        print(f"{path}: {line}")
    print(f"{path}: good, {cameras} {'camera' if cameras == 1 else 'cameras'}")


def start(path: Path, hangups: asyncio.Event) -> None:
    """Run the service until a signal asks for the end. Each time that `hangups` is set, the config is read
    again; early() sets it already while this program is starting.

    Raises ValkkaError (the name is taken, the page's port is taken), OSError; with a log of JSON these are
    logged, and the program ends.
    """
    config = read(path)
    if config.link is not None:
        import zenoh  # noqa: F401 - is it there?
    journal = sys.stderr is not None and service_log.is_journal(sys.stderr)
    service_log.configure(config.log.level, config.log.format, journal=journal, without=(ATTEMPTS,))
    service_log.take_over()
    try:
        program.run(_Runner(path, config, journal, hangups).run(), None, hangups.set)
    except (ValkkaError, OSError) as e:
        if config.log.format == "text":
            raise
        log.error("%s", program.explain(e))
        sys.exit(1)


class _Open(NamedTuple):
    """The page that there is, and what closes it."""

    page: Page
    stack: AsyncExitStack


class _Runner:
    def __init__(self, path: Path, config: Config, journal: bool, hangups: asyncio.Event) -> None:
        self._path = path
        self._journal = journal
        self._hangups = hangups
        self._service = Service(config)
        self._log = config.log
        self._web = config.web
        self._linked = Linked(path, config.link)
        self._state = State(directory(), self._service.name)
        self._page: _Open | None = None
        self._manager = Manager()
        self._over = asyncio.Event()
        self._next: asyncio.Future[dict[str, Any]] | None = None  # what the next reload has done
        self._terminal = os.isatty(0)

    async def run(self) -> None:
        ops = {"status": self._status, "reload": self._reload_is_asked}
        async with AsyncExitStack() as stack:
            stack.callback(self._manager.close)
            await stack.enter_async_context(Control(self._service.name, ops))
            await stack.enter_async_context(self._service)
            stack.push_async_callback(self._close_page)
            if self._web is not None:
                self._page = await self._open_page(self._web)
                _print(self._page.page.url)
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(work)
                    for work in (self._follow(), self._manager.watchdog(), self._linked.run())
                ]
                try:
                    await self._over.wait()
                finally:
                    self._manager.stopping()
                    for task in tasks:
                        task.cancel()

    async def _status(self) -> ServiceStatus:
        return self._service.status()

    # ------------------------------------------------------------------------------- reloads

    async def _follow(self) -> None:
        """Say when we have started, and from then on reload when that is asked for. One reload answers all
        that was asked before it began."""
        await self._service.started()
        self._manager.ready(f"{len(self._service.config.specs())} cameras")
        while True:
            await self._hangups.wait()
            self._hangups.clear()
            asked, self._next = self._next, None
            if asked is None and self._terminal and not os.isatty(0):
                self._over.set()  # nobody asks for a reload: the terminal was closed
                continue
            try:
                with self._manager.reloading():
                    done = await self._reload()
            except Exception as e:
                error = self._logged(e)
                if asked is not None:
                    asked.set_exception(error)
                    asked.exception()  # there may be nobody left to take it
            else:
                if asked is not None:
                    asked.set_result(done)

    async def _reload_is_asked(self) -> dict[str, Any]:
        """Read the file again, and do what it says now. Raises ValkkaError, and then all is as before."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        self._hangups.set()
        return await asyncio.shield(self._next)  # others may wait for the same

    def _logged(self, error: Exception) -> ValkkaError:
        """Why a reload has failed, for the program that has asked for it."""
        if isinstance(error, ValkkaError):
            for line in str(error).split("\n"):
                log.error("%s", line)
        else:
            log.error("the reload failed", exc_info=error)
            error = ValkkaError("the reload failed; the service's log says how")
        log.error("%s was not applied; everything goes on as before", self._path)
        return error

    async def _reload(self) -> dict[str, Any]:
        config = await asyncio.to_thread(partial(load, self._path, certificate=tls.load))
        before, web = self._service.config, self._web
        done = await self._follow_web(config.web)
        try:
            changes = await self._service.apply(config)
        except Exception:
            await self._go_back(before, web)
            raise
        if config.log != self._log:
            self._log = config.log
            service_log.configure(
                config.log.level, config.log.format, journal=self._journal, without=(ATTEMPTS,)
            )
            done += ["changed log"]
        if self._linked.apply(config.link):
            done += ["changed link"]
        text = "; ".join([str(changes), *done] if changes or not done else done)
        log.info("%s: %s", self._path, text)
        return asdict(changes) | {"text": text}

    async def _go_back(self, config: Config, web: Web | None) -> None:
        """To what was in force before a reload that has failed halfway."""
        for step in (partial(self._service.apply, config), partial(self._follow_web, web)):
            try:
                await step()
            except Exception as e:
                log.error("the reload cannot be undone", exc_info=e)

    # ------------------------------------------------------------------------------- the page

    async def _open_page(self, web: Web) -> _Open:
        async with AsyncExitStack() as stack:
            page = await stack.enter_async_context(serve(self._service, web, self._state))
            return _Open(page, stack.pop_all())

    async def _close_page(self) -> None:
        page, self._page = self._page, None
        if page is not None:
            await page.stack.aclose()

    async def _follow_web(self, web: Web | None) -> list[str]:
        """The page by its new settings; what was done, in words. Raises what serve() does, and then it is as
        before, if it can be."""
        before = self._web
        if web == before:
            renewed = self._page is not None and await self._page.page.renew()
            return ["the page has another certificate"] if renewed else []
        # A page that stays on its port has to leave it first, whatever the address was.
        first = web is not None and before is not None and web.port == before.port != 0
        if first:
            await self._close_page()
        try:
            page = await self._open_page(web) if web is not None else None
        except Exception:
            if first:
                await self._reopen(before)
            raise
        await self._close_page()
        self._page, self._web = page, web
        return [f"the page is at {page.page.url}" if page is not None else "the page is closed"]

    async def _reopen(self, web: Web | None) -> None:
        self._web = None  # so that the next reload tries it, if this fails
        try:
            if web is not None:
                self._page = await self._open_page(web)
                self._web = web
        except Exception as e:
            log.error("the page cannot be opened any more, until a reload succeeds: %s", e)


def _print(line: str) -> None:
    """Print it, if there is somebody to read it: a service runs without."""
    try:
        print(line, flush=True)
    except OSError:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 1)  # for the flush at exit


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
    except (ConnectError, InvalidNameError):
        raise
    except ValkkaError as e:
        print(e, file=sys.stderr)  # a line for each error
        fail("that was not applied; everything goes on as before", 1)
    if answer is None:
        which = f"no service {name!r} is" if name is not None else "no service is"
        raise ValkkaError(f"{which} running; start one with: valkka-async run cameras.yaml")
    text = answer.get("text") if isinstance(answer, dict) else None
    print(text or "reloaded")  # a service of another version may say something else
