"""Live pictures over WebSockets: what a browser gets, and when, whatever becomes of camera and browser."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.web
import pytest
from web_tools import GROUP, Browser, Film, Settings, Stand, camera, looking, once, served, taken_ns, upgraded

import valkka_async as va
from support.playback import play
from support.until import until
from valkka_async import typed
from valkka_async.camera.mp4.fragments import Timeline
from valkka_async.camera.status import CameraState
from valkka_async.service.status import PageStatus, ServiceStatus
from valkka_async.service.web import hub as hub_module
from valkka_async.service.web import live as live_module
from valkka_async.service.web import viewer as viewer_module
from valkka_async.service.web.app import serve
from valkka_async.service.web.viewer import Ending, Init, Media, Notice, Viewer

LIVE = "front.fmp4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trouble is told soon."""
    monkeypatch.setattr(hub_module, "_QUIET", 0.1)
    monkeypatch.setattr(hub_module, "_AGAIN", 0.1)
    monkeypatch.setattr(live_module, "_LINGER", 0.1)


async def read(server: va.Server, readers: int = 1) -> None:
    await until(lambda: server.stats().readers == readers)


async def test_a_browser_gets_the_header_and_each_frame_in_order(folder: Path) -> None:
    film = Film(folder)
    with va.serve(LIVE, slots=64) as server:
        async with served(Stand()) as client, looking(client) as browser:
            await read(server)
            film.publish(server, 0, 25)
            text, header = await browser.init()
            frames = await browser.frames(25)
    codec = text.pop("codec")
    assert text == {"type": "init", "width": 160, "height": 96, "reset": True}
    assert codec.startswith("avc1.") and header == film.header
    shown = play(header + b"".join(frame.payload for frame in frames))
    assert [one.number for one in shown] == list(range(25))
    assert [frame.kind for frame in frames] == [2 if n % GROUP else 1 for n in range(25)]
    assert [frame.taken for frame in frames] == [taken_ns(n) / 1e6 for n in range(25)]
    assert [frame.shown for frame in frames] == [float(f.pts * f.time_base) for f in film.fragments[:25]]


async def test_who_joins_gets_the_frames_from_the_last_key_frame_on_at_once(folder: Path) -> None:
    film = Film(folder)
    with va.serve(LIVE, slots=64) as server:
        async with served(Stand()) as client, looking(client) as first:
            await read(server)
            film.publish(server, 0, 17)
            await first.init()
            await first.frames(17)
            async with looking(client) as second:
                text, header = await second.init()
                frames = await second.frames(7)
                assert text["reset"] is True
                assert [one.number for one in play(header + b"".join(f.payload for f in frames))] == list(
                    range(10, 17)
                )
                film.publish(server, 17, 18)
                assert await second.media() == await first.media()  # and goes on with everybody else
                assert server.stats().readers == 1  # for both


async def test_another_resolution_goes_on_and_another_server_begins_anew(folder: Path) -> None:
    timeline = Timeline()
    small, large = Film(folder, timeline=timeline), Film(folder, (320, 192), timeline)
    async with served(Stand()) as client, looking(client) as browser:
        with va.serve(LIVE, slots=64) as server:
            await read(server)
            small.publish(server, 0, 10)
            assert (await browser.init())[0]["reset"] is True
            await browser.frames(10)
            large.publish(server, 0, 10)
            text, header = await browser.init()
            assert (text["reset"], text["width"], text["height"]) == (False, 320, 192)
            assert header == large.header
            await browser.frames(10)
            small.publish(server, 0, 10)  # times that went back
            assert (await browser.init())[0]["reset"] is True
            await browser.frames(10)
            small.publish(server, 10, 20)
            await browser.frames(10)
        with va.serve(LIVE, slots=64) as server:  # a worker that was started again
            await read(server)
            small.publish(server, 20, 30)
            text, header = await browser.init()
            assert (text["reset"], header) == (True, small.header)
            assert (await browser.media()).payload == small.fragments[20].data


async def test_what_the_hub_itself_has_lost_is_told(folder: Path) -> None:
    film = Film(folder)
    with va.serve(LIVE, slots=12) as server:
        async with served(Stand()) as client, looking(client) as browser:
            await read(server)
            film.publish(server, 0, 5)
            await browser.init()
            await browser.frames(5)
            film.publish(server, 5, 45)  # in one turn of the loop, and more than the ring holds
            text = await browser.text()
            assert text["type"] == "skipped" and 5 + text["frames"] in (30, 40)
            frame = await browser.media()
            assert frame.kind == 1 and frame.payload == film.fragments[5 + text["frames"]].data


