"""A browser that does not read costs the others nothing, and the service no memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from pathlib import Path
from typing import Any

import av
from web_tools import GROUP, HEAD, upgraded
from web_tools import publish as publish_fragment

import valkka_async as va
from support import footage
from support.playback import packets
from support.program import Child
from support.until import until
from valkka_async.camera.mp4.fragments import Fragment, Muxer

FAST = 50
ROUNDS = 4  # of the clip's 60 frames; the last is for the slow one to catch up
FRAME_BYTES = 128 << 10

# More than there is when all are connected and served: the queue of the slow one (4 MiB), the frames kept for
# who joins, and a frame that waits to be sent to each. Without bounds it would be 20 MB for the slow one.
MOST = 10_000_000

SERVER = """
sys.path[:0] = sys.argv[1:]
import uvloop
from web_tools import Settings, Stand
from valkka_async.service.web.app import serve
async def main():
    async with serve(Stand(), Settings()) as page:
        say(page.url)
        await asyncio.to_thread(sys.stdin.readline)
uvloop.run(main())
"""


def film(folder: Path) -> tuple[bytes, list[Fragment]]:
    """Video of many bytes: each frame ends with filler, which the standard has for that."""
    clip = footage.encode(folder / "clip.h264", (160, 96), 60, gop=GROUP)
    filler = b"\0\0\0\1\x0c" + b"\xff" * FRAME_BYTES + b"\x80"
    muxer, fragments = None, []
    for n in range(ROUNDS):
        for stream, packet in packets(clip):
            larger: Any = av.Packet(bytes(packet) + filler)
            larger.pts, larger.time_base = packet.pts + 60 * n, packet.time_base
            larger.is_keyframe, larger.stream = packet.is_keyframe, stream
            muxer = muxer or Muxer(stream)
            fragments += muxer.mux(larger, 0)
    assert muxer is not None
    return muxer.init_segment, fragments


def private_bytes(pid: int) -> int:
    """Memory that the process has for itself, without the rings."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


class Client:
    """A browser: what it gets, by the number that each frame has as its time, and what it is told."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.got: list[int] = []
        self.keys: list[int] = []
        self.told: list[tuple[int, dict[str, Any]]] = []  # behind so many frames

    async def read(self) -> None:
        while await self._reader.readline() != b"\r\n":  # the answer to the upgrade
            pass
        while True:
            opcode, length = await self._reader.readexactly(2)
            if length >= 126:
                length = int.from_bytes(await self._reader.readexactly(2 if length == 126 else 8), "big")
            data = await self._reader.readexactly(length)
            if opcode == 0x81:
                self.told.append((len(self.got), json.loads(data)))
            elif opcode == 0x82:
                kind, taken, _ = HEAD.unpack_from(data)
                if kind:
                    assert len(data) > FRAME_BYTES
                    self.got.append(round(taken))
                    if kind == 1:
                        self.keys.append(round(taken))


def test_one_that_does_not_read_and_fifty_that_do(tmp_path: Path) -> None:
    header, fragments = film(tmp_path)
    here = Path(__file__).parent
    with Child(SERVER, here, here.parent) as server, va.serve("front.fmp4", slots=64) as ring:
        url = server.line() + "api/cameras/front/live"
        ring.set_header(header)
        asyncio.run(watched(url, server.pid, ring, fragments))
        server.tell("stop")
        assert server.wait() == 0


async def watched(url: str, pid: int, ring: va.Server, fragments: list[Fragment]) -> None:
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        slow = Client(await stack.enter_async_context(upgraded(url)))
        fast = [Client(await stack.enter_async_context(upgraded(url))) for _ in range(FAST)]
        tasks = [group.create_task(client.read()) for client in fast]
        await until(lambda: ring.stats().readers == 1)

        async def publish(first: int, end: int) -> None:
            for n in range(first, end):
                f = fragments[n]
                assert publish_fragment(ring, f, n * 1_000_000)
            await until(lambda: all(len(client.got) == end for client in fast), 60)

        most = before = 0
        count = 60 * (ROUNDS - 1)
        for first in range(0, count, GROUP):
            await publish(first, first + GROUP)
            if first == 0:
                await asyncio.sleep(2.1)  # so long a viewer may queue more, of frames from before it came
            if first == 2 * GROUP:  # all have what they need
                before = private_bytes(pid)
            most = max(most, private_bytes(pid))
        assert most - before < MOST, f"{before:,} bytes grew to {most:,}"
        assert slow.got == []

        tasks.append(group.create_task(slow.read()))
        while slow.got[-1:] != [count - 1]:  # until it has caught up
            await publish(count, count + GROUP)
            count += GROUP
            with contextlib.suppress(TimeoutError):
                await until(lambda newest=count - 1: slow.got[-1:] == [newest], 3)  # type: ignore[misc]
        for client in fast:
            assert client.got == list(range(count))
            assert "skipped" not in [text["type"] for _, text in client.told]
        init, *skips = [one for one in slow.told if one[1]["type"] != "waiting"]
        assert init[1]["type"] == "init"
        assert skips and slow.got == sorted(slow.got)
        for behind, text in skips:
            assert text["type"] == "skipped"
            last, next = slow.got[behind - 1], slow.got[behind]
            assert next - last - 1 == text["frames"] and next in slow.keys
        assert len(slow.got) + sum(text["frames"] for _, text in skips) == count
        for task in tasks:
            task.cancel()
