# SPDX-License-Identifier: MIT
"""Addresses of cameras as people write them in a config: what is wrong with one, and whose login it has."""

from __future__ import annotations

import re
from urllib.parse import quote

from valkka_async.camera.source.secrets import Address, NoHostError, parse

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)")
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")  # "lavfi:", "concat:": no path
# A host where a scheme should be: 10.0.0.7/live, me:secret@camera/live, camera.local:554/live
_HOST = re.compile(r"[^/\s]*@|\d{1,3}(\.\d{1,3}){3}\b|localhost\b|\[[0-9A-Fa-f:]+\]|[\w.-]+:\d+(/|$)")
_LONGEST = 8192
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def check(url: str) -> Address:
    """The address, taken apart. Raises ValueError, whose text has nothing of it."""
    if not url.strip():
        raise ValueError("an address, a path or lavfi:... belongs here, and there is nothing")
    if len(url) > _LONGEST:
        raise ValueError(f"an address has at most {_LONGEST} characters")
    if _CONTROL.search(url):
        raise ValueError("it has a line break or another control character; write it in one line")
    if _SCHEME.match(url) is None and _HOST.match(url):
        raise ValueError("an address begins with its protocol, as in rtsp://HOST/PATH")
    try:
        return parse(url)
    except NoHostError:
        raise ValueError(
            "there is no host in it: write rtsp://HOST/PATH, and the login into keys of its own, `user` and "
            "`password`"
        ) from None


def has_host(address: Address) -> bool:
    """Is it a place on the network, to which a user and a password may belong?"""
    return address.scheme not in ("file", "lavfi", "v4l2")


def has_login(address: Address) -> bool:
    """Does it have credentials of its own?"""
    return "@" in _authority(address)


def takes_login(url: str) -> bool:
    """Is it an address on the network that has no credentials of its own?"""
    address = parse(url)
    return has_host(address) and not has_login(address)


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
    if not url.strip() or url.startswith("/") or _PREFIX.match(url) or _HOST.match(url):
        return False
    try:
        return parse(url).scheme == "file"
    except ValueError:  # an address, more or less: behind a folder's name it would look like a path
        return False


def _authority(address: Address) -> str:
    """The part with the host; what parse() has encoded has no other / ? # @ in its credentials."""
    if not has_host(address):
        return ""
    return re.split(r"[/?#]", address.url.partition("://")[2], maxsplit=1)[0]
