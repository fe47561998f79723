# SPDX-License-Identifier: MIT
"""Addresses of cameras as people write them in a config: what is wrong with one, and whose login it has."""

from __future__ import annotations

import re
from urllib.parse import quote

from valkka_async.camera.source import schemes
from valkka_async.camera.source.secrets import Address, parse

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)")
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")  # "lavfi:", "concat:": no path
# A host where a scheme should be: 10.0.0.7/live, me:secret@camera/live, camera.local:554/live
_HOST = re.compile(r"[^/\s]*@|\d{1,3}(\.\d{1,3}){3}\b|localhost\b|\[[0-9A-Fa-f:]+\]|[\w.-]+:\d+(/|$)")
_PORT = re.compile(r"(?:\[[^\]]*\]|[^:]*):([0-9]+)")
_LONGEST = 8192
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def check(url: str) -> Address:
    """The address, taken apart. Raises ValueError, whose text has no password."""
    if not url.strip():
        raise ValueError("an address, a path or lavfi:... belongs here, and there is nothing")
    if len(url) > _LONGEST:
        raise ValueError(f"an address has at most {_LONGEST} characters")
    if _CONTROL.search(url):
        raise ValueError("it has a line break or another control character; write it in one line")
    if _SCHEME.match(url) is None and _HOST.match(url):
        raise ValueError("an address begins with its protocol, as in rtsp://HOST/PATH")
    schemes.check(url)
    try:
        address = parse(url)
    except ValueError:
        raise ValueError(
            "there is no host in it: write rtsp://HOST/PATH, and the login into keys of its own, `user` and "
            "`password`"
        ) from None
    port = _PORT.fullmatch(_authority(address).rpartition("@")[2])
    if port and not 1 <= int(port[1][:6]) <= 65535:
        raise ValueError("a port is a number from 1 to 65535")  # not repeated: it may be meant as a password
    return address


def has_host(address: Address) -> bool:
    """Is it a place on the network, to which a user and a password may belong?"""
    return address.scheme not in ("file", "lavfi")


def has_login(address: Address) -> bool:
    """Does it have credentials of its own?"""
    return "@" in _authority(address)


def with_login(url: str, user: str, password: str) -> str:
    """The address with these credentials, which are percent-encoded here."""
    address = parse(url)
    login = encoded(user) + (":" + encoded(password) if password else "")
    return f"{address.scheme}://{login}@{address.url.partition('://')[2]}"


def encoded(login: str) -> str:
    """A user or a password for an address, percent-encoded."""
    # The environment may have bytes that are not UTF-8, which Python turns into surrogates.
    return quote(login, safe="", errors="surrogateescape")


def is_relative_path(url: str) -> bool:
    """Is it a path that depends on the current folder?"""
    return bool(url.strip()) and not url.startswith("/") and not _PREFIX.match(url) and not _HOST.match(url)


def _authority(address: Address) -> str:
    """The part with the host; what parse() has encoded has no other / ? # @ in its credentials."""
    if not has_host(address):
        return ""
    return re.split(r"[/?#]", address.url.partition("://")[2], maxsplit=1)[0]
