# SPDX-License-Identifier: MIT
"""What the raw frames of a link would take, as far as a config and the rings that run now say it."""

from __future__ import annotations

from collections.abc import Iterator

from valkka_async.camera.spec import PIXELS, Output
from valkka_async.cli import reports
from valkka_async.cli.links import statuses
from valkka_async.errors import ValkkaError
from valkka_async.link.geometry import RAW
from valkka_async.link.keys import Content
from valkka_async.link.spec import PeerSpec
from valkka_async.ring.rendezvous import servers
from valkka_async.service.config.config import Config

_PIXEL = {"gray8": 1.0, "gray16": 2.0, "nv12": 1.5, "yuv420p": 1.5, "rgba": 4.0, "bgra": 4.0}  # bytes; else 3
_ANSWER = 0.5  # s, for all together


def raw_frames(config: Config) -> Iterator[str]:
    """A line for each ring of raw frames that another host may read, or that is read of another one."""
    if config.link is None:
        return
    link = config.link.spec()
    made = [output for spec in config.specs().values() for output in spec.outputs if output.format in PIXELS]
    running = {}
    if any(peer.raw for peer in link.peers):
        running = dict(_running({output.name for output in made}, link.peers))
    for peer in link.peers:
        there = [output for output in made if peer.may_read(output.name, Content.RAW)]
        each = [(output.name, *_take(output)) for output in there]
        each += [(ring, said, 0.0) for ring, said in running.items() if peer.may_read(ring, Content.RAW)]
        where = f"link.peers.{peer.name}.raw"
        for ring, said, _ in each:
            yield f"{where}: {ring}: {said}"
        if peer.raw and not each:
            yield f"{where}: not known before there is such a ring: then `valkka-async doctor` measures it"
        total = sum(rate for *_, rate in each)
        if peer.max_rate is not None and total > peer.max_rate:
            yield (
                f"{where}: {total / 1e6:.1f} MB/s in all is more than its max_rate of "
                f"{peer.max_rate / 1e6:.1f} MB/s: frames are left out"
            )
    yield from _imported(link.host)


def _take(output: Output) -> tuple[str, float]:
    """In words; and bytes per second, 0 where they are not known."""
    width, height = output.size or (None, None)
    if width is None or height is None:
        return f"{output.format} of the camera's own size, so not known: give it a size", 0.0
    size = width * height * _PIXEL.get(output.format, 3.0)
    what = f"{output.format} {width}x{height}"
    if output.fps is None:
        return f"{what} is {size / 1e6:.2f} MB for each frame, as often as the camera has one", 0.0
    rate = size * output.fps
    return f"{what} at {output.fps:g} frames a second is {rate / 1e6:.1f} MB/s while it is read", rate


def _running(made: set[str], peers: tuple[PeerSpec, ...]) -> Iterator[tuple[str, str]]:
    """Rings of other programs that some peer may read."""
    try:
        names = [
            name
            for name in servers()
            if "/" not in name  # those of other hosts are not passed on
            and name not in made
            and any(peer.may_read(name, Content.RAW) for peer in peers)
        ]
    except ValkkaError:
        return
    for name, said in reports.ask_all(names, _ANSWER).items():
        if said is not None and said.format in RAW and said.published > 0:
            yield name, f"{said.format}, now {said.bytes / said.published / 1e6:.2f} MB for each frame"


def _imported(host: str) -> Iterator[str]:
    """What this host's link has read of others, if it runs now."""
    try:
        found = [one for one in statuses() if one.host == host]
    except (ValkkaError, TimeoutError):
        return
    for peer in (peer for link in found for peer in link.peers):
        for ring in peer.imports:
            if ring.codec in RAW and ring.received:
                size = f"{ring.bytes / ring.received / 1e6:.2f} MB for each frame that is read"
                yield f"link.peers.{peer.name}: {ring.name}: {ring.codec}, {size}"
