"""What the tests of the page share: a service of which each test says how it is, and a browser's end of the
WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from pydantic import SecretStr

import valkka_async as va
from support import footage
from support.playback import packets
from support.status import NOTHING_STORED
from support.status import differing as with_values
from support.until import SECONDS
from valkka_async.camera.mp4.fragments import Fragment, Muxer, Timeline
from valkka_async.camera.spec import CameraSpec, Output
from valkka_async.camera.status import CameraState, SoundState, SoundStatus, before_start
from valkka_async.camera.workers.status import WorkerState, WorkerStatus
from valkka_async.record.archive import Archive
from valkka_async.service.state import State
from valkka_async.service.status import CameraReport, RecordingState, RecordingStatus, ServiceStatus
from valkka_async.service.web.app import serve

HEAD = struct.Struct("<B7xdd")
GROUP = 10  # frames from key frame to key frame


@dataclass
class Tls:
    """As the config has it."""

    cert: str
    key: str


@dataclass
class Settings:
    """As the config has them."""

    host: str = "127.0.0.1"
    port: int = 0
    token: SecretStr | None = None
    max_connections: int = 256
    tls: Tls | None = None


def camera(name: str = "front", **differing: Any) -> CameraReport:
    """A camera that is live. Fields of the report and of the camera's own record may differ."""
    outputs = (Output(f"{name}.fmp4", "fmp4"), Output(f"{name}.jpeg", "jpeg"))
    own = before_start(CameraSpec(name, "rtsp://10.0.0.7/live", outputs), CameraState.LIVE, pid=4711)
    rings = tuple(replace(output, published=10, dropped=2, skipped=1) for output in own.outputs)
    report = CameraReport(
        name=name,
        title="",
        group="",
        state=CameraState.LIVE,
        cause=None,
        reason="",
        since_ns=1,
        retry_in=None,
        age=0.02,
        cpu=0.1,
        ring_fps={output.name: 25.0 for output in rings},
        live=f"{name}.fmp4",
        still=f"{name}.jpeg",
        recording=None,
        stored=None,
        camera=with_values(
            own,
            attempts=3,
            reconnects=1,
            codec="h264",
            width=320,
            height=192,
            fps=25.0,
            key_interval=0.4,
            clock_disagrees=False,
            early=True,
            packets=1000,
            decoded=900,
            errors=4,
            last_packet_ns=time.time_ns(),
            cpu_s=1.5,
            sound=SoundStatus(SoundState.LIVE, "pcm_alaw", 8000, 1, "mp4a.40.2", 50, 0),
            outputs=rings,
        ),
        worker=worker(4711, name),
    )
    return changed(report, **differing)


def changed(report: CameraReport, **differing: Any) -> CameraReport:
    """The report with other values in its own fields, or else in the camera's record."""
    own = {f.name for f in fields(CameraReport)}
    rest = {key: value for key, value in differing.items() if key not in own}
    state = {"state": differing["state"]} if "state" in differing else {}  # of the report, and of its stream
    camera = with_values(report.camera, **rest, **state)
    return replace(report, **{"camera": camera} | {key: differing[key] for key in differing if key in own})


def worker(pid: int | None, *cameras: str, restarts: int = 2) -> WorkerStatus:
    state = WorkerState.WAITING if pid is None else WorkerState.RUNNING
    rss = 0 if pid is None else 30_000_000
    return WorkerStatus(cameras, state, pid, 1, restarts, None, None, "", 2.5, rss)


def recording(**differing: Any) -> RecordingStatus:
    """One that is being written."""
    status = RecordingStatus(
        state=RecordingState.WRITING,
        active=True,
        always=False,
        since_ns=1,
        path="a.mp4",
        duration=0.0,
        written_ns=1,
        bytes=0,
        files=1,
        dropped=0,
        retry_in=None,
        error=None,
    )
    return replace(status, **differing)


@dataclass
class Stand:
    """A service that is as a test says. It knows nothing of rings: those are real, and the test's."""

    cameras: dict[str, CameraReport] = field(default_factory=lambda: {"front": camera()})
    ready: bool = True
    name: str = "stand"
    archive: Archive = field(default_factory=lambda: Archive(Path("nowhere", "index")))
    looks: int = 0
    events: list[tuple[str, float | None, float | None]] = field(default_factory=list)

    def status(self) -> ServiceStatus:
        self.looks += 1
        return ServiceStatus(
            name=self.name,
            version="1.2.3",
            pid=1,
            now_ns=time.time_ns(),
            since_ns=1_700_000_000_000_000_000,
            ready=self.ready,
            cameras=tuple(self.cameras.values()),
            recordings=NOTHING_STORED,
            page=None,
        )

    def change(self, name: str, **differing: Any) -> None:
        """As changed()."""
        self.cameras[name] = changed(self.cameras[name], **differing)

    def record_event(self, camera: str, before: float | None, after: float | None) -> None:
        if self.cameras[camera].recording is None:
            raise va.ValkkaError(f"{camera} does not wait for events")
        self.events.append((camera, before, after))

    async def set_recording(self, camera: str, on: bool) -> RecordingStatus | None:
        report = self.cameras[camera]
        if report.camera.codec == "mjpeg":
            raise va.ValkkaError(f"{camera} sends mjpeg, which cannot be recorded")
        now = recording() if on else None
        self.change(camera, recording=now)
        return now


