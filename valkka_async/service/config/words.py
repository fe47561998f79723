# SPDX-License-Identifier: MIT
"""pydantic's errors in plain words: what belongs there, and for an unknown key which key is meant, or where
it belongs."""

from __future__ import annotations

import difflib
from collections.abc import Container
from datetime import date, time
from typing import Any

from pydantic import ValidationError

from valkka_async.service.config import schema
from valkka_async.service.config.problems import Document, Path, shown

_LARGE = 10**20  # a number that is not repeated: Python does not even write one of more than 4300 digits

# Their values are never repeated.
_SECRET = {"url", "streams", "user", "password", "token", "options", "secret", "run"}

# What a section is called, and the sections in which to look for a key that it does not have, nearest first.
_SECTIONS = {
    "Config": (
        "the top of the file",
        ("Web", "Keep", "Log", "Workers", "CameraConfig", "OutputConfig", "Record", "Hook"),
    ),
    "Hook": ("a hook, in the list `on`", ("Config", "Record", "CameraConfig", "Web", "Log", "Workers")),
    "Defaults": ("`defaults`", ("CameraConfig", "OutputConfig", "Record", "Config", "Web", "Workers", "Log")),
    "CameraConfig": (
        "a camera, under its name below `cameras`",
        ("OutputConfig", "Record", "Config", "Web", "Workers", "Log"),
    ),
    "OutputConfig": (
        "an output, in a camera's list `outputs`",
        ("CameraConfig", "Record", "Config", "Web", "Workers", "Log"),
    ),
    "Record": (
        "`record`, of a camera",
        ("Keep", "Config", "CameraConfig", "OutputConfig", "Web", "Workers", "Log"),
    ),
    "Keep": ("`keep`", ("Record", "Config", "CameraConfig", "Web", "Workers", "Log")),
    "Web": ("`web`", ("Config", "Log", "Workers", "CameraConfig", "OutputConfig", "Record")),
    "Log": ("`log`", ("Config", "Web", "Workers", "CameraConfig", "OutputConfig", "Record")),
    "Workers": ("`workers`", ("Config", "CameraConfig", "Web", "Log", "OutputConfig", "Record")),
}

# What other programs call a key.
_OTHER_NAMES = {
    "uri": "url",
    "source": "url",
    "rtsp": "url",
    "stream": "url",
    "username": "user",
    "login": "user",
    "passwd": "password",
    "pass": "password",
    "resolution": "size",
    "width": "size",
    "height": "size",
    "framerate": "fps",
    "rate": "fps",
    "pixels": "format",
    "protocol": "transport",
    "timeout": "read_timeout",
    "label": "title",
    "description": "title",
    "listen": "host",
    "bind": "host",
    "address": "host",
    "ip": "host",
    "duration": "seconds",
    "recording": "record",
    "file": "path",
    "directory": "recordings",
    "retain": "keep",
    "retention": "keep",
    "days": "age",
    "threads": "thread_count",
    "disabled": "enabled",
}


def explain(
    error: ValidationError, document: Document, expanded: Container[Path], kind: str | None = None
) -> None:
    """Add each error, or those of one kind, to the document. `expanded`: the paths of values that come from
    ${...}."""
    for details in error.errors(include_url=False):
        if kind not in (None, details["type"]):
            continue
        path = tuple(part for part in details["loc"] if part != "[key]")
        text, value = _text(details, path, expanded), details["input"]
        if path in expanded and isinstance(value, str) and value:
            text = text.replace(value, "${...}")
        document.problem(path, text, 1 if path == ("cameras",) and details["type"] == "missing" else None)


def _text(details: Any, path: Path, expanded: Container[Path]) -> str:
    kind, value = details["type"], details["input"]
    if kind == "value_error":
        return str(details["ctx"]["error"])
    if kind == "rings":
        return str(details["msg"])
    if kind == "extra_forbidden":
        return _unknown(path, value)
    if path == ("cameras",) and (value is None or kind in ("missing", "too_short")):
        return "there are no cameras; add one, which is a name, and below it a url: rtsp://HOST/PATH"
    section = schema.section_of(path)
    if section == "CameraConfig" and kind == "model_type":
        return "a camera is a name, and below it keys of its own, at least url: rtsp://HOST/PATH"
    what = schema.expected(path)
    if kind == "string_too_long":
        what = f"text of at most {details['ctx']['max_length']} characters"
    if path == ("cameras",):
        what = "each camera's name with its keys below it, as `front:` and below that `url: ...`"
    elif path[2:] == ("streams",):
        what = "each stream's name with its address, as `main: rtsp://HOST/PATH`"
        if kind == "too_short":
            value = None
        if kind == "too_long":
            return f"a camera has at most {details['ctx']['max_length']} streams"
    elif section is not None and len(keys := schema.sections()[section]) < 8:
        what += f" ({', '.join(keys)})"
    if value is None:
        return f"{what} belongs here, and there is nothing"
    if kind == "string_type" and isinstance(value, (bool, int, float, date, time)):
        return f"{what}, and without quotes this is {_sort(value)}: put it in quotes"
    if path and path[-1] == "outputs" and isinstance(value, dict):
        return "a list: begin each output with a dash, or put brackets around them"
    near = _nearest(value, schema.choices(path)) if isinstance(value, str) and path not in expanded else None
    return what + _instead(value, path, expanded) + (f"; did you mean {near}?" if near else "")


def _instead(value: Any, path: Path, expanded: Container[Path]) -> str:
    if path in expanded:
        return ", not what ${...} gives"
    if isinstance(value, (dict, list)) or schema.section_of(path) is not None:
        return f", not {_sort(value)}"
    if _is_secret(path, expanded):
        return ""
    if isinstance(value, bool):
        return f", not {str(value).lower()}"
    if isinstance(value, int) and abs(value) >= _LARGE:
        return ", and this number is far too large"
    return f", not {shown(value)!r}" if isinstance(value, str) else f", not {shown(str(value))}"


def _is_secret(path: Path, expanded: Container[Path]) -> bool:
    return path in expanded or not _SECRET.isdisjoint(path)


def _sort(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, dict):
        return "keys"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, (date, time)):
        return "a date"
    return "a number" if isinstance(value, (int, float)) else "text"


def _unknown(path: Path, value: Any) -> str:
    key = str(path[-1])
    section = schema.section_of(path[:-1]) or "Config"
    if ":" in key and value is None:
        return "a space is missing after the colon"
    if section == "Config" and isinstance(value, dict) and ("url" in value or "streams" in value):
        return "a camera belongs below `cameras`; indent it"
    if section == "CameraConfig" and key == "name":
        return "there is no such key: a camera's name is the key above its own keys (`title` may be any text)"
    own = schema.sections()[section]
    key = key.lower().replace("-", "_")
    other_name = _OTHER_NAMES.get(key, "")
    for meant in (key, other_name):
        if meant in own:
            return f"there is no such key; did you mean {meant}?"
    for meant in (key, other_name):
        for other in _SECTIONS[section][1]:
            if meant in schema.sections()[other]:
                return f"there is no such key here; {meant} belongs to {_SECTIONS[other][0]}"
    near = _nearest(key, list(own))
    if near:
        return f"there is no such key; did you mean {near}?"
    return f"there is no such key; those here are {', '.join(own)}"


def _nearest(text: str, choices: list[str]) -> str | None:
    text = text.lower()
    longer = [choice for choice in choices if len(text) > 1 and choice.startswith(text)]
    return next(iter(longer or difflib.get_close_matches(text, choices, 1, 0.6)), None)
