# SPDX-License-Identifier: MIT
"""`valkka-async demo`: synthetic cameras, which a service opens over the network like any others."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import select
import socket
import sys
from collections.abc import AsyncIterator

import valkka_async as va
from valkka_async.camera.status import CameraState
from valkka_async.cli.demo.faults import Fault, have_faults
from valkka_async.cli.demo.fleet import CameraProcess, Say, fleet, start_all
from valkka_async.cli.demo.place import HOST
from valkka_async.cli.top import Top
from valkka_async.service.config.config import Config
from valkka_async.service.control import Control
from valkka_async.service.service import Service
from valkka_async.service.status import ServiceStatus
from valkka_async.service.web.app import Page, serve
from valkka_async.timeouts import timeout

_PORT = 8088
_RETRY_SECONDS = 2.0  # the longest pause: faults come often here, and the next attempt should be soon
_FIRST_FRAMES_SECONDS = 30.0
_LOOK = 0.1
_STOP_SECONDS = 2.0  # for a worker to end by itself
_READING_SECONDS = 0.5

log = logging.getLogger("valkka_async")


async def demo(
    cameras: int,
    size: tuple[int, int],
    fps: float,
    *,
    port: int | None = None,
    fault: Fault | None = None,
    seconds: float | None = None,
) -> None:
    """Run until the seconds are over, counted from the first frames. Port None: 8088, or any free one.

    Raises ValkkaError (another demo runs, a name or the port is taken), TimeoutError if a camera cannot be
    started.
    """
    names = [f"demo{number + 1}" for number in range(cameras)]
    with _Events() as events:
        async with contextlib.AsyncExitStack() as stack:
            processes = await stack.enter_async_context(fleet(names, size, fps))
            config = _config(processes, _free_port(port))
            service = Service(config)
            await _claim_names(stack, service)
            await start_all(processes)
            await stack.enter_async_context(service)
            page = await _open_page(stack, service, port)
            notes = _notes(processes, fault)
            print(f"{page.url}  <- open this in a browser", flush=True)
            if not sys.stdout.isatty():  # where there is no table to put them below
                print("\n".join(notes), flush=True)
            view = await stack.enter_async_context(
                Top(names, notes=notes, services={service.name: service.status})
            )
            events.tell(view.say)
            async with _until(service, seconds), asyncio.TaskGroup() as group:
                for process in processes:
                    group.create_task(process.keep(view.say))
                if fault is not None:
                    group.create_task(have_faults(fault, processes[-1], service, view.say))
                # Into a file or a pipe events are enough.
                group.create_task(view.show() if view.terminal else _reading())


def _config(processes: list[CameraProcess], port: int) -> Config:
    cameras = {
        process.name: {"url": process.url, "title": f"Synthetic camera {number}", "retry_max": _RETRY_SECONDS}
        for number, process in enumerate(processes, start=1)
    }
    return Config.model_validate(
        {
            "name": "demo",
            "web": {"host": HOST, "port": port},
            "workers": {"restart_max": _RETRY_SECONDS, "stop_timeout": _STOP_SECONDS},
            "cameras": cameras,
        }
    )


def _notes(processes: list[CameraProcess], fault: Fault | None) -> list[str]:
    count, name, last = len(processes), processes[0].name, processes[-1].name
    notes = [
        f"{count} synthetic camera{'s' * (count > 1)}, read over HTTP like real ones. Ctrl-C ends all of it.",
        f"Read one in Python:  async with valkka_async.connect({name!r}) as c:",
        "                         async for frame in c: print(frame.array.mean())",
    ]
    if fault is not None:
        notes.insert(1, f"{last} has a fault ({fault}) every ten seconds.")
    return notes


def _free_port(port: int | None) -> int:
    """For the page. Raises ValkkaError."""
    wanted = _PORT if port is None else port
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, wanted))
            sock.listen()  # else it would be ours beside a program that listens
        except OSError as e:
            if port is None:
                return 0
            if e.errno == errno.EADDRINUSE:
                raise va.ValkkaError(
                    f"another program listens on port {port}: choose another one with --port, or leave it "
                    "out to get any free one"
                ) from None
            raise va.ValkkaError(f"the page cannot listen on port {port}: {e.strerror}") from None
    return wanted


async def _claim_names(stack: contextlib.AsyncExitStack, service: Service) -> None:
    """Raises NameInUseError, before anything is started. Of two demos that start at once, one gets the
    service's name, and with it those of the rings."""

    async def status() -> ServiceStatus:
        return service.status()

    try:
        await stack.enter_async_context(Control(service.name, {"status": status}))
        for spec in service.config.specs().values():
            for output in spec.outputs:
                va.serve(output.name).close()
    except va.NameInUseError as e:
        raise va.NameInUseError(
            e.errno,
            f"{e.strerror}; for a second demo choose a place of its own: VALKKA_RUNTIME_DIR=/tmp/valkka-demo "
            "valkka-async demo",
        ) from None


