# SPDX-License-Identifier: MIT
"""What a link does, as checked data: who the other hosts are, and what each may read. No Zenoh here."""

from __future__ import annotations

import fnmatch
import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from valkka_async.link.keys import Content
from valkka_async.ring.names import check_name

Pixels = Literal["rgb24", "bgr24", "rgba", "bgra", "gray8", "nv12", "yuv420p"]
HOST_MAX = 24  # characters: a ring's name, HOST/CAMERA/packets, has 64
_PATTERN = re.compile(r"[A-Za-z0-9._*-]{1,64}")


class Endpoint(NamedTuple):
    """Where a host listens, or is to be reached: "tcp/127.0.0.1:7447", "tls/garage.lan:7447"."""

    protocol: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Raises ValueError."""
        match = re.fullmatch(r"(tcp|tls)/(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", text)
        if match is None or not 0 < int(match[3]) < 65536:
            raise ValueError(f"an endpoint is tcp/HOST:PORT or tls/HOST:PORT, not {text!r}")
        return cls(match[1], match[2].strip("[]"), int(match[3]))

    @property
    def is_loopback(self) -> bool:
        """Does it stay on this machine?"""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files in PEM: this host's certificate, whose common name is the host's name; its key; and the authority
    that has signed those of all hosts."""

    certificate: str
    key: str = field(repr=False)
    authority: str


@dataclass(frozen=True, slots=True)
class PeerSpec:
    """Another host.

    ``connect``: where it listens; without it that host has to connect to this one. ``export``: patterns of
    names of cameras that it may read; ``metadata``: of rings of format "bytes"; ``raw``: of rings of pixels
    or arrays. ``imports``: patterns of names of what it has that have rings here. ``format`` is that of its
    cameras' rings. ``max_rate``: bytes per second that are sent to it, at most.
    """

    name: str
    connect: tuple[str, ...] = ()
    export: tuple[str, ...] = ()
    imports: tuple[str, ...] = ("*",)
    format: Pixels = "rgb24"
    max_rate: float | None = None
    metadata: tuple[str, ...] = ()
    raw: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_host(self.name)
        for text in self.connect:
            Endpoint.parse(text)
        for pattern in (*self.export, *self.imports, *self.metadata, *self.raw):
            if not _PATTERN.fullmatch(pattern):
                raise ValueError(
                    f"{self.name}: a camera's name, or a pattern with * for any characters, not {pattern!r}"
                )
        if self.max_rate is not None and not 0 < self.max_rate < 1e12:
            raise ValueError(f"{self.name}: max_rate is above 0 bytes per second, not {self.max_rate!r}")

    def patterns(self, content: Content) -> tuple[str, ...]:
        """Of what it may read."""
        return {Content.CAMERA: self.export, Content.METADATA: self.metadata, Content.RAW: self.raw}[content]

    def may_read(self, name: str, content: Content = Content.CAMERA) -> bool:
        """May that host read this camera of ours, or this ring of metadata or raw frames?"""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns(content))

    def imported(self, name: str) -> bool:
        """Does this camera, or this ring, of that host have a ring here?"""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.imports)


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """A host's link. Without certificates all endpoints are this machine's own. Raises ValueError."""

    host: str
    peers: tuple[PeerSpec, ...]
    listen: tuple[str, ...] = ()
    certificates: Certificates | None = None

    def __post_init__(self) -> None:
        check_host(self.host)
        names = [peer.name for peer in self.peers]
        for name in names:
            if names.count(name) > 1 or name == self.host:
                raise ValueError(f"two hosts are called {name!r}: each has a name of its own")
        for text in self.endpoints():
            endpoint = Endpoint.parse(text)
            if self.certificates is None and (endpoint.protocol == "tls" or not endpoint.is_loopback):
                raise ValueError(
                    f"{text}: between machines a link needs `certificates`, which say who is who; without "
                    "them it is tcp/127.0.0.1:PORT alone"
                )
            if self.certificates is not None and endpoint.protocol != "tls":
                raise ValueError(f"{text}: with certificates an endpoint is tls/HOST:PORT")
        if not self.endpoints():
            raise ValueError("a link needs an endpoint: `listen` here, or `connect` of a peer")

    def endpoints(self) -> tuple[str, ...]:
        """All of them: where it listens, then where it connects to."""
        return (*self.listen, *(text for peer in self.peers for text in peer.connect))

    def by_name(self) -> Mapping[str, PeerSpec]:
        return {peer.name: peer for peer in self.peers}


def check_host(name: str) -> str:
    """The name of a host, if it is one. Raises InvalidNameError, ValueError."""
    check_name(name)
    if len(name) > HOST_MAX:
        raise ValueError(f"a host's name has at most {HOST_MAX} characters, not {len(name)}")
    return name


def this_host() -> str:
    """What this machine is called, where the config does not say."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0])[:HOST_MAX] or "host"
