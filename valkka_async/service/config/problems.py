# SPDX-License-Identifier: MIT
"""Errors of a config file: where, what, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from valkka_async.errors import ValkkaError

Path: TypeAlias = tuple[str | int, ...]  # ("cameras", "front", "outputs", 0, "fps")

_SHOWN = 100
_LONGEST = 64  # characters of the file that a message repeats


@dataclass(frozen=True, slots=True)
class Problem:
    """One error. `str()` is a line without a secret: file, line, key, what is wrong and what to do."""

    file: str
    line: int | None  # None: of the file as a whole
    path: Path
    text: str

    def __str__(self) -> str:
        parts = [self.file if self.line is None else f"{self.file}:{self.line}", dotted(self.path), self.text]
        return ": ".join(part for part in parts if part)


class ConfigError(ValkkaError, ValueError):
    """A config file cannot be used. `problems` has all its errors; `str()` a line for each, of a hundred at
    most."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"... and {len(self.problems) - _SHOWN} more")
        super().__init__("\n".join(lines))


@dataclass
class Document:
    """A file as data, with the lines of its keys, and the errors found so far."""

    file: str
    data: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    told: set[Path] = field(default_factory=set)  # paths that have an error: no more is said of them

    def line(self, path: Path) -> int | None:
        """The line of this path, or of the nearest one around it that is in the file."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None

    def problem(self, path: Path, text: str, line: int | None = None) -> None:
        """Add an error. Only the first one of a path counts."""
        if not path or path not in self.told:
            self.told.add(path)
            self.problems.append(Problem(self.file, line or self.line(path), path, text))


def dotted(path: Path) -> str:
    """cameras.front.outputs[0].fps"""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            part = shown(part)
            text += ("." if text else "") + (part if re.fullmatch(r"[\w-]+", part) else f'"{part}"')
    return text


def shown(text: str) -> str:
    """The beginning of a key or a word, for a message. What follows the first space, colon or other sign may
    be a secret: `password:secret` is a key, because a space is missing."""
    match = re.match(r"[a-z]{1,9}://|[\w.*+-]*", text)
    word = match[0][:_LONGEST] if match is not None else ""
    return word if word == text else word + "..."
