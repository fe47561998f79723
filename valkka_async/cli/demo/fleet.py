# SPDX-License-Identifier: MIT
"""The synthetic cameras of a demo, each in a process of its own, as the demo sees them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from valkka_async.cli.demo.place import reserve, url
from valkka_async.errors import ValkkaError
from valkka_async.timeouts import timeout

Say = Callable[[str], None]

_START_SECONDS = 30.0
_RESTART_SECONDS = 1.0  # at most one start per camera in so long
_PATIENCE_SECONDS = 1.0  # for a camera to end by itself
_MOST_OUTPUT = 4096
_PREFIX = "valkka-async: "  # of an error line, as fail() in program.py writes it


@contextlib.asynccontextmanager
async def fleet(names: list[str], size: tuple[int, int], fps: float) -> AsyncIterator[list[CameraProcess]]:
    """Cameras that have addresses and are not started yet. They end when this context does."""
    with contextlib.ExitStack() as places:
        cameras = []
        for number, name in enumerate(names):
            place = places.enter_context(reserve())
            cameras.append(CameraProcess(name, size, fps, number / len(names), place.getsockname()[1]))
        try:
            yield cameras
        finally:
            await asyncio.gather(*(camera.stop() for camera in cameras))


async def start_all(cameras: list[CameraProcess]) -> None:
    """Until all can be connected to. Raises what the first of them failed with: ValkkaError, TimeoutError."""
    # Fifty interpreters that start at once would all be late.
    few = asyncio.Semaphore(max(2, os.cpu_count() or 1))

    async def begin(camera: CameraProcess) -> None:
        async with few:
            await camera.start()

    starts = [asyncio.create_task(begin(camera)) for camera in cameras]
    try:
        await asyncio.gather(*starts)
    finally:
        for task in starts:
            task.cancel()
        await asyncio.gather(*starts, return_exceptions=True)


class CameraProcess:
    """A synthetic camera and its process, which is restarted when it ends."""

    def __init__(self, name: str, size: tuple[int, int], fps: float, hue: float, port: int) -> None:
        self.name = name
        self.url = url(name, port)
        self._arguments = [name, f"{size[0]}x{size[1]}", str(fps), f"{hue:.3f}", str(port)]
        # A task, so that a cancelled start() does not lose the process that it was about to get.
        self._process: asyncio.Task[asyncio.subprocess.Process] | None = None
        self._started = 0.0

    async def start(self) -> None:
        """Until it can be connected to. Raises ValkkaError, TimeoutError."""
        self._started = time.monotonic()
        self._process = asyncio.create_task(_spawn(self._arguments))
        process = await asyncio.shield(self._process)
        assert process.stdout is not None
        try:
            async with timeout(_START_SECONDS):
                line = await process.stdout.readline()
        except TimeoutError:
            raise TimeoutError(f"{self.name} did not start within {_START_SECONDS:g} s") from None
        if line.decode().strip() != self.url:
            raise ValkkaError(f"{self.name} did not start: {await self._ended()}")

    async def keep(self, say: Say) -> None:
        """Restart it whenever it ends, for ever."""
        while True:
            say(f"{self.name}: the synthetic camera ended: {await self._ended()}; restarting it")
            while True:
                await asyncio.sleep(max(0.0, self._started + _RESTART_SECONDS - time.monotonic()))
                await self.stop()  # one that hangs, after a start that took too long
                try:
                    await self.start()
                    break
                except (ValkkaError, TimeoutError) as e:
                    say(str(e))

    async def have(self, fault: str) -> None:
        """Give it a fault: see synthetic.py."""
        assert self._process is not None
        process = await self._process
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):  # it has ended: a fault, too
            process.stdin.write(f"{fault}\n".encode())
            await process.stdin.drain()

    async def _ended(self) -> str:
        """Wait for the end of the process; why it ended."""
        assert self._process is not None
        process = await self._process
        assert process.stderr is not None
        said = b""
        while data := await process.stderr.read(_MOST_OUTPUT):
            said = (said + data)[-_MOST_OUTPUT:]
        status = await process.wait()
        if status < 0:
            return f"killed by {_signal_name(-status)}"
        lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].removeprefix(_PREFIX) if lines else f"exit status {status}"

    async def stop(self) -> None:
        """End it, by force if necessary."""
        if self._process is None:
            return
        process = await self._process
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with timeout(_PATIENCE_SECONDS):
                await process.wait()
        except TimeoutError:  # it hangs, and would hardly listen to SIGTERM either
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _spawn(arguments: list[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *_python(),
        "_camera",
        *arguments,
        stdin=asyncio.subprocess.PIPE,  # its end is the sign to end
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us alone
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _python() -> list[str]:
    """This package, run by this Python. -P keeps another valkka_async in the working directory (a source
    tree, most likely) from being taken for it."""
    ours = Path(__file__).parents[3]
    safe = [] if ours == Path(os.getcwd()) else ["-P"]
    return [sys.executable, *safe, "-m", "valkka_async"]
