# SPDX-License-Identifier: MIT
"""How this host's links are, as they say themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator

from valkka_async import typed
from valkka_async.errors import ValkkaError
from valkka_async.link.status import Level, LinkStatus, PeerStatus
from valkka_async.service.control import ask, services

KIND = "link"  # of their control sockets
_ANSWER = 2.0  # s
SENT = {Level.KEYS: "key frames alone", Level.SMALLER: "sub streams, and of other cameras key frames,"}


def statuses() -> list[LinkStatus]:
    """Of the links of this host that run. Raises ConnectError, DataError, TimeoutError."""
    answers = [ask(name, "status", _ANSWER, KIND) for name in services(KIND)]
    return [typed.decode(LinkStatus, answer) for answer in answers if answer is not None]


def show(*, as_json: bool) -> None:
    """Print how this host's link is. Raises ValkkaError when none runs."""
    found = statuses()
    if not found:
        raise ValkkaError("no link is running; start one with: valkka-async link cameras.yaml")
    if as_json:
        print(json.dumps([typed.encode(one) for one in found], indent=2))
        return
    for one in found:
        safe = "certificates of both sides" if one.safe else "this machine alone"
        print(f"{one.host} ({safe}) has {', '.join(one.offered) or 'nothing'} for other hosts")
        if one.reason:
            print(f"  {one.reason}")
        for peer in one.peers:
            for line in lines(peer):
                print(f"  {line}")


def lines(peer: PeerStatus) -> Iterator[str]:
    """A host in words."""
    clock = ""
    if peer.clock_offset_ns is not None and peer.clock_error_ns is not None:
        off, error = peer.clock_offset_ns / 1e6, peer.clock_error_ns / 1e6
        clock = f", its clock {off:+.1f} ms from ours (within {error:.1f} ms)"
    why = f": {peer.reason}" if peer.reason else ""
    yield f"{peer.name}: {peer.state}{clock}{why}"
    for camera in peer.imports:
        gone = f", {camera.lost} lost" if camera.lost else ""
        gone += f", {camera.limited} left out for its limit" if camera.limited else ""
        gone += f", {camera.refused} refused" if camera.refused else ""
        gone += f", {camera.failed} could not be decoded or muxed" if camera.failed else ""
        gone += f" (the newest fault: {camera.fault})" if camera.fault is not None else ""
        read_here = "read here" if camera.wanted else "nobody reads it"
        yield f"  {camera.name}: {camera.reason or read_here}, {camera.received} received{gone}"
    for sent in peer.exports:
        left = f", {sent.limited} left out for the limit" if sent.limited else ""
        left += ", raw frames" if sent.raw else ""
        left += f" that take {sent.rate / 1e6:.1f} MB/s" if sent.rate is not None else ""
        yield f"  reads {sent.name}: {sent.sent} sent, {sent.bytes / 1e6:.1f} MB{left}"
    if peer.level:
        yield f"  max_rate does not reach: {SENT[Level(peer.level)]} are sent"
