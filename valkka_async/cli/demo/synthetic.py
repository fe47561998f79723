# SPDX-License-Identifier: MIT
"""A camera of the demo: a process that draws frames and serves them over HTTP, as a network camera would.

It prints its URL, obeys the lines of its standard input, and ends with it: its parent holds the other end of
that pipe, so the camera ends with the demo, however that ends. Each line is a fault and its duration:

    stall SECONDS     connections stay open, and nothing is sent
    drop SECONDS      connections are cut, and new ones are refused
    resize SECONDS    frames of half the width and height
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from aiohttp import web

from valkka_async.cli.demo.place import HOST, url
from valkka_async.cli.demo.stream import Stream
from valkka_async.errors import ValkkaError

_MAX_VIEWERS = 16
_BEHIND_SECONDS = 2.0  # of frames that wait for a slow viewer,
_BEHIND_BYTES = 1 << 17  # besides what waits in the kernel: it would take minutes of them
_SMALLEST = 16  # pixels of a side
_GOODBYE_SECONDS = 0.5  # for connections that were cut to be gone


async def synthetic(name: str, size: tuple[int, int], fps: float, hue: float, port: int) -> None:
    """Until standard input ends. Raises ValkkaError, OSError if it cannot listen on that port."""
    stream = Stream(name, size, fps, hue)
    async with Synthetic(stream, fps, name, port) as camera, asyncio.TaskGroup() as group:
        os.write(sys.stdout.fileno(), f"{url(name, port)}\n".encode())
        tasks = {group.create_task(camera.play())}
        async for line in _input():
            task = group.create_task(camera.have(line))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        for task in tasks:
            task.cancel()


class Synthetic:
    """One encoder, which runs while there are viewers, and sends all of them the same."""

    def __init__(self, stream: Stream, fps: float, name: str, port: int) -> None:
        self._stream = stream
        self._size = stream.size
        self._period = 1 / fps
        self._limit = max(2, round(_BEHIND_SECONDS * fps))
        self._port = port
        self._viewers: set[_Viewer] = set()
        self._wanted = asyncio.Event()
        self._stalled_until = 0.0
        app = web.Application()
        app.router.add_get(f"/{name}.ts", self._serve, allow_head=False)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GOODBYE_SECONDS)
        self._site: web.TCPSite | None = None

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await self._listen()
        except BaseException:
            await self._runner.cleanup()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cut()
        await self._runner.cleanup()

    async def play(self) -> None:
        """For ever."""
        due = time.monotonic()
        while True:
            if not self._viewers:
                self._wanted.clear()
                await self._wanted.wait()
            await asyncio.sleep(max(0.0, self._stalled_until - time.monotonic()))
            # A new viewer begins with a key frame, and does not wait for the next.
            wanted = any(viewer.waiting for viewer in self._viewers)
            data, key = self._stream.take(time.time_ns(), time.monotonic_ns(), key=wanted)
            for viewer in list(self._viewers):
                viewer.offer(data, key)
            # After a pause (no viewers, a suspended machine) it continues from now and does not catch up.
            due = max(due + self._period, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def have(self, fault: str) -> None:
        """Have a fault for its time. Raises ValkkaError if there is no such fault."""
        kind, _, text = fault.partition(" ")
        seconds = float(text)
        match kind:
            case "stall":
                self._stalled_until = time.monotonic() + seconds
            case "drop":
                await self._refuse(seconds)
            case "resize":
                width, height = self._size
                self._stream.size = max(_SMALLEST, width // 4 * 2), max(_SMALLEST, height // 4 * 2)
                await asyncio.sleep(seconds)
                self._stream.size = self._size
            case _:
                raise ValkkaError(f"a synthetic camera has no fault {kind!r}")

    async def _listen(self) -> None:
        # The demo holds the port too, without listening.
        self._site = web.TCPSite(self._runner, HOST, self._port, reuse_port=True)
        await self._site.start()

    async def _refuse(self, seconds: float) -> None:
        site, self._site = self._site, None
        if site is None:  # it does so already
            return
        await site.stop()
        self._cut()
        await asyncio.sleep(seconds)
        await self._listen()

    def _cut(self) -> None:
        for viewer in self._viewers:
            viewer.cut()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if len(self._viewers) >= _MAX_VIEWERS:
            raise web.HTTPServiceUnavailable(text=f"there are {_MAX_VIEWERS} viewers already\n")
        viewer = _Viewer(request, self._limit)
        response = web.StreamResponse(headers={"Content-Type": "video/mp2t", "Cache-Control": "no-store"})
        self._viewers.add(viewer)
        try:
            await response.prepare(request)
            self._wanted.set()
            while (data := await viewer.next()) is not None:
                await response.write(data)
        except ConnectionError:  # it has gone
            pass
        finally:
            self._viewers.discard(viewer)
        return response


class _Viewer:
    """A connection, and the frames that it has not been sent yet."""

    def __init__(self, request: web.Request, limit: int) -> None:
        self.waiting = True  # for its first frame, which is a key frame
        self._transport = request.transport
        self._frames: asyncio.Queue[bytes | None] = asyncio.Queue(limit)
        if (sock := request.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BEHIND_BYTES)

    def offer(self, data: bytes, key: bool) -> None:
        """Send a frame. A viewer that is too slow is cut: a stream with a hole is of no use to it."""
        if self.waiting and not key:
            return
        self.waiting = False
        try:
            self._frames.put_nowait(data)
        except asyncio.QueueFull:
            self.cut()

    async def next(self) -> bytes | None:
        """The next frame. None: the viewer was cut."""
        return await self._frames.get()

    def cut(self) -> None:
        """Close the connection, without what was not sent."""
        while not self._frames.empty():
            self._frames.get_nowait()
        self._frames.put_nowait(None)
        if self._transport is not None:  # it may have gone by itself
            self._transport.abort()


async def _input() -> AsyncIterator[str]:
    """The lines of standard input."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        while line := await reader.readline():
            yield line.decode(errors="replace").strip()
    finally:
        transport.close()
