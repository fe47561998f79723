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
from urllib.parse import quote, unquote

from valkka_async.camera.source import schemes
from valkka_async.camera.source.hide import HIDDEN, Secret, hide, hide_path, looks_random

ENCODE = (
    "write each special character of the user and the password as % and its code: %40 for @, %3A for :, "
    "%2F for /, %3F for ?, %23 for #, %25 for %"
)

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST = re.compile(r"(?:(?:\[[0-9A-Fa-f:.%]+\]|[^\s/?#@:\[\]\"'<>\\]+)(?::(\d*))?|:(\d+))(?=[/?#]|$)")
_NOT_ENCODED = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9._~!$&'()*+,;=%-]")
_USER = re.compile(r"[\w.%+@ -]{0,64}")
_AROUND = " \t\r\n\f\v\u00a0\u2000-\u200f\u2028-\u202f\u2060\ufeff"  # pasted with an address, and not seen
_EDGES = re.compile(rf"[{_AROUND}]*(.*?)[{_AROUND}]*", re.DOTALL)
_SCHEMED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
# Line breaks, invisible characters, halves of characters: no address has them
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060\ud800-\udfff\ufeff]")

# An address in another one, as "concat:" has them
_EMBEDDED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^|]*")
_GRAPH = re.compile(r"([/\\]+).*@", re.DOTALL)  # movie=http\\://me:secret@cam in a filter graph
_PORTS = 65535
_LOGIN = 127  # characters that libavformat/rtsp.h has room for

_SAFE = 4  # characters from which on a secret can be replaced wherever it is; shorter ones are in any text


class NoHostError(ValueError):
    """It is an address, and has no host."""


@dataclass(frozen=True)
class Address:
    """Where a source is. `str()` and `repr()` are safe to print; `url` is not."""

    # "rtsp", "http" ...; "file" for a path and what is built on one, "lavfi" for a filter graph, "v4l2" for a
    # device of this machine
    scheme: str
    url: str = field(repr=False)  # for FFmpeg, with percent-encoded credentials
    shown: str
    secrets: tuple[str, ...] = field(repr=False, default=())  # in every form, the longest first
    spots: tuple[tuple[str, str], ...] = field(repr=False, default=())  # what scrub() does to the other ones

    def __str__(self) -> str:
        return self.shown

    @property
    def findable(self) -> tuple[str, ...]:
        """The secrets that are long enough to be told from any other text."""
        return tuple(secret for secret in self.secrets if len(secret) >= _SAFE)

    def scrub(self, text: str) -> str:
        """`text` without the URL's credentials, for a text that is not ours.

        A secret of less than four characters, and a value that is perhaps none, are only hidden where an
        address has them (":pw@", "pwd=pw"): they are parts of words and numbers everywhere else.
        """
        if self.url != self.shown:
            text = text.replace(self.url, self.shown)
        for secret in self.findable:
            text = text.replace(secret, HIDDEN)
        for spot, hidden in self.spots:
            text = text.replace(spot, hidden)
        return text


def parse(url: str | os.PathLike[str]) -> Address:
    """Take a URL, a path or "lavfi:graph" apart.

    Credentials should be percent-encoded. Raw ones are understood where they can be: in
    ``rtsp://me:p@ss:w/rd#@10.0.0.7/live`` no host ends before the last @, so that is where it begins.

    Raises ValueError for whatever is meant as an address and is none: without a host, with a scheme that
    is none of FFmpeg's, with quotes around it. The message repeats nothing of it, because nobody knows where
    in such a text the password is.
    """
    text = os.fspath(url)
    if not isinstance(text, str) or not text.strip():
        raise ValueError("url must be a non-empty string or a path")
    if "\0" in text:  # FFmpeg would end there, and open something else
        raise ValueError("url contains a NUL, which no address and no path has")
    edges = _EDGES.fullmatch(text)
    if edges is not None and _SCHEMED.match(edges[1]):
        text = edges[1]  # pasted with a line break or a byte order mark
    schemes.check(text)
    if text.startswith("lavfi:"):
        return _graph(text)
    if (device := schemes.device(text)) is not None:
        return Address("v4l2", device, device)
    match = _URL.fullmatch(text)
    if match is None or (scheme := match[1].lower()) in ("file", *schemes.WRAPPING):
        return _local(text)
    if _CONTROL.search(text):
        raise ValueError(
            "it has a line break or another character that is not seen; write it again, in one line"
        )

    login, after = _split(match[2])
    if not login:
        tail, guessed = _guess(after)
        return _address(scheme, f"{scheme}://{after}", f"{scheme}://{tail}", guessed)

    user, colon, password = login.partition(":")
    encoded = [_NOT_ENCODED.sub(lambda m: quote(m[0], safe=""), part) for part in (user, password)]
    if scheme in ("rtsp", "rtsps") and len(encoded[0]) + 1 + len(encoded[1]) > _LOGIN:
        raise ValueError(
            f"its user and password have more than {_LOGIN} characters, as they are written in an address, "
            "and FFmpeg would cut them off; give the camera a shorter password"
        )
    pair = ":".join(unquote(part) for part in encoded)
    seen = _USER.fullmatch(user) and not looks_random(user)
    known = [Secret(":", form, "@") for form in (password, encoded[1], unquote(encoded[1]))]
    known.append(Secret("", base64.b64encode(pair.encode()).decode(), ""))
    if "@" in after:  # read by the book that is in the path; it may as well be the rest of the password
        rest_of_it, _, tail = after.rpartition("@")
        known += _pieces("", rest_of_it)
        tail, more = hide(tail)
    else:
        tail, more = hide(after)
    if not colon or not seen:  # then the name is the secret, a token
        known += [
            Secret("//", form, "@" if not colon else ":") for form in (user, encoded[0], unquote(encoded[0]))
        ]
    hidden = (f"{user if seen else HIDDEN}:{HIDDEN}") if colon else HIDDEN
    return _address(
        scheme,
        f"{scheme}://{encoded[0]}{colon}{encoded[1]}@{after}",
        f"{scheme}://{hidden}@{tail}",
        [*known, *more],
    )


