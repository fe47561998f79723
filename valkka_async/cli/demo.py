# SPDX-License-Identifier: MIT
"""`valkka-async demo`: synthetic cameras, each in a process of its own, and the table of `watch`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path

import valkka_async as va
from valkka_async.cli.synthetic import READY
from valkka_async.cli.watch import Say, Watch

_FIRST_FRAME_SECONDS = 30.0
_RESTART_SECONDS = 1.0  # at most one start per camera in so long
_PATIENCE_SECONDS = 2.0  # for a camera to end by itself
_KEPT_OUTPUT = 4096
_PREFIX = "valkka-async: "  # of an error line, as fail() in program.py writes it


async def demo(cameras: int, size: tuple[int, int], fps: float, seconds: float | None) -> None:
    """Until the seconds are over, from the first frames on. Raises ValkkaError, TimeoutError if a camera
    cannot be started at all."""
    fleet = [Camera(f"demo{i + 1}", size, fps, i / cameras) for i in range(cameras)]
    notes = (
        f"{cameras} synthetic cameras, one process each. Ctrl-C ends them.",
        "Read one in Python:  async with valkka_async.connect('demo1') as c:",
        "                         async for frame in c: print(frame.array.mean())",
    )
    try:
        await _start_all(fleet)
        async with Watch([camera.name for camera in fleet], notes=notes) as view:
            await _for(seconds, _show_and_keep(view, fleet))
    finally:
        await asyncio.gather(*(camera.stop() for camera in fleet))


async def _show_and_keep(view: Watch, fleet: list[Camera]) -> None:
    async with asyncio.TaskGroup() as group:
        for camera in fleet:
            group.create_task(camera.keep(view.say))
        group.create_task(view.show())


async def _for(seconds: float | None, work: Coroutine[object, object, None]) -> None:
    """That is no failure: the seconds are over."""
    try:
        async with asyncio.timeout(seconds) as limit:
            await work
    except TimeoutError:
        if not limit.expired():
            raise


async def _start_all(fleet: list[Camera]) -> None:
    """Raises what the first of them failed with."""
    starts = [asyncio.create_task(camera.start()) for camera in fleet]
    try:
        await asyncio.gather(*starts)
    finally:
        for start in starts:
            start.cancel()
        await asyncio.gather(*starts, return_exceptions=True)


class Camera:
    """A camera and its process, which is started again when it ends."""

    def __init__(self, name: str, size: tuple[int, int], fps: float, hue: float) -> None:
        self.name = name
        self._arguments = [name, f"{size[0]}x{size[1]}", str(fps), f"{hue:.3f}"]
        # A task, so that a cancelled start() does not lose the process that it was about to get.
        self._process: asyncio.Task[asyncio.subprocess.Process] | None = None
        self._started = 0.0

    async def start(self) -> None:
        """Until its first frame. Raises ValkkaError, TimeoutError."""
        self._started = time.monotonic()
        self._process = asyncio.create_task(_spawn(self._arguments))
        process = await asyncio.shield(self._process)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_FIRST_FRAME_SECONDS):
                line = await process.stdout.readline()
        except TimeoutError:
            raise TimeoutError(f"{self.name} gave no frame within {_FIRST_FRAME_SECONDS:g} s") from None
        if line != READY:
            raise va.ValkkaError(f"{self.name} did not start: {await self._ended()}")

    async def keep(self, say: Say) -> None:
        """Start it again whenever it ends, for ever."""
        while True:
            say(f"{self.name} ended: {await self._ended()}; starting it again")
            while True:
                await asyncio.sleep(max(0.0, self._started + _RESTART_SECONDS - time.monotonic()))
                await self._end()  # one that hangs, after a start that took too long
                try:
                    await self.start()
                    break
                except (va.ValkkaError, TimeoutError) as e:
                    say(str(e))

    async def _ended(self) -> str:
        """Wait for the end of the process; why it ended."""
        assert self._process is not None
        process = await self._process
        assert process.stderr is not None
        said = b""
        while data := await process.stderr.read(_KEPT_OUTPUT):
            said = (said + data)[-_KEPT_OUTPUT:]
        status = await process.wait()
        if status < 0:
            return f"killed by {_signal_name(-status)}"
        lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].removeprefix(_PREFIX) if lines else f"exit status {status}"

    async def stop(self) -> None:
        """End it, and leave nothing of it behind."""
        if await self._end() != 0:
            # It could not clean up: taking over what a dead server left, and closing, does.
            with contextlib.suppress(va.ValkkaError):
                va.serve(self.name).close()

    async def _end(self) -> int:
        """End the process, by force if need be. Its exit status."""
        if self._process is None:
            return 0
        process = await self._process
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await process.wait()
        except TimeoutError:  # it hangs, and would hardly listen to SIGTERM either
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        return await process.wait()


async def _spawn(arguments: list[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *_python(),
        "_camera",
        *arguments,
        stdin=asyncio.subprocess.PIPE,  # its end is the sign to end; we never write to it
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
    ours = Path(__file__).parents[2]
    safe = [] if ours == Path(os.getcwd()) else ["-P"]
    return [sys.executable, *safe, "-m", "valkka_async"]