def once(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that runs on one event loop, and not on both: of what no loop has a part in."""

    @functools.wraps(test)
    def run(*args: Any, **keywords: Any) -> None:
        asyncio.run(test(*args, **keywords))

    return run


@asynccontextmanager
async def served(
    stand: Stand, settings: Settings | None = None, state: State | None = None, **headers: str
) -> AsyncIterator[aiohttp.ClientSession]:
    """The page of a service, and a client whose addresses begin there."""
    async with serve(stand, settings or Settings(), state) as page:
        jar = aiohttp.CookieJar(unsafe=True)  # which takes cookies from numeric addresses too
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(
            page.url, headers=headers, cookie_jar=jar, timeout=timeout
        ) as client:
            yield client


class Film:
    """A numbered clip as a camera's output publishes it, piece by piece."""

    def __init__(
        self, folder: Path, size: tuple[int, int] = (160, 96), timeline: Timeline | None = None
    ) -> None:
        self.fragments: list[Fragment] = []
        muxer = None
        clip = footage.encode(folder / f"{size[0]}.h264", size, 60, gop=GROUP)
        for stream, packet in packets(clip):
            muxer = muxer or Muxer(stream, timeline or Timeline())
            self.fragments += muxer.mux(packet, 0)
        assert muxer is not None
        self.header = muxer.init_segment

    def publish(self, server: va.Server, first: int, end: int) -> None:
        server.set_header(self.header)
        for n, f in enumerate(self.fragments[first:end], first):
            publish(server, f, taken_ns(n))


def publish(server: va.Server, f: Fragment, timestamp_ns: int) -> bool:
    """As a camera's output does."""
    return server.publish(
        f.data,
        format="fmp4",
        key=f.key,
        pts=f.pts,
        dts=f.dts,
        duration=f.duration,
        time_base=f.time_base,
        timestamp_ns=timestamp_ns,
    )


def taken_ns(number: int) -> int:
    """When the frame of this number was taken."""
    return 1_700_000_000_000_000_000 + number * 40_000_000


class Seen(NamedTuple):
    """A message of bytes."""

    kind: int
    taken: float  # Unix ms
    shown: float  # s
    payload: bytes


class Browser:
    """The page's end of a WebSocket with live pictures."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def text(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self.socket.receive_str(timeout=10))
        return message

    async def media(self) -> Seen:
        """The next message of bytes. Before the first one a slow machine may say that it waits for it."""
        message = await self.socket.receive(timeout=10)
        while message.type is aiohttp.WSMsgType.TEXT and json.loads(message.data)["type"] == "waiting":
            message = await self.socket.receive(timeout=10)
        assert message.type is aiohttp.WSMsgType.BINARY, message
        data = message.data
        kind, taken, shown = HEAD.unpack_from(data)
        return Seen(kind, taken, shown, data[HEAD.size :])

    async def init(self) -> tuple[dict[str, Any], bytes]:
        text = await self.text()
        while text["type"] == "waiting":
            text = await self.text()
        assert text["type"] == "init", text
        seen = await self.media()
        assert seen.kind == 0
        return text, seen.payload

    async def frames(self, count: int) -> list[Seen]:
        return [await self.media() for _ in range(count)]

    async def closed(self) -> int | None:
        """The code with which the other side closes, whatever comes before."""
        while True:
            message = await self.socket.receive(timeout=10)
            if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                return self.socket.close_code


@asynccontextmanager
async def upgraded(url: str) -> AsyncIterator[asyncio.StreamReader]:
    """A WebSocket whose owner has not read anything yet, behind small buffers."""
    parts = urlsplit(url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=64 << 10)
    try:
        key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
        upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13"
        target = f"{parts.path}?{parts.query}"
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n{upgrade}\r\n{key}\r\n\r\n".encode())
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def viewers(client: aiohttp.ClientSession, count: int, url: str = "/") -> None:
    """Wait until so many look at a camera, or wait for a snapshot."""
    async with asyncio.timeout(SECONDS):
        while True:
            async with client.get(url + "api/status") as answer:
                if (await answer.json())["page"]["viewers"] == count:
                    return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def looking(
    client: aiohttp.ClientSession, name: str = "front", format: str = "fmp4"
) -> AsyncIterator[Browser]:
    async with client.ws_connect(f"/api/cameras/{name}/live?format={format}") as socket:
        yield Browser(socket)
