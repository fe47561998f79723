# SPDX-License-Identifier: MIT
"""Whatever the page answers in a test, GET /api/openapi.json says so. And the browser that looks at it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from aiohttp import web
from described import fault

from support import browser as browsers
from valkka_async.service.web import app
from valkka_async.service.web.headers import on_prepare


@pytest.fixture(autouse=True)
def answers_are_as_described(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever the page answers in a test, GET /api/openapi.json says so."""
    faults = []

    async def look(request: web.Request, response: web.StreamResponse) -> None:
        await on_prepare(request, response)
        if (found := fault(request, response)) is not None:
            faults.append(f"{request.method} {request.path}: {found}")

    monkeypatch.setattr(app, "on_prepare", look)
    yield
    assert faults == []


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browsers.Browser]:
    with browsers.browser(tmp_path_factory.mktemp("browser")) as running:
        yield running
