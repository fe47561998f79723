"""Who may ask: tokens, sessions, names and origins."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import aiohttp
import pytest
from pydantic import SecretStr
from web_tools import Settings, Stand, once, served

from valkka_async.service.web import auth
from valkka_async.service.web.auth import is_loopback, is_ours

TOKEN = "a-made-up-token-for-tests"
BUTTON = {"X-Requested-With": "valkka-async"}
HTML = {"Accept": "text/html,application/xhtml+xml"}


def locked() -> Settings:
    return Settings(token=SecretStr(TOKEN))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_WRONG_SECONDS", 0.2)


async def status(client: aiohttp.ClientSession, path: str, **headers: str) -> int:
    async with client.get(path, headers=headers, allow_redirects=False) as answer:
        return answer.status


@once
async def test_without_the_token_there_is_nothing_but_signs_of_life() -> None:
    async with served(Stand(), locked()) as client:
        for path in ("/healthz", "/readyz", "/login", "/login.css"):
            assert await status(client, path) == 200
        for path in ("/", "/api/status", "/metrics", "/static/app.js", "/nothing", "/api/status/live"):
            assert await status(client, path) == 401
        assert await status(client, "/api/cameras/front/snapshot.jpg") == 401
        assert await status(client, "/api/cameras/front/live") == 401
        async with client.post("/api/cameras/front/recording", headers=BUTTON) as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
            await client.ws_connect("/api/status/live")
        async with client.get("/", headers=HTML, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/login")


@once
async def test_a_program_gives_the_token_with_each_request(quick: None) -> None:
    async with served(Stand(), locked()) as client:
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert await status(client, "/api/status", **bearer) == 200
        assert await status(client, "/metrics", Authorization=f"bearer  {TOKEN} ") == 200
        async with client.ws_connect("/api/status/live", headers=bearer) as socket:
            await socket.receive_str(timeout=5)
        for wrong in (f"Bearer {TOKEN}x", "Bearer", "Bearer ü", f"Basic {TOKEN}", TOKEN):
            assert await status(client, "/api/status", Authorization=wrong) == 401, wrong


@once
async def test_a_browser_signs_in_once(caplog: pytest.LogCaptureFixture, quick: None) -> None:
    caplog.set_level(logging.DEBUG)
    async with served(Stand(), locked()) as client:
        async with client.get("/login", headers=HTML) as answer:
            form = await answer.text()
            assert 'type="password"' in form and "<script" not in form and "style=" not in form
            # with "no-referrer" browsers would send "Origin: null" with the form
            assert answer.headers["Referrer-Policy"] == "same-origin"
        own = str(client._base_url).rstrip("/")
        form_type = {"Content-Type": "application/x-www-form-urlencoded", "Origin": own}
        for body in (
            f"token=wrong-{TOKEN}",
            "token=",
            "",
            "token=%ff%00",
            "&" * 50,
            "\xff",
            f'{{"token": "{TOKEN}"}}',
        ):
            async with client.post("/login", data=body.encode("latin-1"), headers=form_type) as answer:
                assert answer.status == 401 and "not the token" in await answer.text(), body
        async with client.post("/login", data={"token": TOKEN}, headers={"Origin": "http://evil"}) as answer:
            assert answer.status == 403
        assert await status(client, "/api/status") == 401
        async with client.post(
            "/login", data={"token": TOKEN}, headers={"Origin": own}, allow_redirects=False
        ) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/")
            cookie = answer.headers["Set-Cookie"]
            assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie
            assert TOKEN not in cookie and "Secure" not in cookie
        assert await status(client, "/api/status") == 200
        assert await status(client, "/login") == 303
        async with client.ws_connect("/api/status/live", origin=own) as socket:
            await socket.receive_str(timeout=5)
        async with client.post("/api/cameras/front/recording", data='{"on": true}') as answer:
            assert answer.status == 403  # the cookie alone does not press a button
        async with client.post(
            "/api/cameras/front/recording", data='{"on": true}', headers=BUTTON | {"Origin": own}
        ) as answer:
            assert answer.status == 200
    assert TOKEN not in caplog.text and "wrong token was given, from 127.0.0.1" in caplog.text


@once
async def test_behind_a_proxy_with_tls_the_cookie_is_for_tls_alone() -> None:
    async with served(Stand(), locked()) as client:
        proxied = {"Host": "cameras.example", "Origin": "https://cameras.example"}
        async with client.post(
            "/login", data={"token": TOKEN}, headers=proxied, allow_redirects=False
        ) as answer:
            assert answer.status == 303 and "Secure" in answer.headers["Set-Cookie"]
        claimed = {"X-Forwarded-Proto": "https"}
        async with client.post(
            "/login", data={"token": TOKEN}, headers=claimed, allow_redirects=False
        ) as answer:
            assert answer.status == 303 and "Secure" not in answer.headers["Set-Cookie"]


@once
async def test_wrong_tokens_are_answered_late_and_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_WRONG_SECONDS", 600.0)  # longer than a test may take
    async with served(Stand(), locked()) as client:
        late = {
            asyncio.create_task(status(client, "/api/status", Authorization=f"Bearer {n}")) for n in range(10)
        }
        at_once: list[int] = []
        while len(at_once) < 6:
            done, late = await asyncio.wait(late, return_when=asyncio.FIRST_COMPLETED)
            at_once += [one.result() for one in done]
        assert at_once == [429] * 6 and len(late) == 4
        for one in late:
            one.cancel()
        await asyncio.wait(late)
    monkeypatch.setattr(auth, "_WRONG_SECONDS", 0.5)
    async with served(Stand(), locked()) as client:
        begun = time.monotonic()
        assert await status(client, "/api/status", Authorization="Bearer x") == 401
        assert time.monotonic() - begun >= 0.4
        assert await status(client, "/api/status", Authorization=f"Bearer {TOKEN}") == 200


@once
async def test_a_right_token_is_not_delayed_by_wrong_ones_of_the_same_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auth, "_WRONG_SECONDS", 3600.0)
    async with served(Stand(), locked()) as client:
        guessing = [
            asyncio.create_task(status(client, "/metrics", Authorization="Bearer x")) for _ in range(5)
        ]
        done, _ = await asyncio.wait(guessing, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in done] == [429]
        # A program, a browser that signs in, and one that has.
        assert await status(client, "/metrics", Authorization=f"Bearer {TOKEN}") == 200
        async with client.post("/login", data={"token": "x"}) as answer:
            assert answer.status == 429
        async with client.post("/login", data={"token": TOKEN}, allow_redirects=False) as answer:
            assert answer.status == 303
        assert await status(client, "/api/status") == 200
        # Others are not counted together with them.
        connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
        async with aiohttp.ClientSession(client._base_url, connector=connector) as other:
            first = asyncio.create_task(status(other, "/metrics", Authorization="Bearer x"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await asyncio.shield(first)  # answered late, and not with 429
        for task in (first, *guessing):
            task.cancel()
        await asyncio.wait([first, *guessing])


@once
async def test_without_a_token_other_names_of_this_machine_are_refused() -> None:
    """A page of somebody else's that has made its own name point here."""
    async with served(Stand()) as client:
        for host in ("127.0.0.1", "localhost:8088", "LOCALHOST", "[::1]:80", "127.9.9.9", "a.localhost"):
            assert await status(client, "/api/status", Host=host) == 200, host
        for host in (
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "evil.example#localhost",
            "evil.example#.localhost",
            "evil.example/.localhost",
            "10.0.0.1",
            "localhost:x",
            "notlocalhost",
        ):
            assert await status(client, "/api/status", Host=host) in (400, 403), host
            assert await status(client, "/healthz", Host=host) in (400, 403), host