async def test_trouble_is_told_and_old_pictures_are_not_shown_for_new(folder: Path, impatient: None) -> None:
    film = Film(folder)
    stand = Stand()
    with va.serve(LIVE, slots=64) as server:
        async with served(stand) as client, looking(client) as browser:
            await read(server)
            film.publish(server, 0, 5)
            await browser.init()
            await browser.frames(5)
            stand.change("front", state=CameraState.WAITING, reason="connection refused")
            told = {"type": "waiting", "code": "camera", "reason": "waiting: connection refused"}
            assert await browser.text() == told
            async with looking(client) as late:
                assert await late.text() == told
                stand.change("front", state=CameraState.LIVE, reason="")
                film.publish(server, 10, 12)
                await late.init()
                assert (await late.media()).kind == 1
                assert (await browser.media()).kind == 1  # without another header: the stream goes on


async def test_a_live_camera_without_frames_is_another_code(
    folder: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "_SILENT", 0.2)
    with va.serve(LIVE, slots=64) as server:
        async with served(Stand()) as client, looking(client) as browser:
            await read(server)
            text = await browser.text()
            assert (text["type"], text["code"]) == ("waiting", "no_frames")  # which the page can see itself


async def test_a_server_that_is_not_there_is_waited_for(folder: Path, impatient: None) -> None:
    film = Film(folder)
    stand = Stand({"front": camera(state=CameraState.CONNECTING)})
    async with served(stand) as client, looking(client) as browser:
        assert (await browser.text())["code"] == "camera"
        with va.serve(LIVE) as server:
            await read(server)
            film.publish(server, 0, 2)
            await browser.init()
            await browser.frames(2)


async def test_a_camera_that_is_removed_ends_its_viewers(folder: Path, impatient: None) -> None:
    film = Film(folder)
    stand = Stand()
    async with served(stand) as client:
        with va.serve(LIVE) as server:
            async with looking(client) as browser:
                await read(server)
                film.publish(server, 0, 2)
                await browser.init()
                del stand.cameras["front"]
                server.close()
                assert await browser.closed() == 4404
        for name in ("front", "nobody"):
            async with looking(client, name) as browser:
                assert await browser.closed() == 4404
        stand.cameras["plain"] = camera("plain", live=None, still=None)
        for format in ("fmp4", "jpeg"):
            async with looking(client, "plain", format) as browser:
                assert await browser.closed() == 4404


async def test_nothing_is_read_for_nobody(folder: Path, impatient: None) -> None:
    film = Film(folder)
    with va.serve(LIVE) as server, va.serve("front.jpeg") as still:
        async with served(Stand()) as client:
            for _ in range(2):
                assert (server.stats().readers, still.stats().readers) == (0, 0)
                async with looking(client) as browser:
                    await read(server)
                    assert still.stats().readers == 0
                    film.publish(server, 0, 2)
                    await browser.init()
                await read(server, 0)


async def test_a_page_that_is_loaded_again_finds_the_reader_still_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "_LINGER", 600.0)  # longer than a test may take
    film = Film(folder)
    with va.serve(LIVE) as server:
        async with served(Stand()) as client:
            async with looking(client) as browser:
                await read(server)
                film.publish(server, 0, 3)
                await browser.init()
                await browser.frames(3)
            async with looking(client) as browser:
                await browser.init()
                await browser.frames(3)  # which nobody has published again
                assert server.stats().readers == 1


async def test_a_page_that_was_closed_leaves_nothing_to_happen_later(folder: Path, impatient: None) -> None:
    """A reload that changes the page's port closes one page and opens another in the same loop."""
    film = Film(folder)
    errors: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    with va.serve(LIVE) as server:
        async with served(Stand()) as client, looking(client) as browser:
            await read(server)
            film.publish(server, 0, 2)
            await browser.init()
        await read(server, 0)
        await asyncio.sleep(3 * live_module._LINGER)
    assert errors == []


