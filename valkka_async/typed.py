# SPDX-License-Identifier: MIT
"""Records (dataclasses) as data for JSON, and back::

    text = typed.dumps(status)                   # encode(status): the same as dicts and lists
    status = typed.loads(CameraStatus, text)     # or decode(CameraStatus, data)

Both directions are strict. Fields have the types str, int (64 bits), float (finite), bool, None, StrEnum,
Literal, other records, and tuple, Mapping (keys are str) and unions of these. Data that is not exactly a
record raises DataError, which names the field and never repeats a value: it might be a password.

A record with a class variable ``SCHEMA`` is versioned. Its data has that number under "schema", and a reader
with another number says so. Raise the number with each change of the record's fields.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar, Union

from valkka_async.errors import DataError

T = TypeVar("T")
_INT = 1 << 63
_NAME = 64  # characters of an unknown field's name in a message
Data: TypeAlias = "None | bool | int | float | str | list[Data] | dict[str, Data]"


def encode(record: object) -> dict[str, Data]:
    """A record as data. Raises DataError for a field whose value has another type than the field."""
    kind: Any = type(record)
    return typing.cast("dict[str, Data]", _run(kind, lambda: _codec(kind).encode(record)))


def decode(kind: type[T], data: object) -> T:
    """The record in the data. Raises DataError."""
    record: Any = kind  # mypy: a type, and so hashable
    return typing.cast(T, _run(kind, lambda: _codec(record).decode(data)))


def dumps(record: object) -> str:
    """A record as JSON, on one line. Raises DataError."""
    return json.dumps(encode(record))


def loads(kind: type[T], text: str | bytes) -> T:
    """The record in a text. Raises DataError."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"{kind.__name__}: not JSON") from None
    return decode(kind, data)


# ------------------------------------------------------------------------------------------ one type


class _Wrong(Exception):
    """What is wrong, and where: the innermost part of the path comes first."""

    def __init__(self, what: str, path: tuple[str, ...] = ()) -> None:
        self.what = what
        self.path = path

    def within(self, part: str) -> _Wrong:
        return _Wrong(self.what, (*self.path, part))


@dataclasses.dataclass(frozen=True, slots=True)
class _Codec:
    """How values of one type are encoded and decoded. Both raise _Wrong."""

    encode: Callable[[Any], Data]
    decode: Callable[[Any], Any]


def _run(kind: type, work: Callable[[], T]) -> T:
    try:
        return work()
    except _Wrong as e:
        field = "".join(reversed(e.path)).removeprefix(".")
        where = f"{kind.__name__}.{field}" if field else kind.__name__
        raise DataError(f"{where}: {e.what}", field=field) from None
    except RecursionError:
        raise DataError(f"{kind.__name__}: nested too deeply") from None


