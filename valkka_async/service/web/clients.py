# SPDX-License-Identifier: MIT
"""Who a client is, for limits, and how often the log tells what clients can cause."""

from __future__ import annotations

import ipaddress
import math
import time


def share(limit: int) -> int:
    """How much of what there is one client may have: a quarter is left for others."""
    return limit - limit // 4


def client_of(host: str | None) -> str:
    """The client at an address, for limits: of IPv6 the network, of which one client has 2**64 addresses."""
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return host or "an unknown address"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address) if address.is_loopback else str(ipaddress.ip_network((address, 64), strict=False))


class Seldom:
    """True so many times a minute at most: for log messages that others can cause as often as they like."""

    def __init__(self, times: int = 1) -> None:
        self._times = times
        self._begun = -math.inf
        self._count = 0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._begun >= 60.0:
            self._begun, self._count = now, 0
        self._count += 1
        return self._count <= self._times
