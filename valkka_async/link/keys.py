# SPDX-License-Identifier: MIT
"""What is said between hosts has these names, in Zenoh's words key expressions.

    va/live/HOST/VERSION/EPOCH              a token: this host is there, and speaks this version
    va/1/HOST/EPOCH/cam/READER/CAMERA       a token: READER may read this camera
    va/1/HOST/EPOCH/want/READER/CAMERA/N    a token: READER wants it, and listens
    va/1/HOST/EPOCH/to/READER/CAMERA/N      its access units (unit.py), for this request alone
    va/1/HOST/EPOCH/meta/READER/RING        the same of a ring of metadata: READER may read it,
    va/1/HOST/EPOCH/ask/READER/RING/N       wants it,
    va/1/HOST/EPOCH/tell/READER/RING/N      and gets it
    va/1/HOST/EPOCH/raw/READER/RING         the same of a ring of raw frames: READER may read it,
    va/1/HOST/EPOCH/pull/READER/RING/N      wants it,
    va/1/HOST/EPOCH/push/READER/RING/N      and gets it
    va/1/HOST/EPOCH/got/READER/RING/N       an acknowledgement of a raw frame (window.py)
    va/1/HOST/EPOCH/clock/READER            a question for the time

An EPOCH is one life of a host's link. A token goes with the session that has declared it, however that ends.
Of the version only the first line must never change.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from valkka_async.ring.names import is_source

VERSION = "1"
LIVE = "va/live/*/*/*"


class Content(Enum):
    """What a host has for others. The value: the kinds of keys that offer it, ask for it and send it."""

    CAMERA = ("cam", "want", "to")  # its access units
    METADATA = ("meta", "ask", "tell")
    RAW = ("raw", "pull", "push")  # pixels, and arrays

    @property
    def offer(self) -> str:
        return self.value[0]

    @property
    def request(self) -> str:
        return self.value[1]

    @property
    def units(self) -> str:
        return self.value[2]


_CONTENTS = {kind: content for content in Content for kind in content.value}
OFFERS = tuple(content.offer for content in Content)
REQUESTS = tuple(content.request for content in Content)
UNITS = tuple(content.units for content in Content)
GOT = "got"


class Live(NamedTuple):
    """A host that is there."""

    host: str
    version: str
    epoch: str

    @property
    def key(self) -> str:
        return f"va/live/{self.host}/{self.version}/{self.epoch}"


class Key(NamedTuple):
    """Something about a host's camera, or another ring of its, between it and a reading host."""

    host: str
    epoch: str
    kind: str  # "clock", GOT, or one of a Content
    reader: str
    camera: str = ""
    number: str = ""

    def of_kind(self, kind: str) -> Key:
        """The same about something else."""
        return self._replace(kind=kind)

    @property
    def content(self) -> Content:
        """Of a key that offers, asks for or sends something."""
        return _CONTENTS[self.kind]

    @property
    def to(self) -> Key:
        """Where a request is answered."""
        return self.of_kind(self.content.units)

    @property
    def text(self) -> str:
        return "/".join(part for part in (f"va/{VERSION}", *self) if part)


def parse_live(text: str) -> Live | None:
    """None: it is something else."""
    parts = text.split("/")
    return Live(*parts[2:]) if len(parts) == 5 and parts[:2] == ["va", "live"] and _named(parts[2:]) else None


def parse(text: str) -> Key | None:
    """None: it is something else."""
    parts = text.split("/")
    if len(parts) < 6 or len(parts) > 8 or parts[:2] != ["va", VERSION] or not _named(parts[2:]):
        return None
    return Key(*parts[2:])


def _named(parts: list[str]) -> bool:
    return all(part and is_source(part) for part in parts)


def everything(host: str, epoch: str, kind: str) -> str:
    """A pattern of Zenoh's: all keys of this kind."""
    return f"va/{VERSION}/{host}/{epoch}/{kind}/**"
