# SPDX-License-Identifier: MIT
"""TOML as data that knows its lines.

tomllib gives lines for what is no TOML, and none for the rest. As it has accepted the file by then, that is a
row of statements, each of whole lines and readable by itself: a line that cannot be read alone is completed
by those after it. Each statement is read again, to see which keys it has. That is done only when something
is wrong.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from valkka_async.service.config.problems import ConfigError, Document, Path, Problem

_LONGEST = 200  # lines of a statement, beyond which no lines are known

# What tomllib says, and what is meant.
_WORDS = (
    (
        r"(Invalid value|Unterminated|Unclosed|Expected ['\"\]]).*end of document",
        "a quote, a bracket or a value is missing",
    ),
    (
        r"Invalid value",
        "this is no value: text is in quotes, true and false are in small letters; or a bracket before it is "
        "not closed",
    ),
    (r"Cannot|Duplicate", "this is there twice; remove one"),
    (r"Expected '=' after a key", "this is no `key = value`"),
    (r"Invalid statement", "this is neither `[a.table]` nor `key = value`"),
    (r"Unescaped|Invalid hex|escape", 'a backslash in "..." has a special meaning: use single quotes'),
    (r"Illegal character|Expected \"'\"|Unterminated", "a quote is not closed"),
    (r"Expected newline", "something follows the value: is a quote missing, or a number misspelled?"),
    (r"Unclosed|Expected '\]", "a bracket is not closed, or a comma is missing"),
    (r"Invalid initial character", "a key is missing here; `{...}` cannot go over several lines"),
    (r"invalid character", "there is a control character here; remove it"),
)


def read(text: str, file: str) -> Document:
    """Raises ConfigError for what is no TOML."""
    try:
        return _TomlDocument(file, tomllib.loads(text), text)
    except RecursionError:
        raise ConfigError([Problem(file, None, (), "it is nested too deeply")]) from None
    except ValueError as e:
        said = str(e)
        place = re.search(r"\(at line (\d+), column \d+\)", said)
        line = int(place[1]) if place else None
        words = next((words for pattern, words in _WORDS if re.search(pattern, said)), "this is no TOML")
        if line is None and "end of document" in said:  # what is not closed began before that
            *_, (line, _) = _statements(text)
        raise ConfigError([Problem(file, line, (), words)]) from None


class _TomlDocument(Document):
    def __init__(self, file: str, data: Any, text: str) -> None:
        super().__init__(file, data)
        self._text: str | None = text

    def line(self, path: Path) -> int | None:
        if self._text is not None:
            self.lines, self._text = _places(self._text), None
        return super().line(path)


def _places(text: str) -> dict[Path, int]:
    """Where each key and each item of a list begins."""
    places: dict[Path, int] = {}
    table: Path = ()
    items: Counter[Path] = Counter()  # of lists of tables, so far
    for line, statement in _statements(text):
        if statement.lstrip().startswith("["):
            try:
                table = _table(tomllib.loads(statement), items)
            except ValueError:
                break
            for length in range(1, len(table) + 1):
                places.setdefault(table[:length], line)
        else:
            for number, path in _keys(statement.split("\n")):
                places.setdefault(table + path, line + number)
    return places


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each with the number of its first line. The last one may be incomplete, where that is what is wrong."""
    lines = text.split("\n")
    begin = 0
    while begin < len(lines):
        for end in range(begin + 1, min(begin + _LONGEST, len(lines)) + 1):
            statement = "\n".join(lines[begin:end])
            if _parsed(statement) is not None:
                break
        else:
            yield begin + 1, lines[begin]
            return
        yield begin + 1, statement
        begin = end


def _table(parsed: dict[str, Any], items: Counter[Path]) -> Path:
    """The path of `[a.b]` or `[[a.b]]`: in a list of tables, the latest is meant."""
    path: Path = ()
    value: Any = parsed
    while value:
        key, value = next(iter(value.items()))
        path = (*path, key)
        if isinstance(value, list):
            items[path] += 1
            value = value[0]
        if path in items:
            path = (*path, items[path] - 1)
    return path


def _keys(lines: list[str]) -> Iterator[tuple[int, Path]]:
    """What `key = value` has, with the number of the line of the statement in which it is complete."""
    for number in range(len(lines) - 1):  # a list over several lines, closed early, has the items so far
        for path in _within(_parsed("\n".join(lines[: number + 1]) + "\n]"), ()):
            yield number, path
    for path in _within(_parsed("\n".join(lines)), ()):
        yield 0 if len(path) == 1 else len(lines) - 1, path


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except ValueError:
        return None


def _within(value: Any, path: Path) -> Iterator[Path]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _within(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _within(item, (*path, i))
