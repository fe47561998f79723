# SPDX-License-Identifier: MIT
"""Networks for hosts of the tests: namespaces with a cable or a switch between them, and a slow line.

Namespaces take root, or a kernel that lets anybody make them; elsewhere tests on them are skipped, and those
on loopback addresses stand alone. This kernel and others have no netem, so a slow line is a proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator

import pytest

from support.until import wait_for


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Star:
    """A host in the middle, `names[0]` at 10.213.7.1, and others around it, `names[1]` at 10.213.7.2 ..."""

    def __init__(self, others: int) -> None:
        self.names = [f"va{os.getpid()}-{number}" for number in range(others + 1)]

    def __enter__(self) -> Star:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        hub, *others = self.names
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", hub, "link", "add", "switch", "type", "bridge")
        ip("-n", hub, "address", "add", "10.213.7.1/24", "dev", "switch")
        ip("-n", hub, "link", "set", "switch", "up")
        for number, name in enumerate(others, 1):
            port = f"port{number}"
            ip("link", "add", port, "netns", hub, "type", "veth", "peer", "name", "va0", "netns", name)
            ip("-n", hub, "link", "set", port, "master", "switch", "up")
            ip("-n", name, "address", "add", f"10.213.7.{number + 1}/24", "dev", "va0")
            ip("-n", name, "link", "set", "va0", "up")

    def cut(self, number: int) -> None:
        """Take the cable of a host out."""
        ip("-n", self.names[number], "link", "set", "va0", "down")

    def mend(self, number: int) -> None:
        ip("-n", self.names[number], "link", "set", "va0", "up")

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@contextlib.contextmanager
def star(others: int) -> Iterator[Star]:
    """Skips the test where there can be none."""
    if shutil.which("ip") is None:
        pytest.skip("no network namespaces: there is no `ip`")
    try:
        with Star(others) as made:
            yield made
    except subprocess.CalledProcessError as e:
        pytest.skip(f"no network namespaces here ({e.stderr.strip()})")


class SlowLine:
    """A TCP proxy to a port of this machine: each byte comes `delay` seconds later, and at most `rate` of
    them in a second each way."""

    def __init__(self, to: int, delay: float = 0.0, rate: float = 1e12) -> None:
        self.port = 0
        self._to = to
        self._delay = delay
        self._rate = rate
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def __enter__(self) -> SlowLine:
        self._thread.start()
        wait_for(lambda: self.port)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        calls: set[asyncio.Task[None]] = set()

        def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            calls.add(asyncio.create_task(self._call(reader, writer)))

        async with await asyncio.start_server(take, "127.0.0.1", 0, limit=1 << 16) as server:
            self.port = server.sockets[0].getsockname()[1]
            await self._over.wait()
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    async def _call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to, limit=1 << 16)
        except OSError:
            writer.close()
            return
        ways = [asyncio.create_task(self._way(*way)) for way in ((reader, back), (there, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, back):
                end.transport.abort()

    async def _way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def deliver() -> None:
            while True:
                due, data = await line.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(len(data) / self._rate)

        delivering = asyncio.create_task(deliver())
        try:
            while data := await reader.read(1 << 13):
                await line.put((self._loop.time() + self._delay, data))
        finally:
            delivering.cancel()
