# SPDX-License-Identifier: MIT
"""Addresses of cameras, and how they are shown: never with a password.

FFmpeg has to be given the credentials inside the URL, and then puts the URL into its error messages and
its log. Whatever leaves this package goes through `Address.shown` or `Address.scrub` instead.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import quote, unquote

from valkka_async.camera.source import schemes

_Secret: TypeAlias = tuple[str, str, str]  # what is before it in an address, itself, what is behind it

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST = re.compile(r"(?:(?:\[[0-9A-Fa-f:.%]+\]|[^\s/?#@:\[\]]+)(?::\d{0,5})?|:\d{1,5})(?=[/?#]|$)")
_NOT_ENCODED = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9._~!$&'()*+,;=%-]")
# Cameras that take their credentials from the path or the query: ...?user=admin&password=secret
_PARAMETER = re.compile(r"(?i)((?:pass(?:w|wd|word)?|pwd|token|secret|auth|(?:api_?)?key)=)([^&;/\s]+)")


# An address in another one, as "concat:" has them
_EMBEDDED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^|]*")

_SAFE = 4  # characters from which on a secret can be replaced wherever it is; shorter ones are in any text


@dataclass(frozen=True)
class Address:
    """Where a source is. `str()` and `repr()` are safe to print; `url` is not."""

    scheme: str  # "rtsp", "http" ...; "file" for a path and what is built on one, "lavfi" for a filter graph
    url: str = field(repr=False)  # for FFmpeg, with percent-encoded credentials
    shown: str
    secrets: tuple[str, ...] = field(repr=False, default=())  # in every form, the longest first
    spots: tuple[tuple[str, str], ...] = field(repr=False, default=())  # what scrub() does to short ones

    def __str__(self) -> str:
        return self.shown

    @property
    def findable(self) -> tuple[str, ...]:
        """The secrets that are long enough to be told from any other text."""
        return tuple(secret for secret in self.secrets if len(secret) >= _SAFE)

    def scrub(self, text: str) -> str:
        """`text` without the URL's credentials, for a text that is not ours.

        A secret of less than four characters is only hidden where an address has it (":pw@", "pwd=pw"): it
        is part of words and numbers everywhere else.
        """
        if self.secrets:
            text = text.replace(self.url, self.shown)
        for secret in self.findable:
            text = text.replace(secret, "***")
        for spot, hidden in self.spots:
            text = text.replace(spot, hidden)
        return text


def parse(url: str | os.PathLike[str]) -> Address:
    """Take a URL, a path or "lavfi:graph" apart.

    Credentials should be percent-encoded. Raw ones are understood where they can be: in
    ``rtsp://me:p@ss:w/rd#@10.0.0.7/live`` no host ends before the last @, so that is where it begins.
    Raises ValueError, which does not repeat the credentials, for an address without a host, and for a scheme
    that is none of FFmpeg's.
    """
    text = os.fspath(url)
    if not isinstance(text, str) or not text.strip():
        raise ValueError("url must be a non-empty string or a path")
    if "\0" in text:  # FFmpeg would end there, and open something else
        raise ValueError("url contains a NUL, which no address and no path has")
    if _URL.fullmatch(text.strip()):
        text = text.strip()  # pasted with a line break
    schemes.check(text)
    if text.startswith("lavfi:"):
        return Address("lavfi", text.removeprefix("lavfi:"), text)
    match = _URL.fullmatch(text)
    if match is None:
        return _local(text)
    scheme, rest = match[1].lower(), match[2]
    if scheme in ("file", *schemes.WRAPPING):
        return Address("file", text, text)

    login, after = _split(rest)
    if not after:
        hidden = "***@" + rest.rpartition("@")[2] if "@" in rest else rest
        raise ValueError(
            f"no host in {scheme}://{_hide(hidden)}: write {scheme}://user:password@host:port/path and "
            "percent-encode special characters of the password (urllib.parse.quote(password, safe=''))"
        )
    if not login:
        tail, guessed = _guess(after)
        return _address(scheme, f"{scheme}://{after}", f"{scheme}://{tail}", [*guessed, *_parameters(after)])

    user, colon, password = login.partition(":")
    encoded = [_NOT_ENCODED.sub(lambda m: quote(m[0], safe=""), part) for part in (user, password)]
    pair = ":".join(unquote(part) for part in encoded)
    hidden = f"{user}:***" if colon else "***"
    known = [(":", form, "@") for form in (password, encoded[1], unquote(encoded[1]))]
    known.append(("", base64.b64encode(pair.encode()).decode(), ""))
    tail = _hide(after)
    if "@" in after:  # read by the book that is in the path; it may as well be the rest of the password
        rest_of_it, _, tail = after.rpartition("@")
        known += _pieces("", rest_of_it)
        tail = _hide(tail)
    if not colon:  # then the name is the secret, a token
        known += [("//", form, "@") for form in (user, encoded[0], unquote(encoded[0]))]
    return _address(
        scheme,
        f"{scheme}://{encoded[0]}{colon}{encoded[1]}@{after}",
        f"{scheme}://{hidden}@{tail}",
        [*known, *_parameters(after)],
    )


def _address(scheme: str, url: str, shown: str, known: Iterable[_Secret]) -> Address:
    known = [secret for secret in known if secret[1]]
    secrets = {secret for _, secret, _ in known}
    spots = {
        (f"{before}{secret}{after}", f"{before}***{after}")
        for before, secret, after in known
        if len(secret) < _SAFE
    }
    return Address(
        scheme,
        url,
        shown,
        tuple(sorted(secrets, key=len, reverse=True)),
        tuple(sorted(spots, key=lambda spot: len(spot[0]), reverse=True)),
    )


def _local(text: str) -> Address:
    """A path, or something local; perhaps with addresses in it, as "concat:http://...|http://..."."""
    path = schemes.as_path(text)
    if path is not text or not schemes.wraps(text):
        return Address("file", path, text)
    inner = [parse(match[0]) for match in _EMBEDDED.finditer(text)]
    urls, shown = iter(inner), iter(inner)
    return Address(
        "file",
        _EMBEDDED.sub(lambda _: next(urls).url, text),
        _EMBEDDED.sub(lambda _: next(shown).shown, text),
        tuple(secret for address in inner for secret in address.secrets),
        tuple(spot for address in inner for spot in address.spots),
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


def _guess(after: str) -> tuple[str, list[_Secret]]:
    """Hide what may be a password in "host..." although the URL, read by the book, has none there.

    ``rtsp://me:1234/x@10.0.0.7/live`` is host "me", port 1234; it was meant otherwise.
    """
    head, at, tail = after.rpartition("@")
    name, colon, password = head.partition(":")
    if not (at and colon):
        return _hide(after), []
    return _hide(f"{name}:***@{tail}"), _pieces(":", password)


def _pieces(before: str, password: str) -> list[_Secret]:
    """A password that is cut up where an address has its parts."""
    pieces = [piece for piece in re.split(r"[/?#]", password) if len(piece) >= _SAFE]
    return [(before, password, "@"), *(("", piece, "") for piece in pieces)]


def _hide(text: str) -> str:
    return _PARAMETER.sub(r"\1***", text)


def _parameters(text: str) -> list[_Secret]:
    return [(name, form, "") for name, value in _PARAMETER.findall(text) for form in (value, unquote(value))]
