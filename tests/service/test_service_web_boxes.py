"""The ring of results of a camera as the page gets it."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import numpy as np
import pytest
from web_tools import Stand, served

import valkka_async as va
from support.until import until
from valkka_async.service.web import boxes as boxes_module

ADDRESS = "/api/cameras/front/boxes"
IMAGE = np.zeros((96, 160, 3), np.uint8)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes_module, "_LOOK", 0.1)


async def told(socket: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await socket.receive_str(timeout=30))
    return message


async def told_of_ring(socket: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    """The next one about a ring that is there. A slow machine may take longer to find it than is waited."""
    while (message := await told(socket)).get("code") == "nobody":
        pass
    return message


async def analysed(server: va.Server, *boxes: va.Box, text: str = "") -> va.Frame:
    """One frame of the camera, and what was found in it."""
    with va.serve("front") as camera:
        camera.publish(IMAGE, timestamp_ns=1_700_000_000_123_000_000)
        async with va.connect("front") as reader:
            with await reader.recv() as frame:
                assert server.publish_result(frame, boxes, text=text)
    return frame


async def test_browsers_share_a_reader_and_get_results_with_the_time_of_their_frame() -> None:
    with va.serve("front.boxes") as server:
        async with served(Stand()) as client:
            async with client.ws_connect(ADDRESS) as one, client.ws_connect(ADDRESS) as two:
                await until(lambda: server.readers == 1)
                await analysed(server, va.Box(1, 2, 30, 40, "<b>", 0.5, 7), text="a cat")
                for browser in (one, two):
                    assert await told_of_ring(browser) == {
                        "type": "result",
                        "at": 1_700_000_000_123.0,
                        "size": [160, 96],
                        "boxes": [[1.0, 2.0, 30.0, 40.0, "<b>", 0.5, 7]],
                        "text": "a cat",
                    }
                assert server.readers == 1
            await until(lambda: server.readers == 0)


async def test_nobody_who_publishes_results_is_told_with_a_code_and_waited_for() -> None:
    async with served(Stand()) as client, client.ws_connect(ADDRESS) as browser:
        message = await told(browser)
        assert (message["type"], message["code"]) == ("waiting", "nobody")
        async with client.ws_connect(ADDRESS) as late:
            assert (await told(late))["code"] == "nobody"
        with va.serve("front.boxes") as server:
            await until(lambda: server.readers == 1)
            await analysed(server)
            assert (await told_of_ring(browser))["type"] == "result"


async def test_a_ring_of_something_else_is_told_and_harms_nobody() -> None:
    with va.serve("front.boxes") as server:
        async with served(Stand()) as client, client.ws_connect(ADDRESS) as browser:
            await until(lambda: server.readers == 1)
            server.publish(IMAGE)
            assert (await told_of_ring(browser))["code"] == "ring"
            await analysed(server)
            assert (await told_of_ring(browser))["type"] == "result"


async def test_a_browser_that_does_not_read_loses_the_oldest() -> None:
    board = boxes_module._Board("front")
    wake, queue = board.join()
    for n in range(1000):
        board.put(str(n))
    assert wake.is_set() and list(queue) == [str(n) for n in range(968, 1000)]


async def test_a_camera_that_is_not_there_or_leaves_ends_it() -> None:
    stand = Stand()
    with va.serve("front.boxes") as server:
        async with served(stand) as client:
            async with client.ws_connect("/api/cameras/none/boxes") as browser:
                await browser.receive(timeout=30)
                assert browser.close_code == 4404
            async with client.ws_connect(f"/api/cameras/{'x' * 64}/boxes") as browser:
                await browser.receive(timeout=30)
                assert browser.close_code == 4404
            async with client.ws_connect(ADDRESS) as browser:
                await until(lambda: server.readers == 1)
                stand.cameras.clear()
                while not browser.closed:
                    await browser.receive(timeout=30)
                assert browser.close_code == 4404
            await until(lambda: server.readers == 0)
