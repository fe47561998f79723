# SPDX-License-Identifier: MIT
"""Types of the config's keys: numbers, sizes, paths, names, also when they come from ${...}.

A text may stand for a number or a switch, because ${...} gives texts. A number may not stand for a text: YAML
has made something else of it than what was written (012345 is 5349).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticKnownError

from valkka_async.camera.spec import STREAM_NAME, is_stream_name
from valkka_async.record.recorder import Recorder
from valkka_async.ring.rendezvous import check_name
from valkka_async.service.config import addresses
from valkka_async.units import parse_bytes, parse_seconds

SIDE_MAX = 16384  # pixels
NAME_MAX = 59  # NAME.jpeg is a ring's name too, and has 64 characters at most
TITLE_MAX = 200
SECONDS_MAX = 7 * 24 * 3600  # more than this is not meant, and clocks and libraries have limits of their own
SPAN_MAX = 3600  # s in memory
AGE_MAX = 100 * 366 * 24 * 3600
# They turn the direction of the text around them, on a page beyond the title.
_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Section(BaseModel):
    """Keys that belong together. Unknown keys are refused. No error repeats a value."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """`fps: yes` is an error and not 1."""
        if isinstance(value, bool) and info.field_name is not None:
            kind = cls.model_fields[info.field_name].annotation
            if {int, float} & {kind, *get_args(kind)}:
                raise PydanticKnownError("float_type")
        return value


def switch(on: Callable[[], Any]) -> BeforeValidator:
    """true: the section with its defaults; false: no section."""

    def convert(value: Any) -> Any:
        if isinstance(value, str):
            value = {"true": True, "false": False}.get(value.strip().lower(), value)
        return on() if value is True else None if value is False else value

    return BeforeValidator(convert)


def or_switch(schema: dict[str, Any]) -> None:
    """For the JSON Schema: such a section may be true or false."""
    schema["anyOf"] = [*(part for part in schema["anyOf"] if part != {"type": "null"}), {"type": "boolean"}]


def _size(value: Any) -> Any:
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d+)\s*[xX]\s*(\d+)\s*", value, re.ASCII)):
        value = [int(match[1][:6]), int(match[2][:6])]
    if value is None:
        return value
    parts = [_integer(n) for n in value] if isinstance(value, (list, tuple)) else []
    if len(parts) != 2 or not all(n is not None and 1 <= n <= SIDE_MAX for n in parts):
        raise ValueError("a width and a height in pixels, such as 640x360 or [640, 360]")
    return tuple(parts)


def _integer(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,6}\s*", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _texts(value: Any) -> Any:
    """`{rtsp_flags: prefer_tcp, max_delay: 500000}`: numbers of FFmpeg's options need no quotes."""
    if not isinstance(value, Mapping):
        return value
    return {k: _number_text(v) if type(v) in (int, float) else v for k, v in value.items()}


def _number_text(value: float) -> str:
    try:
        return str(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        raise ValueError("names and values, and one of the numbers has too many digits") from None


def _title(title: str) -> str:
    for character in title:
        if unicodedata.category(character) in ("Cc", "Zl", "Zp") or character in _TURNS:
            code = f"U+{ord(character):04X}"
            raise ValueError(f"one line of text, without the control character {code} that is in it")
    return title


def _off(value: Any) -> Any:
    return None if value is False or value in ("", "false") else value


def _camera_name(name: str) -> str:
    try:
        check_name(name)
    except ValueError:
        raise ValueError(
            f"a camera's name is 1 to {NAME_MAX} of A-Z a-z 0-9 . _ - (its `title` may be any text)"
        ) from None
    if len(name) > NAME_MAX:
        raise ValueError(f"a camera's name has at most {NAME_MAX} characters, not {len(name)}")
    return name


def _ring_name(name: str) -> str:
    try:
        return check_name(name)
    except ValueError:
        raise ValueError("a name is 1 to 64 of A-Z a-z 0-9 . _ -") from None


def _stream_name(name: str) -> str:
    if not is_stream_name(name):  # not repeated: it may be an address
        raise ValueError(STREAM_NAME)
    return name


def _url(url: str) -> str:
    addresses.check(url)
    return url


def _device(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]+(:.+)?", value):
        raise ValueError("auto, or a type of device for FFmpeg, such as cuda, vaapi or cuda:1")
    return value


def _pattern(value: str) -> str:
    try:
        Recorder("any", value)
        if "{{name}" in value:  # it would be replaced
            raise ValueError
    except ValueError:
        raise ValueError(
            "the path of a file, with nothing in braces but {name} and {n}, such as "
            "recordings/{name}/%Y-%m-%d/%H-%M-%S.mp4"
        ) from None
    return value


def _number_or(parse: Callable[[str], float], example: str) -> Callable[[Any], Any]:
    """For what people write with a unit."""

    def convert(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f"{example} belongs here")
        try:
            return parse(str(value))
        except (ValueError, OverflowError):
            raise ValueError(f"{example} belongs here") from None

    return convert


def _span(text: str) -> float:
    """Raises ValueError."""
    return 0.0 if text.strip() in ("0", "0.0", "0s") else parse_seconds(text)


_WITH_UNIT = WithJsonSchema({"type": ["string", "number"]})
Age = Annotated[
    float,
    Field(le=AGE_MAX),
    BeforeValidator(_number_or(parse_seconds, "how long, such as 14d or 36h,")),
    _WITH_UNIT,
]
Span = Annotated[
    float,
    Field(ge=0, le=SPAN_MAX),
    BeforeValidator(_number_or(_span, "how long, such as 10s or 1m,")),
    _WITH_UNIT,
]
Bytes = Annotated[
    int,
    Field(le=1 << 60),
    BeforeValidator(_number_or(parse_bytes, "a size, such as 500GB or 2TB,")),
    _WITH_UNIT,
]
Title = Annotated[str, Field(max_length=TITLE_MAX), AfterValidator(_title)]
Seconds = Annotated[float, Field(gt=0, le=SECONDS_MAX, allow_inf_nan=False)]
Texts = Annotated[
    dict[str, str],
    BeforeValidator(_texts),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "number"]}}),
]
CameraName = Annotated[str, AfterValidator(_camera_name)]
RingName = Annotated[str, AfterValidator(_ring_name)]
StreamName = Annotated[str, AfterValidator(_stream_name)]
Url = Annotated[str, AfterValidator(_url)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Device = Annotated[Annotated[str, AfterValidator(_device)] | None, BeforeValidator(_off)]
Size = Annotated[
    tuple[int, int] | None,
    BeforeValidator(_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\s*[0-9]+\s*[xX]\s*[0-9]+\s*$"},
                {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 1, "maximum": SIDE_MAX},
                    "minItems": 2,
                    "maxItems": 2,
                },
                {"type": "null"},
            ]
        }
    ),
]
