"""The examples of fragmented MP4: what is written plays, and what is sent plays in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import av
import pytest
from example_run import Example

from support import footage
from support.playback import ffmpeg_finds_no_fault
from support.require import missing
from support.rtsp import RtspServer

# Nothing that leaves this machine, whatever the browser would like to look up.
CHROMIUM = """--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run
    --disable-background-networking --disable-component-update --disable-sync --remote-debugging-port=0
    --autoplay-policy=no-user-gesture-required""".split()
ONLY_HERE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


def pictures(media: bytes | Path) -> list[tuple[int, int]]:
    """The sizes of all, decoded."""
    with av.open(io.BytesIO(media) if isinstance(media, bytes) else str(media), "r") as container:
        frames = list(container.decode(video=0))
    assert not any(frame.is_corrupt for frame in frames)
    return [(frame.width, frame.height) for frame in frames]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def changing(street: RtspServer, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A camera of 320x192, and a clip of 480x272 that it may be switched to."""
    small = footage.encode(tmp_path / "small.h264", (320, 192), 25, gop=10)
    large = footage.encode(tmp_path / "large.h264", (480, 272), 25, gop=10)
    street.mount("/changing", small)
    yield street.url("/changing"), large
    street.unmount("/changing")


def test_boxes_are_told_and_written_into_a_file_that_plays(street: RtspServer, tmp_path: Path) -> None:
    with Example("fmp4.py", street.url("/bikes"), folder=tmp_path) as example:
        file = tmp_path / "fmp4-1.mp4"
        assert example.line(r"^(.*): ftyp \d+, moov \d+$")[1] == str(file)
        example.line(r"^key frame 1: moof 104, mdat \d+; 0 lost$")
        for number in range(2, 31):
            example.line(rf"^(picture|key frame) {number}: moof 104, mdat \d+; 0 lost$")
        assert example.interrupt() == ""
    shown = pictures(file)
    assert len(shown) >= 30 and set(shown) == {(640, 272)}
    ffmpeg_finds_no_fault(file)


def test_another_resolution_begins_another_file(
    street: RtspServer, changing: tuple[str, Path], tmp_path: Path
) -> None:
    url, large = changing
    with Example("fmp4.py", url, folder=tmp_path) as example:
        example.line("^picture 5: ")
        street.switch("/changing", large)
        example.line(r"fmp4-2\.mp4: ftyp \d+, moov \d+$")
        example.line(r"^key frame \d+: .* 0 lost$")
        example.line(r"^picture \d+: .* 0 lost$")
        assert example.interrupt() == ""
    assert set(pictures(tmp_path / "fmp4-1.mp4")) == {(320, 192)}
    assert set(pictures(tmp_path / "fmp4-2.mp4")) == {(480, 272)}


def test_without_a_camera_the_file_plays_too(tmp_path: Path) -> None:
    with Example("fmp4.py", folder=tmp_path) as example:
        example.line(r"^key frame 1: ", 40)
        example.line(r" 10: moof 104, mdat \d+; 0 lost$")
        assert example.interrupt() == ""
    assert len(pictures(tmp_path / "fmp4-1.mp4")) >= 10


@contextlib.contextmanager
def page_of(*arguments: object, folder: Path) -> Iterator[tuple[Example, str]]:
    port = free_port()
    with Example("fmp4_web.py", *arguments, port, folder=folder) as example:
        yield example, example.line(rf"(http://127\.0\.0\.1:{port})", 40)[1]


async def fragments(session: aiohttp.ClientSession, url: str, count: int) -> tuple[str, bytes]:
    """What the page would get: how the codec is called, and the header with `count` fragments."""
    async with session.ws_connect(url, origin=url) as viewer, asyncio.timeout(30):
        codec = await viewer.receive_str()
        return codec, b"".join([await viewer.receive_bytes() for _ in range(1 + count)])


