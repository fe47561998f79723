# SPDX-License-Identifier: MIT
"""Addresses of cameras, and how they are shown: never with a password.

FFmpeg has to be given the credentials inside the URL, and then puts the URL into its error messages and
its log. Whatever leaves this package goes through `Address.shown` or `Address.scrub` instead.
"""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST = re.compile(r"(?:(?:\[[0-9A-Fa-f:.%]+\]|[^\s/?#@:\[\]]+)(?::\d{0,5})?|:\d{1,5})(?=[/?#]|$)")
_NOT_ENCODED = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9._~!$&'()*+,;=%-]")
# Cameras that take their credentials from the path or the query: ...?user=admin&password=secret
_PARAMETER = re.compile(r"(?i)((?:pass(?:w|wd|word)?|pwd|token|secret|auth|(?:api_?)?key)=)([^&;/\s]+)")


@dataclass(frozen=True)
class Address:
    """Where a source is. `str()` and `repr()` are safe to print; `url` is not."""

    scheme: str  # "rtsp", "http" ...; "file" for a path, "lavfi" for a filter graph
    url: str = field(repr=False)  # for FFmpeg, with percent-encoded credentials
    shown: str
    secrets: tuple[str, ...] = field(repr=False, default=())

    def __str__(self) -> str:
        return self.shown

    def scrub(self, text: str) -> str:
        """`text` without the URL's credentials, for text that somebody else wrote."""
        text = text.replace(self.url, self.shown)
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def parse(url: str | os.PathLike[str]) -> Address:
    """Take a URL, a path or "lavfi:graph" apart.

    Credentials should be percent-encoded. Raw ones are understood where they can be: in
    ``rtsp://me:p@ss:w/rd#@10.0.0.7/live`` no host ends before the last @, so that is where it begins.
    Raises ValueError, which does not repeat the credentials, when there is no host at all.
    """
    text = os.fspath(url)
    if not isinstance(text, str) or not text:
        raise ValueError("url must be a non-empty string or a path")
    if text.startswith("lavfi:"):
        return Address("lavfi", text.removeprefix("lavfi:"), text)
    match = _URL.fullmatch(text)
    if match is None:
        return Address("file", text, text)
    scheme, rest = match[1].lower(), match[2]
    if scheme == "file":
        return Address("file", text, text)

    login, after = _split(rest)
    if not after:
        hidden = "***@" + rest.rpartition("@")[2] if "@" in rest else rest
        raise ValueError(
            f"no host in {scheme}://{_hide(hidden)}: write {scheme}://user:password@host:port/path and "
            "percent-encode special characters of the password (urllib.parse.quote(password, safe=''))"
        )
    if not login:
        return Address(scheme, f"{scheme}://{after}", f"{scheme}://{_guess(after)}", _parameters(after))

    user, colon, password = login.partition(":")
    encoded = [_NOT_ENCODED.sub(lambda m: quote(m[0], safe=""), part) for part in (user, password)]
    pair = ":".join(unquote(part) for part in encoded)
    hidden = f"{user}:***" if colon else "***"
    known = {password, encoded[1], unquote(encoded[1]), base64.b64encode(pair.encode()).decode()}
    tail = _guess(after)
    if "@" in after:  # read by the book that is in the path; it may as well be the rest of the password
        rest_of_it, _, tail = after.rpartition("@")
        known |= {rest_of_it, *(part for part in re.split(r"[/?#]", rest_of_it) if len(part) > 2)}
        tail = _hide(tail)
    if not colon:  # then the name is the secret, a token
        known |= {user, encoded[0], unquote(encoded[0])}
    secrets = sorted(known - {""}, key=len, reverse=True)
    return Address(
        scheme,
        f"{scheme}://{encoded[0]}{colon}{encoded[1]}@{after}",
        f"{scheme}://{hidden}@{tail}",
        (*secrets, *_parameters(after)),
    )


def _split(rest: str) -> tuple[str, str]:
    """What follows "scheme://", as (credentials, host and the rest); the latter is "" if there is none."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    login, at, host = authority.rpartition("@")
    if _HOST.fullmatch(host):
        return login, rest[len(login) + len(at) :]
    for match in reversed(list(re.finditer("@", rest))):
        if _HOST.match(rest, match.end()):
            return rest[: match.start()], rest[match.end() :]
    return "", ""


def _guess(after: str) -> str:
    """Hide what may be a password in "host..." although the URL, read by the book, has none there.

    ``rtsp://me:1234/x@10.0.0.7/live`` is host "me", port 1234; whoever wrote it meant something else.
    """
    head, at, tail = after.rpartition("@")
    name, colon, _ = head.partition(":")
    return _hide(f"{name}:***@{tail}" if at and colon else after)


def _hide(text: str) -> str:
    return _PARAMETER.sub(r"\1***", text)


def _parameters(text: str) -> tuple[str, ...]:
    values = {value for _, value in _PARAMETER.findall(text)}
    return tuple(sorted(values | {unquote(value) for value in values}, key=len, reverse=True))
