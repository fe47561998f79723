# SPDX-License-Identifier: MIT
"""Errors over HTTP have one shape, and the description of the API is the API's. (described.py holds each
response of all tests to it.)"""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from described import DOCUMENT, fault
from openapi_spec_validator import validate
from pydantic import SecretStr
from web_tools import Settings, Stand, once, served

from valkka_async.service.web import assets
from valkka_async.service.web.app import make_app, serve
from valkka_async.service.web.problems import CONTENT_TYPE, STATUS, Code, explained, problem

BUTTON = {"X-Requested-With": "valkka-async"}
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def told(answer: aiohttp.ClientResponse) -> tuple[int, str]:
    """The status and the code of a problem, all of whose members are as they should be."""
    assert answer.content_type == CONTENT_TYPE
    data: dict[str, Any] = await answer.json()
    assert data["status"] == answer.status == STATUS[Code(data["code"])]
    assert data["title"] and data["detail"] and data.keys() <= {"status", "title", "code", "detail", "parts"}
    return answer.status, data["code"]


@once
async def test_every_error_is_a_problem_with_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand()
    async with served(stand) as client:
        for method, path, headers, status, code in (
            ("GET", "/api/nothing", {}, 404, "path"),
            ("GET", "/nothing", {}, 404, "path"),
            ("POST", "/api/nothing", {}, 404, "path"),
            ("DELETE", "/api/status", {}, 405, "method"),
            ("POST", "/api/status", {}, 405, "method"),
            ("GET", "/api/cameras/front/recording", {}, 405, "method"),
            ("OPTIONS", "/api/cameras/front/recording", {}, 405, "method"),
            ("PATCH", "/api/status", {}, 405, "method"),
            ("BREW", "/api/status", {}, 400, "request"),
            ("DELETE", "/api/status", {"Origin": "http://evil.example"}, 403, "origin"),
            ("GET", "/api/status", {"Host": "evil.example"}, 403, "host"),
            ("POST", "/api/cameras/front/recording", {}, 403, "header"),
            ("POST", "/api/cameras/front/recording", BUTTON, 400, "request"),
            ("POST", "/api/cameras/nobody/event", BUTTON, 404, "camera"),
            ("POST", "/api/cameras/front/event", BUTTON, 409, "refused"),
            ("GET", "/api/cameras/nobody/snapshot.jpg", {}, 404, "camera"),
            ("GET", "/api/cameras/front/live", {}, 426, "upgrade"),
            ("GET", "/api/cameras/front/live?format=gif", {}, 400, "request"),
            ("GET", "/api/hosts/a/b/snapshot.jpg", {}, 404, "camera"),
            ("GET", "/api/recordings/front?from=x", {}, 400, "time"),
            ("POST", "/api/cameras/front/event", BUTTON | {"Expect": "more"}, 400, "request"),
            ("GET", "/nothing", {"Expect": "more"}, 400, "request"),
            ("GET", "/", {"Expect": "100-continue, more"}, 400, "request"),
        ):
            async with client.request(method, path, headers=headers) as answer:
                assert await told(answer) == (status, code), (method, path)
                if status == 405:
                    assert set(answer.headers["Allow"].split(",")) <= {"GET", "HEAD", "POST"}
        big = b"x" * 20_000
        async with client.post("/api/cameras/front/recording", data=big, headers=BUTTON) as answer:
            assert await told(answer) == (413, "size")
        monkeypatch.setattr(stand, "status", lambda: 1 / 0)
        async with client.get("/api/status") as answer:
            assert await told(answer) == (500, "internal")
    async with served(Stand(), Settings(token=SecretStr("t" * 20))) as client:
        for path in ("/api/status", "/api/nothing", "/nothing"):
            async with client.get(path) as answer:
                assert await told(answer) == (401, "token")
        for path in ("/api/status", "/api/events", "/api/status/live"):  # a person who looks at the API
            async with client.get(path, headers=HTML) as answer:
                assert await told(answer) == (401, "token")
        async with client.post("/login", data=big, headers=HTML) as answer:
            assert (answer.status, answer.content_type) == (413, "text/html")


