# SPDX-License-Identifier: MIT
"""What of an address's path and query may be seen: what is known to be no secret, and nothing else.

Cameras take logins in every part of a URL (``?usr=me&pwd=x``, ``/user=me_password=x_channel=1.sdp``,
``/me:x/live``, ``/live/Xk3fJ2bPq9LmR7tz``), under names that nobody can list. So a value is shown where its
name or its shape says that it is none, and hidden everywhere else.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

HIDDEN = "***"

_SURE = re.compile(
    r"pass|pswd|pwd|psw|pw$|^pw|pas$|secret|token|auth|cred|key|^sig|session|hash|jwt|pin$|^p$|^sid$"
)
_FOLDER = re.compile(r"pass(w|wd|word|code|phrase)?|pswd|pwd|psw|pw|secret|token|api_?key|credentials?")
_KNOWN = frozenset(
    """
    action audio bitrate camera ch channel channelid channels codec compression compress connect
    connect_timeout container dsr enc enablesrtp endtime fifo_size format fps framerate h height latency
    listen listen_timeout localport localrtpport lossmaxttl maxbw media mode mtu payload pkt_size
    profile profile_name proto protocol quality rate ratectrl rcvbuf reorder_queue_size res resolution
    rotation smoother sndbuf starttime stime stream streamtype streamprofile sub subtype talk time
    timeout track transport transportmode transtype ttl tlpktdrop type unicast user user_name username
    usr loginuse video videocodec videocodectype videokeyframeinterval vcodec w width
    """.split()
)
_KNOWN_VALUE = re.compile(r"[A-Za-z][A-Za-z0-9_. -]{0,31}|[0-9]+(\.[0-9]+)?|[0-9A-Z]{8,16}[TZ][0-9Z]*")
_WORDS = frozenset(
    """
    true false yes no on off none auto main sub low high first second third tcp udp unicast multicast listener
    caller rendezvous live stream video audio jpg jpeg mjpg mjpeg h264 h265 hevc av1 mpeg4 onvif
    """.split()
)
_NUMBER = re.compile(r"-?[0-9]{1,3}(\.[0-9]{1,3})?|[0-9]{2,5}x[0-9]{2,5}")
_PAIR = re.compile(r"([^=]*)(=)(.*)", re.DOTALL)
_BETWEEN = re.compile(r"([&;,!|\s])")
_IN_PATH = re.compile(rf"{_BETWEEN.pattern[:-1]}|_(?=[A-Za-z][A-Za-z0-9]*=))")  # user=me_password=x_channel=1
_NAME = re.compile(r"[A-Za-z_.-]{1,32}")
_RUN = re.compile(r"[A-Za-z0-9]+")
_CLASSES = re.compile(r"[a-z]+|[A-Z]+|[0-9]+")
_LIKE = re.compile(r":/|//|[?]|(?i:^/+(rtsp|http|rtmp|srt|udp|tcp)s?:|(pass|pwd|pw|token|secret|cred)\w*=)")
_LOGIN = re.compile(r":(.*)@", re.DOTALL)
_RANDOM = 16  # letters and digits in one run, from which on they are thought to be drawn by chance
_MIXED = 10  # the same, where they alternate
_OFTEN = 4  # so often


class Secret(NamedTuple):
    """Something hidden: itself, and what is before and behind it in an address. `sure`: it is a secret, and
    not only something that may be one; so it is hidden wherever it is in texts of others."""

    before: str
    text: str
    after: str
    sure: bool = True


def hide(tail: str) -> tuple[str, list[Secret]]:
    """What follows the login ("host:port/path?query#fragment"), as it may be shown, and what it hides."""
    host = re.split(r"[/?#]", tail, maxsplit=1)[0]
    path, mark, query = _cut(tail[len(host) :])
    secrets: list[Secret] = []
    shown = host + _path(path, secrets) + mark + _pairs(query, secrets, mark)
    return shown, secrets


def hide_path(path: str) -> tuple[str, list[Secret]]:
    """The same of a file's path, in which there is something to hide only where it looks like an address."""
    secrets: list[Secret] = []
    before = ""
    if (login := _LOGIN.search(path)) is not None:
        secrets += _forms(":", login[1], "@")
        before, path = f"{path[: login.start()]}:{HIDDEN}@", path[login.end() :]
    if _LIKE.search(path) is None:
        return before + path, secrets
    path, mark, query = _cut(path)
    return before + _path(path, secrets) + mark + _pairs(query, secrets, mark), secrets


