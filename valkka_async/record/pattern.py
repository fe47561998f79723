# SPDX-License-Identifier: MIT
"""Names of recordings: a path with fields of strftime, {name} and {n}, and the files that these may name."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

_FIELDS = {"name": "", "n": r"(0?[0-9]{1,2}d?)?"}  # and how each may be formatted
_DIGITS = {"Y": 4, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2, "y": 2, "j": 3, "U": 2, "W": 2, "V": 2, "G": 4}
_SHORT = {"F": "%Y-%m-%d", "D": "%m/%d/%y", "T": "%H:%M:%S", "R": "%H:%M"}  # fields that are several
_FIELD = r"%[-_0^#+]*[0-9]*[EO]?."  # as glibc has them
_WORDS = set("AaBbhpP")  # names of days and months; no "-", so that no other camera's are meant
_SAMPLE = datetime(2026, 11, 30, 9, 8, 7)
_NUMBER = "\0n\0"  # in place of {n}, which no path has
_TAKEN = re.compile(r"(.+)-[0-9]+", re.S)  # the stem of a file's name, if the name was taken


class Found(NamedTuple):
    """A file that there is."""

    path: Path
    exact: bool  # without the "-2" of a name that was taken
    size: int
    mtime_ns: int


class Pattern:
    """Where a recording's files go. Raises ValueError, which says what may be in one."""

    def __init__(self, pattern: str, name: str) -> None:
        self._pattern = _plain(check(pattern, name))
        self._name = name
        self._parts = [_regex(part) for part in Path(self._pattern.format(name=name, n=_Number())).parts]
        try:
            known = self.owns(self.path(_SAMPLE, 1)) is not False
        except ValueError:  # signs that no text has: of a folder in another encoding
            known = False
        if not known:  # "%x" gives folders, by the language
            raise ValueError(
                f"pattern {pattern!r}: its files would not be found again; "
                "write the time as %Y-%m-%d and %H-%M-%S"
            )

    def path(self, begin: datetime, number: int) -> Path:
        """Of the file that begins then."""
        return Path(begin.strftime(self._pattern.format(name=self._name, n=number)))

    @property
    def root(self) -> Path:
        """The folder below which all its files are: what the pattern says without fields."""
        fixed = []
        for text, regex in self._parts[:-1]:
            if regex is not None:
                break
            fixed.append(text)
        return Path(*fixed)

    def owns(self, path: Path) -> bool | None:
        """Could this recording have written it? False: no. None: yes, where the name was taken."""
        parts = path.parts
        if len(parts) != len(self._parts) or parts.count("..") != self.root.parts.count(".."):
            return False
        for part, (text, regex) in zip(parts[:-1], self._parts[:-1], strict=True):
            if regex.fullmatch(part) is None if regex is not None else part != text:
                return False
        return self._names(path.name)

    def _names(self, name: str) -> bool | None:
        """As owns(), of a file's name alone."""
        text, regex = self._parts[-1]
        before = _TAKEN.fullmatch(Path(name).stem)
        for exact, one in ((True, name), (None, before and before[1] + Path(name).suffix)):
            if one and (one == text if regex is None else regex.fullmatch(one)):
                return exact
        return False

    def files(self) -> Iterator[Found]:
        """All that there are. Blocks. Only folders that the pattern names are looked into, and no links are
        followed; what cannot be looked at is left out."""
        root = self.root
        return self._below(root, len(root.parts))

    def _below(self, folder: Path, depth: int) -> Iterator[Found]:
        text, regex = self._parts[depth]
        last = depth == len(self._parts) - 1
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            return
        for entry in entries:
            try:
                entry.name.encode()
                if not last:
                    mine = entry.name == text if regex is None else regex.fullmatch(entry.name)
                    if mine and entry.is_dir(follow_symlinks=False):
                        yield from self._below(folder / entry.name, depth + 1)
                    continue
                exact = self._names(entry.name)
                if exact is not False and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    yield Found(folder / entry.name, exact is True, status.st_size, status.st_mtime_ns)
            except (OSError, UnicodeEncodeError):  # not text: no recording is called so
                continue


class _Number:
    """Takes the place of {n}, however that is formatted."""

    def __format__(self, spec: str) -> str:
        return _NUMBER


def check(pattern: str, name: str) -> str:
    """The pattern, if it is one. Raises ValueError."""
    try:
        fields = [(field, spec, how) for _, field, spec, how in string.Formatter().parse(pattern) if field]
        # `{n:9999999999}` would be a path of that many characters, and `{name.x}` is an attribute.
        good = all(
            how is None and re.fullmatch(_FIELDS.get(field, "(?!)"), spec or "")
            for field, spec, how in fields
        )
        path = pattern.format(name=name, n=1) if good else ""
    except (IndexError, ValueError):
        good, path = False, ""
    if not good:
        raise ValueError(f"pattern {pattern!r}: only {{name}}, {{n}} and {{n:04}} go in braces")
    if not os.path.basename(path) or "\0" in path:
        raise ValueError(f"pattern {pattern!r} is no path of a file")
    return pattern


def _plain(pattern: str) -> str:
    """With fields that stand for one thing each."""
    return re.sub("%(.)", lambda found: _SHORT.get(found[1], found[0]), pattern, flags=re.S)


def _regex(part: str) -> tuple[str, re.Pattern[str] | None]:
    """A part of a path: as it is, and what it may have become; None: nothing else."""
    plain = part.replace("%%", "%")
    if _NUMBER not in part and not re.search("%.", part.replace("%%", "")):
        return plain, None
    found = re.split(f"({_NUMBER}|{_FIELD})", part, flags=re.S)
    return plain, re.compile("".join(_piece(piece) for piece in found))


def _piece(piece: str) -> str:
    if piece == _NUMBER:
        return "[0-9]+"
    if not piece.startswith("%") or len(piece) == 1:
        return re.escape(piece)
    if piece == "%%":
        return "%"
    digits = _DIGITS.get(piece[1])
    if piece[-1] in _WORDS:
        return r"[^\W_]+\.?"
    return "[^/]+" if digits is None else f"[0-9]{{{digits}}}"