async def _open_page(stack: contextlib.AsyncExitStack, service: Service, port: int | None) -> Page:
    """Raises ValkkaError."""
    web = service.config.web
    assert web is not None
    try:
        return await stack.enter_async_context(serve(service, web))
    except va.ValkkaError:
        if port is not None:
            raise
    # Another program has taken the port since we looked.
    return await stack.enter_async_context(serve(service, web.model_copy(update={"port": 0})))


@contextlib.asynccontextmanager
async def _until(service: Service, seconds: float | None) -> AsyncIterator[None]:
    """End the block when the seconds are over. They begin when all cameras are live."""
    try:
        async with timeout(None) as limit:
            counting = None
            if seconds is not None:
                counting = asyncio.create_task(_count(service, limit, seconds))
            try:
                yield
            finally:
                if counting is not None:
                    counting.cancel()
                    await asyncio.wait([counting])
    except TimeoutError:
        if not limit.expired():
            raise


async def _count(service: Service, limit: asyncio.Timeout, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with timeout(_FIRST_FRAMES_SECONDS):
            while not _all_live(service):  # noqa: ASYNC110 - a service does not call
                await asyncio.sleep(_LOOK)
    limit.reschedule(asyncio.get_running_loop().time() + seconds)


def _all_live(service: Service) -> bool:
    live = [camera.name for camera in service.status().cameras if camera.state is CameraState.LIVE]
    return len(live) == len(service.config.cameras)


async def _reading() -> None:
    """Wait as long as standard output has a reader. Raises BrokenPipeError, as in `demo | head`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors are told in any case
    while not poll.poll(0):  # noqa: ASYNC110
        await asyncio.sleep(_READING_SECONDS)
    raise BrokenPipeError


class _Events(logging.Handler):
    """The service's log, as lines above the table; they wait until there is one."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._loop = asyncio.get_running_loop()
        self._say: Say | None = None
        self._waiting: list[str] = []

    def tell(self, say: Say) -> None:
        """Tell all of it to `say`: what has waited, and what comes."""
        self._say = say
        for line in self._waiting:
            say(line)
        self._waiting.clear()

    def filter(self, record: logging.LogRecord) -> bool:
        """All but attempts to connect: there are many, and their results are logged too."""
        return getattr(record, "state", "") != CameraState.CONNECTING

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._tell, self.format(record))

    def _tell(self, line: str) -> None:
        if self._say is None:
            self._waiting.append(line)
            return
        with contextlib.suppress(BrokenPipeError):  # see _reading()
            self._say(line)

    def __enter__(self) -> _Events:
        log.addHandler(self)
        log.propagate = False
        logging.getLogger("valkka_async.service").setLevel(logging.INFO)
        # What happens to a camera the service tells too, and once.
        logging.getLogger("valkka_async.camera").setLevel(logging.ERROR)
        return self

    def __exit__(self, *_: object) -> None:
        log.removeHandler(self)
        log.propagate = True