@functools.cache
def _codec(kind: Any) -> _Codec:
    """Raises TypeError for a type that has no place in a record, which is a bug."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if origin is Literal:
        return _literal(arguments)
    if origin in (Union, types.UnionType):
        return _union(arguments)
    if origin is tuple:
        return _sequence(arguments[0]) if arguments[1:] == (...,) else _row(arguments)
    if origin in (dict, Mapping) and arguments[0] is str:
        return _mapping(arguments[1])
    if isinstance(kind, type) and issubclass(kind, enum.StrEnum):
        return _enum(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _record(kind)
    raise TypeError(f"{kind!r} has no place in a record")


def _not(wanted: str, value: object) -> _Wrong:
    return _Wrong(f"{wanted} expected, not {type(value).__name__}")


def _same(kind: type) -> _Codec:
    """bool, None: exactly this type."""

    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise _not(kind.__name__, value)
        return value

    return _Codec(check, check)


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _not("int", value)
    if not -_INT <= value < _INT:  # which no clock and counter reaches, and which may not fit into a float
        raise _Wrong("an int of at most 64 bits expected")
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _not("float", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _Wrong("a finite float expected")
    return number


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise _not("str", value)
    return str.__str__(value)


_PLAIN: dict[Any, _Codec] = {
    bool: _same(bool),
    None: _same(type(None)),
    type(None): _same(type(None)),
    int: _Codec(_int, _int),
    float: _Codec(_float, _float),
    str: _Codec(_str, _str),
}


def _literal(values: tuple[Any, ...]) -> _Codec:
    names = ", ".join(map(str, values))

    def check(value: Any) -> Any:
        if not any(value == one and type(value) is type(one) for one in values):
            raise _Wrong(f"none of {names}")
        return value

    return _Codec(check, check)


def _enum(kind: type[enum.StrEnum]) -> _Codec:
    names = ", ".join(kind)

    def pack(value: Any) -> str:
        if not isinstance(value, kind):
            raise _not(kind.__name__, value)
        return value.value

    def unpack(value: Any) -> enum.StrEnum:
        try:
            return kind(_str(value))
        except ValueError:
            raise _Wrong(f"none of {names}") from None

    return _Codec(pack, unpack)


def _union(kinds: tuple[Any, ...]) -> _Codec:
    codecs = [_codec(kind) for kind in kinds]
    empty = type(None) in kinds
    rest = [codec for codec, kind in zip(codecs, kinds, strict=True) if kind is not type(None)]

    def attempt(functions: Sequence[Callable[[Any], Any]], value: Any) -> Any:
        if value is None and empty:
            return None
        if len(functions) == 1:  # whose error says more
            return functions[0](value)
        for function in functions:
            try:
                return function(value)
            except _Wrong:
                pass
        raise _not(" or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds), value)

    encoders = [codec.encode for codec in rest]
    decoders = [codec.decode for codec in rest]
    return _Codec(lambda value: attempt(encoders, value), lambda value: attempt(decoders, value))


def _sequence(kind: Any) -> _Codec:
    """tuple[kind, ...]"""

    def each(item: Callable[[Any], Any], values: Any) -> list[Any]:
        if not isinstance(values, list | tuple):
            raise _not("list", values)
        return [_part(f"[{n}]", item, value) for n, value in enumerate(values)]

    return _Codec(
        lambda values: each(_codec(kind).encode, values),
        lambda values: tuple(each(_codec(kind).decode, values)),
    )


def _row(kinds: tuple[Any, ...]) -> _Codec:
    """tuple[kind, other kind]"""
    codecs = [_codec(kind) for kind in kinds]

    def each(items: list[Callable[[Any], Any]], values: Any) -> list[Any]:
        if not isinstance(values, list | tuple):
            raise _not("list", values)
        if len(values) != len(items):
            raise _Wrong(f"{len(items)} values expected, not {len(values)}")
        return [
            _part(f"[{n}]", item, value) for n, (item, value) in enumerate(zip(items, values, strict=True))
        ]

    encoders = [codec.encode for codec in codecs]
    decoders = [codec.decode for codec in codecs]
    return _Codec(lambda values: each(encoders, values), lambda values: tuple(each(decoders, values)))


def _mapping(kind: Any) -> _Codec:
    def each(item: Callable[[Any], Any], values: Any) -> dict[str, Any]:
        if not isinstance(values, Mapping):
            raise _not("dict", values)
        return {_part(".", _str, key): _part(f".{key}", item, value) for key, value in values.items()}

    return _Codec(
        lambda values: each(_codec(kind).encode, values), lambda values: each(_codec(kind).decode, values)
    )


def _record(kind: Any) -> _Codec:
    schema: int | None = getattr(kind, "SCHEMA", None)
    hints = typing.get_type_hints(kind)
    kinds = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    assert "schema" not in kinds or schema is None, kind

    @functools.cache
    def codecs() -> list[tuple[str, _Codec]]:
        """Of the fields. Not looked up before use: a record may contain others of its own kind."""
        return [(name, _codec(one)) for name, one in kinds.items()]

    def pack(record: Any) -> dict[str, Data]:
        if type(record) is not kind:
            raise _not(kind.__name__, record)
        data: dict[str, Data] = {} if schema is None else {"schema": schema}
        name = ""
        try:
            for name, codec in codecs():
                data[name] = codec.encode(getattr(record, name))
        except _Wrong as e:
            raise e.within(f".{name}") from None
        return data

    def unpack(data: Any) -> Any:
        if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
            raise _not("dict", data)
        if schema is not None and data.get("schema") != schema:
            there = data.get("schema")
            version = f"schema {there}" if type(there) is int else "no schema"
            raise _Wrong(f"it has {version} and not {schema}: use the same valkka-async on both sides")
        values = {}
        name = ""
        try:
            for name, codec in codecs():
                if name not in data:
                    raise _Wrong("missing")
                values[name] = codec.decode(data[name])
        except _Wrong as e:
            raise e.within(f".{name}") from None
        for name in data:
            if name not in kinds and not (name == "schema" and schema is not None):
                raise _Wrong("there is no such field", (f".{name[:_NAME]}",))
        try:
            return kind(**values)
        except ValueError as e:  # the record's own checks; their texts may repeat values
            raise _Wrong(f"refused ({type(e).__name__})") from None

    return _Codec(pack, unpack)


def _part(name: str, function: Callable[[Any], Any], value: Any) -> Any:
    """Encode or decode a part of something."""
    try:
        return function(value)
    except _Wrong as e:
        raise e.within(name) from None
