# SPDX-License-Identifier: MIT
"""What the HTTP interface is, once: routes with what they take and answer. The application is made of them,
and so is its description (OpenAPI 3.1), which GET /api/openapi.json has."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import hdrs, web

from valkka_async import __version__
from valkka_async.service.web.problems import CONTENT_TYPE, STATUS, Code, Problem
from valkka_async.service.web.schemas import Schema, Schemas

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PATH = "/api/openapi.json"
# Of every request: it is none; without the token; of another name or site; too many guesses; a bug.
_ALWAYS = (Code.REQUEST, Code.TOKEN, Code.HOST, Code.ORIGIN, Code.GUESSES, Code.INTERNAL)
_CHANGES = (Code.HEADER, Code.LATE, Code.SIZE)
_DESCRIPTION = (
    "Cameras, recordings and events of a service. Errors are problem details (RFC 9457): programs decide by "
    "`code`, and `detail` is for people. What changes something needs the header "
    "`X-Requested-With: valkka-async`. Times with `_ns` are Unix nanoseconds."
)


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one address. `path` as aiohttp has it, ``/api/cameras/{camera:PATTERN}``.

    `answers` has by status what a response is: a record's class (as JSON), a media type, or None for no body.
    `codes` are those of its problems, beside those that every request can have. `query` and `body` say what
    it takes; `open`: no token is needed.
    """

    method: str
    path: str
    handler: Handler
    about: str
    answers: Mapping[int, type | str | None]
    codes: tuple[Code, ...] = ()
    query: Mapping[str, Schema] = field(default_factory=dict)
    body: Mapping[str, Schema] = field(default_factory=dict)  # by media type
    open: bool = False
    form: bool = False  # a browser sends it without a script
    head: bool = True  # GET: HEAD too

    def add(self, app: web.Application) -> None:
        """Have an application answer it."""
        if self.method == hdrs.METH_GET:
            app.router.add_get(self.path, self.handler, allow_head=self.head)
        else:
            app.router.add_route(self.method, self.path, self.handler)


def document(routes: Iterable[Route], *, token: bool) -> dict[str, Any]:
    """The description. `token`: requests need one."""
    schemas = Schemas()
    problem = schemas.of(Problem)
    schemas.components["Problem"]["required"].remove("parts")
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path, parameters = _path(route.path)
        operation = {
            "summary": route.about,
            "operationId": f"{route.method.lower()}{re.sub(r'[^A-Za-z]+', '_', path).rstrip('_')}",
            "parameters": [*parameters, *_query(route)],
            "responses": _responses(route, schemas, problem),
        }
        if route.body:
            operation["requestBody"] = {
                "content": {kind: {"schema": one} for kind, one in route.body.items()}
            }
        if token:
            operation["security"] = [] if route.open else [{"token": []}, {"session": []}]
        if not operation["parameters"]:
            del operation["parameters"]
        paths.setdefault(path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "valkka-async", "version": __version__, "description": _DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "`web.token` of the config"},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "valkka-SERVICE",
                    "description": "what POST /login gives a browser; SERVICE is a number of its own",
                },
            },
        },
    }


def _path(path: str) -> tuple[str, list[dict[str, Any]]]:
    """As OpenAPI writes it, and what is in it."""
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": f"^{pattern}$"},
        }
        for name, pattern in re.findall(r"\{(\w+):((?:[^{}]|\{[^{}]*\})+)\}", path)
    ]
    return re.sub(r"\{(\w+):(?:[^{}]|\{[^{}]*\})+\}", r"{\1}", path), parameters


def _query(route: Route) -> list[dict[str, Any]]:
    found = []
    for name, schema in route.query.items():
        rest = {key: value for key, value in schema.items() if key not in ("description", "required")}
        about = {"description": schema["description"]} if "description" in schema else {}
        parameter = {"name": name, "in": "query", "required": schema.get("required", False), "schema": rest}
        found.append(parameter | about)
    if route.method != hdrs.METH_GET and not route.form:
        header = {"type": "string", "const": "valkka-async"}
        found.append({"name": "X-Requested-With", "in": "header", "required": True, "schema": header})
    return found


def _responses(route: Route, schemas: Schemas, problem: Schema) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status, kind in sorted(route.answers.items()):
        found[str(status)] = {"description": _WORDS.get(status, "done")}
        if isinstance(kind, str):
            found[str(status)]["content"] = {kind: {}}
        elif kind is not None:
            found[str(status)]["content"] = {"application/json": {"schema": schemas.of(kind)}}
    codes = {*_ALWAYS, *route.codes}
    if route.method != hdrs.METH_GET:
        codes |= {*_CHANGES} - ({Code.HEADER} if route.form else set())
    if route.open:
        codes -= {Code.TOKEN} - set(route.codes)
    by_status: dict[int, list[str]] = {}
    for code in Code:  # in their order
        if code in codes:
            by_status.setdefault(STATUS[code], []).append(code)
    for status, names in sorted(by_status.items()):
        one = found.setdefault(str(status), {"description": ""})
        told = f"a problem with the code {' or '.join(names)}"
        one["description"] = f"{one['description']}; or {told}" if one["description"] else told
        one.setdefault("content", {})[CONTENT_TYPE] = {"schema": problem}
        # People who come by browser to what is not below /api get a page.
        if not route.path.startswith("/api/"):
            one["content"].setdefault("text/html", {})
    return found


_WORDS = {101: "a WebSocket", 206: "a part of it", 303: "go there", 304: "unchanged"}