@once
async def test_websockets_are_for_our_own_page_and_for_programs() -> None:
    async with served(Stand()) as client:
        own = str(client._base_url).rstrip("/")
        for path in ("/api/status/live", "/api/cameras/front/live", "/api/cameras/front/live?format=jpeg"):
            for origin in ("http://evil.example", "null", "http://localhost:1", own.replace("http", "file")):
                with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                    await client.ws_connect(path, origin=origin)
            for allowed in (own, None):
                async with client.ws_connect(path, origin=allowed):
                    pass


def test_whose_an_origin_is() -> None:
    for origin, host in (
        ("http://localhost:8088", "localhost:8088"),
        ("http://cam", "cam:80"),
        ("https://CAM", "cam"),
        ("https://cam:443", "cam"),
        ("http://[::1]:8088", "[::1]:8088"),
    ):
        assert is_ours(origin, [host]), origin
    for origin, host in (
        ("http://localhost:8088", "localhost:8089"),
        ("https://cam", "cam:80"),
        ("http://cam", "cam:443"),
        ("null", "cam"),
        ("", ""),
        ("http://", ""),
        ("http://[", "["),
        ("http://cam/", "cam"),
        ("http://cam@cam", "cam"),
        ("ftp://cam", "cam"),
    ):
        assert not is_ours(origin, [host]), origin
    assert not is_ours("http://cam", []) and not is_ours("http://cam", ["cam", "cam"])


def test_what_is_this_machine_alone() -> None:
    for host in ("localhost", "127.0.0.1", "::1", "[::1]", "[::1]:8088", "127.0.0.1:1", "x.localhost."):
        assert is_loopback(host), host
    for host in ("", "0.0.0.0", "::", "192.168.1.1", "example.com", "localhost.com", "[::1", "::1]", "1"):
        assert not is_loopback(host), host


@once
async def test_a_service_whose_token_is_in_a_file_shows_it_nowhere(tmp_path: Path) -> None:
    settings = locked()
    async with served(Stand(), settings) as client:
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        for path in ("/api/status", "/metrics", "/login", "/nothing"):
            async with client.get(path, headers=bearer) as answer:
                assert TOKEN not in await answer.text() + str(answer.headers)
    assert TOKEN not in repr(settings)