def looks_random(text: str) -> bool:
    """Does it look as if drawn by chance, as keys and tokens are?"""
    for run in _RUN.findall(text):
        letters = any(c.isalpha() for c in run)
        digits = any(c.isdigit() for c in run)
        changes = len(_CLASSES.findall(run)) - 1 - run[:1].isupper()
        if len(run) >= _RANDOM and letters and digits:
            return True
        if len(run) >= _MIXED and changes >= _OFTEN:
            return True
    return False


def _cut(rest: str) -> tuple[str, str, str]:
    match = re.search(r"[?#]", rest)
    return (rest[: match.start()], match[0], rest[match.end() :]) if match else (rest, "", "")


def _path(path: str, secrets: list[Secret]) -> str:
    shown = []
    before = ""
    for segment in path.split("/"):
        name = unquote(before).lower()
        if segment and _FOLDER.fullmatch(name):
            secrets += _forms(f"{before}/", segment)
            shown.append(HIDDEN)
        else:
            shown.append(_segment(segment, secrets))
        before = segment
    return "/".join(shown)


def _segment(segment: str, secrets: list[Secret]) -> str:
    plain = unquote(segment)
    if plain != segment and re.search(r"[:@=&]", plain):  # encoded, so that nobody sees that it is a login
        secrets += _forms("/", segment)
        return HIDDEN
    if "=" in segment:
        return _pairs(segment, secrets, "/", _IN_PATH)
    login, at, rest = segment.rpartition("@")
    if at:
        secrets += _forms("/", login, "@")
        secrets += [Secret("", piece, "") for piece in login.split(":")[1:] if piece]
        return f"{HIDDEN}@{_segment(rest, secrets)}"
    name, colon, value = segment.partition(":")
    if colon and value and not _NUMBER.fullmatch(value):
        secrets += _forms(f"{name}:", value)
        return f"{name}:{HIDDEN}"
    if looks_random(segment):
        secrets += _forms("/", segment)
        return HIDDEN
    return segment


def _pairs(text: str, secrets: list[Secret], before: str, between: re.Pattern[str] = _BETWEEN) -> str:
    """Pairs of names and values, and single words among them."""
    shown = []
    for number, piece in enumerate(between.split(text)):
        if number % 2:  # what is between two of them
            shown.append(piece)
            before = piece
            continue
        match = _PAIR.fullmatch(piece)
        name, equals, value = (match[1], match[2], match[3]) if match else ("", "", piece)
        begin = name + equals
        if name and not (_NAME.fullmatch(name) or name.lower() in _KNOWN):
            secrets += _forms(before, name, equals, sure=looks_random(name))
            begin = HIDDEN + equals
        if not may_be_seen(unquote(name), unquote(value)):
            sure = bool(_SURE.search(unquote(name).lower())) or looks_random(value)
            secrets += _forms(name + equals or before, value, sure=sure)
            value = HIDDEN
        shown.append(begin + value)
    return "".join(shown)


def may_be_seen(name: str, value: str) -> bool:
    """Is this value of a query certainly no secret? `name` "": it has none."""
    if not value:
        return True
    name = name.lower()
    if _SURE.search(name):
        return False
    if value.lower() in _WORDS or _NUMBER.fullmatch(value):
        return True
    return name in _KNOWN and _KNOWN_VALUE.fullmatch(value) is not None and not looks_random(value)


def _forms(before: str, text: str, after: str = "", *, sure: bool = True) -> list[Secret]:
    return [Secret(before, form, after, sure) for form in {text, unquote(text)}]