async def test_jpegs_are_the_newest(impatient: None) -> None:
    with va.serve("front.jpeg") as server:
        async with served(Stand()) as client, looking(client, format="jpeg") as browser:
            await read(server)
            server.publish(b"one", format="jpeg", timestamp_ns=1_000_000_000)
            assert await browser.media() == (3, 1000.0, 0.0, b"one")
            for n in range(50):  # in one turn of the loop
                server.publish(b"%d" % n, format="jpeg")
            assert (await browser.media()).payload == b"49"
            async with looking(client, format="jpeg") as other:
                assert (await other.media()).payload == b"49"


@contextlib.contextmanager
def anyway(film: Film, server: va.Server) -> Iterator[None]:
    """A group is published again and again."""

    async def publish() -> None:
        while True:
            film.publish(server, 0, GROUP)
            await asyncio.sleep(0.05)

    task = asyncio.create_task(publish())
    try:
        yield
    finally:
        task.cancel()


async def test_a_ring_with_something_else_is_told_and_looked_at_again(folder: Path, impatient: None) -> None:
    film = Film(folder)
    data = film.fragments[0].data
    wrong: tuple[tuple[bytes, dict[str, Any]], ...] = (
        (b"", {"format": "bytes"}),
        (b"no init segment", {"format": "fmp4", "dts": 0}),
        (film.header, {"format": "fmp4"}),  # without times
    )
    told = set()
    async with served(Stand()) as client, looking(client) as browser:
        for header, settings in wrong:
            with va.serve(LIVE) as server:
                await read(server)
                server.set_header(header)
                server.publish(data, **settings)
                while (text := await browser.text())["code"] != "ring" or text["reason"] in told:
                    pass
                told.add(text["reason"])
        with va.serve(LIVE, slots=64) as server, anyway(film, server):
            while text["type"] != "init":
                text = await browser.text()


async def test_connections_beyond_the_limit_are_told_so(impatient: None) -> None:
    async with served(Stand(), Settings(max_connections=2)) as client:
        async with client.ws_connect("/api/status/live") as events, looking(client) as browser:
            await events.receive_str()
            async with looking(client) as third:
                assert await third.closed() == 4429
            async with client.ws_connect("/api/status/live") as third:
                assert (await third.receive(timeout=10)).data == 4429
            await browser.socket.close()
            async with client.get("/healthz") as answer:
                assert answer.status == 200
            async with looking(client) as third:  # there is room again
                assert (await third.text())["type"] == "waiting"


@once
async def test_a_browser_that_is_gone_before_it_is_answered_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prepare, calls = aiohttp.web.WebSocketResponse.prepare, 0

    async def gone(self: aiohttp.web.WebSocketResponse, request: aiohttp.web.BaseRequest) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            assert request.transport is not None
            request.transport.abort()
            raise ConnectionResetError("Cannot write to closing transport")
        return await prepare(self, request)

    monkeypatch.setattr(aiohttp.web.WebSocketResponse, "prepare", gone)
    async with served(Stand()) as client:
        async with client.ws_connect("/api/status/live") as socket:  # which tries again by itself
            status = typed.loads(ServiceStatus, await socket.receive_str())
            assert calls == 2 and status.page == PageStatus(0, 1, 256, token=False)  # no place is taken up
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_the_end_of_the_service_is_told_and_waits_for_nobody() -> None:
    """One browser says goodbye, one does not answer, one does not even read."""
    async with aiohttp.ClientSession() as client, AsyncExitStack() as connections:
        with va.serve("front.jpeg") as server:
            async with serve(Stand(), Settings()) as page:
                url = page.url + "api/cameras/front/live?format=jpeg"
                polite = await connections.enter_async_context(client.ws_connect(url))
                rude = await connections.enter_async_context(client.ws_connect(url, autoclose=False))
                await connections.enter_async_context(upgraded(url))
                ending = asyncio.create_task(Browser(polite).closed())
                await read(server)
                for _ in range(20):
                    server.publish(bytes(1 << 20), format="jpeg")
                    await rude.receive(timeout=10)
                begun = time.monotonic()
            assert time.monotonic() - begun < 25  # it is 1 s; and not the 30 for which TCP would try
        assert await ending == 1001
        while (message := await rude.receive(timeout=10)).type != aiohttp.WSMsgType.CLOSE:
            pass
        assert message.data == 1001


# ---------------------------------------------------------------------------------- the queue of a browser


INIT = Init(b"header", "avc1.64001f", 320, 192, 1)


def frame(size: int = 10, key: bool = False, init: Init = INIT) -> Media:
    return Media(init, key, bytes(size))


