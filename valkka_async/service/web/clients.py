# SPDX-License-Identifier: MIT
"""Who a client is, for limits."""

from __future__ import annotations

import ipaddress


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