def test_each_viewer_gets_a_stream_that_plays(street: RtspServer, tmp_path: Path) -> None:
    async def view(url: str) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.get(url) as page:
                assert "MediaSource" in await page.text()
            for codec, media in await asyncio.gather(*(fragments(session, url, n) for n in (20, 30))):
                assert codec.startswith('video/mp4; codecs="avc1.')
                assert media[4:8] == b"ftyp"
                assert len(pictures(media)) in (20, 30)
            # A page from elsewhere, in a browser of this machine, gets nothing.
            for origin in ("http://evil.example", None):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await session.ws_connect(url, origin=origin)
                assert refused.value.status == 403

    with page_of(street.url("/bikes"), folder=tmp_path) as (example, url):
        asyncio.run(view(url))
        assert example.interrupt() == ""


def test_it_ends_at_once_while_somebody_watches(tmp_path: Path) -> None:
    async def view(example: Example, url: str) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, origin=url) as viewer,
            asyncio.timeout(30),
        ):
            for _ in range(5):
                await viewer.receive()
            began = time.monotonic()
            ending = asyncio.create_task(asyncio.to_thread(example.interrupt))
            while (await viewer.receive()).type not in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED):
                pass
            await viewer.close()
            assert await ending == ""
            assert time.monotonic() - began < 15  # and not after aiohttp's patience, which is a minute

    with page_of(folder=tmp_path) as (example, url):
        asyncio.run(view(example, url))


class Browser:
    """A page in Chromium, asked by its debugging protocol."""

    def __init__(self, session: aiohttp.ClientWebSocketResponse) -> None:
        self._session = session
        self._serial = 0

    async def ask(self, method: str, **parameters: Any) -> Any:
        self._serial += 1
        await self._session.send_json({"id": self._serial, "method": method, "params": parameters})
        while (answer := await self._session.receive_json()).get("id") != self._serial:
            pass
        return answer["result"]

    async def value(self, expression: str) -> Any:
        answer = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        async with asyncio.timeout(25):
            while not await self.value(expression):
                await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def chromium(url: str, folder: Path) -> AsyncIterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        missing("no browser (apt-get install --no-install-recommends chromium)")
    process = subprocess.Popen(  # noqa: ASYNC220 - it does not wait
        [program, *CHROMIUM, ONLY_HERE, f"--user-data-dir={folder}", url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"HOME": str(folder)},
    )
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(45):
            while not (port := folder / "DevToolsActivePort").exists() or "\n" not in port.read_text():
                await asyncio.sleep(0.05)
            devtools = f"http://127.0.0.1:{port.read_text().split()[0]}/json/list"
            while True:
                async with session.get(devtools) as answer:
                    pages = [page for page in json.loads(await answer.text()) if page["type"] == "page"]
                if pages:
                    break
                await asyncio.sleep(0.05)
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Browser(socket)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with its own helpers, which are in its session
        process.wait()


def test_a_browser_shows_it_live(street: RtspServer, changing: tuple[str, Path], tmp_path: Path) -> None:
    camera, large = changing
    behind = "video.buffered.end(video.buffered.length - 1) - video.currentTime"

    async def watch(url: str) -> None:
        async with chromium(url, tmp_path / "profile") as page:
            await page.until("document.readyState == 'complete' && video.videoWidth == 320")
            begin = await page.value("video.currentTime")
            await page.until(f"video.currentTime > {begin} + 1.5")  # it plays
            await page.until(f"{behind} < 1")
            await page.value("video.pause()")
            await page.until(f"{behind} > 2")
            await page.value("video.play()")
            await page.until(f"{behind} < 1")  # it does not stay behind
            street.switch("/changing", large)
            await page.until("video.videoWidth == 480")  # another resolution, in the same page
            begin = await page.value("video.currentTime")
            await page.until(f"video.currentTime > {begin} + 1")
            assert await page.value("document.body.innerText.trim()") == ""  # no error

    with page_of(camera, folder=tmp_path) as (example, url):
        asyncio.run(watch(url))
        assert example.interrupt() == ""
