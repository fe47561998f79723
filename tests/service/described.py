# SPDX-License-Identifier: MIT
"""The description of the HTTP interface, and what of a response it does not say."""

from __future__ import annotations

import functools
import json
from unittest.mock import MagicMock

from aiohttp import web
from jsonschema import Draft202012Validator

from valkka_async.service.web import openapi, problems
from valkka_async.service.web.routes import Handlers, table

DOCUMENT = openapi.document(table(MagicMock(spec=Handlers), token=True), token=True)
BARE = (101, 303, 304)  # statuses of responses without a body


@functools.cache
def validator(where: str) -> Draft202012Validator:
    schema = json.loads(where)
    return Draft202012Validator(schema | {"components": DOCUMENT["components"]})


def fault(request: web.Request, response: web.StreamResponse) -> str | None:
    """What of it the description does not say; None: nothing."""
    kind = response.headers.get("Content-Type", "").partition(";")[0]
    route = request.match_info
    if route.http_exception is not None:
        good = kind in (problems.CONTENT_TYPE, "text/html") or response.status == 303
        return None if good else f"{kind} for what is not there"
    assert route.route.resource is not None
    path = route.route.resource.canonical
    if path == "/" or path.startswith("/static/"):  # the page's own files
        return None
    method = {"HEAD": "get"}.get(request.method, request.method.lower())
    told = DOCUMENT["paths"].get(path, {}).get(method, {}).get("responses", {}).get(str(response.status))
    if told is None:
        return f"no such response: {response.status}"
    if response.status in BARE:
        return None
    if kind not in told["content"]:
        return f"{response.status} has {kind}, and not {', '.join(told['content'])}"
    if not kind.endswith("json") or not isinstance(response, web.Response):
        return None
    schema = told["content"][kind].get("schema", {})
    errors = validator(json.dumps(schema)).iter_errors(json.loads(response.text or ""))
    return next((f"{response.status}: {error.json_path}: {error.message[:300]}" for error in errors), None)