async def everything(viewer: Viewer) -> list[str | bytes]:
    got: list[str | bytes] = []
    while True:
        try:
            async with asyncio.timeout(0.01):
                got += await viewer.next()
        except TimeoutError:
            return got


@once
async def test_a_queue_that_overflows_goes_on_at_the_next_key_frame() -> None:
    viewer = Viewer()
    viewer.offer(frame())  # of no use without a key frame, and so none that it missed
    viewer.offer(frame(1 << 20, key=True))
    for _ in range(3):
        viewer.offer(frame(1 << 20))
    viewer.offer(frame())  # too much
    viewer.offer(frame())
    assert await everything(viewer) == []
    viewer.offer(frame(11, key=True))
    viewer.offer(frame(12))
    assert await everything(viewer) == [
        '{"type": "skipped", "frames": 6}',
        INIT.announcement(True),
        INIT.data,
        bytes(11),
        bytes(12),
    ]
    assert viewer.skipped == 6


@once
async def test_a_key_frame_that_finds_the_queue_full_takes_its_place() -> None:
    viewer = Viewer()
    for _ in range(4):
        viewer.offer(frame(1 << 20, key=True))
    viewer.offer(frame(5 << 20, key=True))  # larger than the queue may be: there is nothing smaller to do
    assert [len(one) for one in await everything(viewer) if isinstance(one, bytes)] == [6, 5 << 20]
    assert viewer.skipped == 4


@once
async def test_frames_that_are_too_many_or_too_old_are_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    viewer = Viewer()
    viewer.offer(frame(key=True))
    for _ in range(999):
        viewer.offer(frame())
    assert viewer.skipped == 0
    viewer.offer(frame())
    assert viewer.skipped == 1001
    viewer.offer(frame(key=True))
    viewer.offer(frame())
    monkeypatch.setattr(viewer_module, "QUEUE_SECONDS", 0.01)
    await asyncio.sleep(0.05)
    viewer.offer(frame())
    assert viewer.skipped == 1004


@once
async def test_what_a_viewer_was_given_at_first_is_not_too_much() -> None:
    viewer = Viewer()
    viewer.begin([frame(8 << 20, key=True), frame(4 << 20)])
    viewer.offer(frame(3 << 20))
    assert viewer.skipped == 0
    viewer.offer(frame(2 << 20))
    assert viewer.skipped == 4
    viewer.offer(frame(4 << 20, key=True))
    viewer.offer(frame())  # what it was given has gone
    assert viewer.skipped == 6


@once
async def test_a_header_is_sent_when_it_changes_and_not_lost_with_the_frames() -> None:
    viewer = Viewer()
    viewer.offer(frame(1, key=True))
    assert await everything(viewer) == [INIT.announcement(True), b"header", bytes(1)]
    larger = Init(b"larger", "avc1.640028", 640, 384, 1)
    viewer.offer(frame(2, key=True, init=larger))
    viewer.offer(frame(4 << 20, init=larger))  # and the key frame before it is gone
    other = Init(b"other", "avc1.640028", 640, 384, 2)
    viewer.offer(frame(3, key=True, init=larger))
    viewer.offer(frame(4, key=True, init=other))
    skipped, *rest = await everything(viewer)
    assert skipped == '{"type": "skipped", "frames": 2}'
    assert rest == [
        *(larger.announcement(False), b"larger", bytes(3)),
        *(other.announcement(True), b"other", bytes(4)),
    ]


@once
async def test_a_notice_comes_behind_frames_and_is_forgotten_when_there_are_more() -> None:
    viewer = Viewer()
    viewer.offer(frame(1, key=True))
    notice = Notice("no_frames", "no frames")
    viewer.say(notice)
    assert (await everything(viewer))[-1] == notice.text()
    viewer.say(notice)
    viewer.offer(frame(2))
    assert await everything(viewer) == [bytes(2)]
    viewer.end(Ending(4404, "gone"))
    with pytest.raises(Ending):
        await viewer.next()


@pytest.mark.parametrize("old", [True, False])
async def test_what_came_before_the_first_reader_has_room_beyond_the_queue(old: bool) -> None:
    """All of a GOP comes at once; without room for it the browser would wait for the next key frame."""
    init = Init(b"", "avc1", 320, 192, 1)
    viewer = Viewer()
    for n in range(20):
        viewer.offer(Media(init, n == 0, bytes(500_000)), old=old)
    assert viewer.skipped == (0 if old else 20)
