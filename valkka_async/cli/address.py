# SPDX-License-Identifier: MIT
"""The URL of a camera from the command line, from standard input or from a terminal.

All users of a machine can read the arguments of every process, so a password should not be among them.
"""

from __future__ import annotations

import getpass
import re
import sys
from urllib.parse import quote, unquote

from valkka_async.camera.source.secrets import Address, parse

_LONGEST = 65536  # characters of a URL


def read_url(argument: str) -> str:
    """The URL that the argument means: "-" is a line of standard input. On a terminal the password is asked
    for if the URL has a user without one. Raises ValueError, EOFError when there is no line."""
    url = argument
    if argument == "-":
        if sys.stdin.isatty():
            print("URL: ", end="", file=sys.stderr, flush=True)
        url = sys.stdin.readline(_LONGEST).strip()
        if not url:
            raise EOFError("there is no URL on standard input")
    address = parse(url)
    login = user(address)
    if login is None or not sys.stdin.isatty():
        return url
    password = getpass.getpass(f"Password of {unquote(login)} at {address.shown.partition('@')[2]}: ")
    if not password:
        return url
    return f"{address.scheme}://{login}:{quote(password, safe='')}@{address.url.partition('@')[2]}"


def user(address: Address) -> str | None:
    """The user, as in the URL, when it names one and no password."""
    if "://" not in address.url or address.scheme == "file":
        return None
    authority = re.split(r"[/?#]", address.url.partition("://")[2], maxsplit=1)[0]
    login, at, _ = authority.rpartition("@")
    return login if at and login and ":" not in login else None