def _address(scheme: str, url: str, shown: str, known: Iterable[Secret]) -> Address:
    known = [secret for secret in known if secret.text]
    secrets = {secret.text for secret in known if secret.sure}
    spots = {
        (f"{before}{secret}{after}", f"{before}{HIDDEN}{after}")
        for before, secret, after, sure in known
        if (len(secret) < _SAFE or not sure) and (before or after)
    }
    return Address(
        scheme,
        url,
        shown,
        tuple(sorted(secrets, key=len, reverse=True)),
        tuple(sorted(spots, key=lambda spot: len(spot[0]), reverse=True)),
    )


def _graph(text: str) -> Address:
    """A filter graph, whose sources may be addresses with a login."""
    shown = _GRAPH.sub(rf"\1{HIDDEN}@", text)
    url = text.removeprefix("lavfi:")
    known = []
    if shown != text and (match := _GRAPH.search(text)):
        known = _pieces("", match[0][len(match[1]) : -1])
    for begin in re.finditer(r"/\\*/[^?#]*[?#](\S*)", shown):
        tail, more = hide("?" + begin[1])
        shown, known = shown.replace("?" + begin[1], tail), known + more
    return _address("lavfi", url, shown, known)


def _local(text: str) -> Address:
    """A path, or something local; perhaps with addresses in it, as "concat:http://...|http://..."."""
    if not schemes.wraps(text):
        schemes.check_path(text)
        path, known = hide_path(text)
        return _address("file", schemes.as_path(text), path, known)
    outer = _SCHEMED.match(text)
    begin = outer.end() if outer is not None else 0  # "cache://http://host" as well as "cache:http://host"
    inner = [parse(match[0]) for match in _EMBEDDED.finditer(text, begin)]
    urls, shown = iter(inner), iter(inner)
    rest = _EMBEDDED.sub("", text[begin:])
    if "@" in rest and re.search(r"[:/\\].*@", rest):  # a login in what is no address
        raise ValueError(
            "there is a login in it, in a place where no address is; write scheme://user:password@host"
        )
    return Address(
        "file",
        text[:begin] + _EMBEDDED.sub(lambda _: next(urls).url, text[begin:]),
        text[:begin] + _EMBEDDED.sub(lambda _: next(shown).shown, text[begin:]),
        tuple(secret for address in inner for secret in address.secrets),
        tuple(spot for address in inner for spot in address.spots),
    )


def _split(rest: str) -> tuple[str, str]:
    """What follows "scheme://", as (credentials, host and the rest). Raises NoHostError, and ValueError for a
    port that is none."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    login, at, host = authority.rpartition("@")
    found = _HOST.fullmatch(host)
    if found is not None and _is_port(found):
        return login, rest[len(login) + len(at) :]
    beyond = found is not None
    if not rest.startswith("/"):
        for match in reversed(list(re.finditer("@", rest))):
            found = _HOST.match(rest, match.end())
            if found is not None and _is_port(found):
                return rest[: match.start()], rest[match.end() :]
            beyond = beyond or found is not None
    if beyond:
        raise ValueError(f"its port is none: a port is a number from 1 to {_PORTS}")
    raise NoHostError(f"there is no host in it: write PROTOCOL://USER:PASSWORD@HOST:PORT/PATH, and {ENCODE}")


def _is_port(host: re.Match[str]) -> bool:
    port = host[1] or host[2]
    return not port or (len(port) <= 5 and port.isascii() and 1 <= int(port) <= _PORTS)


def _guess(after: str) -> tuple[str, list[Secret]]:
    """Hide what may be a password in "host..." although the URL, read by the book, has none there.

    ``rtsp://me:1234/x@10.0.0.7/live`` is host "me", port 1234; it was meant otherwise.
    """
    head, at, _ = after.rpartition("@")
    name, colon, password = head.partition(":")
    if not (at and colon):
        return hide(after)
    tail, behind = hide(after[len(head) + 1 :])
    front, before = hide(name)
    return f"{front}:{HIDDEN}@{tail}", [*_pieces(":", password), *before, *behind]


def _pieces(before: str, password: str) -> list[Secret]:
    """A password that is cut up where an address has its parts."""
    forms = {password, unquote(password)}
    pieces = {piece for form in forms for piece in re.split(r"[/?#:\\]", form) if len(piece) >= _SAFE}
    return [*(Secret(before, form, "@") for form in forms), *(Secret("", piece, "") for piece in pieces)]
