# SPDX-License-Identifier: MIT
"""JSON Schemas of records: of what typed.encode() makes of them."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, TypeAlias, Union

Schema: TypeAlias = dict[str, Any]

_PLAIN: dict[Any, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    types.NoneType: "null",
    None: "null",
}


class Schemas:
    """Collects the schemas of records and of what is in them, by the names of their classes, for an OpenAPI
    description's components."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}
        self._kinds: dict[str, type] = {}

    def of(self, kind: Any) -> Schema:
        """The schema of a type that may be a record's field; classes by reference. Raises TypeError for one
        that may not, which is a bug."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if kind in _PLAIN:
            return {"type": _PLAIN[kind]}
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.of(one) for one in arguments]}
        if origin is tuple and arguments[1:] == (...,):
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is tuple:
            each = [self.of(one) for one in arguments]
            return {"type": "array", "prefixItems": each, "items": False, "minItems": len(each)}
        if origin in (dict, Mapping) and arguments[0] is str:
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if isinstance(kind, type) and (issubclass(kind, StrEnum) or dataclasses.is_dataclass(kind)):
            return self._reference(kind)
        raise TypeError(f"{kind!r} has no place in a record")

    def _reference(self, kind: type) -> Schema:
        name = kind.__name__
        if self._kinds.setdefault(name, kind) is not kind:
            raise TypeError(f"two classes are called {name}: {kind!r} and {self._kinds[name]!r}")
        if name not in self.components:
            self.components[name] = {}  # a record may contain others of its own kind
            about = _about(kind)
            if issubclass(kind, StrEnum):
                self.components[name] = about | {"type": "string", "enum": [one.value for one in kind]}
            else:
                self.components[name] = about | self._record(kind)
        return {"$ref": f"#/components/schemas/{name}"}

    def _record(self, kind: Any) -> Schema:
        hints = typing.get_type_hints(kind)
        properties = {field.name: self.of(hints[field.name]) for field in dataclasses.fields(kind)}
        if (version := getattr(kind, "SCHEMA", None)) is not None:
            properties = {"schema": {"const": version}} | properties
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }


def _about(kind: type) -> Schema:
    """Its docstring, without the line breaks; not the one that Python makes."""
    text = kind.__dict__.get("__doc__") or ""
    return {} if not text or text.startswith(f"{kind.__name__}(") else {"description": " ".join(text.split())}
