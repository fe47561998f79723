"""The examples of fragmented MP4: what is written plays, and what is sent plays in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import av
import pytest

from support import footage
from support.chromium import chromium
from support.playback import ffmpeg_finds_no_fault
from support.program import Example
from support.rtsp import RtspServer
from support.stream import free_port


def pictures(media: bytes | Path) -> list[tuple[int, int]]:
    """The sizes of all, decoded."""
    with av.open(io.BytesIO(media) if isinstance(media, bytes) else str(media), "r") as container:
        frames = list(container.decode(video=0))
    assert not any(frame.is_corrupt for frame in frames)
    return [(frame.width, frame.height) for frame in frames]


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
        assert example.match(r"^(.*): ftyp \d+, moov \d+$")[1] == str(file)
        example.match(r"^key frame 1: moof 104, mdat \d+; 0 lost$")
        for number in range(2, 31):
            example.match(rf"^(frame|key frame) {number}: moof 104, mdat \d+; 0 lost$")
        assert example.interrupt() == ""
    shown = pictures(file)
    assert len(shown) >= 30 and set(shown) == {(640, 272)}
    ffmpeg_finds_no_fault(file)


def test_another_resolution_begins_another_file(
    street: RtspServer, changing: tuple[str, Path], tmp_path: Path
) -> None:
    url, large = changing
    with Example("fmp4.py", url, folder=tmp_path) as example:
        example.match("^frame 5: ")
        street.switch("/changing", large)
        example.match(r"fmp4-2\.mp4: ftyp \d+, moov \d+$")
        example.match(r"^key frame \d+: .* 0 lost$")
        example.match(r"^frame \d+: .* 0 lost$")
        assert example.interrupt() == ""
    assert set(pictures(tmp_path / "fmp4-1.mp4")) == {(320, 192)}
    assert set(pictures(tmp_path / "fmp4-2.mp4")) == {(480, 272)}


def test_without_a_camera_the_file_plays_too(tmp_path: Path) -> None:
    with Example("fmp4.py", folder=tmp_path) as example:
        example.match(r"^key frame 1: ", 40)
        example.match(r" 10: moof 104, mdat \d+; 0 lost$")
        assert example.interrupt() == ""
    assert len(pictures(tmp_path / "fmp4-1.mp4")) >= 10


@contextlib.contextmanager
def page_of(*arguments: object, folder: Path) -> Iterator[tuple[Example, str]]:
    port = free_port()
    with Example("fmp4_web.py", *arguments, port, folder=folder) as example:
        yield example, example.match(rf"(http://127\.0\.0\.1:{port})", 40)[1]


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


@pytest.fixture(scope="module")
def film_of_h265(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return footage.encode(tmp_path_factory.mktemp("h265") / "film.h265", (320, 192), 25, codec="h265")


def test_a_browser_shows_it_live(
    street: RtspServer, changing: tuple[str, Path], film_of_h265: Path, tmp_path: Path
) -> None:
    camera, large = changing
    behind = "video.buffered.end(video.buffered.length - 1) - video.currentTime"
    with chromium(tmp_path / "profile") as browser:
        with page_of(camera, folder=tmp_path) as (example, url):
            with browser.page(url) as page:
                page.until("document.readyState == 'complete' && video.videoWidth == 320")
                begin = page.value("video.currentTime")
                page.until(f"video.currentTime > {begin} + 1.5")  # it plays
                page.until(f"{behind} < 1")
                page.value("video.pause()")
                page.until(f"{behind} > 2")
                page.value("video.play()")
                page.until(f"{behind} < 1")  # it does not stay behind
                street.switch("/changing", large)
                page.until("video.videoWidth == 480")  # another resolution, in the same page
                begin = page.value("video.currentTime")
                page.until(f"video.currentTime > {begin} + 1")
                assert page.value("document.body.innerText.trim()") == ""  # no error
            assert example.interrupt() == ""
        with page_of(film_of_h265, folder=tmp_path) as (example, url):
            with browser.page(url) as page:
                page.until(
                    "document.readyState == 'complete' && (video.videoWidth || document.body.innerText)"
                )
                said = page.value("document.body.innerText.trim()")
                assert said == "" or "hvc1" in said  # this browser may know it
                time.sleep(0.5)
                assert page.value("document.body.innerText.trim()") == said  # once
            assert example.interrupt() == ""
