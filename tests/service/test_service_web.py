"""The page over HTTP: what is answered to whom, what every answer says, and what there is a limit to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from pydantic import SecretStr
from web_tools import Settings, Stand, camera, once, recording, served, taken_ns, upgraded, viewers

import valkka_async as va
from support.until import until
from valkka_async import typed
from valkka_async.camera.status import CameraState, Cause
from valkka_async.service.status import CameraReport, PageStatus, ServiceStatus
from valkka_async.service.web import api, assets, listen, statuses
from valkka_async.service.web.app import serve
from valkka_async.service.web.listen import Connection

BUTTON = {"X-Requested-With": "valkka-async"}


# ------------------------------------------------------------------------------------------ files, headers


@once
async def test_all_files_of_the_page_are_served_and_not_twice() -> None:
    folder = Path(assets.__file__).parent / "static"
    names = [path.name for path in folder.iterdir() if path.is_file()]
    assert "index.html" in names
    async with served(Stand()) as client:
        for name in names:
            path = "/" if name == "index.html" else f"/static/{name}"
            async with client.get(path) as answer:
                assert answer.status == 200, name
                assert await answer.read() == (folder / name).read_bytes()
                assert (
                    answer.content_type
                    == {
                        ".html": "text/html",
                        ".js": "text/javascript",
                        ".css": "text/css",
                        ".svg": "image/svg+xml",
                        ".webmanifest": "application/manifest+json",
                    }[Path(name).suffix]
                )
                assert answer.headers["Cache-Control"] == "no-cache"
            async with client.get(path, headers={"If-None-Match": answer.headers["ETag"]}) as again:
                assert (again.status, await again.read()) == (304, b"")
            async with client.get(path, headers={"If-None-Match": '"other"'}) as again:
                assert again.status == 200
        for path in ("/static/", "/static/../app.py", "/static/%2e%2e/app.py", "/static/nothing.js", "/x"):
            async with client.get(path) as answer:
                assert answer.status == 404, path


def test_the_page_has_words_for_each_warning() -> None:
    text = (Path(assets.__file__).parent / "static" / "words.js").read_text()
    table = text.partition("const WARNINGS = {")[2].partition("};")[0]
    assert set(re.findall(r"^ *(\w+):", table, re.M)) == set(va.CameraWarning)


def test_the_page_has_nothing_inline_that_its_policy_forbids() -> None:
    folder = Path(assets.__file__).parent / "static"
    for path in folder.glob("*.html"):
        page = path.read_text()
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", page), path


def check_headers(headers: Any) -> None:
    policy = headers["Content-Security-Policy"].split("; ")
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "style-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy and "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] in ("no-referrer", "same-origin")
    assert headers["Cache-Control"] in ("no-store", "no-cache")
    assert not re.search(r"\d|aiohttp|python", headers["Server"], re.IGNORECASE)


@once
async def test_every_answer_has_the_security_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand()
    async with served(stand) as client:
        for method, path, status in (
            ("GET", "/healthz", 200),
            ("GET", "/api/status", 200),
            ("GET", "/login", 303),
            ("GET", "/login.css", 200),
            ("GET", "/metrics", 200),
            ("GET", "/nothing", 404),
            ("GET", "/api/nothing", 404),
            ("DELETE", "/api/status", 405),
            ("GET", "/api/status/live", 426),
            ("GET", "/api/cameras/front/live", 426),
            ("GET", "/api/cameras/front/live?format=gif", 400),
            ("GET", "/api/cameras/nobody/snapshot.jpg", 404),
            ("POST", "/api/cameras/front/recording", 403),
        ):
            async with client.request(method, path, allow_redirects=False) as answer:
                assert answer.status == status, path
                check_headers(answer.headers)
        async with client.delete("/api/status", headers=BUTTON) as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")
            assert (await answer.json())["code"] == "method"
            check_headers(answer.headers)
        monkeypatch.setattr(stand, "status", lambda: 1 / 0)
        async with client.get("/api/status") as answer:
            assert (answer.status, (await answer.json())["code"]) == (500, "internal")
            check_headers(answer.headers)
        url = str(client._base_url)
    assert url.startswith("http://127.0.0.1:")


@once
async def test_what_is_no_request_is_answered_shortly() -> None:
    async with serve(Stand(), Settings()) as page:
        parts = urlsplit(page.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(b"<script>alert(1)</script> \x00\r\n\r\n")
        answer = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    assert " 400 " in head and json.loads(body)["code"] == "request"
    check_headers(dict(line.split(": ", 1) for line in head.splitlines()[1:]))


# ------------------------------------------------------------------------------------------------- the API


@once
async def test_the_status_is_the_services() -> None:
    stand = Stand()
    async with served(stand) as client, client.get("/api/status") as answer:
        told = await answer.json()
    status = typed.decode(ServiceStatus, told)
    assert status.cameras == tuple(stand.cameras.values())
    assert status.page == PageStatus(viewers=0, connections=0, limit=256, token=False)


@once
async def test_alive_and_ready() -> None:
    stand = Stand(ready=False)
    async with served(stand) as client:
        async with client.get("/healthz") as answer:
            assert answer.status == 200
        async with client.get("/readyz") as answer:
            assert answer.status == 503
            told = await answer.json()
            assert told["ready"] is False and "first time" in told["reason"]
        stand.ready = True
        async with client.get("/readyz") as answer:
            assert (answer.status, await answer.json()) == (200, {"ready": True})


async def test_a_snapshot_is_the_newest_picture_and_one_reader_serves_all() -> None:
    with va.serve("front.jpeg") as server:
        async with served(Stand()) as client:

            async def picture() -> tuple[int, bytes, str]:
                async with client.get("/api/cameras/front/snapshot.jpg") as answer:
                    assert answer.content_type == "image/jpeg"
                    return answer.status, await answer.read(), answer.headers["Content-Disposition"]

            when = time.strftime("%Y-%m-%d-%H-%M-%S", time.localtime(taken_ns(0) / 1e9))
            asking = [asyncio.create_task(picture()) for _ in range(20)]
            await viewers(client, 20)
            await until(lambda: server.stats().readers)
            assert server.stats().readers == 1
            server.publish(b"jpeg", format="jpeg", timestamp_ns=taken_ns(0))
            for status, body, name in await asyncio.gather(*asking):
                assert (status, body) == (200, b"jpeg")
                assert name == f'inline; filename="front-{when}.jpg"'


@once
async def test_a_snapshot_that_is_not_to_be_had_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_SNAPSHOT_SECONDS", 0.2)
    monkeypatch.setattr(api, "_SNAPSHOTS", 3)
    stand = Stand()
    stand.change("front", state=CameraState.FAILED, cause=Cause.AUTH, reason="401 Unauthorized")
    stand.cameras["plain"] = camera("plain", still=None)
    async with served(stand) as client:
        for name, status, text in (
            ("front", 503, "no frame of front within 0.2 s (failed: 401 Unauthorized)"),
            ("plain", 404, "plain has no ring for the page: set `live` in the config"),
            ("nobody", 404, "there is no camera nobody"),
        ):
            async with client.get(f"/api/cameras/{name}/snapshot.jpg") as answer:
                assert (answer.status, (await answer.json())["detail"]) == (status, text)
        monkeypatch.setattr(api, "_SNAPSHOT_SECONDS", 600.0)  # longer than a test may take
        asking = {asyncio.create_task(client.get("/api/cameras/front/snapshot.jpg")) for _ in range(5)}
        refused: list[int] = []
        while len(refused) < 2:
            done, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                async with one.result() as answer:
                    refused.append(answer.status)
        assert refused == [429, 429]
        await viewers(client, 3)
        for one in asking:
            one.cancel()
        await asyncio.wait(asking)


async def test_who_waits_for_a_picture_does_not_keep_the_service_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api, "_SNAPSHOT_SECONDS", 600.0)  # longer than a test may take
    async with AsyncExitStack() as page, aiohttp.ClientSession() as client:
        url = (await page.enter_async_context(serve(Stand(), Settings()))).url
        asking = asyncio.create_task(client.get(url + "api/cameras/front/snapshot.jpg"))
        await viewers(client, 1, url)
        await page.aclose()
        async with await asking as answer:
            assert (answer.status, (await answer.json())["code"]) == (503, "stops")


@once
async def test_recordings_are_begun_and_ended_by_buttons() -> None:
    stand = Stand()
    stand.cameras["old"] = camera("old", codec="mjpeg")
    async with served(stand) as client:

        async def press(name: str, body: object, **headers: str) -> tuple[int, Any]:
            path = f"/api/cameras/{name}/recording"
            data = body if isinstance(body, bytes) else json.dumps(body)
            async with client.post(path, data=data, headers=BUTTON | headers) as answer:
                return answer.status, await answer.json()

        status, told = await press("front", {"on": True})
        assert (status, told["recording"]["path"]) == (200, "a.mp4")
        assert await press("front", {"on": False}) == (200, {"recording": None})
        status, told = await press("nobody", {"on": True})
        assert (status, told["code"]) == (404, "camera")
        status, told = await press("old", {"on": True})
        assert (status, told["detail"]) == (409, "old sends mjpeg, which cannot be recorded")
        wrong: tuple[object, ...] = (b"", b"\xff", b"[" * 10_000, [], {}, {"on": 1}, {"on": None}, "on")
        for body in wrong:
            assert (await press("front", body))[0] == 400, body
        assert (await press("front", b"x" * 20_000))[0] == 413
        own = str(client._base_url).rstrip("/")
        assert (await press("front", {"on": True}, Origin=own))[0] == 200
        for origin in ("http://evil.example", "null", "", own + "1", "https://127.0.0.1"):
            assert (await press("front", {"on": False}, Origin=origin))[0] == 403, origin
        assert (await press("front", {"on": False}, **{"X-Requested-With": "XMLHttpRequest"}))[0] == 403
        assert stand.cameras["front"].recording is not None


# --------------------------------------------------------------------------------------------------- events


async def test_changes_are_told_at_once_and_figures_regularly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statuses, "_EVERY", 600.0)  # longer than a test may take
    monkeypatch.setattr(statuses, "_LOOK", 0.05)
    stand = Stand()

    async def told(socket: aiohttp.ClientWebSocketResponse) -> tuple[CameraReport, ...]:
        return typed.loads(ServiceStatus, await socket.receive_str(timeout=30)).cameras

    async with served(stand) as client:
        async with client.ws_connect("/api/status/live") as socket:
            assert [one.state for one in await told(socket)] == ["live"]
            stand.change("front", state=CameraState.STALLED)
            assert [one.state for one in await told(socket)] == ["stalled"]
            stand.cameras["yard"] = camera("yard")
            assert len(await told(socket)) == 2
            looks = stand.looks
            stand.change("front", packets=1001)  # which can wait, and so does
            await until(lambda: stand.looks > looks + 3)
            stand.change("yard", state=CameraState.STALLED)
            front, yard = await told(socket)
            assert (front.camera.packets, yard.state) == (1001, "stalled")
        monkeypatch.setattr(statuses, "_EVERY", 0.3)
        async with client.ws_connect("/api/status/live") as socket:
            await told(socket)
            stand.change("front", packets=1002)
            while (await told(socket))[0].camera.packets != 1002:
                pass
        async with asyncio.timeout(30):  # nobody listens, which is noticed
            looks = -1
            while looks != stand.looks:
                looks = stand.looks
                await asyncio.sleep(0.2)


# ----------------------------------------------------------------------------------- addresses, connections


async def test_a_port_that_is_taken_is_said_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(va.ValkkaError, match=rf"127\.0\.0\.1, port {port}: another program.*web\.port"):
            async with serve(Stand(), Settings(port=port)):
                pass


async def test_an_address_that_cannot_be_is_said_with_what_to_do() -> None:
    token = SecretStr("t" * 32)
    for settings, text in (
        (Settings(host="0.0.0.0"), "0.0.0.0 is reached by others: set web.token"),
        (Settings(host=""), "every address is reached by others"),
        (Settings(host="192.0.2.1", token=token), "192.0.2.1, port 0: .*no such address"),
        (Settings(host="no such name", token=token), "'no such name' cannot be looked up"),
    ):
        with pytest.raises(va.ValkkaError, match=text):
            async with serve(Stand(), settings):
                pass


async def test_where_the_page_is() -> None:
    async with aiohttp.ClientSession() as client:
        for host in ("127.0.0.1", "localhost", "127.1.2.3"):
            async with serve(Stand(), Settings(host=host)) as page:
                assert re.fullmatch(rf"http://{re.escape(host)}:\d+/", page.url)
                async with client.get(page.url + "healthz") as answer:
                    assert answer.status == 200
        async with serve(Stand(), Settings(host="0.0.0.0", token=SecretStr("t" * 32))) as page:
            assert page.url.startswith("http://127.0.0.1:")


async def test_it_may_be_started_again_on_the_same_port_at_once() -> None:
    async with serve(Stand(), Settings()) as page:
        port = urlsplit(page.url).port
        assert port
        async with aiohttp.ClientSession(page.url) as client, client.get("/healthz") as answer:
            assert answer.status == 200
    async with serve(Stand(), Settings(port=port)) as page:
        pass


async def test_connections_are_limited_whoever_makes_them() -> None:
    async with serve(Stand(), Settings(max_connections=1)) as page:
        parts = urlsplit(page.url)
        share = (2 + 64) * 3 // 4 + 1  # of one client
        pairs = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(share + 5)]
        async with asyncio.timeout(10):
            for reader, _ in pairs[:4]:
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
        pairs[-1][1].write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in await pairs[-1][0].readline()
        for _, writer in pairs:
            writer.close()
        async with aiohttp.ClientSession(page.url) as client, client.get("/healthz") as answer:
            assert answer.status == 200


async def test_connections_that_say_nothing_or_never_come_to_an_end_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listen, "_IDLE_SECONDS", 0.3)
    async with serve(Stand(), Settings()) as page:
        parts = urlsplit(page.url)
        for said in (b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"GET /healthz HTTP/1.1\r\n\r\nGET"):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(said)
            async with asyncio.timeout(10):
                await reader.read()
            writer.close()


async def test_who_takes_nothing_of_what_is_sent_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "_LOOK", 0.1)
    monkeypatch.setattr(listen, "_STUCK", 0.5)
    with va.serve("front.jpeg") as server:
        async with serve(Stand(), Settings()) as page, aiohttp.ClientSession(page.url) as client:
            path = "api/cameras/front/live?format=jpeg"
            async with upgraded(page.url + path), client.ws_connect("/" + path) as other:
                await until(lambda: server.stats().readers)

                async def connections() -> int:
                    async with client.get("/api/status") as answer:
                        page = (await answer.json())["page"]
                        return int(page["connections"])

                while await connections() < 2:
                    await asyncio.sleep(0.02)
                async with asyncio.timeout(20):
                    while await connections() == 2:
                        server.publish(bytes(1 << 20), format="jpeg")
                        await other.receive(timeout=10)
                        await asyncio.sleep(0.02)
                assert await connections() == 1


def test_a_service_that_stood_still_lets_nobody_go_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clock says: nothing was sent meanwhile."""
    gone: list[bool] = []
    line = SimpleNamespace(get_write_buffer_size=lambda: 1000, abort=lambda: gone.append(True))
    connection: Any = SimpleNamespace(transport=line, _waiting=0, _looks=0)
    enough = int(listen._STUCK / listen._LOOK)
    for number in range(enough):
        monkeypatch.setattr(time, "monotonic", lambda number=number: 1e6 * number)
        Connection.look(connection)
    assert not gone
    Connection.look(connection)
    assert gone


@once
async def test_events_are_told_by_programs() -> None:
    stand = Stand({"front": camera("front"), "yard": camera("yard", recording=recording())})
    button = {"X-Requested-With": "valkka-async"}
    async with served(stand, **button) as client:

        async def tell(name: str, body: str) -> int:
            async with client.post(f"/api/cameras/{name}/event", data=body) as answer:
                await answer.json()
                return answer.status

        assert await tell("yard", "") == 200
        assert await tell("yard", '{"before": 3, "after": 7.5}') == 200
        assert stand.events == [("yard", None, None), ("yard", 3.0, 7.5)]
        assert await tell("front", "") == 409
        assert await tell("nobody", "") == 404
        for wrong in ("x", "[]", "3", '{"after": "long"}', '{"after": true}', '{"after": 1e9}', "[" * 9999):
            assert await tell("yard", wrong) == 400, wrong
        for number in (f"-1{'0' * 400}", f"1{'0' * 400}", "-0.5", "NaN", "-Infinity", "1e999"):
            assert await tell("yard", f'{{"before": {number}}}') == 400, number
        assert len(stand.events) == 2
