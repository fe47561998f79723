# SPDX-License-Identifier: MIT
"""Connections: how many of whom, which one makes room, and clients that leave in the middle of a request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiohttp
import pytest
from pydantic import SecretStr
from web_tools import Settings, Stand, once

from valkka_async.service.web import api, auth, listen
from valkka_async.service.web.app import serve
from valkka_async.service.web.clients import client_of

TOKEN = "a-made-up-token-for-tests"
LIMIT = 2 * 4 + 64  # with max_connections=4
HOST = "Host: localhost\r\n"

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def idle(url: str, count: int, said: bytes, source: str) -> AsyncIterator[list[Pair]]:
    """Connections of one address that say this and nothing more."""
    parts = urlsplit(url)
    pairs: list[Pair] = []
    try:
        for _ in range(count):
            pair = await asyncio.open_connection(parts.hostname, parts.port, local_addr=(source, 0))
            pairs.append(pair)
            pair[1].write(said)
        yield pairs
    finally:
        for _, writer in pairs:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def answered(url: str, source: str) -> int:
    connector = aiohttp.TCPConnector(local_addr=(source, 0))
    async with aiohttp.ClientSession(url, connector=connector) as client, client.get("/healthz") as answer:
        return answer.status


@pytest.mark.parametrize(
    "said",
    [b"", b"GET /healthz HTTP/1.1\r\nHost: loc", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"],
    ids=["nothing", "a-part-of-a-request", "a-request-that-is-over"],
)
@once
async def test_idle_connections_cut_nobody_off(said: bytes) -> None:
    async with serve(Stand(), Settings(max_connections=4)) as page:
        async with idle(page.url, 3 * LIMIT, said, "127.0.0.1"):
            for source in ("127.0.0.2", "127.0.0.1"):
                for _ in range(5):
                    assert await answered(page.url, source) == 200
            async with idle(page.url, LIMIT, said, "127.0.0.3"):  # and one more that does so
                for source in ("127.0.0.2", "127.0.0.1", "127.0.0.3", "127.0.0.4"):
                    assert await answered(page.url, source) == 200


@once
async def test_a_connection_that_is_used_does_not_make_room() -> None:
    async with serve(Stand(), Settings(max_connections=4)) as page:
        async with aiohttp.ClientSession(page.url) as client, client.ws_connect("/api/status/live") as socket:
            await socket.receive_str(timeout=10)
            async with idle(page.url, 2 * LIMIT, b"", "127.0.0.1"):
                assert await answered(page.url, "127.0.0.1") == 200
                for _ in range(2):
                    await socket.receive_str(timeout=10)


@once
async def test_a_client_with_its_share_of_requests_leaves_room_for_others() -> None:
    body = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"  # which never comes
    settings = Settings(max_connections=4, token=SecretStr(TOKEN))
    async with serve(Stand(), settings) as page:
        async with idle(page.url, LIMIT, body, "127.0.0.1") as pairs:
            gone = [asyncio.create_task(reader.read()) for reader, _ in pairs]
            done, _ = await asyncio.wait(gone, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            assert done  # those beyond the share
            assert await answered(page.url, "127.0.0.2") == 200
            for task in gone:
                task.cancel()
            await asyncio.wait(gone)


@once
async def test_a_client_with_its_share_of_streams_leaves_room_for_others() -> None:
    async with serve(Stand(), Settings(max_connections=4)) as page:

        async def open_(source: str, count: int) -> list[int | None]:
            """How many are closed at once, and why; None: it stays."""
            found = []
            for _ in range(count):
                sockets.append(await clients[source].ws_connect("/api/status/live"))
                message = await sockets[-1].receive(timeout=10)
                found.append(None if message.type is aiohttp.WSMsgType.TEXT else sockets[-1].close_code)
            return found

        sockets: list[aiohttp.ClientWebSocketResponse] = []
        async with contextlib.AsyncExitStack() as stack:
            clients = {
                source: await stack.enter_async_context(
                    aiohttp.ClientSession(
                        page.url, connector=aiohttp.TCPConnector(local_addr=(source, 0), limit=0)
                    )
                )
                for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3")
            }
            assert await open_("127.0.0.1", 5) == [None, None, None, 4429, 4429]
            assert await open_("127.0.0.2", 2) == [None, 4429]  # all are taken
            await sockets[0].close()
            assert await open_("127.0.0.3", 1) == [None]
            for socket in sockets:
                await socket.close()


@once
async def test_a_request_that_drips_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """However steadily it comes: its head within the time that an idle connection has, its body within its
    own."""
    monkeypatch.setattr(listen, "_IDLE_SECONDS", 0.5)
    monkeypatch.setattr(listen, "_LINGER_SECONDS", 0.3)
    for module in (api, auth):
        monkeypatch.setattr(module, "_BODY_SECONDS", 0.3)
    host = b"Host: localhost\r\nX-Requested-With: valkka-async\r\n"
    post = b"POST %s HTTP/1.1\r\n" + host + b"Content-Length: 9999\r\n\r\n"
    async with serve(Stand(), Settings(token=SecretStr(TOKEN))) as page:
        parts = urlsplit(page.url)
        for head in (
            b"GET /healthz HTTP/1.1\r\nX: ",
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n",
            post % b"/login",
            post % b"/logout",
            (post % b"/api/cameras/front/event").replace(
                b"\r\n\r\n", b"\r\nAuthorization: Bearer %s\r\n\r\n" % TOKEN.encode()
            ),
        ):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(head)
            over = asyncio.create_task(reader.read())
            async with asyncio.timeout(30):
                while not over.done():
                    with contextlib.suppress(ConnectionError):
                        writer.write(b"a")
                    await asyncio.wait([over], timeout=0.05)
            with contextlib.suppress(ConnectionError):
                await over
            writer.transport.abort()


def test_which_addresses_are_one_client() -> None:
    assert client_of("10.0.0.1") == client_of("::ffff:10.0.0.1") == "10.0.0.1"
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:1:2:3") == "2001:db8::/64"
    assert client_of("2001:db8:0:1::1") != client_of("2001:db8::1")
    assert client_of("fe80::1%eth0") == client_of("fe80::2") == "fe80::/64"
    assert client_of("::1") == "::1"
    assert client_of(None) == client_of("") == "an unknown address"


@pytest.mark.parametrize(
    "request_of",
    [
        "POST /login HTTP/1.1\r\n{host}Content-Length: 100\r\n\r\ntoken=",
        "POST /login HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        "POST /login HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST /login HTTP/1.1\r\n{host}Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde",
        "POST /login HTTP/1.1\r\n{host}Content-Encoding: deflate\r\nContent-Length: 5\r\n\r\nab",
        "POST /api/cameras/front/recording HTTP/1.1\r\n{host}{key}Content-Length: 100\r\n\r\n{{",
        "POST /api/cameras/front/recording HTTP/1.1\r\n{host}{key}Content-Encoding: gzip\r\n"
        "Content-Length: 2\r\n\r\nab",
        "GET / HTTP/1.1\r\n{host}Authorization: Bearer x\r\n\r\n",
        "GET /api/status/live HTTP/1.1\r\n{host}{key}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\n{host}X: \x00\r\n\r\n",
    ],
)
@once
async def test_a_request_that_is_broken_off_or_broken_leaves_no_error(
    request_of: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    key = f"Authorization: Bearer {TOKEN}\r\nX-Requested-With: valkka-async\r\n"
    settings = Settings(token=SecretStr(TOKEN))
    async with serve(Stand(), settings) as page:
        parts = urlsplit(page.url)
        for reset in (False, True):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(request_of.format(host=HOST, key=key).encode("latin-1"))
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.transport.abort() if reset else writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        await asyncio.sleep(0.1)
        assert await answered(page.url, "127.0.0.1") == 200
    assert [r for r in caplog.records if r.levelno >= logging.ERROR or r.exc_info] == []
