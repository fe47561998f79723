"""typed: records become data and come back as they were; anything else is an error that names the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import valkka_async as va
from valkka_async import typed


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Inner:
    SCHEMA: ClassVar[int] = 3
    number: int
    ratio: float | None


@dataclass(frozen=True, slots=True)
class Record:
    SCHEMA: ClassVar[int] = 1
    name: str
    on: bool
    colour: Colour
    policy: Literal["latest", "ordered"]
    size: tuple[int | None, int | None] | None
    inner: Inner
    many: tuple[Inner, ...]
    rates: Mapping[str, float]
    either: int | str
    below: Record | None = None


numbers = st.integers(-(2**63), 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(Inner, numbers, st.none() | finite)
sides = st.none() | st.integers(1, 16384)
records = st.recursive(
    st.builds(
        Record,
        name=st.text(),
        on=st.booleans(),
        colour=st.sampled_from(Colour),
        policy=st.sampled_from(["latest", "ordered"]),
        size=st.none() | st.tuples(sides, sides),
        inner=inners,
        many=st.lists(inners, max_size=3).map(tuple),
        rates=st.dictionaries(st.text(), finite, max_size=3),
        either=numbers | st.text(),
    ),
    lambda below: below.flatmap(
        lambda b: st.builds(lambda r: Record(*(getattr(r, f.name) for f in fields(r)[:-1]), b), below)
    ),
    max_leaves=3,
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
RECORD = Record(
    name="front",
    on=True,
    colour=Colour.RED,
    policy="latest",
    size=(640, None),
    inner=Inner(1, 0.5),
    many=(Inner(2, None), Inner(3, 1.5)),
    rates={"front": 25.0},
    either="x",
)


@given(records)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert typed.loads(Record, typed.dumps(record)) == record


@given(anything)
def test_what_is_no_record_is_one_kind_of_error(data: object) -> None:
    with pytest.raises(va.DataError):
        typed.decode(Record, data)


def paths(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Of all parts of the data."""
    keys = list(data) if isinstance(data, dict) else list(range(len(data))) if isinstance(data, list) else []
    return [path, *(one for key in keys for one in paths(data[key], (*path, key)))]


ALL = paths(typed.encode(RECORD))


@given(st.sampled_from(ALL[1:]), anything)
def test_a_field_that_is_spoilt_is_named_or_still_of_its_type(
    path: tuple[str | int, ...], value: object
) -> None:
    data: Any = typed.encode(RECORD)
    part = data
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    try:
        record = typed.decode(Record, data)
    except va.DataError as e:
        assert isinstance(e, ValueError)
        named = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path if key != "schema")
        assert e.field.startswith(named.removeprefix(".")), (e.field, path)
        assert str(e).startswith(f"Record.{e.field}:" if e.field else "Record:")
    else:
        assert typed.decode(Record, typed.encode(record)) == record


@pytest.mark.parametrize(
    ("change", "field", "text"),
    [
        ({"name": None}, "name", "str expected, not NoneType"),
        ({"on": 1}, "on", "bool expected, not int"),
        ({"colour": "green"}, "colour", "none of red, blue"),
        ({"policy": "newest"}, "policy", "none of latest, ordered"),
        ({"size": [1]}, "size", "2 values expected, not 1"),
        ({"rates": {"a": "b"}}, "rates.a", "float expected, not str"),
        ({"rates": {"a": 10**400}}, "rates.a", "finite"),
        ({"inner": {"schema": 4, "number": 1, "ratio": None}}, "inner", "it has schema 4 and not 3"),
        ({"inner": {"number": 1, "ratio": None}}, "inner", "no schema"),
        ({"inner": {"schema": 3, "number": 1}}, "inner.ratio", "missing"),
        ({"many": [{"schema": 3, "number": True, "ratio": 1}]}, "many[0].number", "int expected, not bool"),
        ({"more": 1}, "more", "there is no such field"),
    ],
)
def test_errors_name_the_field_and_what_is_wrong(change: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(va.DataError, match=text) as info:
        typed.decode(Record, typed.encode(RECORD) | change)
    assert info.value.field == field


def test_a_record_of_another_version_says_so() -> None:
    data = typed.encode(RECORD) | {"schema": 2, "name": None, "new": 1}  # its fields are not looked at
    with pytest.raises(va.DataError, match="schema 2 and not 1.*same valkka-async") as info:
        typed.decode(Record, data)
    assert info.value.field == ""


def test_a_record_with_wrong_values_is_not_sent() -> None:
    wrong: Any = "much"
    with pytest.raises(va.DataError) as info:
        typed.encode(Inner(wrong, None))
    assert info.value.field == "number" and "much" not in str(info.value)
    for number in (float("nan"), float("inf")):
        with pytest.raises(va.DataError, match="finite"):
            typed.dumps(Inner(1, number))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, b"\xff", "null", "[]", json.dumps("x")])
def test_a_text_that_is_no_record_is_the_same_kind_of_error(text: str | bytes) -> None:
    with pytest.raises(va.DataError):
        typed.loads(Record, text)


@dataclass
class Bytes:
    value: bytes


def test_a_type_that_has_no_place_in_json_is_a_bug_and_not_bad_data() -> None:
    with pytest.raises(TypeError, match="bytes"):
        typed.encode(Bytes(b""))
