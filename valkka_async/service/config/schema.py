# SPDX-License-Identifier: MIT
"""The config's JSON Schema: for editors, for the documentation, and for error messages."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, TypeAlias

from valkka_async.service.config.config import Config
from valkka_async.service.config.fields import NAME_MAX
from valkka_async.service.config.problems import Path

Schema: TypeAlias = dict[str, Any]

_PLACEHOLDER = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"}
_ABOUT = ("title", "description", "default")  # they say something about a value, and allow nothing


def json_schema() -> Schema:
    """The JSON Schema (2020-12) of a config file, for editors. ${NAME} may also stand for a number."""
    schema = Config.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        section["properties"] = {key: _or_placeholder(value) for key, value in section["properties"].items()}
    schema["$defs"]["CameraConfig"]["oneOf"] = [{"required": ["url"]}, {"required": ["streams"]}]
    schema["properties"]["cameras"]["propertyNames"] = {"pattern": rf"^[A-Za-z0-9._-]{{1,{NAME_MAX}}}$"}
    schema["properties"]["cameras"]["minProperties"] = 1
    schema["anyOf"] = [{"required": ["cameras"]}, {"required": ["link"]}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "valkka-async run",
        "description": "The cameras of a service.",
    }


def sections() -> dict[str, Schema]:
    """The keys of each section, by the section's name, in the order of the documentation."""
    schema = _schema()
    return {"Config": schema["properties"]} | {k: v["properties"] for k, v in schema["$defs"].items()}


def section_of(path: Path) -> str | None:
    """The name of the section at this path; None: it is not a section."""
    for node in _nodes(path):
        if "properties" in node:
            return str(node["title"])
    return None


def expected(path: Path) -> str:
    """What belongs at this path, in words: "a number above 0"."""
    return words(*_nodes(path))


def words(*nodes: Schema) -> str:
    """What these schemas allow, in words."""
    kinds = dict.fromkeys(_kind(node) for given in nodes for node in _options(given))
    return " or ".join(kind for kind in kinds if kind)


def choices(path: Path) -> list[str]:
    """The words that are allowed at this path."""
    return [str(choice) for node in _nodes(path) for choice in node.get("enum", ())]


@functools.cache
def _schema() -> Schema:
    return Config.model_json_schema()


def _nodes(path: Path) -> list[Schema]:
    """The schemas of this path."""
    nodes = [_schema()]
    for part in path:
        nodes = [option for node in nodes for inner in _inner(node, part) for option in _options(inner)]
    return nodes


def _inner(node: Schema, part: str | int) -> Iterator[Schema]:
    if isinstance(part, int):
        if "items" in node:
            yield node["items"]
    elif part in node.get("properties", ()):
        yield node["properties"][part]
    elif isinstance(node.get("additionalProperties"), dict):
        yield node["additionalProperties"]


def _options(node: Schema) -> Iterator[Schema]:
    if "$ref" in node:
        yield from _options(_schema()["$defs"][node["$ref"].rpartition("/")[2]])
    elif "anyOf" in node:
        for option in node["anyOf"]:
            yield from _options(option)
    else:
        yield node


def _kind(node: Schema) -> str:
    if "enum" in node:
        return (
            " or ".join(map(str, node["enum"]))
            if len(node["enum"]) < 3
            else "one of " + ", ".join(node["enum"])
        )
    kind = node.get("type")
    if kind in ("number", "integer"):
        return ("a number" if kind == "number" else "a whole number") + _limits(node)
    if kind == "object":
        if "properties" in node:
            return "keys of its own"
        return (
            "names, each with keys of its own"
            if "$ref" in node["additionalProperties"]
            else "names and values"
        )
    if isinstance(kind, list):
        return " or ".join(_kind({"type": one}) for one in kind)
    return {"boolean": "true or false", "string": "text", "array": "a list"}.get(str(kind), "")


def _limits(node: Schema) -> str:
    low, high, above = node.get("minimum"), node.get("maximum"), node.get("exclusiveMinimum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if above is not None:
        return f" above {above}" + (f", at most {high}" if high is not None else "")
    return f", {low} or more" if low is not None else ""


def _or_placeholder(value: Schema) -> Schema:
    if value.get("type") in ("number", "integer", "boolean") or "enum" in value:
        value = {"anyOf": [{k: v for k, v in value.items() if k not in _ABOUT}]} | {
            k: v for k, v in value.items() if k in _ABOUT
        }
    if "anyOf" in value and {"type": "string"} not in value["anyOf"]:
        return value | {"anyOf": [*value["anyOf"], _PLACEHOLDER]}
    return value
