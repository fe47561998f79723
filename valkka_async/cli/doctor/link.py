# SPDX-License-Identifier: MIT
"""Links to other hosts: whether they run, and how each host is."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

from valkka_async.cli.doctor.check import OK, PROBLEM, WARNING, Check
from valkka_async.cli.links import SENT, statuses
from valkka_async.errors import ValkkaError
from valkka_async.link.status import Level, PeerCause, PeerState, PeerStatus

_FIXES = {
    PeerCause.UNREACHABLE: "start `valkka-async link` there, and see that its port is open to this machine",
    PeerCause.FOREIGN: "give both ends certificates of one authority, with the hosts' names as common names, "
    "and each the other among its `peers`; the other end's log has its reason",
    PeerCause.SILENT: "see whether that machine runs, and its cable",
    PeerCause.VERSION: "install the same version of valkka-async on both",
    PeerCause.TWICE: "give one of the two another `host` in its config",
}


def links() -> Iterator[Check]:
    """Nothing, where no link runs and none could."""
    try:
        version = metadata.version("eclipse-zenoh")
    except metadata.PackageNotFoundError:
        return
    try:
        found = statuses()
    except (ValkkaError, TimeoutError) as e:
        yield Check("link", PROBLEM, str(e), "restart valkka-async link")
        return
    if not found:
        yield Check("link", OK, f"Zenoh {version}; no link runs")
    for link in found:
        name = f"link {link.host}"
        if link.reason:
            yield Check(name, PROBLEM, link.reason, _FIXES[PeerCause.TWICE])
        where = "with certificates" if link.safe else "on this machine alone, as there are no certificates"
        yield Check(name, OK, f"runs {where}; has {len(link.offered)} cameras for other hosts")
        for peer in link.peers:
            yield _check(peer)


def _check(peer: PeerStatus) -> Check:
    name = f"host {peer.name}"
    if peer.state is not PeerState.LIVE or peer.cause is not None:
        state = PROBLEM if peer.cause in (PeerCause.VERSION, PeerCause.TWICE) else WARNING
        return Check(name, state, f"{peer.state}: {peer.reason}", _FIXES[peer.cause] if peer.cause else "")
    cameras = f"lets this host read {len(peer.imports)} cameras, and reads {len(peer.exports)}"
    if broken := [camera for camera in peer.imports if camera.reason]:
        return Check(
            name, WARNING, f"{cameras}; {broken[0].name}: {broken[0].reason}", "rename it, or see who has it"
        )
    if peer.level:
        sent = SENT[Level(peer.level)].rstrip(",")
        return Check(name, WARNING, f"{cameras}; it gets {sent}", "raise its max_rate, or read less")
    return Check(name, OK, cameras)
