# SPDX-License-Identifier: MIT
"""Names of servers, patterns of names, and what they are called in the runtime directory.

A server of this host has a plain name, "cam1". The ring of another host's camera is called HOST/CAMERA,
"garage/cam1", and what that host sent, before it was decoded, HOST/CAMERA/packets (link/). File names have no
slash, so there it is a "+", which no name has.
"""

from __future__ import annotations

import fnmatch
import re

from valkka_async.errors import InvalidNameError

NAME_MAX = 64  # characters, all parts and their slashes together: a socket's path has 107 bytes
_PART = re.compile(rf"[A-Za-z0-9._-]{{1,{NAME_MAX}}}")
_PARTS = 3
_SLASH = "+"
_WILD = str.maketrans("*?[]!", "xxxxx")
EVENTS = ".events"  # at the end of the names of rings of events


def check_name(name: str) -> str:
    """The name of a server of this host, if it is one. Raises InvalidNameError."""
    if not isinstance(name, str) or not _is_part(name):
        raise InvalidNameError(f"{name!r} is not a name for a server: 1 to 64 of A-Z a-z 0-9 . _ -")
    return name


def check_source(name: str) -> str:
    """A name to read from, if it is one: of a server of this host or of another's. Raises
    InvalidNameError."""
    if not isinstance(name, str) or not is_source(name):
        raise InvalidNameError(
            f"{name!r} is not a name for a server: 1 to 64 of A-Z a-z 0-9 . _ -, "
            "or HOST/CAMERA for a camera of another host"
        )
    return name


def check_pattern(pattern: str) -> str:
    """A name to read from, or a pattern of such names, if it is one. Raises InvalidNameError."""
    if not isinstance(pattern, str) or not is_source(pattern.translate(_WILD)):
        raise InvalidNameError(
            f"{pattern!r} is neither a name nor a pattern of names, such as front, cam* or */*"
        )
    return pattern


def is_source(name: str) -> bool:
    """Can a server have this name, on this host or on another?"""
    return len(name) <= NAME_MAX and name.count("/") < _PARTS and all(map(_is_part, name.split("/")))


def _is_part(name: str) -> bool:
    return _PART.fullmatch(name) is not None and name not in (".", "..")


def stem(name: str) -> str:
    """What its files are called in the runtime directory."""
    return name.replace("/", _SLASH)


def name_of(stem: str) -> str:
    """The name whose files are called so; "" if there can be none."""
    name = stem.replace(_SLASH, "/")
    return name if is_source(name) else ""


def matches(name: str, pattern: str) -> bool:
    """Does the pattern mean this name? Part by part: "*" means no camera of another host, "*/*" means all of
    them, and neither means what was sent before it was decoded. Rings of events, which nobody expects among
    frames, are meant by patterns that end as they do: "*.events"."""
    parts, wanted = name.split("/"), pattern.split("/")
    if parts[-1].endswith(EVENTS) and not wanted[-1].endswith(EVENTS):
        return False
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