@once
async def test_people_get_a_page_and_nothing_of_their_request_on_it() -> None:
    async with served(Stand()) as client:
        for path, headers, status, says in (
            ("/nothing", {}, 404, "There is nothing at this address."),
            ("/<script>alert(1)</script>", {}, 404, "nothing at this address"),
            ("/logout", {}, 405, "does not have this method"),
            ("/", {"Host": "evil.example"}, 403, "names of this machine only (localhost)."),
        ):
            async with client.get(path, headers=HTML | headers) as answer:
                text = await answer.text()
                assert (answer.status, answer.content_type) == (status, "text/html"), path
                assert says in text and "alert" not in text and "<h1>" in text
        async with client.get("/api/nothing", headers=HTML) as answer:  # a person who looks at the API
            assert await told(answer) == (404, "path")


@once
async def test_what_is_hardly_a_request_is_a_problem_too() -> None:
    async with serve(Stand(), Settings()) as page:
        parts = urlsplit(page.url)
        for said, status in (
            (b"\x00\r\n\r\n", 400),
            (b"GET / HTTP/9.9\r\n\r\n", 400),
            (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", 400),
            (b"GET /healthz HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
            (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", None),
            (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
            (
                b"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                None,
            ),
            (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"a=b; " * 1000 + b"\r\n\r\n", 200),
            (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", None),
        ):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(said)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            length = re.search(rb"(?i)content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            writer.close()
            if status is not None:
                assert f" {status} ".encode() in head, (said[:40], head)
            assert b"Traceback" not in body and (b" 200 " in head or CONTENT_TYPE.encode() in head), said[:60]


def test_each_code_has_its_status_and_a_response() -> None:
    assert STATUS.keys() == set(Code)
    for code in Code:
        assert problem(code, "x").status == STATUS[code]
    from aiohttp import web

    for error in (
        web.HTTPNotFound(),
        web.HTTPMethodNotAllowed("X", ["GET"]),
        web.HTTPGone(),
        web.HTTPBadGateway(),
    ):
        assert explained(error).content_type == CONTENT_TYPE


# ------------------------------------------------------------------------------------------- the description


def test_the_description_is_openapi_and_has_every_address_and_no_other() -> None:
    validate(DOCUMENT)
    app = make_app(Stand(), Settings())
    names = {"/" if file.name == "index.html" else f"/static/{file.name}" for file in assets.load()}
    served_ = {
        (route.resource.canonical, route.method.lower())
        for route in app.router.routes()
        if route.resource is not None and route.resource.canonical not in names and route.method != "HEAD"
    }
    described = {(path, method) for path, one in DOCUMENT["paths"].items() for method in one}
    assert served_ == described
    operations = [one["operationId"] for methods in DOCUMENT["paths"].values() for one in methods.values()]
    assert len(set(operations)) == len(operations)


@once
async def test_the_description_is_served_and_says_whether_there_is_a_token() -> None:
    async with served(Stand()) as client, client.get("/api/openapi.json") as answer:
        open_ = await answer.json()
        validate(open_)
        assert answer.content_type == "application/json"
        assert all("security" not in one for methods in open_["paths"].values() for one in methods.values())
    async with served(Stand(), Settings(token=SecretStr("t" * 20))) as client:
        async with client.get("/api/openapi.json") as answer:
            assert answer.status == 401
        async with client.get("/api/openapi.json", headers={"Authorization": f"Bearer {'t' * 20}"}) as answer:
            assert await answer.json() == DOCUMENT
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            assert (operation["security"] == []) == (
                path in ("/healthz", "/readyz", "/login", "/logout", "/login.css")
            )


@once
async def test_a_response_that_is_not_described_would_be_noticed() -> None:
    """The check of all tests is one."""
    from types import SimpleNamespace

    from aiohttp import web

    def looked(path: str, answer: web.Response, method: str = "GET") -> str | None:
        route = SimpleNamespace(resource=SimpleNamespace(canonical=path))
        info = SimpleNamespace(http_exception=None, route=route)
        return fault(SimpleNamespace(method=method, path=path, match_info=info), answer)  # type: ignore[arg-type]

    assert looked("/healthz", web.json_response({"alive": True})) is None
    assert looked("/healthz", problem(Code.HOST, "x")) is None
    for path, answer in (
        ("/healthz", web.json_response({"alive": 1})),
        ("/healthz", web.json_response({})),
        ("/healthz", web.json_response({"alive": True, "more": 1})),
        ("/healthz", web.Response(text="alive")),
        ("/healthz", web.json_response({"alive": True}, status=201)),
        ("/healthz", problem(Code.CAMERA, "x")),
        ("/api/status", web.json_response({})),
        ("/api/other", web.json_response({})),
    ):
        assert looked(path, answer) is not None, path
