# SPDX-License-Identifier: MIT
"""${NAME} in the texts of a config, from a secrets file or the environment.

Values are put in after the file was parsed, so a value is never anything but text: a password with quotes,
colons or line breaks in it changes nothing else.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from valkka_async.service.config.addresses import encoded
from valkka_async.service.config.problems import ConfigError, Document, Path, Problem

BYTES_MAX = 1 << 20  # of a config, or a secrets file
_EXPANDED_MAX = 4 << 20  # characters of all values that are put in: a long one may be named very often
_NAME = "[A-Za-z_][A-Za-z0-9_]*"
# $$, ${NAME}, ${NAME:-default}, and ${ which is none of these. Any other $ is a dollar.
_PIECE = re.compile(rf"\$\$|\$\{{(?P<name>{_NAME})(?::-(?P<default>[^}}]*))?\}}|\$\{{")
_LOGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)@")
_BYTES = re.compile("[\ud800-\udfff]")  # of the environment, that are not UTF-8
_QUOTES = ("'", '"')
_LINE = re.compile(rf"(?:export\s+)?({_NAME})\s*=\s*(.*)", re.DOTALL)


class Secrets:
    """Where values come from: a file first, then the environment."""

    def __init__(
        self, environment: Mapping[str, str], file: str = "", values: Mapping[str, str] | None = None
    ) -> None:
        self._environment = environment
        self._file = file  # as the config names it; "": there is none
        self._values = values  # None: it cannot be used, which is told elsewhere
        self._left = _EXPANDED_MAX

    def get(self, name: str) -> str | None:
        """None: there is no such value."""
        value = (self._values or {}).get(name)
        return self._environment.get(name) if value is None else value

    def use(self, value: str, document: Document, path: Path) -> None:
        """Count a value that is put in. Raises ConfigError when all of them would fill the memory."""
        self._left -= len(value)
        if self._left < 0:
            text = f"with what ${{...}} stands for, the file has more than {_EXPANDED_MAX >> 20} MB"
            raise ConfigError([Problem(document.file, document.line(path), path, text)])

    def advice(self, name: str) -> str:
        """What to do about a missing value; "" if this was said elsewhere."""
        if not self._file:
            return (
                f"{name} is not in the environment, and there is no secrets file: set it, or name a file "
                f"with the line {name}=... (secrets: secrets.env)"
            )
        if self._values is None:
            return ""
        return (
            f"{name} is neither in {self._file} nor in the environment: add the line {name}=... to "
            f"{self._file}, or set it"
        )


def expand(document: Document, secrets: Secrets) -> set[Path]:
    """Put in the values, everywhere in the data. Returns the paths of texts that have some, which may be
    secret. Raises ConfigError when they are too large together."""
    expanded: set[Path] = set()

    def walk(value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            return {key: walk(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*path, i)) for i, item in enumerate(value)]
        if isinstance(value, str) and "$" in value and path != ("secrets",):  # that one names the file
            text = expand_text(value, path, document, secrets)
            if text != value:
                expanded.add(path)
            return text
        return value

    document.data = walk(document.data, ())
    return expanded


def expand_text(text: str, path: Path, document: Document, secrets: Secrets) -> str:
    """The text with its values; a missing value is a problem of the document. Raises ConfigError as expand()
    does."""
    # An address's user and password may have any characters. A piece counts as harmless ones: what is in it
    # does not end them.
    shape = _PIECE.sub(lambda piece: "\0" * len(piece[0]), text)
    address = path[-1:] == ("url",) or path[-2:-1] == ("streams",)
    login = _LOGIN.match(shape) if address else None
    problems: list[str] = []

    def value(piece: re.Match[str]) -> str:
        if piece[0] == "$$":
            return "$"
        if piece["name"] is None:
            problems.append("${NAME} or ${NAME:-default} is meant, or $$ for a dollar")
            return piece[0]
        found = secrets.get(piece["name"])
        if not found and piece["default"] is not None:
            found = piece["default"]
        if found is None:
            problems.append(_missing(piece["name"], path, secrets))
            return piece[0]
        secrets.use(found, document, path)
        if login is not None and piece.start() < login.end(1):
            if ":" not in login[1] and ":" in found:  # both of them in one: no user has a colon
                user, _, password = found.partition(":")
                return f"{encoded(user)}:{encoded(password)}"
            return encoded(found)
        if _BYTES.search(found):
            problems.append(f"{piece['name']} is not UTF-8 text")
            return piece[0]
        return found

    result = _PIECE.sub(value, text)
    if problems:
        told = "; ".join(dict.fromkeys(problem for problem in problems if problem))
        if told:
            document.problem(path, told)
        document.told.add(path)
    return result


def _missing(name: str, path: Path, secrets: Secrets) -> str:
    if name in ("name", "n") and path[-1:] in (("recordings",), ("path",)):
        return f"the {'camera' if name == 'name' else 'number'} is {{{name}}} here, without the dollar"
    return secrets.advice(name)


class NotUtf8(ValueError):
    """The file is not text. `line`: the first one that is not, from 1 on."""

    def __init__(self, line: int) -> None:
        super().__init__("is not UTF-8 text; save it as UTF-8")
        self.line = line


def read_text(path: FilePath, *, private: bool = False) -> str:
    """A file of UTF-8 text, not too large, whose lines end in "\\n" here. `private`: nobody else may be
    allowed to open it.

    Raises ValueError with what is wrong and what to do. Does not wait for anything but the disk.
    """
    data = _read_bytes(path, private)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        before = bytes(e.object[: e.start]).decode("latin-1")
        raise NotUtf8(_in_lines(before).count("\n") + 1) from None
    return _in_lines(text)


def _in_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_bytes(path: FilePath, private: bool) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("is not a file")
            if private and status.st_mode & _others(path):
                raise ValueError(f"may be opened by others: chmod 600 {shlex.quote(str(path))}")
            with open(fd, "rb", closefd=False) as file:
                data = file.read(BYTES_MAX + 1)
        finally:
            os.close(fd)
    except OSError as e:
        raise ValueError(f"cannot be read: {(e.strerror or 'no reason').lower()}") from None
    if len(data) > BYTES_MAX:
        raise ValueError("is larger than 1 MB: is it the right file?")
    return data


def _others(path: FilePath) -> int:
    """The bits of a file's mode that let others open it."""
    # systemd lets a service's user read its credentials by an access list, which looks like a right of the
    # group.
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return 0o007 if folder and path.parent == FilePath(folder) else 0o077


def read_secrets(file: str, path: FilePath, document: Document) -> dict[str, str]:
    """The NAME=value lines of a file. Other lines are problems of the document. Raises ValueError if the file
    cannot be used."""
    values: dict[str, str] = {}
    for number, line in enumerate(read_text(path, private=True).split("\n"), start=1):
        line = line.strip(" \t")
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if "\0" in line:
            problem = "this line has a NUL byte, and no text can have one: remove it"
        elif match is None:
            problem = "a line is NAME=value, or a comment that begins with #"
        elif match[1] in values:
            problem = f"{match[1]} is there twice; remove one"
        elif _half_quoted(match[2]):
            problem = (
                f"{match[1]} begins with a quote that is not its last character: put it into other quotes"
            )
        else:
            values[match[1]] = match[2][1:-1] if match[2][:1] in _QUOTES else match[2]
            continue
        document.problems.append(Problem(file, number, (), problem))
    return values


def _half_quoted(value: str) -> bool:
    quote = value[:1]
    return quote in _QUOTES and (len(value) < 2 or value.find(quote, 1) != len(value) - 1)
