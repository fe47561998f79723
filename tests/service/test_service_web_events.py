# SPDX-License-Identifier: MIT
"""GET /api/events: what happens on this host, for whoever may see the page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr
from web_tools import Settings, Stand, once, served

import valkka_async as va
from support.until import SECONDS, until
from valkka_async.service import hearing
from valkka_async.service.web import happening
from valkka_async.service.web.app import serve

TOKEN = "a-made-up-token-for-tests"


@contextlib.asynccontextmanager
async def listening(
    client: aiohttp.ClientSession, query: str = "", **headers: str
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Leaves in the middle, as browsers do."""
    async with asyncio.timeout(SECONDS), client.get(f"/api/events{query}", headers=headers) as answer:
        yield answer
        answer.close()


async def told(answer: aiohttp.ClientResponse) -> dict[str, Any] | None:
    """The next event; None: there are no more."""
    while line := await answer.content.readline():
        if line.startswith(b"data: "):
            event: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
            assert await answer.content.readline() == b"\n"
            return event
    return None


@once
async def test_what_happens_is_told_as_it_is_to_programs_of_this_host() -> None:
    async with served(Stand()) as client:
        with va.serve("cam1") as server:
            server.emit("before")
            async with va.events() as happening, listening(client) as answer:
                assert (answer.status, answer.content_type) == (200, "text/event-stream")
                server.emit("person", "at the door\n\ndata: {}\r\u2028", score=0.5)
                assert await told(answer) == (await happening.recv()).to_json()
                with va.serve("cam2") as later:
                    later.emit("cat")
                    event = await told(answer)
                    assert event is not None and (event["camera"], event["code"]) == ("cam2", "cat")


@once
async def test_patterns_choose_and_what_is_none_is_refused() -> None:
    async with served(Stand()) as client:
        with va.serve("front") as server:
            async with listening(client, "?camera=front*&camera=yard&code=person&code=camera.*") as answer:
                server.emit("cat")
                server.emit("person", camera="back")
                server.emit("camera.live", camera="yard")
                server.emit("person")
                events = [await told(answer) for _ in range(2)]
        assert [(e["camera"], e["code"]) for e in events if e] == [
            ("yard", "camera.live"),
            ("front", "person"),
        ]
        for query in ("camera=", "camera=a+b", "code=a%20b", "code=" + "x" * 65, "&".join(["code=x"] * 33)):
            async with client.get(f"/api/events?{query}") as refused:
                assert (refused.status, (await refused.json())["code"]) == (400, "request"), query
        async with client.head("/api/events") as refused:
            assert refused.status == 405


@once
async def test_a_client_that_does_not_read_costs_the_others_nothing_and_is_told_what_it_missed() -> None:
    count, text = 4000, "x" * 1000
    async with served(Stand()) as client:
        with va.serve("cam1") as server:
            server.emit("first")
            slow = socket.socket()
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            await asyncio.get_running_loop().sock_connect(
                slow, (client._base_url.host, client._base_url.port)
            )
            reader, writer = await asyncio.open_connection(sock=slow, limit=64 << 10)
            writer.write(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"it begins")
            async with listening(client) as answer:
                for n in range(count):
                    assert server.emit("n", text, number=n)
                    if n % 100 == 99:
                        for _ in range(100):
                            event = await told(answer)
                            assert event is not None and event["missed"] == 0
            assert event is not None and event["fields"] == {"number": count - 1}
            total, missed = 0, 0
            while event["fields"]["number"] != count - 1 or not total:
                line = await asyncio.wait_for(reader.readuntil(b"\n\n"), SECONDS)
                if (start := line.find(b"data: ")) >= 0:
                    event = json.loads(line[start + 6 :])
                    total += 1 + event["missed"]
                    missed += event["missed"]
            assert (total, missed > 0) == (count, True)
            async with client.get("/metrics") as answer:
                assert f"valkka_page_dropped_events_total {float(missed)}" in await answer.text()
            writer.close()


@once
async def test_events_need_the_token_and_end_with_the_session_and_the_service() -> None:
    stand, settings = Stand(), Settings(token=SecretStr(TOKEN))
    async with contextlib.AsyncExitStack() as page:
        client = await page.enter_async_context(served(stand, settings))
        async with client.get("/api/events") as refused:
            assert (refused.status, (await refused.json())["code"]) == (401, "token")
        async with client.post("/login", data={"token": TOKEN}, allow_redirects=False) as answer:
            cookie = answer.headers["Set-Cookie"].partition(";")[0]
        client.cookie_jar.clear()
        program = await page.enter_async_context(listening(client, Authorization=f"Bearer {TOKEN}"))
        with va.serve("cam1") as server:
            async with listening(client, Cookie=cookie) as browser:
                async with client.post("/logout", headers={"Cookie": cookie}, allow_redirects=False):
                    pass
                assert await told(browser) is None
            server.emit("person")
            assert await told(program) is not None


@once
async def test_events_are_streams_of_which_there_are_so_many() -> None:
    async with served(Stand(), Settings(max_connections=4)) as client, contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            answer = await stack.enter_async_context(listening(client))
            assert answer.status == 200
        async with client.get("/api/events") as refused:
            assert (refused.status, (await refused.json())["code"]) == (429, "busy")
            assert int(refused.headers["Retry-After"]) > 0
        async with client.ws_connect("/api/status/live") as socket:
            await socket.receive(timeout=SECONDS)
            assert socket.close_code == 4429
        answer.close()  # which is noticed, though nothing happens
        await until_answered(client)


async def until_answered(client: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            async with client.get("/api/events") as answer:
                if answer.status == 200:
                    answer.close()
                    return
            await asyncio.sleep(0.05)


@once
async def test_a_connection_on_which_nothing_happens_is_kept_and_the_rings_are_read_while_somebody_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(happening, "_COMMENT", 0.05)
    monkeypatch.setattr(happening, "_LOOK", 0.02)
    async with served(Stand()) as client:
        with va.serve("cam1.events") as ring:
            async with listening(client) as one, listening(client) as other:
                for answer in (one, other):
                    for _ in range(6):
                        assert (await answer.content.readline())[:1] in (b":", b"\n")
                assert ring.stats().readers == 1
            await until(lambda: ring.stats().readers == 0)


@once
async def test_who_waits_for_rings_does_not_keep_the_service_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = asyncio.Event()

    class Never:
        async def __aenter__(self) -> None:
            asked.set()
            await asyncio.Event().wait()

        async def __aexit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(hearing, "events", lambda *patterns: Never())
    async with contextlib.AsyncExitStack() as page, aiohttp.ClientSession() as client:
        url = (await page.enter_async_context(serve(Stand(), Settings()))).url
        asking = asyncio.create_task(client.get(url + "api/events"))
        await asyncio.wait_for(asked.wait(), SECONDS)
        await asyncio.wait_for(page.aclose(), SECONDS)
        async with await asking as answer:
            assert (answer.status, (await answer.json())["code"]) == (503, "stops")
